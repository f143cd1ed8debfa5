package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/migrations"
)

// TestServeJoins lets `rekey serve` join a running dev, by nothing but the file that dev wrote for it.
func TestServeJoins(t *testing.T) {
	addr, natsAddr := freeAddr(t), freeAddr(t)
	dev := start(t, func(c *Config) { c.Addr, c.NATSAddr = addr, natsAddr })
	serve := join(t, dev)
	hook := newHook(t)
	var rotating []keyInfo
	for interval := 1; interval <= 3; interval++ { // not all of them at the same moments
		key := dev.create(t, "rotating", map[string]any{"rotation_interval_seconds": interval, "grace_period_seconds": 0, "rotation_webhook_url": hook.url})
		hook.trust(t, key.WebhookSecret)
		rotating = append(rotating, key)
	}
	revokedAtOnce(t, dev.rest, serve.rest)
	revokedAtOnce(t, serve.rest, dev.rest)
	replicasWork(t, dev, 2)
	for i, key := range rotating {
		hook.await(t, key.LineageID, 5-i)
	}
	serve.stop(t)
	goesOn(t, dev.rest, hook, rotating)
	toldOnce(t, hook)
	oncePerSlot(t, dev.rest, rotating)

	serve = join(t, dev)
	replicasWork(t, dev, 3) // all that ever were
	dev.stop(t)             // and with it the Postgres and the NATS of both
	unavailable(t, serve.rest)
	dev = start(t, func(c *Config) { c.Addr, c.NATSAddr, c.DataDir = addr, natsAddr, dev.dataDir })
	dev.key = serve.key
	recovers(t, serve.rest)
	revokedAtOnce(t, serve.rest, dev.rest)
	goesOn(t, serve.rest, hook, rotating)
	oncePerSlot(t, serve.rest, rotating)
	checkStandstill(t, serve, dev.nats, natsToken(t, dev.dataDir), rotating)
}

// join starts a replica with the variables of a dev's file.
func join(t *testing.T, dev *instance) *instance {
	t.Helper()
	path := filepath.Join(dev.dataDir, "env")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%s: %v, %v", path, info, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || !strings.HasPrefix(value, "'") || !strings.HasSuffix(value, "'") {
			t.Fatalf("%s has %q", path, line)
		}
		t.Setenv(name, strings.Trim(value, "'"))
	}
	t.Setenv("REKEY_ADDR", "127.0.0.1:0")
	cfg, err := configFromEnv(false, []string{roleAPI, roleWorker, roleRelay})
	if err != nil {
		t.Fatal(err)
	}
	serve := start(t, func(c *Config) { cfg.Out, cfg.Logger = c.Out, c.Logger; *c = cfg })
	if secret := natsToken(t, dev.dataDir); strings.Contains(serve.ready+serve.logs.String(), secret) {
		t.Error("the replica prints the token of NATS")
	}
	serve.key = dev.key
	return serve
}

// revokedAtOnce requires that what one replica has revoked is refused by the other from then on (guarantee G1).
func revokedAtOnce(t *testing.T, one, other rest) {
	t.Helper()
	for range 20 {
		key := one.create(t, "short-lived", nil)
		if v := other.verify(t, key.Key); !v.Valid {
			t.Fatalf("the other replica says %s of a new key", v)
		}
		one.revoke(t, key.ID)
		if v := other.verify(t, key.Key); v.Code != "REVOKED" {
			t.Fatalf("the other replica says %s of a revoked key", v)
		}
	}
}

// replicasWork waits until so many replicas have carried out jobs.
func replicasWork(t *testing.T, dev *instance, count int) {
	t.Helper()
	conn := operatorConn(t, dev.dataDir)
	defer func() { _ = conn.Close(t.Context()) }()
	eventually(t, "jobs of all replicas", func() bool {
		var workers int
		err := conn.QueryRow(t.Context(), `SELECT count(DISTINCT worker) FROM river.river_job, unnest(attempted_by) AS worker`).Scan(&workers)
		if err != nil {
			t.Fatal(err)
		}
		return workers >= count
	})
}

// toldOnce requires that no rotation was told twice, however many workers there are.
func toldOnce(t *testing.T, hook *hook) {
	t.Helper()
	told := map[string]int{}
	for _, m := range hook.messages(t) {
		if told[m.Data.RotationID]++; told[m.Data.RotationID] > 1 {
			t.Errorf("rotation %s was told twice", m.Data.RotationID)
		}
	}
}

// oncePerSlot requires that no slot of an interval was rotated twice.
func oncePerSlot(t *testing.T, a rest, rotating []keyInfo) {
	t.Helper()
	for _, key := range rotating {
		generation, due := 1, time.Time{}
		for _, e := range a.history(t, key.ID) {
			r := rotationOf(t, e)
			at, err := time.Parse(time.RFC3339Nano, e.OccurredAt)
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == "Rotated" {
				if generation++; r.Generation != generation || at.Before(due) {
					t.Errorf("generation %d came at %s; %d was due at %s", r.Generation, at, generation, due)
				}
			}
			if r.NextRotationAt != nil {
				due = *r.NextRotationAt
			}
		}
	}
}

// goesOn requires that keys are still rotated, delivered and verified. One is enough: an attempt that was cut off is made
// again only once its lease has lapsed.
func goesOn(t *testing.T, a rest, hook *hook, rotating []keyInfo) {
	t.Helper()
	reached := map[string]int{}
	for _, key := range rotating {
		reached[key.LineageID] = a.lineage(t, key.LineageID)[0].Generation
	}
	within(t, 2*patience, "another rotation", func() bool {
		for _, m := range hook.messages(t) {
			if m.Data.Generation > reached[m.Data.LineageID] {
				return a.verify(t, m.Data.Secret.Value).KeyID == m.Data.KeyID
			}
		}
		return false
	})
}

// checkStandstill ends the rotations and compares the stream with the log.
func checkStandstill(t *testing.T, i *instance, natsURL, token string, rotating []keyInfo) {
	t.Helper()
	for _, key := range rotating {
		eventually(t, "the end of the lineage", func() bool {
			current := i.lineage(t, key.LineageID)[0]
			if current.Status == "active" {
				i.revoke(t, current.ID)
			}
			return current.Status == "revoked"
		})
	}
	checkEventsStream(t, "nats://"+token+"@"+strings.TrimPrefix(natsURL, "nats://"), i.allEvents(t))
}

// TestServeRefuses says what keeps a replica from starting.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	dev := start(t)
	conn := operatorConn(t, dev.dataDir)
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE fresh"); err != nil {
		t.Fatal(err)
	}
	serve := func(databaseURL string) error {
		cfg := Config{
			Roles: []string{roleAPI}, Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0", DatabaseURL: databaseURL, NATSURL: dev.nats,
			MasterKey: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), Out: &output{},
		}
		return run(t.Context(), cfg)
	}
	databaseURL, err := envDatabaseURL(dev.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	fresh := strings.Replace(databaseURL, "/postgres?", "/fresh?", 1)
	for range 2 { // a refusal must not migrate by the way
		if err := serve(fresh); !errors.Is(err, migrations.ErrPending) || !strings.Contains(err.Error(), "rekey migrate") {
			t.Errorf("on an empty database it says: %v", err)
		}
	}
	if err := serve("postgres://127.0.0.1:1/none?sslmode=disable"); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a database it says: %v", err)
	}
	secret := "the-password"
	if err := serve("postgres://user:" + secret + "@127.0.0.1:1/none?sslmode=bogus"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("with a URL that cannot be read it says: %v", err)
	}
}
