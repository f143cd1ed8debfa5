package workers

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// A receiver that gives the same 4xx three times in a row is told of, once; other failures in between begin anew.
func TestEqualRefusalsRaiseAnAlarm(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	other := newHookReceiver(t)
	h.register(t, other, domain.SecretPlain, domain.AckAccepted)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	alarms := func() int { return one[int](t, h, `SELECT count(*) FROM events WHERE type = 'EndpointFailing'`) }
	d := &delivery{endpoint: endpoint, failedBefore: true}
	answer := func(outcome webhook.Outcome, status int) {
		h.w.noteHealth(t.Context(), d, webhook.Result{Outcome: outcome, Status: status})
	}
	for range 2 {
		for range domain.FailingAfter - 1 {
			answer(webhook.ClientError, 401)
		}
		answer(webhook.ServerError, 500)
		answer(webhook.ClientError, 401)
		answer(webhook.ClientError, 403)
		answer(webhook.Throttled, 429)
		answer(webhook.Delivered, 204)
	}
	if n := alarms(); n != 0 {
		t.Fatalf("%d alarms without three equal refusals in a row", n)
	}
	for range domain.FailingAfter + 2 {
		answer(webhook.ClientError, 401)
	}
	if n := alarms(); n != 1 {
		t.Errorf("%d alarms, want 1", n)
	}
	answer(webhook.Delivered, 204)
	for range domain.FailingAfter {
		answer(webhook.ClientError, 401)
	}
	if n := alarms(); n != 1 {
		t.Errorf("told of the same %d times within a day", n)
	}
	for range domain.FailingAfter {
		answer(webhook.ClientError, 404)
	}
	if n := alarms(); n != 2 {
		t.Errorf("%d alarms, want one of each status", n)
	}
	relayTestRun(t, h.w.Run)
	relayTestPoll(t, func() bool { return len(other.of(webhook.TypeEndpointFailing)) == 2 }, func() string { return "the others were not told" })
	body := string(other.of(webhook.TypeEndpointFailing)[0].body)
	if !strings.Contains(body, `"endpoint_id":"`+string(endpoint)+`"`) || !strings.Contains(body, `"http_status":40`) || !strings.Contains(body, `"failures":3`) {
		t.Errorf("told %s", body)
	}
}

// What waited only because its endpoint was left alone goes on soon after that works again, spread; nothing before the time
// that it would have been sent at, and what waits for its own time stays.
func TestClosingTheBreakerPullsForward(t *testing.T) {
	t.Parallel()
	const pause = 10 * time.Minute
	h := newHooksIn(t, true, func(c *Config) { c.BreakerPause = pause })
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	jobs := h.waiting(t, endpoint, 40)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := h.owner.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`UPDATE webhook_deliveries SET next_attempt_at = now()`)
	later, own := jobs[0].DeliveryID, jobs[1].DeliveryID // due in an hour; and one that comes after the breaker opened
	exec(`UPDATE webhook_deliveries SET next_attempt_at = now() + interval '1 hour' WHERE id = $1`, later)
	for range breakerOpens {
		h.w.noteHealth(t.Context(), &delivery{endpoint: endpoint}, webhook.Result{Outcome: webhook.ServerError, Status: 500})
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at < now() + interval '9 minutes'`); n != 0 {
		t.Fatalf("%d deliveries do not wait", n)
	}
	exec(`UPDATE webhook_deliveries SET next_attempt_at = now() + interval '2 hours', put_off_from = NULL WHERE id = $1`, own)
	if err := h.w.notNow(t.Context(), jobs[2]); err != nil { // its job comes and finds the breaker open
		t.Fatal(err)
	}
	h.w.noteHealth(t.Context(), &delivery{endpoint: endpoint, failedBefore: true}, webhook.Result{Outcome: webhook.Delivered, Status: 204})
	spread := spreadOf(pause)
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at <= now() + $1::interval AND put_off_from IS NULL`, spread); n != len(jobs)-2 {
		t.Errorf("%d of %d deliveries were pulled forward", n, len(jobs)-2)
	}
	if n := one[int](t, h, `SELECT count(DISTINCT next_attempt_at) FROM webhook_deliveries`); n < len(jobs)-2 {
		t.Errorf("they come back at %d moments", n)
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries WHERE id = $1 AND next_attempt_at BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour'
		OR id = $2 AND next_attempt_at > now() + interval '100 minutes'`, later, own); n != 2 {
		t.Error("what waits for its own time was pulled forward")
	}
	// What is under way stays so: pulled forward, it would be handed out twice.
	args := jobs[3]
	exec(`UPDATE webhook_deliveries SET put_off_from = now() - interval '1 minute' WHERE id = $1`, args.DeliveryID)
	if _, err := h.w.beginAttempt(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries WHERE id = $1 AND put_off_from IS NULL`, args.DeliveryID); n != 1 {
		t.Error("an attempt that is under way waits for the breaker")
	}
}

// Edge E6: without a key of the day no secret can be stored, and only what needs one fails. An operator is told after three
// sweeps; a receiver with a key of its own is not concerned at all.
func TestSweepWithoutAnEpochKey(t *testing.T) {
	t.Parallel()
	var alarms atomic.Int64
	h := newHooksIn(t, true, func(c *Config) {
		c.Alarm = func(what string) {
			if what == AlarmEpochKey {
				alarms.Add(1)
			}
		}
	})
	for day := -1; day <= 1; day++ { // whatever day it is
		if _, err := h.owner.Exec(t.Context(), `INSERT INTO epoch_keys VALUES ($1, 'sealed by nobody', now(), now() + interval '1 day')`,
			time.Now().UTC().AddDate(0, 0, day).Format(time.DateOnly)); err != nil {
			t.Fatal(err)
		}
	}
	plain := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted))
	sealed := h.rotating(t, h.register(t, h.receiver, domain.SecretSealed, domain.AckAccepted))
	ended := h.create(t, "in grace")
	second := time.Second
	if _, err := h.service.RotateKey(t.Context(), h.tenant, commands.RotateKey{KeyID: ended.Key.ID, Grace: &second}); err != nil {
		t.Fatal(err)
	}
	state := func(key commands.CreatedKey) string {
		return one[string](t, h, `SELECT state FROM keys WHERE id = $1`, key.Key.ID)
	}
	sweep := func() {
		t.Helper()
		if _, err := h.owner.Exec(t.Context(), `UPDATE due_work SET scan_at = now() WHERE due_at <= now()`); err != nil {
			t.Fatal(err)
		}
		if _, err := h.w.sweepKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range epochKeyAlarm {
		if n := alarms.Load(); n != 0 {
			t.Errorf("%d alarms before the third failure", n)
		}
		sweep()
	}
	if n := alarms.Load(); n != 1 {
		t.Errorf("%d alarms after the third failure", n)
	}
	relayTestPoll(t, func() bool { sweep(); return state(ended) == "retired" }, func() string { return "a grace did not end" })
	rotations := func(key commands.CreatedKey) int {
		return one[int](t, h, `SELECT count(*) FROM rotations WHERE lineage_id = $1`, key.Key.LineageID)
	}
	if rotations(plain) != 0 || state(plain) != "active" || rotations(sealed) != 1 {
		t.Errorf("%d rotations whose secret cannot be stored, %d of a receiver with its own key", rotations(plain), rotations(sealed))
	}
	if reason := one[string](t, h, `SELECT last_error FROM due_work WHERE kind = 'rotate' AND lineage_id = $1`, plain.Key.LineageID); reason == "" {
		t.Error("nothing says why it waits")
	}
	if _, err := h.owner.Exec(t.Context(), `DELETE FROM epoch_keys`); err != nil {
		t.Fatal(err)
	}
	relayTestPoll(t, func() bool { sweep(); return rotations(plain) == 1 }, func() string { return "it did not go on" })
	if n := h.w.epochFailures.Load(); n != 0 {
		t.Errorf("still %d failures in a row", n)
	}
}

// what waits must be readable when a process starts, or it says which key is missing. A day whose key was destroyed
// in its time is no fault.
func TestCheckSealed(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(status(http.StatusServiceUnavailable))
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted))
	h.rotation(t, key, "stalled")
	day := one[string](t, h, `SELECT id FROM epoch_keys`)
	check := func(want ...string) {
		t.Helper()
		err := h.service.CheckSealed(t.Context())
		if len(want) == 0 {
			if err != nil {
				t.Error(err)
			}
			return
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("got %v, want it to name %q", err, part)
			}
		}
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := h.owner.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	check()
	exec(`CREATE TABLE kept AS SELECT * FROM epoch_keys`)
	exec(`UPDATE epoch_keys SET sealed = 'by another master key'`)
	check(day, "REKEY_MASTER_KEY")
	exec(`DELETE FROM epoch_keys`)
	check(day, "missing")
	exec(`UPDATE pending_secrets SET epoch_id = '2020-01-01'`)
	check()
	exec(`INSERT INTO epoch_keys SELECT * FROM kept`)
	exec(`UPDATE endpoint_secrets SET sealed = 'by another master key'`)
	check("ep_", "REKEY_MASTER_KEY")
}

// a proxy that fails costs the receiver no attempt, and an operator is told.
func TestProxyFailuresAreNotCounted(t *testing.T) {
	t.Parallel()
	var alarms atomic.Int64
	h := newHooksIn(t, true, func(c *Config) {
		c.Alarm = func(what string) {
			if what == AlarmProxy {
				alarms.Add(1)
			}
		}
	})
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	args := h.waiting(t, endpoint, 1)[0]
	for range webhook.MaxAttempts + 1 {
		args.Attempts = one[int](t, h, `SELECT attempts FROM webhook_deliveries`)
		d, err := h.w.beginAttempt(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		result := webhook.Result{Outcome: webhook.ProxyFailed}
		h.w.noteHealth(t.Context(), d, result)
		if err := h.w.proxyFailed(t.Context(), d, result); err != nil {
			t.Fatal(err)
		}
	}
	if n := one[int](t, h, `SELECT attempts - attempts_before FROM webhook_deliveries WHERE state = 'pending'`); n != 0 {
		t.Errorf("%d attempts were counted", n)
	}
	if n := one[int](t, h, `SELECT count(*) FROM endpoint_health`); n != 0 || alarms.Load() != webhook.MaxAttempts+1 {
		t.Errorf("%d endpoints are held to be ill, %d alarms", n, alarms.Load())
	}
}
