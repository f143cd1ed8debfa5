package workers

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// atOnce lets joined writes gather until there are so many, and then carries all of them out.
func (h *hooks) atOnce(writes int, make func(i int)) {
	j := h.w.writes
	j.mu.Lock()
	j.runners = joinedRunners // as if all runners were at work
	j.mu.Unlock()
	var wait sync.WaitGroup
	for i := range writes {
		wait.Go(func() { make(i) })
	}
	for gathered := 0; gathered < writes; {
		j.mu.Lock()
		gathered = len(j.waiting)
		j.mu.Unlock()
	}
	for range joinedRunners {
		wait.Go(j.run)
	}
	wait.Wait()
}

// Attempts that begin at the same time are claimed in one statement, and closed in one: each has what is its own, of two
// that ask for the same one only one has it, and of an endpoint that is left alone one delivery tries it.
func TestAttemptsTogether(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	well := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	alone := h.register(t, newHookReceiver(t), domain.SecretPlain, domain.AckAccepted)
	jobs := h.waiting(t, well, 8)
	jobs = append(jobs, jobs[0]) // asked for twice
	late := jobs[1]
	late.Attempts = 7 // another attempt took its place
	jobs = append(jobs, late)
	jobs = append(jobs, h.waiting(t, alone, 4)...)
	if _, err := h.owner.Exec(t.Context(), `INSERT INTO endpoint_health (endpoint_id, state, next_probe_at) VALUES ($1, 'open', now())`, alone); err != nil {
		t.Fatal(err)
	}
	begun := make([]*delivery, len(jobs))
	h.atOnce(len(jobs), func(i int) {
		var err error
		if begun[i], err = h.w.beginAttempt(t.Context(), jobs[i]); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Error(err)
		}
	})
	of := map[domain.EndpointID]int{}
	var out []*delivery
	for i, d := range begun {
		if d == nil {
			continue
		}
		out, of[d.endpoint] = append(out, d), of[d.endpoint]+1
		if d.id != jobs[i].DeliveryID || d.attempt != jobs[i].Attempts+1 || string(d.endpoint) != jobs[i].EndpointID {
			t.Errorf("job %d, %v, has attempt %d of %s", i, jobs[i], d.attempt, d.id)
		}
	}
	if of[well] != 8 || of[alone] != 1 {
		t.Errorf("%d and %d attempts began, want 8 and 1", of[well], of[alone])
	}
	if begun[0] != nil == (begun[8] != nil) {
		t.Error("an attempt that was asked for twice began not at all, or twice")
	}
	// What ends together ends each in its own way; one of them is the attempt of another number, which has nothing to end.
	h.atOnce(len(out), func(i int) {
		d := *out[i]
		state, result := "delivered", webhook.Result{Outcome: webhook.Delivered, Status: 200 + i, Duration: time.Duration(i+1) * time.Millisecond}
		switch i {
		case 0:
			state, result.Outcome = "failed", webhook.ServerError
		case 1:
			state, d.attempt = "failed", 7
		}
		if err := h.w.finish(t.Context(), &d, state, result); err != nil {
			t.Error(err)
		}
	})
	for i, d := range out {
		type row struct {
			State, Ended, Outcome string
			Status, Took, Next    int
		}
		rows, err := h.owner.Query(t.Context(), `SELECT d.state, coalesce(d.last_outcome, ''), coalesce(a.outcome, ''), coalesce(a.status, 0),
			coalesce(a.total_ms, 0), coalesce(a.next_delay_seconds, 0) FROM webhook_deliveries d JOIN webhook_attempts a ON a.delivery_id = d.id WHERE d.id = $1`, d.id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
		if err != nil {
			t.Fatal(err)
		}
		want := row{"delivered", "delivered", "delivered", 200 + i, i + 1, 0}
		switch i {
		case 0:
			want.State, want.Ended, want.Outcome = "failed", "server_error", "server_error"
		case 1:
			want = row{State: "pending"}
		}
		if got != want {
			t.Errorf("delivery %d ended as %+v, want %+v", i, got, want)
		}
	}
}
