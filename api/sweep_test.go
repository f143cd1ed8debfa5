package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// idPlaces are the names under which requests have ids, cursors and other names of things, and what kinds stand there.
// The id in a path is not listed: its example in the document says which kind it is.
var idPlaces = map[string][]string{
	"project_id": {"proj"}, "environment_id": {"env"}, "lineage_id": {"lin"}, "organization_id": {"org"}, "created_by": {"key"}, "key_id": {"key"},
	"webhook_endpoint_id": {"ep"}, "endpoint_id": {"ep"},
	"resources": {"proj"}, // the kind project, which limits a key
	"cursor":    {"key", "proj", "env", "org", "expiry"}, "x-limited-key-id": {"number", "key"},
	"Idempotency-Key": {"once"}, "token": {"token"}, "verify-api-key key": {"secret"}, "verify-api-keys key": {"secret"}, "introspect token": {"secret"},
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
	"allowed_scopes": nil, "on_leak": nil, "max_overlap_seconds": nil, "rotation_timeout": nil, "early_retire_seconds": nil, "days": nil, "start": nil, "length_minutes": nil,
	"time_zone": nil, "compromised": nil, "state": nil, "secret_mode": nil, "receiver_public_key": nil, "ack_level": nil, "grace_seconds": nil, "event_types": nil, "user_agent": nil,
	"certificate_pem": nil, "private_key_pem": nil,
	"resource": nil, "header": nil, "ip_header": nil, "Rekey-Scope": nil, "Rekey-Resource": nil, "token_type_hint": nil,
	"Rekey-Authorization": func(c *client) any { return "Bearer " + c.secret }, // the client's own key judges itself; foreign ones: auth_path_test.go
	"granularity":         nil, "fresh": nil, "from": "2026-03-01T12:00:00Z", "to": "2026-03-01T13:00:00Z", "delivered": nil, "url": nobodyThere + "x",
	"update-webhook-endpoint url": nil, // it goes with the key that it was made for
	"grace_expires_at":            "2026-03-01T14:30:00Z",
	"enabled":                     nil, "allowed_ips": nil, "requests": 1, "window_seconds": 60, "uses": 1, "period": "day",
}

// byPossession are the routes that act on whatever secret they are shown, whoever's it is: that is what they are for. An
// import, too, tells who has a secret that it is a key already; its places for secrets are plain ones above.
var byPossession = []string{"POST /v1/revoke-leaked", "POST /v1/leaks/github", "POST /v1/claims/{token}"}

// notPossible are the operations that the sweep's callers may not carry out with ids of their own either, and how they are
// answered. Every other one has to work, or to fail with 409 for the state that it finds: else it would treat all ids alike
// for the wrong reason.
var notPossible = map[string]map[string]int{
	"another organization": {
		"POST /v1/organizations":           403, // is for operators
		"POST /v1/api-keys/{id}/successor": 404, // is for the key itself
	},
	"a key of another project": {
		"POST /v1/organizations": 403, "PATCH /v1/organizations/{id}": 403, "POST /v1/projects": 403, "POST /api/v1/projects": 403,
		"POST /v1/api-keys/{id}/successor": 404,
	},
}

// probe is something that is out of the caller's reach, and its twin: of the same kind and the same time, and nowhere.
type probe struct{ what, text, twin string }

// intruder is a caller, what it may use, and what it may not even notice.
type intruder struct {
	name    string
	caller  *client
	own     func(t testing.TB, kind string) string
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
	b := setup(t, options{now: began, commands: reachLoopback(t)})
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
	want := notPossible[i.name][f.String()]
	if possible := own.status < 300 || own.status == http.StatusConflict; own.status != want && (want != 0 || !possible) {
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
			return p.holding(i.own(t, kinds[0]))
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
var made = regexp.MustCompile(`\b[a-z]{2,4}_[0-9a-z]{26}\b|\brk_live_\w+|\bwh(sec|pk)_[\w+/=]+|\bn[0-9a-z]{18}\b|"(key_prefix|last_four|prefix|lastFour|token)":"[^"]*"|"id":\d{10,}`)

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
