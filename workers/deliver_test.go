package workers

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// deliverBench is a running store and workers whose retries do not wait, and one key that is rotated once, by interval, to
// a receiver that answers as the test says.
type deliverBench struct {
	pool     *pgxpool.Pool
	service  *commands.Service
	verifier *projections.Verifier
	secret   string
	key      *projections.Key

	mu  sync.Mutex
	ids []string // webhook-id of each attempt
}

func newDeliverBench(t *testing.T, answer func(attempt int) int) *deliverBench {
	t.Helper()
	db := dbtest.New(t)
	b := &deliverBench{pool: db.Pool(t)}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ids = append(b.ids, r.Header.Get(webhook.HeaderID))
		w.WriteHeader(answer(len(b.ids)))
	}))
	t.Cleanup(receiver.Close)
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	store := eventstore.New(eventstore.Config{Pool: db.Pool(t), Projection: projections.ReadModel{}})
	relayTestRun(t, store.Run)
	reader := projections.NewReader(b.pool, dbtest.Tenants(t, b.pool))
	b.verifier = projections.NewVerifier(reader, time.Now)
	b.service = commands.New(commands.Config{
		Store: store, Reader: reader, Sealer: sealer, CheckURL: guard.CheckURL,
		Limits: domain.Limits{MinRotationInterval: time.Second},
	})
	sender := webhook.NewSender(webhook.SenderConfig{Guard: guard, Version: "test"})
	t.Cleanup(sender.Close)
	b.createKey(t, receiver.URL)
	w, err := New(Config{
		Pool: b.pool, Store: store, Reader: reader, Commands: b.service, Sender: sender, Logger: slog.New(slog.DiscardHandler),
		BreakerPause: time.Millisecond,
		Retry:        func(attempts int, _ time.Duration) (time.Duration, bool) { return 0, attempts < webhook.MaxAttempts },
	})
	if err != nil {
		t.Fatal(err)
	}
	relayTestRun(t, w.Run)
	return b
}

// createKey makes a key that is due in a second, and then not for a day.
func (b *deliverBench) createKey(t *testing.T, url string) {
	t.Helper()
	tenant, err := b.service.Setup(t.Context(), domain.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	created, err := b.service.CreateKey(t.Context(), commands.By{Caller: tenant.Key.Caller()}, commands.CreateKey{
		ProjectID: tenant.Key.ProjectID, Name: "rotated", RotationIntervalSeconds: 24 * 60 * 60, WebhookURL: url,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.key, b.secret = created.Key, created.Secret.Reveal()
	// The decision asks the lineage itself whether it is due, so the slot is brought forward there too.
	for _, sql := range []string{
		`UPDATE due_work SET due_at = now(), scan_at = now() WHERE kind = 'rotate' AND lineage_id = $1`,
		`UPDATE streams SET state = jsonb_set(state::jsonb, '{next_rotation_at}', to_jsonb(to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))::text WHERE stream_id = $1`,
	} {
		if _, err := dbOwner(t, b.pool).Exec(t.Context(), sql, b.key.LineageID); err != nil {
			t.Fatal(err)
		}
	}
}

// dbOwner is a pool on the same database with the owner's rights.
func dbOwner(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config := pool.Config()
	config.AfterConnect = nil
	owner, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(owner.Close)
	return owner
}

// delivery waits until the one delivery is in a state, and returns its attempts.
func (b *deliverBench) delivery(t *testing.T, state string) (attempts int) {
	t.Helper()
	var now string
	relayTestPoll(t, func() bool {
		_ = b.pool.QueryRow(context.Background(), `SELECT state, attempts FROM webhook_deliveries`).Scan(&now, &attempts)
		return now == state
	}, func() string { return "the delivery is " + now + ", not " + state })
	return attempts
}

func (b *deliverBench) rotation(t *testing.T) (state string) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), `SELECT state FROM rotations`).Scan(&state); err != nil {
		t.Fatal(err)
	}
	return state
}

func (b *deliverBench) status(t *testing.T) (domain.Status, *time.Time) {
	t.Helper()
	verdict, err := b.verifier.Verify(t.Context(), projections.VerifyRequest{Reach: projections.Reach{Organization: b.key.OrganizationID}, Secret: b.secret})
	if err != nil || verdict.Key == nil {
		t.Fatalf("verify: %+v, %v", verdict, err)
	}
	return verdict.Status, verdict.Key.GraceExpiresAt
}

// wantOneID asserts that every attempt had the same webhook-id.
func (b *deliverBench) wantOneID(t *testing.T, attempts int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ids) != attempts {
		t.Errorf("the receiver saw %d attempts, want %d", len(b.ids), attempts)
	}
	for _, id := range b.ids {
		if id != b.ids[0] || id == "" {
			t.Errorf("attempts have the ids %v", b.ids)
		}
	}
}

// G2: a receiver that never takes the secret costs nobody their access.
func TestG2DeadReceiverStallsTheRotation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		status   int
		attempts int
	}{
		{"FailsForEver", http.StatusInternalServerError, webhook.MaxAttempts},
		{"IsGone", http.StatusGone, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newDeliverBench(t, func(int) int { return c.status })
			if n := b.delivery(t, "failed"); n != c.attempts {
				t.Errorf("%d attempts, want %d", n, c.attempts)
			}
			b.wantOneID(t, c.attempts)
			if state := b.rotation(t); state != "stalled" {
				t.Errorf("the rotation is %s", state)
			}
			if status, deadline := b.status(t); status != domain.StatusActive || deadline != nil {
				t.Errorf("the old key is %s with the deadline %v", status, deadline)
			}
		})
	}
}

// The grace begins at the answer that counts, not before, and every attempt carries the same id.
func TestDeliverRetriesUntilTaken(t *testing.T) {
	t.Parallel()
	b := newDeliverBench(t, func(attempt int) int {
		if attempt < 3 {
			return http.StatusBadGateway
		}
		return http.StatusNoContent
	})
	if n := b.delivery(t, "delivered"); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
	b.wantOneID(t, 3)
	if status, deadline := b.status(t); status != domain.StatusGrace || deadline == nil {
		t.Errorf("the old key is %s with the deadline %v", status, deadline)
	}
	var waiting int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM pending_secrets`).Scan(&waiting); err != nil || waiting != 0 {
		t.Errorf("%d secrets still wait, %v", waiting, err)
	}
}

// A worker that dies in an attempt leaves it open; the next one makes it again. In the last attempt it must end as stalled,
// not in silence.
func TestDeliverOutlivesItsWorker(t *testing.T) {
	t.Parallel()
	block := make(chan struct{})
	b := newDeliverBench(t, func(int) int { <-block; return http.StatusInternalServerError })
	defer close(block)
	relayTestPoll(t, func() bool {
		var n int
		_ = b.pool.QueryRow(context.Background(), `SELECT attempts FROM webhook_deliveries`).Scan(&n)
		return n == 1
	}, func() string { return "no attempt began" })
	// As a worker leaves it that was killed in its last attempt, once the lease has lapsed.
	if _, err := b.pool.Exec(t.Context(), `UPDATE webhook_deliveries SET attempts = $1, next_attempt_at = now()`, webhook.MaxAttempts); err != nil {
		t.Fatal(err)
	}
	b.delivery(t, "failed")
	if state := b.rotation(t); state != "stalled" {
		t.Errorf("the rotation is %s", state)
	}
}
