package api_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// nobodyThere is where no webhook receiver listens.
const nobodyThere = "https://127.0.0.1:9/"

// neighbour is a tenant with a key in each state.
type neighbour struct {
	b       *bench
	org     organization
	beside  domain.ProjectID // another project of the organization
	limited *client          // a key that is limited to it
	foreign map[string][]probe
}

func newNeighbour(b *bench) *neighbour {
	n := &neighbour{b: b, org: b.newOrganization("the neighbour"), foreign: map[string][]probe{}}
	owner := n.org.owner
	second := owner.call("POST", "/v1/projects", fields{"name": "beside"}).wants(201)
	n.beside = domain.ProjectID(second.text("id"))
	n.limited = b.as(owner.newKeyIn(n.beside, fields{"name": "limited", "resources": fields{domain.ResourceProject: []any{n.beside}}}).text("key"))
	n.addKeys()
	for kind, id := range map[string]string{"org": string(n.org.id), "proj": string(n.org.project), "env": string(n.org.environment)} {
		n.add(kind, "theirs", id)
	}
	n.add("dlv", "theirs", n.delivery(n.org.id, n.org.project, n.foreign["rot"][0].text))
	criteria := fields{"key_prefix": "rk_", "dry_run": true}
	token := owner.call("POST", "/v1/api-keys/bulk-revoke", criteria).wants(200).text("token")
	middle := len(token) / 2
	n.foreign["token"] = []probe{{"theirs", token, token[:middle] + string(token[middle]^1) + token[middle+1:]}}
	for range 40 {
		key := unknown("once")
		owner.call("POST", "/v1/api-keys/bulk-revoke", criteria, "Idempotency-Key", key).wants(200)
		n.foreign["once"] = append(n.foreign["once"], probe{"one that was used", key, unknown("once")})
	}
	return n
}

// addKeys makes keys until there is one in each state.
func (n *neighbour) addKeys() {
	b, owner, clock := n.b, n.org.owner, n.b.clock
	key := func(settings fields) *answer { return owner.newKeyIn(n.org.project, settings) }
	key(fields{"name": "theirs", "rotation_interval_seconds": 3600, "rotation_webhook_url": nobodyThere + "theirs"})
	clock.advance(2 * time.Hour)
	b.sweep()
	grace, retired := key(fields{"name": "theirs"}), key(fields{"name": "theirs"})
	rotated := owner.call("POST", "/v1/api-keys/"+grace.text("id")+"/rotate", "{}").wants(200)
	owner.call("POST", "/v1/api-keys/"+retired.text("id")+"/rotate", fields{"grace_period_seconds": 0}).wants(200)
	revoked := key(fields{"name": "theirs"})
	owner.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)
	ended := key(fields{"name": "theirs", "expires_at": clock.Now().Add(time.Minute)})
	ending := key(fields{"name": "theirs", "expires_at": clock.Now().Add(24 * time.Hour)})
	clock.advance(time.Minute)
	b.sweep()

	n.add("ep", "theirs", n.endpoint(nobodyThere+"theirs"))
	n.add("rot", "theirs", rotated.text("rotation_id"))
	for _, secret := range []string{owner.secret, grace.text("key"), rotated.text("key"), revoked.text("key"), ended.text("key")} {
		n.foreign["secret"] = append(n.foreign["secret"], probe{"a secret", secret, freshSecret(owner).(string)})
	}
	var list []struct {
		ID, Status string
		LineageID  string `json:"lineage_id"`
	}
	owner.call("GET", "/v1/api-keys?include_revoked=true&limit=500&project_id="+string(n.org.project), nil).wants(200).into(&list)
	states := map[string]bool{}
	for _, k := range list {
		states[k.Status] = true
		n.add("key", "that is "+k.Status, k.ID)
		n.add("lin", "of a key that is "+k.Status, k.LineageID)
		n.foreign["number"] = append(n.foreign["number"], probe{"the number of a key that is " + k.Status, number(k.ID), number(twin(k.ID))})
	}
	for _, state := range []string{"active", "pending", "grace", "revoked", "expired", "retired"} {
		if !states[state] {
			b.t.Fatalf("no key is %s, only %v", state, states)
		}
	}
	cursor := func(id string) string {
		at := clock.Now().Add(24*time.Hour - time.Minute).UnixMicro()
		return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", at, id))
	}
	n.foreign["expiry"] = []probe{{"of theirs", cursor(ending.text("id")), cursor(twin(ending.text("id")))}}
}

func (n *neighbour) add(kind, what, id string) {
	n.foreign[kind] = append(n.foreign[kind], probe{kind + " " + what, id, twin(id)})
}

// twin is an id that differs from another one in its last character only: it stands at the same place in every order.
func twin(id string) string {
	last := byte('0')
	if strings.HasSuffix(id, "0") {
		last = '1'
	}
	return id[:len(id)-1] + string(last)
}

// fromOutside is the owner of another organization, who may do everything there.
func (n *neighbour) fromOutside() intruder {
	mine := n.b.newOrganization("mine")
	own := n.belongings(mine.owner, mine.id, mine.environment, mine.project)
	own["proj"] = func() string {
		return mine.owner.call("POST", "/v1/projects", fields{"name": "mine"}).wants(201).text("id")
	}
	return n.intruder("another organization", n.b.as(mine.owner.secret), own, n.foreign)
}

// fromBeside is a key of the organization itself that is limited to another project. Its organization is its own.
func (n *neighbour) fromBeside() intruder {
	var list []struct{ ID domain.EnvironmentID }
	n.org.owner.call("GET", "/v1/environments?project_id="+string(n.beside), nil).wants(200).into(&list)
	own := n.belongings(n.limited, n.org.id, list[0].ID, n.beside)
	foreign := maps.Clone(n.foreign)
	foreign["org"] = nil
	i := n.intruder("a key of another project", n.limited, own, foreign)
	// Who made the project, and the key, is told by its id, wherever that key itself is.
	i.markers = slices.DeleteFunc(i.markers, func(marker string) bool { return marker == string(n.org.key) })
	return i
}

// belongings are what a caller has, by kind. What can be spent is made anew each time.
func (n *neighbour) belongings(c *client, org domain.OrganizationID, env domain.EnvironmentID, project domain.ProjectID) map[string]func() string {
	key := func(settings fields) *answer { return c.newKeyIn(project, settings) }
	rotation := func() string {
		return c.call("POST", "/v1/api-keys/"+key(nil).text("id")+"/rotate", "{}").wants(200).text("rotation_id")
	}
	return map[string]func() string{
		"rot":    rotation,
		"org":    func() string { return string(org) },
		"proj":   func() string { return string(project) },
		"env":    func() string { return string(env) },
		"key":    func() string { return key(nil).text("id") },
		"number": func() string { return number(key(nil).text("id")) },
		"secret": func() string { return key(nil).text("key") },
		"ep": func() string {
			url := nobodyThere + unknown("hook")
			key(fields{"rotation_webhook_url": url})
			return n.endpoint(url)
		},
		"dlv": func() string { return n.delivery(org, project, rotation()) },
	}
}

// endpoint is the webhook receiver at an address that no other has.
func (n *neighbour) endpoint(url string) (id string) {
	must(n.b.t, n.b.options.pool.QueryRow(n.b.t.Context(), "SELECT id FROM webhook_endpoints WHERE url = $1", url).Scan(&id))
	return id
}

// delivery is a webhook that failed, as the workers leave it; none runs here.
func (n *neighbour) delivery(org domain.OrganizationID, project domain.ProjectID, rotation string) string {
	const insert = `INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id, lineage_id, rotation_id, position,
			type, state, next_attempt_at, created_at, finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 1, 'key.rotation.created', 'failed', $8, $8, $8)`
	id := unknown("dlv")
	_, err := n.b.options.pool.Exec(n.b.t.Context(), insert, id, unknown("msg"), unknown("ep"), org, project, unknown("lin"), rotation, began)
	must(n.b.t, err)
	return id
}

func (n *neighbour) intruder(name string, caller *client, own map[string]func() string, foreign map[string][]probe) intruder {
	i := intruder{name: name, caller: caller, foreign: maps.Clone(foreign), markers: []string{"theirs"}}
	for _, list := range foreign {
		for _, p := range list {
			i.markers = append(i.markers, p.text)
		}
	}
	i.own = func(t testing.TB, kind string) string {
		if own[kind] == nil {
			t.Errorf("no %q of the caller's own is known here; make one in belongings", kind)
			return unknown(kind)
		}
		return own[kind]()
	}
	return i
}

// everything is each row, in every table that knows organizations, that is the neighbour's and not of the project beside.
func (n *neighbour) everything() map[string][]string {
	t, ctx := n.b.t, n.b.t.Context()
	pool := n.b.options.pool
	rows, err := pool.Query(ctx, `SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'organization_id'
		UNION SELECT 'organizations'`)
	must(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	all := map[string][]string{}
	for _, table := range tables {
		rows, err := pool.Query(ctx, `SELECT r::text FROM (SELECT to_jsonb(t) r FROM `+pgx.Identifier{table}.Sanitize()+` t) x
			WHERE coalesce(r->>'organization_id', r->>'id') = $1 AND coalesce(r->>'project_id', '') <> $2 AND r->>'id' <> $2 ORDER BY 1`, n.org.id, n.beside)
		must(t, err)
		all[table], err = pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
	}
	return all
}
