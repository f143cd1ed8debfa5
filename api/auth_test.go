package api_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

const (
	challengeNone    = `Bearer realm="rekey"`
	challengeInvalid = `Bearer realm="rekey", error="invalid_token"`
)

// keysByState has one secret per state that a key can be in.
type keysByState struct {
	active, grace, pending, revoked, expired, retired, discarded string
}

func (b *bench) keysByState() (k keysByState) {
	b.t.Helper()
	k.active = b.newKey(nil).text("key")
	k.expired = b.newKey(fields{"expires_at": b.clock.Now().Add(time.Minute).Format(time.RFC3339)}).text("key")
	revoked := b.newKey(nil)
	b.root.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)
	k.revoked = revoked.text("key")
	k.pending, _ = b.pendingKey()
	discarded, id := b.pendingKey()
	b.root.call("DELETE", "/v1/api-keys/"+string(id), nil).wants(204)
	k.discarded = discarded
	for seconds, secret := range map[int]*string{0: &k.retired, 3600: &k.grace} {
		old := b.newKey(nil)
		b.root.call("POST", "/v1/api-keys/"+old.text("id")+"/rotate", fields{"grace_period_seconds": seconds}).wants(200)
		*secret = old.text("key")
	}
	return k
}

// pendingKey is the successor that an interval rotation made and that nobody has fetched; two hours pass.
func (b *bench) pendingKey() (secret string, id domain.KeyID) {
	b.t.Helper()
	lineage := b.newKey(fields{"rotation_interval_seconds": 3600}).text("lineage_id")
	b.clock.advance(2 * time.Hour)
	b.sweep()
	var keys []struct {
		ID     domain.KeyID
		Status string
	}
	b.root.call("GET", "/v1/api-keys?project_id="+string(b.tenant.Key.ProjectID)+"&lineage_id="+lineage, nil).wants(200).into(&keys)
	if len(keys) != 2 || keys[0].Status != "pending" {
		b.t.Fatalf("no successor waits: %v", keys)
	}
	key, err := b.reader.Key(b.t.Context(), projections.Reach{Organization: b.tenant.OrganizationID}, keys[0].ID)
	must(b.t, err)
	opened, err := b.commands.OpenPending(b.t.Context(), *key.RotationID)
	must(b.t, err)
	return opened.Reveal(), key.ID
}

// TestAuthentication shows which keys open the door. All that do not get one answer, so that nobody learns whether a key
// was ever real.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	keys := b.keysByState()
	for name, header := range map[string]string{
		"Active": "Bearer " + keys.active, "InGrace": "Bearer " + keys.grace, "Pending": "Bearer " + keys.pending,
		"LowerCaseScheme": "bearer " + keys.active, "UpperCaseScheme": "BEARER " + keys.active,
		"TwoSpaces": "Bearer  " + keys.active, "SpaceAtTheEnd": "Bearer " + keys.active + " ",
	} {
		t.Run("Accepts"+name, func(t *testing.T) {
			b.root.call("GET", "/v1/projects", nil, "Authorization", header).wants(200)
		})
	}
	var first string
	for name, c := range map[string]struct{ header, challenge string }{
		// RFC 6750, 3: where no bearer token was sent, also with another scheme, the challenge names no error.
		"Nothing":       {"", challengeNone},
		"AnotherScheme": {"Basic " + keys.active, challengeNone},
		"TheBareKey":    {keys.active, challengeNone},
		"TheBareScheme": {"Bearer", challengeNone},
		"AnEmptyKey":    {"Bearer  ", challengeNone},
		"Malformed":     {"Bearer nonsense", challengeInvalid},
		"TooLong":       {"Bearer " + strings.Repeat("k", 2000), challengeInvalid},
		"TwoWords":      {"Bearer " + keys.active + " " + keys.active, challengeInvalid},
		"Quoted":        {`Bearer "` + keys.active + `"`, challengeInvalid},
		"WrongChecksum": {"Bearer " + flipLast(keys.active), challengeInvalid},
		"Unknown":       {"Bearer " + strings.Repeat("x", 40), challengeInvalid},
		"Revoked":       {"Bearer " + keys.revoked, challengeInvalid},
		"Expired":       {"Bearer " + keys.expired, challengeInvalid},
		"Retired":       {"Bearer " + keys.retired, challengeInvalid},
		"Discarded":     {"Bearer " + keys.discarded, challengeInvalid},
	} {
		t.Run("Refuses"+name, func(t *testing.T) {
			a := b.root.call("GET", "/v1/projects", nil, "Authorization", c.header)
			p := a.refused(http.StatusUnauthorized, domain.CodeUnauthenticated)
			if got := a.header.Values("WWW-Authenticate"); !slices.Equal(got, []string{c.challenge}) {
				t.Errorf("challenge %q, want %q", got, c.challenge)
			}
			body := string(bytes.ReplaceAll(a.body, []byte(p.RequestID), nil))
			if first == "" {
				first = body
			}
			if body != first {
				t.Errorf("differs from the others:\n%s\n%s", body, first)
			}
		})
	}
	t.Run("RefusesAKeyInTheQuery", func(t *testing.T) {
		b.as("").call("GET", "/v1/projects?access_token="+keys.active, nil).refused(401, domain.CodeUnauthenticated)
	})
	t.Run("RefusesTwoHeaders", func(t *testing.T) {
		request := b.root.request("GET", "/v1/projects", nil)
		request.Header.Add("Authorization", "Bearer "+keys.revoked)
		response, err := b.root.http.Do(request)
		must(t, err)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("got %d", response.StatusCode)
		}
	})
	t.Run("RefusesAtTheInstantOfExpiry", func(t *testing.T) {
		made := b.newKey(fields{"expires_at": b.clock.Now().Add(time.Hour).Format(time.RFC3339)})
		c := b.as(made.text("key"))
		b.clock.advance(time.Hour - time.Microsecond)
		c.call("GET", "/v1/projects", nil).wants(200)
		b.clock.advance(time.Microsecond)
		c.call("GET", "/v1/projects", nil).wants(401)
	})
}

func flipLast(secret string) string {
	last := "0"
	if strings.HasSuffix(secret, last) {
		last = "1"
	}
	return secret[:len(secret)-1] + last
}

// everyScope is what the operations of the document need.
func everyScope() []string {
	var scopes []string
	published().each(func(_, _ string, o *operation) {
		if scope := neededScope(o); scope != "" && !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	})
	return scopes
}

// somePath fills the parameters of a route with an id of its kind.
func somePath(pattern string, id func(prefix string) string) string {
	for start, prefix := range map[string]string{
		"/v1/api-keys/": "key", "/v1/organizations/": "org", "/v1/projects/": "proj", "/v1/environments/": "env", "/v1/webhook-endpoints/": "ep", "/v1/deliveries/": "dlv", "/v1/rotations/": "rot",
	} {
		if strings.HasPrefix(pattern, start) {
			return strings.ReplaceAll(pattern, "{id}", id(prefix))
		}
	}
	return pattern
}

// TestEveryRouteNeedsItsScope walks the document: each operation refuses whoever holds all scopes but its own, and names
// the one it needs; and it refuses whoever has no key.
func TestEveryRouteNeedsItsScope(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	lacking := map[string]*client{}
	for _, scope := range everyScope() {
		others := slices.DeleteFunc(everyScope(), func(s string) bool { return s == scope })
		lacking[scope] = b.holding(append(others, "read", "write", "delete", "keys", strings.ToUpper(scope))...)
	}
	before := b.head()
	walked := 0
	published().each(func(method, pattern string, o *operation) {
		if o.open() {
			return
		}
		walked++
		path := somePath(pattern, unknown)
		t.Run(o.OperationID, func(t *testing.T) {
			b.as("").call(method, path, nil).refused(401, domain.CodeUnauthenticated)
			scope := neededScope(o)
			if scope == "" {
				return // TestDocument has the list of those
			}
			a := lacking[scope].call(method, path, nil, "Content-Type", "application/json")
			p := a.refused(403, domain.CodeInsufficientScope)
			if want := challengeNone + `, error="insufficient_scope", scope="` + scope + `"`; a.header.Get("WWW-Authenticate") != want {
				t.Errorf("challenge %q, want %q", a.header.Get("WWW-Authenticate"), want)
			}
			if p.Details["required_scope"] != scope {
				t.Errorf("details %v, want the scope %s", p.Details, scope)
			}
			// With the scope it gets further: whatever is wrong then, it is not the scope.
			if a := b.holding(scope).call(method, path, nil); a.status == 401 || a.status == 403 && o.OperationID != "create-organization" {
				t.Errorf("with its scope: %d %s", a.status, a.body)
			}
			before++
		})
	})
	if walked < 19 {
		t.Errorf("only %d operations were walked", walked)
	}
	if after := b.head(); after != before {
		t.Errorf("%d events, want %d: a refused request did something", after, before)
	}
}

// TestG8_NoEscalation: a key cannot grant what it does not hold, nor get the secret of one that holds more.
func TestG8_NoEscalation(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	limited := b.as(b.newKey(fields{
		"scopes": []string{"keys:*", "projects:write", "store:read"}, "resources": fields{"app": []string{"a", "b"}},
		"expires_at": began.Add(24 * time.Hour).Format(time.RFC3339),
	}).text("key"))
	project := b.tenant.Key.ProjectID
	refused := func(t *testing.T, method, path string, body fields, field string) {
		t.Helper()
		before := b.head()
		p := limited.call(method, path, body).refused(403, domain.CodeEscalation)
		if len(p.Errors) == 0 || p.Errors[0].Field != field || p.Errors[0].Remedy == "" {
			t.Errorf("the field %s is not named: %+v", field, p)
		}
		if after := b.head(); after != before {
			t.Errorf("%d events", after-before)
		}
	}
	with := func(settings fields) fields {
		body := fields{"project_id": project, "name": "x"}
		for name, value := range settings {
			body[name] = value
		}
		return body
	}
	t.Run("WhatIsNotNamedIsCutDown", func(t *testing.T) {
		made := limited.newKeyIn(project, nil).fields()
		if scopes := made["scopes"].([]any); len(scopes) != 3 || made["expires_at"] == nil || made["resources"] == nil {
			t.Errorf("got more than its maker has: %v", made)
		}
	})
	t.Run("WithinItsOwnRights", func(t *testing.T) {
		limited.newKeyIn(project, fields{"scopes": []string{"keys:read", "store:read"}, "resources": fields{"app": []string{"a"}, "org": []string{"o"}}})
	})
	for name, c := range map[string]struct {
		settings fields
		field    string
	}{
		"AScope":            {fields{"scopes": []string{"keys:read", "events:read"}}, "scopes"},
		"Everything":        {fields{"scopes": []string{"*"}}, "scopes"},
		"AWiderWildcard":    {fields{"scopes": []string{"store:*"}}, "scopes"},
		"AnotherResource":   {fields{"resources": fields{"app": []string{"a", "c"}}}, "resources"},
		"AnUnlimitedKind":   {fields{"resources": fields{"org": []string{"o"}}}, "resources"},
		"ALaterExpiry":      {fields{"expires_at": "2999-01-01T00:00:00Z"}, "expires_at"},
		"AScopeWithTheRest": {fields{"scopes": []string{"projects:read"}, "resources": fields{"app": []string{"a"}}}, "scopes"},
	} {
		t.Run("CannotCreate"+name, func(t *testing.T) { refused(t, "POST", "/v1/api-keys", with(c.settings), c.field) })
	}
	wider := "/v1/api-keys/" + b.newKey(nil).text("id")
	t.Run("CannotRotateAWiderKey", func(t *testing.T) { refused(t, "POST", wider+"/rotate", fields{}, "scopes") })
	t.Run("CannotRedirectAWiderKey", func(t *testing.T) {
		refused(t, "PATCH", wider, fields{"rotation_webhook_url": "https://evil.example.com/", "rotation_interval_seconds": 3600}, "scopes")
	})
	t.Run("CannotRotateTheOperatorsKey", func(t *testing.T) {
		star := b.as(b.newKey(fields{"scopes": []string{"*"}}).text("key")) // everything but the operator right
		star.call("POST", "/v1/api-keys/"+string(b.tenant.Key.ID)+"/rotate", "{}").refused(403, domain.CodeEscalation)
		star.call("POST", "/v1/organizations", fields{"name": "x"}).refused(403, domain.CodeInsufficientScope)
	})
	own := limited.newKeyIn(project, nil).text("id")
	for name, c := range map[string]struct {
		change fields
		field  string
	}{
		"Scopes":    {fields{"scopes": []string{"*"}}, "scopes"},
		"Resources": {fields{"resources": nil}, "resources"},
		"Expiry":    {fields{"expires_at": nil}, "expires_at"},
	} {
		t.Run("CannotWiden"+name, func(t *testing.T) { refused(t, "PATCH", "/v1/api-keys/"+own, c.change, c.field) })
	}
	t.Run("CannotClaimForAnotherKey", func(t *testing.T) {
		_, id := b.pendingKey()
		limited.call("POST", "/v1/api-keys/"+string(id)+"/successor", nil).refused(404, domain.CodeNotFound)
	})
}
