package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/client"
)

// verifies is a Verifier that says what it was told to, and remembers what it was asked.
type verifies struct {
	verdict client.Verdict
	err     error
	asked   []client.Request
}

func (v *verifies) Verify(_ context.Context, request client.Request) (client.Verdict, error) {
	v.asked = append(v.asked, request)
	return v.verdict, v.err
}

// TestGate goes through all verdicts and all ways to present a key. The handler is reached by valid keys only.
func TestGate(t *testing.T) {
	t.Parallel()
	bearer := http.Header{"Authorization": {"Bearer " + secret}}
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	said := func(code client.Code) *verifies { return &verifies{verdict: client.Verdict{Code: code}} }
	good := &verifies{verdict: client.Verdict{Valid: true, Code: client.CodeValid, Status: client.StatusActive}}
	const plain = `Bearer realm="api"`
	const invalid, several = plain + `, error="invalid_token"`, plain + `, error="invalid_request"`
	for _, c := range []struct {
		what      string
		header    http.Header
		verifier  *verifies
		status    int
		challenge string
		more      http.Header
	}{
		{"nothing", nil, good, 401, plain, nil},
		{"another scheme", http.Header{"Authorization": {"Basic " + secret}}, good, 401, plain, nil},
		{"an empty key", http.Header{"Authorization": {"Bearer  "}, "X-Api-Key": {""}}, good, 401, plain, nil},
		{"valid", bearer, good, 200, "", nil},
		{"lower case", http.Header{"Authorization": {"bearer " + secret}}, good, 200, "", nil},
		{"X-API-Key", http.Header{"X-Api-Key": {secret}}, good, 200, "", nil},
		{"X-API-Key beside another scheme", http.Header{"X-Api-Key": {secret}, "Authorization": {"Basic x"}}, good, 200, "", nil},
		{"both", http.Header{"X-Api-Key": {secret}, "Authorization": {"Bearer " + secret}}, good, 400, several, nil},
		{"two", http.Header{"Authorization": {"Bearer " + secret, "Bearer x"}}, good, 400, several, nil},
		{"two of the other", http.Header{"X-Api-Key": {secret, "x"}}, good, 400, several, nil},
		{"in grace", bearer, &verifies{verdict: client.Verdict{Valid: true, Code: client.CodeValid, Status: client.StatusGrace, GraceExpiresAt: until}},
			200, "", http.Header{"Rekey-Key-Status": {"grace; until=1893553445"}}},
		{"unknown", bearer, said(client.CodeNotFound), 401, invalid, nil},
		{"revoked", bearer, said(client.CodeRevoked), 401, invalid, nil},
		{"expired", bearer, said(client.CodeExpired), 401, invalid, nil},
		{"rotated", bearer, said(client.CodeGraceExpired), 401, invalid, nil},
		{"disabled", bearer, said(client.CodeDisabled), 401, invalid, nil},
		{"without the scope", bearer, said(client.CodeInsufficientScope), 403, plain + `, error="insufficient_scope", scope="orders:read orders:write"`, nil},
		{"another resource", bearer, said(client.CodeResourceDenied), 403, plain + `, error="insufficient_scope"`, nil},
		{"another address", bearer, said(client.CodeIPDenied), 403, "", nil},
		{"something new", bearer, said("SOMETHING_NEW"), 403, plain + `, error="insufficient_scope"`, nil},
		{"the zero verdict", bearer, said(""), 403, plain + `, error="insufficient_scope"`, nil},
		{"too fast", bearer, &verifies{verdict: client.Verdict{Code: client.CodeRateLimited, RetryAfterSeconds: 7}}, 429, "", http.Header{"Retry-After": {"7"}}},
		{"no answer", bearer, &verifies{err: &client.Error{Kind: client.ErrUnavailable, RetryAfter: 2500 * time.Millisecond}}, 503, "", http.Header{"Retry-After": {"3"}}},
		{"refused", bearer, &verifies{err: &client.Error{Kind: client.ErrRefused}}, 503, "", http.Header{"Retry-After": {"1"}}},
		{"an error with a valid verdict", bearer, &verifies{verdict: good.verdict, err: errors.New("broken")}, 503, "", http.Header{"Retry-After": {"1"}}},
	} {
		var reached bool
		handler := client.Require(c.verifier, "orders:read", "orders:write")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reached = true
			if verdict, ok := client.FromContext(r.Context()); !ok || !cmp.Equal(verdict, c.verifier.verdict) {
				t.Errorf("%s: the handler finds %+v, %v", c.what, verdict, ok)
			}
		}))
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "203.0.113.7:1234"
		for name, values := range c.header {
			r.Header[name] = values
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != c.status || reached != (c.status == 200) || w.Header().Get("WWW-Authenticate") != c.challenge {
			t.Errorf("%s: %d (reached: %v) with %v: %s", c.what, w.Code, reached, w.Header(), w.Body)
		}
		for name, values := range c.more {
			if !cmp.Equal(w.Header()[name], values) {
				t.Errorf("%s: %s is %q", c.what, name, w.Header()[name])
			}
		}
		if w.Code != 200 && (w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Cache-Control") != "no-store" || strings.Contains(w.Body.String(), secret)) {
			t.Errorf("%s: %v %s", c.what, w.Header(), w.Body)
		}
	}
	for _, asked := range good.asked {
		if asked.Secret.Reveal() != secret || asked.IP.String() != "203.0.113.7" || !cmp.Equal(asked.Scopes, []string{"orders:read", "orders:write"}) {
			t.Errorf("it asked for %q from %s with %v", asked.Secret.Reveal(), asked.IP, asked.Scopes)
		}
	}
	if _, ok := client.FromContext(t.Context()); ok {
		t.Error("there is a verdict where none was made")
	}
}

// TestGateOptions has an own realm, address, resources, and is told of what failed.
func TestGateOptions(t *testing.T) {
	t.Parallel()
	asked := &verifies{err: &client.Error{Kind: client.ErrUnavailable}}
	var told error
	gate := client.NewGate(asked, client.WithRealm("the \"shop\"\r\n"),
		client.WithClientIP(func(r *http.Request) netip.Addr { return netip.MustParseAddr(r.Header.Get("X-Real-IP")) }),
		client.WithResources(func(*http.Request) map[string]string { return map[string]string{"app": "com.demo.app"} }),
		client.WithOnError(func(_ *http.Request, err error) { told = err }))
	handler := gate.Require()(http.NotFoundHandler())
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Header().Get("WWW-Authenticate") != `Bearer realm="the shop"` || told != nil {
		t.Errorf("%v, %v", w.Header(), told)
	}
	r.Header.Set("X-API-Key", secret)
	r.Header.Set("X-Real-IP", "2001:db8::1")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	if len(asked.asked) != 1 || asked.asked[0].IP.String() != "2001:db8::1" || asked.asked[0].Resources["app"] != "com.demo.app" || !errors.Is(told, client.ErrUnavailable) {
		t.Errorf("it asked %+v, and told %v", asked.asked, told)
	}
	for _, scope := range []string{"", "a b", `a"b`, "a\nb"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("it takes the scope %q", scope)
				}
			}()
			gate.Require(scope)
		}()
	}
}
