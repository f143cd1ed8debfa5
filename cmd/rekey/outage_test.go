package main

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

// TestPostgresKilledUnderDev kills the private Postgres of a dev with -9. Nothing can work without it: the program says so
// and ends, and the next start has everything.
func TestPostgresKilledUnderDev(t *testing.T) {
	t.Parallel()
	dir := onDisk(t)
	p := startRekey(t, devEnv(dir), "dev")
	fields, _ := p.awaitReady(t)
	r := newREST(t, fields["url"], fields["root_key"])
	load := startLoad(t, r, 4)
	eventually(t, "some load", func() bool { return load.acknowledged.Load() > 100 })
	processes := footprintOf(t, dir)
	began := time.Now()
	killPostgres(t, dir)
	code := p.wait(t)
	took := time.Since(began)
	t.Logf("ended after %s", took.Round(time.Millisecond))
	if code != 1 || took > 30*time.Second {
		t.Errorf("it ended after %s with %d", took, code)
	}
	_, last, _ := strings.Cut(p.errs.String(), "\nrekey: ")
	if !strings.HasPrefix(last, "the embedded Postgres ended: ") || !strings.Contains(last, "signal: killed") {
		t.Errorf("its last words are %q", last)
	}
	load.end()
	if left := processes.processes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	p = startRekey(t, devEnv(dir), "dev")
	fields, _ = p.awaitReady(t)
	load.rest = newREST(t, fields["url"], r.key)
	load.check(t)
}

// TestPostgresGoneUnderServe takes the database away from a replica, in good order and by kill -9. Meanwhile every request
// is refused by a problem document, nothing is half done, and when it is back the replica is well again by itself.
func TestPostgresGoneUnderServe(t *testing.T) {
	t.Parallel()
	dir := onDisk(t)
	postgres := startPostgres(t, dir)
	if err := migrations.Up(t.Context(), postgres.TCPURL("postgres")); err != nil {
		t.Fatal(err)
	}
	const token = "the-service-token-of-this-test"
	server := startNATS(t, "127.0.0.1:0", filepath.Join(dir, "jetstream"), token)
	natsURL := "nats://" + token + "@" + strings.TrimPrefix(server.URL(), "nats://")
	r := start(t, func(c *Config) {
		c.Dev, c.DatabaseURL, c.NATSURL = false, postgres.TCPURL("postgres"), natsURL
		c.MasterKey, c.WebhookAllow = make([]byte, 32), webhook.LoopbackPrefixes()
	})
	hook := newHook(t)
	var rotating []keyInfo
	for interval := 1; interval <= 4; interval++ { // not all of them at the same moments
		key := r.create(t, "rotating", map[string]any{"rotation_interval_seconds": interval, "grace_period_seconds": 0, "rotation_webhook_url": hook.url})
		hook.trust(t, key.WebhookSecret)
		rotating = append(rotating, key)
	}
	load := startLoad(t, r.rest, 8)
	for _, end := range []func(){
		func() { stopPostgres(t, postgres) },
		func() { _ = syscall.Kill(postgres.PID(), syscall.SIGKILL); <-postgres.Done() },
	} {
		enough := load.acknowledged.Load() + 200
		eventually(t, "some load", func() bool { return load.acknowledged.Load() > enough })
		end()
		unavailable(t, r.rest)
		failed := load.failed.Load() + 50
		eventually(t, "refused commands", func() bool { return load.failed.Load() > failed })
		stopPostgres(t, postgres)
		postgres = startPostgres(t, dir)
		recovers(t, r.rest)
		goesOn(t, r.rest, hook, rotating)
	}
	load.end()
	if r.hasEnded() {
		t.Fatal("the replica has ended")
	}
	for _, c := range load.all {
		for name, code := range c.tried {
			if code != "unavailable" && code != "outcome_unknown" {
				t.Errorf("the create of %s was refused as %q", name, code)
			}
		}
	}
	load.check(t)
	checkStandstill(t, r, server.URL(), token, rotating)
	checkReadModel(t, postgres.TCPURL("postgres"))
}

func startPostgres(t testing.TB, dir string) *embedded.Postgres {
	t.Helper()
	postgres, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopPostgres(t, postgres) })
	return postgres
}

// stopPostgres ends a server, or cleans up behind one that has ended.
func stopPostgres(t testing.TB, postgres *embedded.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := postgres.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// checkReadModel folds the log and compares.
func checkReadModel(t *testing.T, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	report, err := projections.Check(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range report.Differences {
		t.Errorf("%s in %s: %s", d.Problem, d.Table, d.Row)
	}
}

// unavailable requires that without the store each request is refused by a problem document that says when to try again.
func unavailable(t *testing.T, a rest) {
	t.Helper()
	for _, request := range [][3]string{
		{"GET", "/readyz", ""},
		{"GET", "/v1/events", ""},
		{"POST", "/v1/api-keys", `{"project_id":"proj_01jz8q0v6me5et8b3k2c9d4x7a","name":"x"}`},
		{"POST", "/v1/api-keys/verify", `{"key":"of-no-key-that-memory-knows-0123456789"}`},
		{"DELETE", "/v1/api-keys/key_01jz8q0v6me5et8b3k2c9d4x7a", ""},
	} {
		var body any
		if request[2] != "" {
			body = request[2]
		}
		got, err := a.send(t.Context(), request[0], request[1], body)
		if err != nil {
			t.Fatal(err)
		}
		if got.status != http.StatusServiceUnavailable || got.header.Get("Content-Type") != "application/problem+json" ||
			got.header.Get("Retry-After") == "" || !strings.Contains(string(got.body), `"code":"unavailable"`) {
			t.Errorf("%s %s answered %d %v: %s", request[0], request[1], got.status, got.header, got.body)
		}
	}
	a.call(t, "GET", "/healthz", nil, http.StatusOK, nil)
}

// recovers requires that a replica is well again within seconds after its store is. Until it has found out which of its
// kept connections are dead, it may refuse some commands as unavailable, of which nothing is done.
func recovers(t *testing.T, a rest) {
	t.Helper()
	const limit, quiet = 20 * time.Second, time.Second
	began := time.Now()
	well := began
	for time.Since(well) < quiet {
		if time.Since(began) > limit {
			t.Fatalf("the replica is not well %s after its store", limit)
		}
		key, ok := a.tryLife(t)
		if !ok {
			well = time.Now()
			continue
		}
		if v := a.verify(t, key.Key); v.Code != "REVOKED" {
			t.Fatalf("a revoked key answers %s", v)
		}
	}
	t.Logf("well again after %s", well.Sub(began).Round(time.Millisecond))
}

// tryLife creates, verifies and revokes a key, each of which may be refused as unavailable and then has not happened.
func (a rest) tryLife(t *testing.T) (keyInfo, bool) {
	t.Helper()
	var key keyInfo
	var projects []struct{ ID string }
	ok := a.tryCall(t, "GET", "/v1/projects", nil, http.StatusOK, &projects) &&
		a.tryCall(t, "POST", "/v1/api-keys", map[string]any{"project_id": projects[0].ID, "name": "life"}, http.StatusCreated, &key) &&
		a.tryCall(t, "POST", "/v1/api-keys/verify", map[string]any{"key": key.Key}, http.StatusOK, nil) &&
		a.tryCall(t, "DELETE", "/v1/api-keys/"+key.ID, nil, http.StatusNoContent, nil)
	return key, ok
}

// tryCall reports whether the call was answered as wanted; else it must be refused as unavailable.
func (a rest) tryCall(t *testing.T, method, path string, body any, want int, into any) bool {
	t.Helper()
	got, err := a.send(t.Context(), method, path, body)
	switch {
	case err != nil:
		t.Fatalf("%s %s: %v", method, path, err)
	case got.status == want:
		if into != nil && json.Unmarshal(got.body, into) != nil {
			t.Fatalf("%s %s answered %s", method, path, got.body)
		}
		return true
	case got.status != http.StatusServiceUnavailable || !strings.Contains(string(got.body), `"code":"unavailable"`):
		t.Fatalf("%s %s answered %d: %s", method, path, got.status, got.body)
	}
	return false
}
