package api_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// gatewayBench is a gateway in front of rekey: it asks in the two ways that there are, quickly and through the router, and
// requires the same answer.
type gatewayBench struct {
	*bench
	key         string
	quick, slow http.Handler
	used        []string // by clients, with where from
}

func newGatewayBench(t *testing.T, adjust func(*api.Config)) *gatewayBench {
	g := &gatewayBench{bench: setup(t, options{now: began})}
	g.key = g.holding("keys:verify").secret
	config := g.config
	if adjust != nil {
		adjust(&config)
	}
	g.slow = api.New(config)
	config.Logger = slog.New(slog.DiscardHandler)
	config.Usage = func(key *verifier.Record, from netip.Addr, _ string, _ time.Time) {
		if !slices.Contains(key.Scopes(), domain.ScopeKeysVerify) {
			g.used = append(g.used, where(from))
		}
	}
	g.quick = api.New(config)
	return g
}

// ask asks about a client's request with the headers, in pairs; the gateway's own key comes along unless they say otherwise.
func (g *gatewayBench) ask(t *testing.T, method, target string, headers ...string) *answer {
	t.Helper()
	var answers []*answer
	for _, handler := range []http.Handler{g.slow, g.quick} {
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("X-Request-Id", "req.1")
		r.Header.Set("Rekey-Authorization", "Bearer "+g.key)
		for i := 0; i < len(headers); i += 2 {
			if headers[i] == "Rekey-Authorization" {
				r.Header.Del(headers[i])
			}
			if headers[i+1] != "" || headers[i] != "Rekey-Authorization" {
				r.Header.Add(headers[i], headers[i+1])
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		answers = append(answers, &answer{t: t, status: w.Code, header: w.Header(), body: w.Body.Bytes()})
	}
	type whole struct {
		Status int
		Header http.Header
		Body   string
	}
	both := [2]whole{}
	for i, a := range answers {
		both[i] = whole{a.status, a.header, string(a.body)}
	}
	if diff := cmp.Diff(both[0], both[1]); diff != "" {
		t.Errorf("%s %s is answered differently by the quick way:\n%s", method, target, diff)
	}
	return answers[0]
}

func TestAuth(t *testing.T) {
	t.Parallel()
	g := newGatewayBench(t, nil)
	keys := g.keysByState()
	limited := g.newKey(fields{"scopes": []string{"orders:read", "a:*"}, "resources": fields{"app": []string{"com.demo.app"}}}).text("key")
	bearer := func(secret string) []string { return []string{"Authorization", "Bearer " + secret} }
	for name, c := range map[string]struct {
		target  string
		headers []string
		status  int
		code    string // Rekey-Code
		state   string // Rekey-Key-Status
	}{
		"Active":           {"", bearer(keys.active), 200, "VALID", "active"},
		"Revoked":          {"", bearer(keys.revoked), 401, "REVOKED", ""},
		"Expired":          {"", bearer(keys.expired), 401, "EXPIRED", ""},
		"Retired":          {"", bearer(keys.retired), 401, "GRACE_EXPIRED", ""},
		"Discarded":        {"", bearer(keys.discarded), 401, "REVOKED", ""},
		"Unknown":          {"", bearer("rk_live_nobody"), 401, "NOT_FOUND", ""},
		"Nothing":          {"", nil, 401, "NOT_FOUND", ""},
		"OtherHeader":      {"", []string{"X-API-Key", limited}, 200, "VALID", "active"},
		"OtherHeaderBasic": {"", []string{"X-API-Key", limited, "Authorization", "Basic eDp5"}, 200, "VALID", "active"},
		"InBothHeaders":    {"", append(bearer(limited), "X-API-Key", limited), 401, "NOT_FOUND", ""},
		"TwoOfOneHeader":   {"", append(bearer(limited), "Authorization", "Bearer "+keys.active), 401, "NOT_FOUND", ""},
		"TwoOfTheOther":    {"", []string{"X-API-Key", limited, "X-API-Key", keys.active}, 401, "NOT_FOUND", ""},
		"EmptyOther":       {"", append(bearer(limited), "X-API-Key", ""), 200, "VALID", "active"},
		"EmptyBearer":      {"", []string{"X-API-Key", limited, "Authorization", "Bearer "}, 200, "VALID", "active"},
		"InTheQuery":       {"?header=X-Demo", []string{"X-Demo", limited}, 200, "VALID", "active"},
		"OnlyNamedHeader":  {"?header=X-Demo", bearer(limited), 401, "NOT_FOUND", ""},
		"Scope":            {"?scope=orders:read", bearer(limited), 200, "VALID", "active"},
		"ScopeByWildcard":  {"?scope=a:b%20orders:read", bearer(limited), 200, "VALID", "active"},
		"ScopeMissing":     {"?scope=orders:write", bearer(limited), 403, "INSUFFICIENT_SCOPE", ""},
		"SecondMissing":    {"?scope=orders:read&scope=orders:write", bearer(limited), 403, "INSUFFICIENT_SCOPE", ""},
		"HeaderMissing":    {"?scope=orders:read", append(bearer(limited), "Rekey-Scope", "orders:write"), 403, "INSUFFICIENT_SCOPE", ""},
		"SecondHeader":     {"", append(bearer(limited), "Rekey-Scope", "a:b, a:c", "Rekey-Scope", "x"), 403, "INSUFFICIENT_SCOPE", ""},
		"Resource":         {"?resource=app:com.demo.app", bearer(limited), 200, "VALID", "active"},
		"ResourceDenied":   {"?resource=app:other", bearer(limited), 403, "RESOURCE_DENIED", ""},
		"ResourceByHeader": {"", append(bearer(limited), "Rekey-Resource", "app:other"), 403, "RESOURCE_DENIED", ""},
		"RevokedAndScope":  {"?scope=x", bearer(keys.revoked), 401, "REVOKED", ""},
		"BelowIgnoresIt":   {"/orders/7?scope=x&scopes=y", bearer(limited), 200, "VALID", "active"},
		"BelowWithHeader":  {"/orders/7", append(bearer(limited), "Rekey-Scope", "x"), 403, "INSUFFICIENT_SCOPE", ""},
		"BelowOtherRoutes": {"/../healthz", nil, 401, "NOT_FOUND", ""},
		"JustBelow":        {"/", nil, 401, "NOT_FOUND", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"} {
				a := g.ask(t, method, "/v1/auth"+c.target, c.headers...).wants(c.status)
				if a.header.Get("Rekey-Code") != c.code || a.header.Get("Rekey-Key-Status") != c.state {
					t.Errorf("%s: code %q, status %q", method, a.header.Get("Rekey-Code"), a.header.Get("Rekey-Key-Status"))
				}
				if a.header["Rekey-Gateway-Error"] != nil {
					t.Errorf("%s: it says that the gateway is at fault", method)
				}
				checkAdmission(t, a)
			}
		})
	}
	t.Run("Pending", func(t *testing.T) { // asked once: its first use makes it active
		r := httptest.NewRequest("GET", "/v1/auth", nil)
		r.Header.Set("Rekey-Authorization", "Bearer "+g.key)
		r.Header.Set("Authorization", "Bearer "+keys.pending)
		w := httptest.NewRecorder()
		g.quick.ServeHTTP(w, r)
		if w.Code != 200 || w.Header().Get("Rekey-Key-Status") != "pending" {
			t.Errorf("answered %d, status %q", w.Code, w.Header().Get("Rekey-Key-Status"))
		}
	})
	t.Run("InGrace", func(t *testing.T) {
		a := g.ask(t, "GET", "/v1/auth", bearer(keys.grace)...).wants(200)
		var until int64
		if _, err := fmt.Sscanf(a.header.Get("Rekey-Key-Status"), "grace; until=%d", &until); err != nil || until <= g.clock.Now().Unix() {
			t.Errorf("Rekey-Key-Status: %s", a.header.Get("Rekey-Key-Status"))
		}
	})
	t.Run("ChallengeNamesAllScopes", func(t *testing.T) {
		a := g.ask(t, "GET", "/v1/auth?scope=orders:read+x:y", bearer(limited)...).wants(403)
		if want := challengeNone + `, error="insufficient_scope", scope="orders:read x:y"`; a.header.Get("WWW-Authenticate") != want {
			t.Errorf("challenge %q", a.header.Get("WWW-Authenticate"))
		}
	})
	t.Run("ChallengeTellsAWrongKeyFromNone", func(t *testing.T) {
		for want, headers := range map[string][]string{challengeNone: nil, challengeInvalid: bearer(keys.revoked)} {
			if got := g.ask(t, "GET", "/v1/auth", headers...).header.Get("WWW-Authenticate"); got != want {
				t.Errorf("challenge %q, want %q", got, want)
			}
		}
	})
	t.Run("IsNoPrefixOfOthers", func(t *testing.T) {
		g.ask(t, "GET", "/v1/authors").wants(404)
	})
}

// checkAdmission requires all headers of identity on a 200, and none on any other answer.
func checkAdmission(t *testing.T, a *answer) {
	t.Helper()
	for _, name := range []string{"Rekey-Key-Id", "Rekey-Lineage-Id", "Rekey-Organization-Id", "Rekey-Project-Id", "Rekey-Environment-Id", "Rekey-Scopes", "Rekey-Key-Status"} {
		if there := a.header.Get(name) != ""; there != (a.status == 200) {
			t.Errorf("%d with %s %q", a.status, name, a.header.Get(name))
		}
	}
	if a.status == 200 && len(a.body) > 0 {
		t.Errorf("a body: %s", a.body)
	}
}

// TestAuth_NeverFailsOpen: whatever is wrong about the gateway or its question, no request is let through, also not one whose
// key is valid; and the answer says that it is not about the client.
func TestAuth_NeverFailsOpen(t *testing.T) {
	t.Parallel()
	g := newGatewayBench(t, nil)
	client := g.newKey(fields{"scopes": []string{"*"}}).text("key")
	ended := g.newKey(fields{"scopes": []string{"keys:verify"}})
	g.root.call("DELETE", "/v1/api-keys/"+ended.text("id"), nil).wants(204)
	for name, c := range map[string]struct {
		target  string
		headers []string
		status  int
		fault   string
	}{
		"NoKey":           {"", []string{"Rekey-Authorization", ""}, 401, "unauthenticated"},
		"AnUnknownKey":    {"", []string{"Rekey-Authorization", "Bearer rk_live_x"}, 401, "unauthenticated"},
		"ARevokedKey":     {"", []string{"Rekey-Authorization", "Bearer " + ended.text("key")}, 401, "unauthenticated"},
		"ABareKey":        {"", []string{"Rekey-Authorization", g.key}, 401, "unauthenticated"},
		"TwoKeys":         {"", []string{"Rekey-Authorization", "Bearer " + g.key, "rekey-authorization", "Bearer " + g.key}, 401, "unauthenticated"},
		"NoScope":         {"", []string{"Rekey-Authorization", "Bearer " + g.holding("keys:read").secret}, 403, "insufficient_scope"},
		"EmptyScope":      {"?scope=", nil, 422, "validation_failed"},
		"BlankScope":      {"?scope=a&scope=%20,", nil, 422, "validation_failed"},
		"BadScope":        {"?scope=a%22b", nil, 422, "validation_failed"},
		"EmptyHeader":     {"", []string{"Rekey-Scope", " "}, 422, "validation_failed"},
		"TooManyScopes":   {"?scope=" + strings.Join(manyScopes(65), "+"), nil, 422, "validation_failed"},
		"Misspelt":        {"?scopes=orders:write", nil, 422, "validation_failed"},
		"MisspeltEscaped": {"?%73cope=orders:write", nil, 422, "validation_failed"},
		"NoResource":      {"?resource=", nil, 422, "validation_failed"},
		"HalfAResource":   {"?resource=app:", nil, 422, "validation_failed"},
		"TwoResources":    {"?resource=app:a&resource=app:b", nil, 422, "validation_failed"},
		"SmuggledOne":     {"?resource=app:a", []string{"Rekey-Resource", "app:b"}, 422, "validation_failed"},
		"BadEscape":       {"?scope=%zz", nil, 422, "validation_failed"},
		"OurOwnHeader":    {"?header=rekey-authorization", nil, 422, "validation_failed"},
		"NoHeader":        {"?header=", nil, 422, "validation_failed"},
		"TwoHeaders":      {"?header=a&header=b", nil, 422, "validation_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST", "OPTIONS", "HEAD", "BREW"} {
				a := g.ask(t, method, "/v1/auth"+c.target, append([]string{"Authorization", "Bearer " + client}, c.headers...)...).wants(c.status)
				if a.header.Get("Rekey-Gateway-Error") != c.fault || a.header["Rekey-Code"] != nil {
					t.Errorf("%s: Rekey-Gateway-Error %q, Rekey-Code %q", method, a.header.Get("Rekey-Gateway-Error"), a.header["Rekey-Code"])
				}
				checkAdmission(t, a)
			}
		})
	}
}

// TestAuth_StoreGone: without an answer there is none, and the gateway is told when to try again.
func TestAuth_StoreGone(t *testing.T) {
	t.Parallel()
	var wire line
	b := setup(t, options{pool: wire.pool(t)})
	wire.cut(true)
	for _, method := range []string{"GET", "OPTIONS", "PROPFIND"} {
		a := b.root.call(method, "/v1/auth", nil)
		if a.wants(503); a.header.Get("Retry-After") != "1" || a.header.Get("Rekey-Gateway-Error") != "unavailable" {
			t.Errorf("%s: %v", method, a.header)
		}
	}
}

// TestAuth_NoBodyIsRead: some gateways announce the body of their client and do not send it.
func TestAuth_NoBodyIsRead(t *testing.T) {
	t.Parallel()
	g := newGatewayBench(t, nil)
	for _, handler := range []http.Handler{g.slow, g.quick} {
		r := httptest.NewRequest("POST", "/v1/auth", untouchable{t})
		r.Header.Set("Rekey-Authorization", "Bearer "+g.key)
		r.Header.Set("Authorization", "Bearer "+g.key)
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
}

type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// TestAuth_CountsUses: a use is one of a request that was let through, from where the gateway says its client is, if it has
// said which header tells that; a header that the client could have written itself is not read unasked.
func TestAuth_CountsUses(t *testing.T) {
	t.Parallel()
	g := newGatewayBench(t, func(c *api.Config) {
		c.ClientIP = func(*http.Request) netip.Addr { return netip.MustParseAddr("198.51.100.1") }
	})
	bearer := []string{"Authorization", "Bearer " + g.newKey(fields{"scopes": []string{"a"}}).text("key")}
	for _, c := range []struct {
		target  string
		headers []string
	}{
		{"", nil}, {"", []string{"X-Real-IP", "203.0.113.7"}}, {"?ip_header=x-real-ip", []string{"X-Real-IP", "203.0.113.7"}},
		{"?ip_header=x-real-ip", nil}, {"?ip_header=X-Real-IP", []string{"X-Real-IP", "203.0.113.7", "X-Real-IP", "203.0.113.8"}},
		{"?ip_header=X-Real-IP", []string{"X-Real-IP", "::ffff:203.0.113.7"}}, {"?ip_header=X-Real-IP", []string{"X-Real-IP", "nowhere"}},
	} {
		g.ask(t, "GET", "/v1/auth"+c.target, append(bearer, c.headers...)...).wants(200)
	}
	g.ask(t, "GET", "/v1/auth?scope=b", bearer...).wants(403)
	want := []string{"198.51.100.1", "198.51.100.1", "203.0.113.7", "", "", "203.0.113.7", ""}
	if diff := cmp.Diff(want, g.used); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
}

// TestG6_GatewayRoutes: a key of another organization, or of a project beyond the caller's, is judged as one that does not
// exist, by each route that judges.
func TestG6_GatewayRoutes(t *testing.T) {
	t.Parallel()
	g := newGatewayBench(t, nil)
	mine, theirs := g.newOrganization("mine"), g.newOrganization("theirs")
	second := theirs.owner.call("POST", "/v1/projects", fields{"name": "beside"}).wants(201).text("id")
	beside := theirs.owner.newKeyIn(domain.ProjectID(second), fields{"resources": fields{"project": []string{second}}}).text("key")
	target := theirs.owner.newKeyIn(theirs.project, nil).text("key")
	unknown := freshSecret(g.root).(string)
	for name, caller := range map[string]string{"AnotherOrganization": mine.owner.secret, "AnotherProject": beside} {
		t.Run(name, func(t *testing.T) {
			c := g.as(caller)
			for what, ask := range map[string]func(secret string) *answer{
				"auth": func(secret string) *answer {
					return c.call("GET", "/v1/auth", nil, "Authorization", "Bearer "+secret).wants(401)
				},
				"introspect": func(secret string) *answer {
					return c.call("POST", "/v1/introspect", "token="+secret, "Content-Type", formType).wants(200)
				},
				"batch": func(secret string) *answer {
					return c.call("POST", "/v1/api-keys/verify/batch", fields{"requests": []fields{{"key": secret}}}).wants(200)
				},
			} {
				if diff := cmp.Diff(ask(unknown).shown(), ask(target).shown()); diff != "" {
					t.Errorf("%s tells a foreign key from none (-unknown +foreign):\n%s", what, diff)
				}
			}
			c.call("GET", "/v1/auth", nil).wants(200) // its own
		})
	}
}
