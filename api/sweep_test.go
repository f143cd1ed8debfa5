package api_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// idPlaces are the names under which requests have ids, cursors and other names of things, and what kinds stand there.
// The id in a path is not listed: its example in the document says which kind it is.
var idPlaces = map[string][]string{
	"project_id": {"proj"}, "environment_id": {"env"}, "lineage_id": {"lin"}, "organization_id": {"org"}, "created_by": {"key"},
	"resources": {"proj"}, // the kind project, which limits a key
	"cursor":    {"key", "proj", "env", "org", "expiry"}, "x-limited-key-id": {"number", "key"},
	"Idempotency-Key": {"once"}, "token": {"token"}, "verify-api-key key": {"secret"},
}

// plainPlaces are those that name nothing, and what the sweep puts there; nil leaves them out. Some need another value in
// one operation, which is then named before them.
var plainPlaces = map[string]any{
	"name": freshName, "mode": "read", "dry_run": true, "key": freshSecret, "bulk-revoke-api-keys key_prefix": "rk_",
	"limit": nil, "after": nil, "include_revoked": nil, "within_days": nil, "reason": nil, "limited_to_apps": nil, "limited_to_orgs": nil,
	"If-Match": nil, "Last-Event-ID": nil, "scopes": nil, "expires_at": nil, "expiresAt": nil, "rotation_interval_days": nil,
	"rotation_interval_seconds": nil, "rotation_webhook_url": nil, "grace_period_minutes": nil, "grace_period_seconds": nil, "metadata": nil,
	"supersede": nil, "ip": nil, "sha256": nil, "key_prefix": nil, "last_four": nil, "scope": nil, "unused_since": nil, "disabled_surfaces": nil,
	"brand": nil, "max_lifetime_seconds": nil, "require_expiry": nil, "default_grace_seconds": nil, "max_grace_seconds": nil,
	"allowed_scopes": nil, "on_leak": nil,
}

// byPossession are the routes that act on whatever secret they are shown, whoever's it is: that is what they are for. An
// import, too, tells who has a secret that it is a key already; its places for secrets are plain ones above.
var byPossession = []string{"POST /v1/revoke-leaked", "POST /v1/leaks/github"}

// notPossible are the operations that the sweep's callers may not carry out with ids of their own either, and how they are
// answered. Every other one has to work: else it would treat all ids alike for the wrong reason.
var notPossible = map[string]map[string]int{
	"another organization": {
		"POST /v1/organizations":           403, // is for operators
		"POST /v1/api-keys/{id}/successor": 404, // is for the key itself
	},
	"a key of another project": {
		"POST /v1/organizations": 403, "PATCH /v1/organizations/{id}": 403, "POST /v1/projects": 403, "POST /api/v1/projects": 403,
		"POST /v1/api-keys/{id}/successor": 404,
		"DELETE /v1/projects/{id}":         409, "DELETE /api/v1/projects/{id}": 409, // its own key lives there
	},
}

// probe is something that is out of the caller's reach, and its twin: of the same kind and the same time, and nowhere.
type probe struct{ what, text, twin string }

// intruder is a caller, what it may use, and what it may not even notice.
type intruder struct {
	name    string
	caller  *client
	own     func(kind string) string
	foreign map[string][]probe
	markers []string // no answer has one of these
}

// TestG6_Sweep calls every route of every surface with everything of another tenant, in each place where an id may stand:
// the answer is the one for an id that does not exist, and nothing of the other tenant changes. The same holds for a key
// that is limited to another project of the same organization.
//
// Times are not compared, which would be noise on a busy machine. They are the same because the way is: an id is looked up
// by the same statements within the caller's reach, whether it is somebody else's or nobody's, and both find no row.
func TestG6_Sweep(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	theirs := newNeighbour(b)
	for _, i := range []intruder{theirs.fromOutside(), theirs.fromBeside()} {
		t.Run(i.name, func(t *testing.T) {
			i.caller = i.caller.at(t)
			before, probes := theirs.everything(), 0
			for _, f := range forms() {
				if slices.Contains(byPossession, f.String()) {
					continue
				}
				t.Run(f.String(), func(t *testing.T) {
					i := i
					i.caller = i.caller.at(t)
					probes += i.sweep(t, f)
					now := theirs.everything()
					if diff := cmp.Diff(before, now); diff != "" {
						t.Errorf("something of the other tenant changed:\n%s", diff)
					}
					before = now
				})
			}
			t.Logf("%d probes", probes)
		})
	}
}

// sweep asks one route, once for nothing but the caller's own and twice for each probe.
func (i intruder) sweep(t *testing.T, f form) (probes int) {
	if f.o == nil {
		t.Fatal("the route is in no document")
	}
	places := map[string][]string{} // where probes go, and their kinds
	own := i.ask(f, "", "", places)
	if want := notPossible[i.name][f.String()]; own.status != want && (want != 0 || own.status >= 300) {
		t.Errorf("with the caller's own ids it answered %d: %.2000s", own.status, own.body)
	}
	i.seesNothing(t, own, "")
	for at, kinds := range places {
		for _, kind := range kinds {
			list, known := i.foreign[kind]
			if !known {
				t.Errorf("%s: no %s of the neighbour is known here; make one in newNeighbour", at, kind)
			}
			if kind == "once" { // each is good for one request
				list, i.foreign[kind] = list[:1], list[1:]
			}
			for _, p := range list {
				probes++
				foreign, nobodys := i.ask(f, at, p.text, nil), i.ask(f, at, p.twin, nil)
				if diff := cmp.Diff(nobodys.without(p.twin), foreign.without(p.text)); diff != "" {
					t.Errorf("%s: %s can be told from what does not exist (-unknown +foreign):\n%s", at, p.what, diff)
				}
				i.seesNothing(t, foreign, p.text)
			}
		}
	}
	return probes
}

// ask makes a request of a form in which one place has a value of the caller's choice, and notes all such places.
func (i intruder) ask(f form, at, text string, places map[string][]string) *answer {
	t := i.caller.b.t
	t.Helper()
	s := f.request(func(p place) any {
		here := p.in + " " + p.name
		kinds := kindsIn(f, p)
		if kinds == nil {
			return plainIn(i.caller, f, p, at)
		}
		if places != nil {
			places[here] = kinds
		}
		switch {
		case here == at:
			return p.holding(text)
		case p.required:
			return p.holding(i.own(kinds[0]))
		}
		return nil
	})
	return i.caller.call(s.method, s.target(), s.body, s.headers...)
}

// kindsIn are the kinds of ids that a place takes; nil if it takes none.
func kindsIn(f form, p place) []string {
	if p.in == "path" {
		examples, _ := p.schema["examples"].([]any)
		example := fmt.Sprint(examples...)
		if _, err := strconv.ParseInt(example, 10, 64); err == nil {
			return []string{"number"}
		}
		prefix, _, _ := strings.Cut(example, "_")
		return []string{prefix}
	}
	if kinds := idPlaces[f.o.OperationID+" "+p.name]; kinds != nil {
		return kinds
	}
	return idPlaces[p.name]
}

func plainIn(c *client, f form, p place, at string) any {
	value, known := plainPlaces[f.o.OperationID+" "+p.name]
	if !known {
		value, known = plainPlaces[p.name]
	}
	if !known {
		c.b.t.Errorf("what %s, in the %s, takes is not known here; say so in idPlaces or plainPlaces", p.name, p.in)
	}
	if p.name == "dry_run" && at == "body token" { // which has one of the two
		return nil
	}
	if fresh, ok := value.(func(*client) any); ok {
		return fresh(c)
	}
	return value
}

// holding is an id in the form that the place takes.
func (p place) holding(id string) any {
	if p.name != "resources" {
		return id
	}
	if of := asSchema(p.schema["additionalProperties"]); slices.Contains(types(of), "array") {
		return fields{domain.ResourceProject: []string{id}}
	}
	return fields{domain.ResourceProject: id}
}

// freshName is one that nothing else has.
func freshName(*client) any { return "n" + unknown("x")[10:] }

// freshSecret is one that nobody has.
func freshSecret(c *client) any {
	secret, err := domain.MintSecret(nil, "rk", "live")
	must(c.b.t, err)
	return secret.Reveal()
}

// seesNothing looks for the other tenant in an answer; what the caller has sent itself may be there.
func (i intruder) seesNothing(t *testing.T, a *answer, sent string) {
	t.Helper()
	for _, marker := range i.markers {
		if text := string(a.body) + fmt.Sprint(a.header); marker != sent && strings.Contains(text, marker) {
			t.Errorf("the answer has %s in it: %.2000s", marker, text)
		}
	}
}

// made is what differs between two new things of the same kind: ids, secrets, names, versions.
var made = regexp.MustCompile(`\b[a-z]{2,4}_[0-9a-z]{26}\b|\brk_live_\w+|\bn[0-9a-z]{18}\b|"(key_prefix|last_four|prefix|lastFour|token)":"[^"]*"|"id":\d{10,}`)

// without is an answer without what the caller has sent, and if something was made, without what is new each time.
func (a *answer) without(sent string) seen {
	s := a.shown()
	s.Body = strings.ReplaceAll(s.Body, sent, "<id>")
	for name, values := range s.Header {
		s.Header[name] = []string{strings.ReplaceAll(strings.Join(values, ", "), url.QueryEscape(sent), "<id>")}
	}
	if a.status < 300 {
		s.Body = made.ReplaceAllString(s.Body, "<id>")
		delete(s.Header, "Content-Length") // names and numbers have lengths
	}
	return s
}

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
	var endpoint string
	must(b.t, b.options.pool.QueryRow(b.t.Context(), "SELECT id FROM webhook_endpoints WHERE organization_id = $1", n.org.id).Scan(&endpoint))
	n.add("ep", "theirs", endpoint)
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
	key(fields{"name": "theirs", "rotation_interval_seconds": 3600, "rotation_webhook_url": "https://hooks.example.com/x"})
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
	b, mine := n.b, n.b.newOrganization("mine")
	fresh := map[string]func() string{
		"key": func() string { return mine.owner.newKeyIn(mine.project, nil).text("id") },
		"proj": func() string {
			return mine.owner.call("POST", "/v1/projects", fields{"name": "mine"}).wants(201).text("id")
		},
		"env": func() string { return string(mine.environment) }, "org": func() string { return string(mine.id) },
	}
	fresh["secret"] = func() string { return mine.owner.newKeyIn(mine.project, nil).text("key") }
	return n.intruder("another organization", b.as(mine.owner.secret), fresh, n.foreign)
}

// fromBeside is a key of the organization itself that is limited to another project. Its organization is its own.
func (n *neighbour) fromBeside() intruder {
	fresh := map[string]func() string{
		"key":    func() string { return n.limited.newKeyIn(n.beside, nil).text("id") },
		"secret": func() string { return n.limited.newKeyIn(n.beside, nil).text("key") },
		"proj":   func() string { return string(n.beside) }, "org": func() string { return string(n.org.id) },
		"env": func() string {
			var list []struct{ ID string }
			n.org.owner.call("GET", "/v1/environments?project_id="+string(n.beside), nil).wants(200).into(&list)
			return list[0].ID
		},
	}
	fresh["secret"] = func() string { return n.limited.newKeyIn(n.beside, nil).text("key") }
	foreign := maps.Clone(n.foreign)
	foreign["org"] = nil
	i := n.intruder("a key of another project", n.limited, fresh, foreign)
	// Who made the project, and the key, is told by its id, wherever that key itself is.
	i.markers = slices.DeleteFunc(i.markers, func(marker string) bool { return marker == string(n.org.key) })
	return i
}

func (n *neighbour) intruder(name string, caller *client, fresh map[string]func() string, foreign map[string][]probe) intruder {
	i := intruder{name: name, caller: caller, foreign: map[string][]probe{}, markers: []string{"theirs"}}
	for kind, list := range foreign {
		i.foreign[kind] = slices.Clone(list)
		for _, p := range list {
			i.markers = append(i.markers, p.text)
		}
	}
	i.own = func(kind string) string {
		if kind == "number" {
			return number(fresh["key"]())
		}
		make := fresh[kind]
		if make == nil {
			n.b.t.Fatalf("no %s of the caller's own is known here", kind)
		}
		return make()
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
