package api_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/api"
)

// TestQuickVerifyIsVerify sends the same verifies in a way that is answered quickly and in one that is not: status, headers
// and body are the same, byte for byte.
func TestQuickVerifyIsVerify(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	quietly := b.config
	quietly.Logger = slog.New(slog.DiscardHandler) // who logs each request answers none quickly
	quick, slow := api.New(quietly), api.New(b.config)
	plain := b.newKey(fields{"scopes": []string{"orders:read", "a:*"}})
	rich := b.newKey(fields{
		"name": "<b>\"ünï\" & \\ \u2028</b>", "metadata": fields{"team": "<pay>", "n": 1.50, "é": []any{nil, true}},
		"resources": fields{"app": []string{"com.demo.app"}}, "expires_at": "2031-01-02T03:04:05.678Z",
	})
	rotated := b.newKey(nil)
	b.root.call("POST", "/v1/api-keys/"+rotated.text("id")+"/rotate", fields{}).wants(200)
	ended := b.newKey(nil)
	b.root.call("DELETE", "/v1/api-keys/"+ended.text("id"), nil).wants(204)
	stranger := b.newOrganization("other").owner
	secrets := []string{plain.text("key"), rich.text("key"), rotated.text("key"), ended.text("key"), stranger.secret, "rk_live_nothing", ""}
	callers := []string{b.root.secret, b.root.secret, b.holding("keys:read").secret, "rk_live_nobody"}
	rapid.Check(t, func(t *rapid.T) {
		body := map[string]any{}
		if rapid.IntRange(0, 9).Draw(t, "key") > 0 {
			body["key"] = rapid.SampledFrom(secrets).Draw(t, "secret")
		}
		maybe := func(name string, value any) {
			if rapid.Bool().Draw(t, name) {
				body[name] = value
			}
		}
		maybe("scopes", rapid.SliceOfN(rapid.SampledFrom([]string{"orders:read", "a:b", "other", "é", ""}), 0, 10).Draw(t, "scopes"))
		maybe("resources", map[string]string{rapid.SampledFrom([]string{"app", "org"}).Draw(t, "kind"): "com.demo.app"})
		maybe("ip", rapid.SampledFrom([]any{"203.0.113.7", "2001:db8::1", "nowhere", nil, 7}).Draw(t, "ip"))
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
			body["other"] = 1
		}
		text, err := json.MarshalIndent(body, "", strings.Repeat(" ", rapid.IntRange(0, 2).Draw(t, "indent")))
		if err != nil {
			t.Fatal(err)
		}
		if rapid.IntRange(0, 9).Draw(t, "broken") == 0 {
			text = text[:len(text)-1]
		}
		caller := rapid.SampledFrom(callers).Draw(t, "caller")
		if diff := cmp.Diff(ask(t, slow, caller, text), ask(t, quick, caller, text)); diff != "" {
			t.Fatalf("%s\nis answered differently:\n%s", text, diff)
		}
	})
}

// asked is what a verify was answered.
type asked struct {
	Status int
	Header http.Header
	Body   string
}

// ask sends a verify to a handler.
func ask(t interface{ Fatalf(string, ...any) }, handler http.Handler, caller string, body []byte) asked {
	r := httptest.NewRequest("POST", "/v1/api-keys/verify", bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+caller)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-Id", "req.1")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return asked{w.Code, w.Header(), w.Body.String()}
}
