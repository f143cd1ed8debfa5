package workers

import (
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// a redelivery that is asked for while an attempt is under way keeps its own plan and its whole budget, however that
// attempt ends: in failure, cut off by our stop, put back, or as the last one of its budget.
func TestRedeliveryDuringAnAttempt(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	result := webhook.Result{Outcome: webhook.ServerError}
	for name, end := range map[string]func(d *delivery) error{
		"Failed": func(d *delivery) error {
			return h.w.retryAt(t.Context(), d, result, time.Now().Add(12*time.Hour), false)
		},
		"Interrupted": func(d *delivery) error { return h.w.interrupted(t.Context(), d, result) },
		"PutBack":     func(d *delivery) error { return h.w.putBack(t.Context(), d, time.Hour) },
		"UsedUp":      func(d *delivery) error { return h.w.finish(t.Context(), d, "failed", result) },
	} {
		args := h.waiting(t, endpoint, 1)[0]
		d, err := h.w.beginAttempt(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		soon := time.Now().Add(time.Minute).Truncate(time.Microsecond)
		if _, err := h.pool.Exec(t.Context(), sqlRedeliverOne, endpoint, args.DeliveryID, soon, "key_x"); err != nil {
			t.Fatal(err)
		}
		if err := end(d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var state string
		var left int
		var next time.Time
		if err := h.owner.QueryRow(t.Context(), `SELECT state, attempts - attempts_before, next_attempt_at FROM webhook_deliveries WHERE id = $1`, args.DeliveryID).
			Scan(&state, &left, &next); err != nil {
			t.Fatal(err)
		}
		if state != "pending" || left != 0 || !next.Equal(soon) {
			t.Errorf("%s: it is %s, %d attempts are used, and the next one comes in %v", name, state, left, time.Until(next))
		}
		h.exec(t, `TRUNCATE webhook_deliveries, webhook_attempts`)
	}
}

// A worker that saw its endpoint paused, and gets to hold the message only after the endpoint was resumed and what was held
// released, leaves it alone: nobody would release it again.
func TestNothingIsHeldForAnActiveEndpoint(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	args := h.waiting(t, endpoint, 1)[0]
	hold := func(want string) {
		t.Helper()
		if _, err := h.pool.Exec(t.Context(), sqlHold, args.DeliveryID, args.Attempts); err != nil {
			t.Fatal(err)
		}
		if got := one[string](t, h, `SELECT state FROM webhook_deliveries`); got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	hold("pending")
	if _, err := h.service.PauseEndpoint(t.Context(), h.tenant, endpoint, "maintenance"); err != nil {
		t.Fatal(err)
	}
	hold("held")
}

// How an attempt ended stays as it was recorded, whatever becomes of its delivery afterwards.
func TestAttemptsKeepTheirOutcome(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	args := h.waiting(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted), 1)[0]
	d, err := h.w.beginAttempt(t.Context(), args)
	if err != nil {
		t.Fatal(err)
	}
	for _, outcome := range []webhook.Outcome{webhook.ServerError, outcomeDeleted} {
		if err := h.w.finish(t.Context(), d, "failed", webhook.Result{Outcome: outcome}); err != nil {
			t.Fatal(err)
		}
	}
	if got := one[string](t, h, `SELECT outcome FROM webhook_attempts`); got != string(webhook.ServerError) {
		t.Errorf("the attempt ended as %s", got)
	}
}

// A redelivery of a rotation that was acknowledged meanwhile leaves its delivery delivered.
func TestRedeliveryOfWhatArrived(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	rotation := h.rotation(t, h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)), "overlap")
	h.await(t, "delivered", `SELECT state FROM webhook_deliveries WHERE type = 'key.rotation.created'`)
	tag, err := h.pool.Exec(t.Context(), sqlRedeliverRotation, rotation, time.Now(), "key_x")
	if err != nil || tag.RowsAffected() != 0 {
		t.Errorf("%d deliveries begin anew, %v", tag.RowsAffected(), err)
	}
}
