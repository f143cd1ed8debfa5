package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	keyclient "github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/client/embedded"
	"github.com/rekeyhq/rekey/domain"
)

// guarded is a service of a user's whose requests a Gate lets through.
type guarded struct {
	*httptest.Server
	verifier keyclient.Verifier
	memory   func() bool // answers come from memory, as far as this can be told
	reached  atomic.Int64
	told     atomic.Pointer[keyclient.Verdict]
}

func newGuarded(t *testing.T, v keyclient.Verifier, memory func() bool) *guarded {
	t.Helper()
	g := &guarded{verifier: v, memory: memory}
	g.Server = httptest.NewServer(keyclient.Require(v, "orders:read")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		g.reached.Add(1)
		if verdict, ok := keyclient.FromContext(r.Context()); ok {
			g.told.Store(&verdict)
		}
	})))
	t.Cleanup(g.Close)
	return g
}

// get presents a key to the service.
func (g *guarded) get(t *testing.T, secret string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", g.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	response, err := g.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response
}

// wants presents a key and requires a status, and that the service was reached if and only if that is 200.
func (g *guarded) wants(t *testing.T, what, secret string, status int, challenge string) *http.Response {
	t.Helper()
	before := g.reached.Load()
	response := g.get(t, secret)
	if got := response.Header.Get("WWW-Authenticate"); response.StatusCode != status || !strings.Contains(got, challenge) {
		t.Errorf("%T: %s: it answered %d with %q, want %d with %q", g.verifier, what, response.StatusCode, got, status, challenge)
	}
	if reached := g.reached.Load() > before; reached != (status == 200) {
		t.Errorf("%T: %s: the service was reached: %v", g.verifier, what, reached)
	}
	return response
}

// TestClients guards a service with both forms of a verifier, against a rekey that runs: they say the same, a revoke holds
// for both from its answer on, and when rekey is gone nobody gets in.
func TestClients(t *testing.T) {
	t.Parallel()
	r := start(t)
	own := r.create(t, "the service", map[string]any{"scopes": []string{domain.ScopeKeysVerify}})
	overHTTP, err := keyclient.New(r.url, own.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(overHTTP.Close)
	env := replicaEnv(t, r)
	here, err := embedded.Open(t.Context(), embedded.Config{
		DatabaseURL: env["REKEY_DATABASE_URL"], Key: keyclient.NewSecret(own.Key), NATSURL: env["REKEY_NATS_URL"], Logger: r.cfg.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.Close)
	services := []*guarded{
		newGuarded(t, overHTTP, func() bool { return true }),
		newGuarded(t, here, func() bool { return here.State().InMemory }),
	}
	read := map[string]any{"scopes": []string{"orders:read"}, "metadata": map[string]any{"team": "<pay>"}}
	for _, g := range services {
		eventually(t, "it answers from memory", g.memory)
		key := r.create(t, "valid", read)
		eventually(t, "it is valid", func() bool { return g.get(t, key.Key).StatusCode == 200 })
		g.wants(t, "without the scope", r.create(t, "other", map[string]any{"scopes": []string{"other"}}).Key, 403, `error="insufficient_scope", scope="orders:read"`)
		g.wants(t, "unknown", strings.Repeat("f", 40), 401, `error="invalid_token"`)
		rotated := r.rotate(t, key.ID, 3600)
		eventually(t, "it is in grace", func() bool {
			return strings.HasPrefix(g.get(t, key.Key).Header.Get("Rekey-Key-Status"), "grace; until=")
		})
		if told := g.told.Load(); told == nil || told.ReplacedBy.String() != rotated.NewKeyID {
			t.Errorf("%T: in grace the handler is told %+v", g.verifier, told)
		}
		if status := g.wants(t, "its successor", rotated.Key, 200, "").Header.Get("Rekey-Key-Status"); status != "" {
			t.Errorf("%T: of its successor it says %q", g.verifier, status)
		}
	}
	sameVerdicts(t, r, overHTTP, here)
	for range 20 { // G1: the process with the memory holds a lease, so the revoke waits for it
		key := r.create(t, "revoked", read)
		for _, g := range services {
			g.wants(t, "before the revoke", key.Key, 200, "")
		}
		r.revoke(t, key.ID)
		for _, g := range services {
			g.wants(t, "after the revoke", key.Key, 401, `error="invalid_token"`)
			if !g.memory() {
				t.Error("it did not answer from memory: nothing is shown")
			}
		}
	}
	lasting := r.create(t, "lasting", read)
	for _, g := range services {
		g.wants(t, "before rekey ends", lasting.Key, 200, "")
	}
	r.stop(t)
	if response := services[0].wants(t, "without rekey", lasting.Key, 503, ""); response.Header.Get("Retry-After") == "" {
		t.Error("it does not say when to come back")
	}
	eventually(t, "the lease has run out", func() bool { return !services[1].memory() })
	services[1].wants(t, "without rekey's Postgres", lasting.Key, 503, "")
	for _, v := range []keyclient.Verifier{overHTTP, here} {
		verdict, err := v.Verify(context.Background(), keyclient.Request{Secret: keyclient.NewSecret(lasting.Key)})
		if !errors.Is(err, keyclient.ErrUnavailable) || verdict.Valid {
			t.Errorf("%T: without rekey it says %s, %v", v, verdict.Code, err)
		}
	}
	if logs := r.logs.String(); strings.Contains(logs, own.Key) || strings.Contains(logs, lasting.Key) {
		t.Error("a secret is in the log")
	}
}

// replicaEnv reads the variables with which other programs on this machine reach what a dev embeds.
func replicaEnv(t *testing.T, dev *instance) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dev.dataDir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = strings.Trim(value, "'")
	}
	return env
}

// sameVerdicts asks both forms for keys of many kinds.
func sameVerdicts(t *testing.T, r *instance, one, other keyclient.Verifier) {
	t.Helper()
	ended := r.create(t, "ended", nil)
	r.revoke(t, ended.ID)
	old := r.create(t, "old", map[string]any{"scopes": []string{"orders:read"}, "metadata": map[string]any{"é": 1.5}})
	r.rotate(t, old.ID, 600)
	limited := r.create(t, "limited", map[string]any{"resources": map[string]any{"app": []string{"com.demo.app"}}, "expires_at": time.Now().Add(time.Hour)})
	for what, request := range map[string]keyclient.Request{
		"ended":            {Secret: keyclient.NewSecret(ended.Key)},
		"in grace":         {Secret: keyclient.NewSecret(old.Key), Scopes: []string{"orders:read"}},
		"without a scope":  {Secret: keyclient.NewSecret(old.Key), Scopes: []string{"orders:read", "other"}},
		"limited":          {Secret: keyclient.NewSecret(limited.Key), Resources: map[string]string{"app": "com.demo.app"}},
		"another resource": {Secret: keyclient.NewSecret(limited.Key), Resources: map[string]string{"app": "com.other.app"}},
		"garbage":          {Secret: keyclient.NewSecret("garbage")},
		"nothing":          {},
	} {
		var first, second keyclient.Verdict
		eventually(t, "both know it", func() bool {
			var errs [2]error
			first, errs[0] = one.Verify(t.Context(), request)
			second, errs[1] = other.Verify(t.Context(), request)
			return errors.Join(errs[:]...) == nil && first.Code == second.Code && first.Status == second.Status
		})
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("%s: they differ:\n%s", what, diff)
		}
		a, _ := json.Marshal(first)
		b, _ := json.Marshal(second)
		if string(a) != string(b) {
			t.Errorf("%s: %s and %s", what, a, b)
		}
	}
}
