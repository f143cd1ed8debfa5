package workers

import (
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// who still uses a key in grace is told of once an hour for each client, with counts that several writers add up.
func TestGraceUsesAreTold(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	made, err := h.service.CreateKey(t.Context(), h.tenant, commands.CreateKey{ProjectID: h.project, Name: "by hand"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.service.RotateKey(t.Context(), h.tenant, commands.RotateKey{KeyID: made.Key.ID}); err != nil {
		t.Fatal(err)
	}
	old, err := h.verifier.Authenticate(t.Context(), made.Secret.Reveal())
	if err != nil || old == nil || old.State != domain.GenerationGrace {
		t.Fatalf("the old key is %+v, %v", old, err)
	}
	// The upkeep of this minute would tell what is half written. The next one is a minute away, as a rule.
	relayTestPoll(t, func() bool {
		return one[int](t, h, `SELECT count(*) FROM river.river_job WHERE kind = 'maintain' AND state = 'completed'`) > 0
	}, func() string { return "the upkeep has not run" })
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			uses := projections.NewGraceUses(h.pool, nil)
			for range 50 {
				uses.Used(old, netip.MustParseAddr("203.0.113.7"), "curl/8", time.Now())
				uses.Used(old, netip.MustParseAddr("198.51.100.9"), "", time.Now())
				uses.Used(&projections.Key{ID: "key_x", State: domain.GenerationActive}, netip.MustParseAddr("203.0.113.7"), "", time.Now())
			}
			uses.Used(old, netip.Addr{}, "", time.Now())
			if err := uses.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	for range 2 { // the second time there is nothing new
		if err := h.w.tellGraceUses(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantTold := func(events int) {
		t.Helper()
		if n := one[int](t, h, `SELECT count(*) FROM events WHERE type = 'UsedInGrace'`); n != events {
			t.Errorf("told %d times, want %d", n, events)
		}
	}
	wantTold(3)
	for address, want := range map[string]int{"203.0.113.7": 400, "198.51.100.9": 400, "": 8} {
		if n := one[int](t, h, `SELECT (data->>'count')::int FROM events WHERE type = 'UsedInGrace' AND coalesce(data->>'address', '') = $1`, address); n != want {
			t.Errorf("%q used it %d times, want %d", address, n, want)
		}
	}
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeUsedInGrace)) == 3 }, func() string { return "the owner was not told" })

	again := projections.NewGraceUses(h.pool, nil)
	again.Used(old, netip.MustParseAddr("203.0.113.7"), "curl/8", time.Now())
	if err := again.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.w.tellGraceUses(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantTold(3) // within the hour
	if _, err := h.owner.Exec(t.Context(), `UPDATE grace_usage SET announced_at = announced_at - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	if err := h.w.tellGraceUses(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantTold(4)
}

// Attempts, deliveries and messages go after thirty days; what is younger stays, and so does what still waits.
func TestOldAttemptsAreRemoved(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	for name, age := range map[string]time.Duration{"old": 31 * 24 * time.Hour, "young": 29 * 24 * time.Hour} {
		at := time.Now().Add(-age)
		for _, state := range []string{"delivered", "held"} {
			id := ids.New(domain.PrefixDelivery, at)
			for _, sql := range []string{
				`INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id, lineage_id, position, type, state, next_attempt_at, created_at, rotation_id)
					VALUES ($1, $2 || $1, $3, 'org_x', 'proj_x', 'lin_x', 1, 'key.expiring', $4, $5, $5, nullif($6, ''))`,
				`INSERT INTO webhook_attempts (delivery_id, number, started_at) SELECT $1, n, $5 FROM generate_series(1, 12) n WHERE $2 || $3 || $4 || $6 <> ''`,
			} {
				if _, err := h.owner.Exec(t.Context(), sql, id, name, endpoint, state, at, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := h.owner.Exec(t.Context(), `INSERT INTO webhook_messages VALUES ($1, '{}', $2)`, ids.New(domain.PrefixMessage, at), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.w.removeOld(t.Context()); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]int{
		`SELECT count(*) FROM webhook_attempts`: 24, `SELECT count(*) FROM webhook_deliveries`: 2, `SELECT count(*) FROM webhook_messages`: 1,
	} {
		if n := one[int](t, h, sql); n != want {
			t.Errorf("%s: %d, want %d", sql, n, want)
		}
	}
}

// an attempt that our own stop cut off, or that we could not even build, is none of the receiver's.
func TestOurFaultsAreNotCounted(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	args := h.waiting(t, endpoint, 1)[0]
	used := func() int {
		return one[int](t, h, `SELECT attempts - attempts_before FROM webhook_deliveries`)
	}
	for i, fail := range []func(d *delivery) error{
		func(d *delivery) error {
			return h.w.interrupted(t.Context(), d, webhook.Result{Outcome: webhook.Canceled})
		},
		func(d *delivery) error { return h.w.ourFault(t.Context(), d, http.ErrAbortHandler) },
		func(d *delivery) error { return h.w.putBack(t.Context(), d, time.Second) },
	} {
		args.Attempts = one[int](t, h, `SELECT attempts FROM webhook_deliveries`)
		d, err := h.w.beginAttempt(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		if n := used(); n != 1 {
			t.Errorf("%d: the attempt under way counts %d", i, n)
		}
		if err := fail(d); err != nil {
			t.Fatal(err)
		}
		if n := used(); n != 0 {
			t.Errorf("%d: %d attempts are charged", i, n)
		}
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_attempts`); n != 2 {
		t.Errorf("the log has %d attempts, want the two that were made", n)
	}
}

// what a receiver asks for never outlasts its rotation.
func TestRetryAfterEndsWithTheRotation(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	w := &Workers{cfg: Config{Now: func() time.Time { return now }}}
	soon, past := now.Add(time.Hour), now.Add(-time.Hour)
	for _, c := range []struct {
		deadline    *time.Time
		asked, want time.Duration
	}{{nil, 24 * time.Hour, 24 * time.Hour}, {&soon, 24 * time.Hour, time.Hour}, {&soon, time.Minute, time.Minute}, {&past, time.Minute, 0}} {
		if got := w.withinDeadline(&delivery{deadline: c.deadline}, c.asked); got != c.want {
			t.Errorf("asked for %v with the deadline %v: %v, want %v", c.asked, c.deadline, got, c.want)
		}
	}
}
