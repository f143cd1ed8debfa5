package workers

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

// killLease is that of the tests that kill: they wait for it.
const killLease = 3 * time.Second

// Names of the variables by which a test tells its child what to work on.
const (
	childDatabase = "REKEY_TEST_WORKER_DATABASE"
	childMaster   = "REKEY_TEST_WORKER_MASTER"
)

// TestWorkerProcess is no test: it is the process that the tests below kill.
func TestWorkerProcess(t *testing.T) {
	url := os.Getenv(childDatabase)
	if url == "" {
		t.Skip("only runs as the child of another test")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool := func(as func(context.Context, *pgxpool.Config)) *pgxpool.Pool {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 8
		as(ctx, config)
		p, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	service := func(_ context.Context, c *pgxpool.Config) { c.AfterConnect = migrations.AsRole }
	tenants := func(_ context.Context, c *pgxpool.Config) { c.AfterConnect = migrations.AsTenant }
	master, err := base64.StdEncoding.DecodeString(os.Getenv(childMaster))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(master)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	store := eventstore.New(eventstore.Config{Pool: pool(service), Projection: projections.ReadModel{}})
	go func() { _ = store.Run(ctx) }()
	background := pool(service)
	reader := projections.NewReader(background, pool(tenants))
	sender := webhook.NewSender(webhook.SenderConfig{Guard: guard})
	w, err := New(Config{
		Pool: background, Store: store, Reader: reader, Sender: sender, Logger: slog.New(slog.DiscardHandler),
		Commands:     commands.New(commands.Config{Store: store, Reader: reader, Sealer: sealer, CheckURL: guard.CheckURL, Sender: sender}),
		AttemptLease: killLease, BreakerPause: time.Millisecond,
		Retry: func(attempts int, _ time.Duration) (time.Duration, bool) { return 0, attempts < webhook.MaxAttempts },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// worker starts a process that works on the database of h, and returns how to kill it like kill -9.
func (h *hooks) worker(t *testing.T) (kill func()) {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run=^TestWorkerProcess$")
	command.Env = append(os.Environ(), childDatabase+"="+h.db.URL, childMaster+"="+base64.StdEncoding.EncodeToString(h.master))
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = command.Wait(); close(done) }()
	kill = func() {
		_ = command.Process.Signal(syscall.SIGKILL) // of our own child, which may have ended
		<-done
	}
	t.Cleanup(kill)
	return kill
}

// kill -9 at each point of a delivery. The attempt is made again within its lease, under the same
// webhook-id; in the last attempt the rotation ends as stalled, not in silence.
func TestKillAtEachPointOfADelivery(t *testing.T) {
	t.Parallel()
	const (
		beforePost       = `LOCK TABLE endpoint_secrets IN ACCESS EXCLUSIVE MODE`
		beforeCompletion = `SELECT FROM streams WHERE stream_id LIKE 'lin_%' FOR UPDATE`
		lastAttempt      = `UPDATE webhook_deliveries SET attempts = 12; UPDATE webhook_attempts SET number = 12`
		begun            = `SELECT count(*)::text FROM webhook_attempts WHERE finished_at IS NULL`
		blocked          = `SELECT (count(*) > 0)::int::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND a.datname = current_database()`
	)
	for name, c := range map[string]func(t *testing.T, h *hooks) (ends string, unlock func()){
		// The attempt is recorded, and nothing was sent.
		"BeforeThePost": func(t *testing.T, h *hooks) (string, func()) {
			unlock := h.lock(t, beforePost)
			h.kill = h.worker(t)
			h.await(t, "1", begun)
			h.await(t, "1", blocked)
			return "overlap", unlock
		},
		// The receiver has the message, and its answer never arrives.
		"InThePost": func(t *testing.T, h *hooks) (string, func()) {
			h.kill = h.worker(t)
			<-h.posted
			return "overlap", func() {}
		},
		// The answer has arrived, and cannot be written.
		"BeforeTheCompletion": func(t *testing.T, h *hooks) (string, func()) {
			h.kill = h.worker(t)
			<-h.posted
			unlock := h.lock(t, beforeCompletion)
			h.answer()
			h.await(t, "1", blocked)
			return "overlap", func() {
				// Postgres would find out only after it had carried out what the dead process had sent.
				h.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
				unlock()
			}
		},
		"InTheLastAttempt": func(t *testing.T, h *hooks) (string, func()) {
			h.kill = h.worker(t)
			<-h.posted
			h.exec(t, lastAttempt)
			return "stalled", func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newKillHooks(t)
			key := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted))
			ends, unlock := c(t, h)
			h.kill()
			unlock()
			h.answer()
			killed := time.Now()
			h.worker(t)
			h.rotation(t, key, ends)
			if took := time.Since(killed); took > killLease+20*time.Second {
				t.Errorf("it took %v", took)
			}
			got := h.receiver.of(webhook.TypeRotationCreated)
			wantOneMessage(t, got, len(got))
			if got := h.valid(t, key.Secret.Reveal()); !got.Valid() {
				t.Errorf("the old key is %s", got)
			}
			want := map[string]string{"overlap": "delivered", "stalled": "worker_lost"}[ends]
			h.await(t, want, `SELECT last_outcome FROM webhook_deliveries WHERE type = 'key.rotation.created'`)
		})
	}
}

// lock holds a lock of the database until it is released.
func (h *hooks) lock(t *testing.T, sql string) (release func()) {
	t.Helper()
	if sql == "" {
		return func() {}
	}
	tx, err := h.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// newKillHooks has no worker of its own, and a receiver that lets workers wait for their answers.
func newKillHooks(t *testing.T) *hooks {
	t.Helper()
	h := newHooksIn(t, true)
	posted, released := make(chan struct{}, 64), make(chan struct{})
	h.posted, h.answer = posted, sync.OnceFunc(func() { close(released) })
	h.receiver.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.receiver.ServeHTTP(w, r)
		if r.Header.Get("Rekey-Delivery") == "" { // a challenge
			return
		}
		posted <- struct{}{}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(h.answer)
	return h
}

func (h *hooks) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := h.owner.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
