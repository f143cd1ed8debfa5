package api_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// TestAPIKey_Credentials asks with a key in each of the headers, with two keys, and without one that counts: why a key is
// not valid never shows.
func TestAPIKey_Credentials(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	good, other := b.root.secret, b.holding("keys:read").secret
	revoked := b.newKey(fields{"name": "revoked"})
	b.root.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)
	expired := b.newKey(fields{"name": "expired", "expires_at": began.Add(time.Minute)}).text("key")
	b.clock.advance(time.Minute)
	unknown, err := domain.MintSecret(nil, "rk", "live")
	must(t, err)
	const two, none = koTwoKeys, koKey
	for name, c := range map[string]struct {
		headers []string
		refused string
	}{
		"Bare":                  {[]string{"authorization", good}, ""},
		"Bearer":                {[]string{"authorization", "Bearer " + good}, ""},
		"BearerInAnyCase":       {[]string{"authorization", "bEARER   " + good}, ""},
		"APIKeyHeader":          {[]string{"x-api-key", good}, ""},
		"CapgkeyHeader":         {[]string{"capgkey", good}, ""},
		"TheSameInAll":          {[]string{"authorization", "Bearer " + good, "x-api-key", good, "capgkey", good}, ""},
		"BesideAnEmptyHeader":   {[]string{"x-api-key", " ", "capgkey", good}, ""},
		"Two":                   {[]string{"authorization", good, "x-api-key", other}, two},
		"TwoInOtherHeaders":     {[]string{"x-api-key", other, "capgkey", good}, two},
		"TwoAndTheFirstIsBad":   {[]string{"authorization", "nonsense", "capgkey", good}, two},
		"BesideAnotherScheme":   {[]string{"authorization", "Basic dXNlcjpwYXNz", "x-api-key", good}, two},
		"None":                  {nil, none},
		"Empty":                 {[]string{"x-api-key", " "}, none},
		"OnlyTheScheme":         {[]string{"authorization", "Bearer"}, none},
		"AnotherScheme":         {[]string{"authorization", "Basic " + good}, none},
		"SchemeInAnotherHeader": {[]string{"x-api-key", "Bearer " + good}, none},
		"Malformed":             {[]string{"authorization", "nonsense"}, none},
		"Unknown":               {[]string{"authorization", unknown.Reveal()}, none},
		"Revoked":               {[]string{"authorization", revoked.text("key")}, none},
		"Expired":               {[]string{"x-api-key", expired}, none},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.as("").at(t).call("GET", "/apikey/", nil, c.headers...)
			switch c.refused {
			case "":
				a.wants(200)
			case two:
				a.ko(400, koTwoKeys)
			default:
				a.ko(401, koKey)
				if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("WWW-Authenticate %q", a.header.Get("WWW-Authenticate"))
				}
			}
		})
	}
	t.Run("TwoOfOneHeader", func(t *testing.T) {
		list, _, _ := pageCurl(good + "\nauthorization: " + other)
		b.exchange(t, list).ko(400, koTwoKeys)
		list, _, _ = pageCurl(good + "\nauthorization: Bearer " + good)
		b.exchange(t, list).wants(200)
	})
}

// TestG8_APIKeySubkeys has one key act as another one. That must never be a gain: whatever the presented key lacks, acting
// as a key that has it is refused, with one answer for all reasons.
func TestG8_APIKeySubkeys(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := string(b.tenant.Key.ProjectID)
	mine := fields{"scopes": []string{"keys:*", "read"}, "expires_at": began.Add(time.Hour), "resources": fields{"app": []string{"a", "b"}, "project": []string{project}}}
	key := func(change fields) *answer {
		settings := maps.Clone(mine)
		maps.Copy(settings, change)
		return b.newKey(settings)
	}
	own := key(nil)
	caller := b.as(own.text("key"))
	revoked, expired := key(nil), key(fields{"expires_at": began.Add(time.Minute)})
	b.root.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)
	b.clock.advance(time.Minute)
	foreign := b.newOrganization("other")
	elsewhere := b.root.call("POST", "/v1/projects", fields{"name": "Elsewhere"}).wants(201).text("id")
	outOfReach := b.root.newKeyIn(domain.ProjectID(elsewhere), mine)

	works := map[string]*answer{
		"ItsEqual":      key(nil),
		"FewerScopes":   key(fields{"scopes": []string{"keys:read"}}),
		"FewerApps":     key(fields{"resources": fields{"app": []string{"b"}, "project": []string{project}}}),
		"AnotherLimit":  key(fields{"resources": fields{"app": []string{"b"}, "org": []string{"x"}, "project": []string{project}}}),
		"AnEarlierEnd":  key(fields{"expires_at": began.Add(30 * time.Minute)}),
		"ItselfIsNoGap": own,
	}
	for name, sub := range works {
		t.Run(name, func(t *testing.T) {
			caller := caller.at(t)
			caller.bare("GET", "/apikey/", nil, "x-limited-key-id", number(sub.text("id"))).wants(200)
			caller.bare("GET", "/apikey/", nil, "x-limited-key-id", sub.text("id")).wants(200)
		})
	}
	refused := map[string]string{
		"Revoked":           revoked.text("id"),
		"Expired":           expired.text("id"),
		"MoreScopes":        key(fields{"scopes": []string{"keys:*", "read", "write"}}).text("id"),
		"AWiderScope":       key(fields{"scopes": []string{"*"}}).text("id"),
		"MoreApps":          key(fields{"resources": fields{"app": []string{"a", "c"}, "project": []string{project}}}).text("id"),
		"AllApps":           key(fields{"resources": fields{"project": []string{project}}}).text("id"),
		"AllProjects":       key(fields{"resources": fields{"app": []string{"a"}}}).text("id"),
		"ALaterEnd":         key(fields{"expires_at": began.Add(2 * time.Hour)}).text("id"),
		"AnOperator":        string(b.tenant.Key.ID),
		"OutOfReach":        outOfReach.text("id"),
		"Foreign":           string(foreign.key),
		"Unknown":           unknown("key"),
		"AnotherKindOfID":   project,
		"ASecretInItsPlace": own.text("key"),
		"Zero":              "0",
		"Negative":          "-1",
		"Signed":            "+" + number(own.text("id")),
		"Huge":              strings.Repeat("9", 40),
		"Empty":             " ",
		"Several":           number(own.text("id")) + ", " + number(own.text("id")),
	}
	for name, id := range refused {
		t.Run(name, func(t *testing.T) {
			caller := caller.at(t)
			caller.bare("GET", "/apikey/", nil, "x-limited-key-id", id).ko(401, koSubkey)
			if strings.HasPrefix(id, "key_") {
				caller.bare("GET", "/apikey/", nil, "x-limited-key-id", number(id)).ko(401, koSubkey)
			}
		})
	}
	t.Run("TwoOfThem", func(t *testing.T) {
		list, _, _ := pageCurl(caller.secret + "\nx-limited-key-id: " + number(own.text("id")) + "\nx-limited-key-id: " + number(own.text("id")))
		b.exchange(t, list).ko(401, koSubkey)
	})
	t.Run("OfABadKey", func(t *testing.T) {
		b.as("nonsense").at(t).bare("GET", "/apikey/", nil, "x-limited-key-id", number(own.text("id"))).ko(401, koKey)
	})
}

// TestAPIKey_ActsAsTheSubkey: what is done while acting as a subkey is within its rights only, and in its name.
func TestAPIKey_ActsAsTheSubkey(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	sub := b.newKey(fields{"name": "sub", "scopes": []string{"keys:read", "keys:write", "read"}, "resources": fields{"app": []string{"a"}}})
	as := []string{"x-limited-key-id", number(sub.text("id"))}
	made := madeKey(b.root.bare("POST", "/apikey/", fields{"name": "made", "mode": "read"}, as...))
	if made.UserID != sub.text("id") || !slices.Equal(made.LimitedToApps, []string{"a"}) {
		t.Errorf("made %+v", made)
	}
	b.root.bare("POST", "/apikey/", fields{"name": "more", "mode": "write"}, as...).ko(403, koDenied)
	b.root.bare("DELETE", fmt.Sprintf("/apikey/%d/", made.ID), nil, as...).ko(403, koDenied)
	b.root.bare("DELETE", fmt.Sprintf("/apikey/%d/", made.ID), nil).wants(200)

	var actors []string
	var events []struct{ Type, Actor string }
	b.root.call("GET", "/v1/events", nil).wants(200).into(&events)
	for _, e := range events[len(events)-2:] {
		actors = append(actors, e.Type+" by "+e.Actor)
	}
	want := []string{"Created by " + sub.text("id"), "Revoked by " + string(b.tenant.Key.ID)}
	if diff := cmp.Diff(want, actors); diff != "" {
		t.Error(diff)
	}
	line := b.logs.line(t, b.root.bare("GET", "/apikey/", nil, as...).wants(200).header.Get("X-Request-Id"))
	if line["actor"] != sub.text("id") {
		t.Errorf("logged %v", line)
	}
}

// TestAPIKey_Permissions: each route needs its own right, and the plain words that modes stand for give none.
func TestAPIKey_Permissions(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	id := madeKey(b.root.bare("POST", "/apikey/", fields{"name": "a key", "mode": "read"})).ID
	routes := []struct {
		method, path, scope string
		body                any
	}{
		{"GET", "/apikey/", "keys:read", nil},
		{"GET", fmt.Sprintf("/apikey/%d/", id), "keys:read", nil},
		{"POST", "/apikey/", "keys:write", fields{"name": "x", "mode": "read"}},
		{"DELETE", fmt.Sprintf("/apikey/%d/", id), "keys:delete", nil},
	}
	all := []string{"keys:read", "keys:write", "keys:delete", "keys:verify", "read", "write", "upload", "delete", "projects:write"}
	for _, r := range routes {
		without := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == r.scope })
		a := b.holding(without...).bare(r.method, r.path, r.body)
		a.ko(403, koDenied)
		if !strings.Contains(a.header.Get("WWW-Authenticate"), `scope="`+r.scope+`"`) {
			t.Errorf("%s %s: WWW-Authenticate %q", r.method, r.path, a.header.Get("WWW-Authenticate"))
		}
		b.holding(r.scope, "read").bare(r.method, r.path, r.body).wants(200)
	}
}

// TestAPIKey_SwitchedOff: an organization that switched the surface off is refused on it, and on it alone.
func TestAPIKey_SwitchedOff(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	org := b.newOrganization("mine")
	set := func(surfaces ...string) {
		t.Helper()
		_, err := b.commands.UpdateOrganization(t.Context(), commands.System(domain.ActorSetup), domain.UpdateOrganization{
			ID: org.id, DisabledSurfaces: domain.Change[[]string]{Set: true, Value: surfaces},
		})
		must(t, err)
	}
	set(domain.SurfaceAPIKey)
	org.owner.bare("GET", "/apikey/", nil).ko(403, "your organization has switched the surface apikey off")
	org.owner.bare("POST", "/apikey", fields{"name": "x", "mode": "read"}).wants(403)
	b.as("nonsense").bare("GET", "/apikey/", nil).ko(401, koKey)
	org.owner.call("GET", "/v1/api-keys?project_id="+string(org.project), nil).wants(200)
	b.root.bare("GET", "/apikey/", nil).wants(200)
	b.as("").call("GET", "/apikey/openapi.json", nil, "Authorization", "").wants(200)
	set(domain.SurfaceProjects)
	org.owner.bare("GET", "/apikey/", nil).wants(200)
}
