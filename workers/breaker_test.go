package workers

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// waiting makes deliveries to an endpoint that no sweep will hand out.
func (h *hooks) waiting(t *testing.T, endpoint domain.EndpointID, n int) []deliverArgs {
	t.Helper()
	out := make([]deliverArgs, n)
	for i := range out {
		out[i] = deliverArgs{DeliveryID: ids.New(domain.PrefixDelivery, time.Now()), EndpointID: string(endpoint)}
		if _, err := h.owner.Exec(t.Context(), `INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id, lineage_id, position, type,
				state, next_attempt_at, created_at) VALUES ($1, $2, $3, $4, $5, 'lin_x', 1, 'key.expiring', 'pending', now() + interval '1 day', now())`,
			out[i].DeliveryID, fmt.Sprint("msg_", i), endpoint, h.tenant.Caller.OrganizationID, h.project); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// five failures in a row open the breaker. Then nothing is sent but, after a pause, exactly one probe, however many
// workers ask; a probe that fails opens it for longer, one that succeeds closes it. What waits uses no attempt.
func TestBreaker(t *testing.T) {
	t.Parallel()
	h := newHooks(t, func(c *Config) { c.BreakerPause = 10 * time.Minute })
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	jobs := h.waiting(t, endpoint, 16)
	bad, good := webhook.Result{Outcome: webhook.ServerError}, webhook.Result{Outcome: webhook.Delivered}
	begin := func() (begun []*delivery) {
		t.Helper()
		var mu sync.Mutex
		var group sync.WaitGroup
		for _, args := range jobs {
			group.Go(func() {
				args.Attempts = one[int](t, h, `SELECT attempts FROM webhook_deliveries WHERE id = $1`, args.DeliveryID)
				d, err := h.w.beginAttempt(t.Context(), args)
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					begun = append(begun, d)
				} else if !errors.Is(err, pgx.ErrNoRows) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		return begun
	}
	state := func() string {
		return one[string](t, h, `SELECT state || ' ' || opens FROM endpoint_health WHERE endpoint_id = $1`, endpoint)
	}

	for _, d := range begin()[:breakerOpens-1] {
		h.w.noteHealth(t.Context(), d, bad)
	}
	if got := state(); got != "closed 0" {
		t.Errorf("after %d failures the breaker is %s", breakerOpens-1, got)
	}
	begun := begin()
	h.w.noteHealth(t.Context(), begun[0], bad)
	if got := state(); got != "open 1" {
		t.Errorf("after %d failures the breaker is %s", breakerOpens, got)
	}
	h.w.noteHealth(t.Context(), begun[1], bad) // of an attempt that was under way
	if got := state(); got != "open 1" {
		t.Errorf("a late failure made it %s", got)
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at < now() + interval '9 minutes'`); n != 0 {
		t.Errorf("%d deliveries do not wait for the probe", n)
	}
	attempts := one[int](t, h, `SELECT sum(attempts) FROM webhook_deliveries`)
	if got := begin(); len(got) != 0 {
		t.Errorf("%d attempts began while the breaker was open", len(got))
	}
	for _, args := range jobs {
		args.Attempts = one[int](t, h, `SELECT attempts FROM webhook_deliveries WHERE id = $1`, args.DeliveryID)
		if err := h.w.notNow(t.Context(), args); err != nil {
			t.Fatal(err)
		}
	}
	if n := one[int](t, h, `SELECT sum(attempts) FROM webhook_deliveries`); n != attempts {
		t.Errorf("waiting cost %d attempts", n-attempts)
	}
	for i, want := range []string{"open 2", "closed 0"} {
		if _, err := h.owner.Exec(t.Context(), `UPDATE endpoint_health SET next_probe_at = now()`); err != nil {
			t.Fatal(err)
		}
		probes := begin()
		if len(probes) != 1 {
			t.Fatalf("%d probes at once", len(probes))
		}
		h.w.noteHealth(t.Context(), probes[0], []webhook.Result{bad, good}[i])
		if got := state(); got != want {
			t.Errorf("after a probe the breaker is %s, want %s", got, want)
		}
	}
	if got := begin(); len(got) != len(jobs) {
		t.Errorf("%d of %d attempts began once the breaker was closed", len(got), len(jobs))
	}
}

// an endpoint that lets everybody wait holds a few of the places only, and delays no other.
func TestDeadEndpointDelaysNobody(t *testing.T) {
	t.Parallel()
	h := newHooks(t, func(c *Config) { c.Concurrency, c.EndpointRate = 8, 1000 })
	dead := newHookReceiver(t)
	deadEndpoint := h.register(t, dead, domain.SecretPlain, domain.AckAccepted)
	var holding, most atomic.Int32
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	dead.server.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), holding.Add(1)))
		<-release
		holding.Add(-1)
	})
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	for range 40 {
		h.rotating(t, deadEndpoint)
	}
	relayTestPoll(t, func() bool { return holding.Load() == 4 }, func() string { return fmt.Sprint(holding.Load(), " are held") })
	began := time.Now()
	key := h.rotating(t, endpoint)
	h.rotation(t, key, "overlap")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a healthy endpoint waited for %v", took)
	}
	if most.Load() > 4 {
		t.Errorf("the dead one held %d places", most.Load())
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	g := newGate(2, 500*time.Millisecond, func() time.Time { return now })
	enter := func(name string) func() {
		t.Helper()
		leave, _ := g.enter(name)
		return leave
	}
	first, second := enter("a"), enter("a")
	if first == nil || second == nil || enter("b") == nil {
		t.Fatal("no place where there are two")
	}
	_, wait := g.enter("a")
	_, longer := g.enter("a")
	if wait < turnAfter || longer <= wait {
		t.Errorf("those without a place come back after %v and %v", wait, longer)
	}
	first()
	third := enter("a")
	if third == nil {
		t.Error("a place that was given back is taken")
	}
	second()
	third()
	if enter("a") != nil { // three within no time, at two a second
		t.Error("the rate is not kept")
	}
	now = now.Add(2 * time.Second)
	leave := enter("a")
	if leave == nil {
		t.Fatal("no place after a pause")
	}
	now = now.Add(-time.Hour) // a clock that is set back shuts nobody out
	leave()
	if leave = enter("a"); leave == nil {
		t.Error("no place after the clock was set back")
	}
	now = now.Add(time.Hour)
	g.note("a", false)
	g.limit = 100
	now = now.Add(time.Minute)
	for range troubledLimit - 1 {
		if enter("a") == nil {
			t.Fatal("no place for one of a few")
		}
		now = now.Add(time.Second)
	}
	if enter("a") != nil {
		t.Error("one that does not answer has as much as all others")
	}
}
