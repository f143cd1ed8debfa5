package workers

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// G2, R-48, R-35: a receiver that is down for the whole window costs nobody their access. The rotation stalls, an alarm
// goes to the others, and once the receiver is back a redelivery brings the same message and completes the hand-over.
func TestG2DownForTheWholeWindowThenRedelivered(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(status(http.StatusInternalServerError))
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckProof))
	watcher := newHookReceiver(t)
	h.register(t, watcher, domain.SecretPlain, domain.AckAccepted)
	rotation := h.rotation(t, key, "stalled")
	if got := h.valid(t, key.Secret.Reveal()); got != domain.StatusActive {
		t.Errorf("the old key is %s", got)
	}
	relayTestPoll(t, func() bool { return len(watcher.of(webhook.TypeRotationStalled)) == 1 }, func() string { return "no alarm" })
	wantOneMessage(t, h.receiver.of(webhook.TypeRotationCreated), webhook.MaxAttempts)

	h.receiver.answers(func(m message, w http.ResponseWriter) {
		if m.kind == webhook.TypeRotationCreated {
			prove(t, h.receiver, m, w)
		}
	})
	delivery := one[projections.DeliveryID](t, h, `SELECT id FROM webhook_deliveries WHERE rotation_id = $1 AND type = 'key.rotation.created'`, rotation)
	for range 2 { // twice in a row
		if _, err := h.service.Redeliver(t.Context(), h.tenant, delivery); err != nil && domain.CodeOf(err) != domain.CodeRotationState {
			t.Fatal(err)
		}
	}
	h.rotation(t, key, "overlap")
	h.await(t, "delivered", `SELECT state FROM webhook_deliveries WHERE id = $1`, delivery)
	got := h.receiver.of(webhook.TypeRotationCreated)
	wantOneMessage(t, got, len(got))
	attempts, err := h.reader.Attempts(t.Context(), projections.Reach{Organization: h.tenant.Caller.OrganizationID}, delivery)
	if err != nil {
		t.Fatal(err)
	}
	last := attempts[len(attempts)-1]
	if last.Trigger != "manual" || last.Actor != domain.Actor(h.tenant.Caller.KeyID) || last.Worker == "" || last.TotalMs == nil || last.FirstByteMs == nil {
		t.Errorf("the last attempt is %+v", last)
	}
	if attempts[0].Trigger != "auto" || attempts[0].Actor != "" || *attempts[0].Status != http.StatusInternalServerError || attempts[0].NextDelaySeconds == nil {
		t.Errorf("the first attempt is %+v", attempts[0])
	}
	if first := attempts[webhook.MaxAttempts-1]; first.NextDelaySeconds != nil {
		t.Errorf("after the last one of the budget comes another: %+v", first)
	}
	relayTestPoll(t, func() bool { return len(watcher.of(webhook.TypeRotationAcknowledged)) == 1 }, func() string { return "nobody was told that it arrived" })
	if got := h.valid(t, key.Secret.Reveal()); got != domain.StatusGrace {
		t.Errorf("after the hand-over the old key is %s", got)
	}
	if _, err := h.service.EndGrace(t.Context(), h.tenant, rotation); err != nil {
		t.Fatal(err)
	}
	h.rotation(t, key, "completed")
	if n := one[int](t, h, `SELECT count(*) FROM events WHERE type = 'RotationStalled'`); n != 1 {
		t.Errorf("the log has %d alarms, want 1", n)
	}
}

// one 410 disables the endpoint. Its other messages are held, and a rotation that waits for one is stalled, not
// silent. Once the endpoint is enabled and has proven itself again, all of them arrive.
func TestGoneDisables(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(status(http.StatusGone))
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	first, second := h.rotating(t, endpoint), h.rotating(t, endpoint)
	h.rotation(t, first, "stalled")
	h.await(t, "disabled gone", `SELECT state || ' ' || reason FROM webhook_endpoints WHERE id = $1`, endpoint)
	// The second one was either asked before the endpoint was disabled, or is held, or never began.
	h.await(t, "t", `SELECT (NOT EXISTS (SELECT FROM webhook_deliveries WHERE state = 'pending'))::text::char(1)`)
	if err := h.w.stallStuck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, h, `SELECT count(*) FROM rotations WHERE state = 'delivering'`); n != 0 {
		t.Errorf("%d rotations are delivering to nobody", n)
	}
	if h.valid(t, first.Secret.Reveal()) != domain.StatusActive || h.valid(t, second.Secret.Reveal()) != domain.StatusActive {
		t.Error("an old key ended")
	}
	// What happened meanwhile is held: at least the word of the first stall.
	h.await(t, "true", `SELECT (count(*) > 0)::text FROM webhook_deliveries WHERE state = 'held' AND type <> 'key.rotation.created'`)
	seen := len(h.receiver.of(webhook.TypeRotationCreated))
	h.receiver.answers(status(http.StatusNoContent))
	if _, err := h.service.EnableEndpoint(t.Context(), h.tenant, endpoint); err != nil {
		t.Fatal(err)
	}
	h.verify(t, endpoint)
	rotation := one[domain.RotationID](t, h, `SELECT id FROM rotations WHERE from_key_id = $1`, first.Key.ID)
	if _, err := h.service.RedeliverRotation(t.Context(), h.tenant, rotation, false); err != nil {
		t.Fatal(err)
	}
	h.rotation(t, first, "overlap")
	h.await(t, "0", `SELECT count(*)::text FROM webhook_deliveries WHERE state IN ('held', 'pending')`)
	if n := len(h.receiver.of(webhook.TypeRotationCreated)); n <= seen {
		t.Error("nothing was sent after the endpoint was enabled")
	}
}

// A rotation that could not begin, because its endpoint took nothing, begins as soon as it does again: not at the next look,
// which is up to an hour away.
func TestBlockedRotationBeginsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	if _, err := h.service.DisableEndpoint(t.Context(), h.tenant, endpoint, "by hand"); err != nil {
		t.Fatal(err)
	}
	key := h.rotating(t, endpoint)
	h.await(t, "1", `SELECT count(*)::text FROM events WHERE type = 'RotationBlocked'`)
	// As after half a day of looks in vain.
	h.await(t, "true", `UPDATE due_work SET attempts = 12, scan_at = now() + interval '1 hour'
		WHERE kind = 'rotate' AND lineage_id = $1 AND attempts > 0 RETURNING 'true'`, key.Key.LineageID)
	if _, err := h.service.EnableEndpoint(t.Context(), h.tenant, endpoint); err != nil {
		t.Fatal(err)
	}
	h.verify(t, endpoint)
	h.rotation(t, key, "overlap")
}

// what is meant for a paused endpoint is held, and arrives in its order once it is resumed; a span can be replayed.
func TestHeldAndReplayed(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	if _, err := h.service.PauseEndpoint(t.Context(), h.tenant, endpoint, "maintenance"); err != nil {
		t.Fatal(err)
	}
	key := h.rotating(t, endpoint)
	h.await(t, "held", `SELECT state FROM webhook_deliveries WHERE type = 'key.rotation.created'`)
	if len(h.receiver.of(webhook.TypeRotationCreated)) > 0 {
		t.Error("a paused endpoint was sent something")
	}
	began := time.Now().Add(-time.Minute)
	if _, err := h.service.ResumeEndpoint(t.Context(), h.tenant, endpoint); err != nil {
		t.Fatal(err)
	}
	h.rotation(t, key, "overlap")
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationAcknowledged)) == 1 }, func() string { return "no word of the acknowledgment" })
	h.await(t, "0", `SELECT count(*)::text FROM webhook_deliveries WHERE state <> 'delivered'`)

	if _, err := h.service.RedeliverSpan(t.Context(), h.tenant, commands.RedeliverSpan{
		EndpointID: endpoint, From: began, To: time.Now().Add(time.Minute), Delivered: true,
	}); err != nil {
		t.Fatal(err)
	}
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationAcknowledged)) == 2 }, func() string { return "nothing was replayed" })
	wantOneMessage(t, h.receiver.of(webhook.TypeRotationAcknowledged), 2)
	h.await(t, "replay "+string(h.tenant.Caller.KeyID), `SELECT trigger || ' ' || actor FROM webhook_attempts WHERE trigger <> 'auto'`)
	if n := one[int](t, h, `SELECT count(*) FROM events WHERE type = 'RedeliveryRequested' AND actor = $1`, h.tenant.Caller.KeyID); n != 1 {
		t.Errorf("the log has %d requests of the replay, want 1", n)
	}
}

// G6: what is of another organization cannot be redelivered, or told apart from nothing.
func TestG6RedeliverStrangers(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	h.rotation(t, h.rotating(t, endpoint), "overlap")
	stranger := commands.By{Caller: domain.Caller{OrganizationID: "org_00000000000000000000000009", KeyID: "key_x", Scopes: domain.Scopes{"*"}}}
	delivery := one[projections.DeliveryID](t, h, `SELECT id FROM webhook_deliveries LIMIT 1`)
	unknown := projections.DeliveryID(domain.LowestID(domain.PrefixDelivery, time.Now()))
	_, foreign := h.service.Redeliver(t.Context(), stranger, delivery)
	_, none := h.service.Redeliver(t.Context(), stranger, unknown)
	if domain.CodeOf(foreign) != domain.CodeNotFound || fmt.Sprint(foreign) != fmt.Sprint(none) {
		t.Errorf("a foreign delivery is %v, an unknown one %v", foreign, none)
	}
	_, err := h.service.RedeliverSpan(t.Context(), stranger, commands.RedeliverSpan{EndpointID: endpoint, From: time.Now().Add(-time.Hour), To: time.Now()})
	if domain.CodeOf(err) != domain.CodeNotFound {
		t.Errorf("a foreign endpoint: %v", err)
	}
}
