package workers

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// choosing registers a receiver of its own that is told of certain types only.
func (h *hooks) choosing(t *testing.T, types ...domain.MessageType) (*hookReceiver, domain.EndpointID) {
	t.Helper()
	r := newHookReceiver(t)
	id := h.register(t, r, domain.SecretPlain, domain.AckAccepted)
	if _, err := h.service.UpdateEndpoint(t.Context(), h.tenant, commands.UpdateEndpoint{ID: id, EventTypes: domain.ChangeTo(types)}); err != nil {
		t.Fatal(err)
	}
	return r, id
}

// create makes a key without a schedule.
func (h *hooks) create(t *testing.T, name string) commands.CreatedKey {
	t.Helper()
	made, err := h.service.CreateKey(t.Context(), h.tenant, commands.CreateKey{ProjectID: h.project, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// overNATS lists the messages that the feed makes of the whole log, by their type.
func (h *hooks) overNATS(t *testing.T) map[string]message {
	t.Helper()
	records, err := h.store.Read(t.Context(), eventstore.Lifecycle, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	published, err := WebhooksFeed(h.pool, h.service, time.Now).Messages(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]message{}
	for _, m := range published {
		if m == nil {
			continue
		}
		header := http.Header{}
		for name, values := range m.Header {
			header[http.CanonicalHeaderKey(name)] = values
		}
		kind, err := typeOf(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		out[string(kind)] = message{id: header.Get(webhook.HeaderID), header: header, body: m.Data}
	}
	return out
}

// An endpoint is told of what it chose, over HTTP and over NATS; a new secret goes to the receiver of its key all the same.
func TestEndpointsAreToldWhatTheyChose(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	chooser, id := h.choosing(t, domain.MessageKeyRevoked)
	key := h.rotating(t, id)
	h.rotation(t, key, "overlap")
	made := h.create(t, "to be revoked")
	if err := h.service.RevokeKey(t.Context(), h.tenant, made.Key.ID, "left the team"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*hookReceiver{chooser, h.receiver} {
		relayTestPoll(t, func() bool { return len(r.of(webhook.TypeKeyRevoked)) == 1 }, func() string { return "nobody was told of the revoked key" })
	}
	if len(chooser.of(webhook.TypeRotationCreated)) != 1 || len(h.receiver.of(webhook.TypeRotationCreated)) != 0 {
		t.Error("the new secret did not go to the receiver of its key, and nowhere else")
	}
	if len(chooser.of(webhook.TypeRotationAcknowledged)) != 0 || len(h.receiver.of(webhook.TypeRotationAcknowledged)) != 1 {
		t.Error("what was not chosen was told, or what was chosen was not")
	}
	var got struct {
		Data struct {
			KeyIDs []domain.KeyID `json:"key_ids"`
			Reason string
		}
	}
	revoked := chooser.of(webhook.TypeKeyRevoked)[0]
	if err := json.Unmarshal(revoked.body, &got); err != nil || !slices.Equal(got.Data.KeyIDs, []domain.KeyID{made.Key.ID}) || got.Data.Reason != "left the team" {
		t.Errorf("told %s, %v", revoked.body, err)
	}
	feed := h.overNATS(t)
	if n := feed[webhook.TypeKeyRevoked]; string(n.body) != string(revoked.body) || n.id != revoked.id {
		t.Errorf("NATS has %s", n.body)
	}
	// Who chose it signs it, and nobody else.
	if err := webhook.Verify(feed[webhook.TypeRotationAcknowledged].header, feed[webhook.TypeRotationAcknowledged].body, time.Now(), chooser.secrets...); err == nil {
		t.Error("an endpoint vouches for a message that it did not choose")
	}
	if err := webhook.Verify(feed[webhook.TypeKeyRevoked].header, revoked.body, time.Now(), chooser.secrets...); err != nil {
		t.Errorf("an endpoint does not vouch for what it chose: %v", err)
	}
}

// A key that ends otherwise than by a completed rotation is told of too.
func TestEndsAreTold(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	none := time.Duration(0)
	rotate := func(c commands.RotateKey) commands.RotatedKey {
		t.Helper()
		rotated, err := h.service.RotateKey(t.Context(), h.tenant, c)
		if err != nil {
			t.Fatal(err)
		}
		return rotated
	}
	cut := h.create(t, "cut over")
	rotate(commands.RotateKey{KeyID: cut.Key.ID, Grace: &none})
	leaked := h.create(t, "compromised")
	rotate(commands.RotateKey{KeyID: leaked.Key.ID, Compromised: true})
	undone := h.create(t, "rolled back")
	rotation := rotate(commands.RotateKey{KeyID: undone.Key.ID}).Rotated
	if _, err := h.service.RollBackRotation(t.Context(), h.tenant, rotation.RotationID); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Second)
	ending, err := h.service.CreateKey(t.Context(), h.tenant, commands.CreateKey{ProjectID: h.project, Name: "ends", ExpiresAt: &soon})
	if err != nil {
		t.Fatal(err)
	}
	of := func(kind string, key domain.KeyID) (found []message) {
		for _, m := range h.receiver.of(kind) {
			if strings.Contains(string(m.body), string(key)) {
				found = append(found, m)
			}
		}
		return found
	}
	for what, told := range map[string]struct {
		kind   string
		key    domain.KeyID
		reason string
	}{
		"a cut-over":      {webhook.TypeRotationCompleted, cut.Key.ID, `"grace_seconds":0`},
		"a compromise":    {webhook.TypeKeyRevoked, leaked.Key.ID, `"reason":"compromised"`},
		"the end of life": {webhook.TypeVersionRetired, ending.Key.ID, `"reason":"expired"`},
	} {
		relayTestPoll(t, func() bool { return len(of(told.kind, told.key)) == 1 }, func() string { return what + " was not told" })
		if body := string(of(told.kind, told.key)[0].body); !strings.Contains(body, told.reason) {
			t.Errorf("%s: told %s", what, body)
		}
	}
	// The grace of the newer key of a rotation that was rolled back is no end of a rotation.
	f, err := readFacts(t.Context(), h.pool, []eventstore.Record{{Event: domain.Event{
		StreamID: string(undone.Key.LineageID), Data: domain.GraceExpired{KeyID: rotation.KeyID},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := f.body(domain.Event{OccurredAt: time.Now(), Data: domain.GraceExpired{KeyID: rotation.KeyID}})
	if kind, _ := typeOf(body); err != nil || kind != domain.MessageVersionRetired || !strings.Contains(string(body), `"reason":"rolled_back"`) {
		t.Errorf("told %s, %v", body, err)
	}
}

// That an endpoint is disabled is told to the others at once; to itself when it is enabled again. Over NATS it is told at
// once, also where there are no others.
func TestDisabledEndpointIsTold(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	id := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	if _, err := h.service.DisableEndpoint(t.Context(), h.tenant, id, "by hand"); err != nil {
		t.Fatal(err)
	}
	h.await(t, "held", `SELECT state FROM webhook_deliveries WHERE type = 'endpoint.disabled' AND endpoint_id = $1 AND lineage_id IS NULL`, id)
	if m := h.overNATS(t)[webhook.TypeEndpointDisabled]; !strings.Contains(string(m.body), `"endpoint_id":"`+string(id)+`","reason":"by hand"`) {
		t.Errorf("NATS has %s", m.body)
	}
	found, err := h.reader.Deliveries(t.Context(), projections.DeliveryList{Reach: projections.ReachOf(h.tenant.Caller), Limit: 10})
	if err != nil || len(found) != 1 || found[0].LineageID != "" {
		t.Errorf("listed %+v, %v", found, err)
	}
	if _, err := h.service.EnableEndpoint(t.Context(), h.tenant, id); err != nil {
		t.Fatal(err)
	}
	h.verify(t, id)
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeEndpointDisabled)) == 1 }, func() string { return "it was not told" })

	other := newHookReceiver(t)
	gone := h.register(t, other, domain.SecretPlain, domain.AckAccepted)
	if _, err := h.service.DisableGone(t.Context(), gone, string(webhook.Gone), nil); err != nil {
		t.Fatal(err)
	}
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeEndpointDisabled)) == 2 }, func() string { return "the others were not told" })
}

// An interval rotation that has to wait says so, and until when.
func TestDeferredRotationIsTold(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	endpoint := h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted)
	key := h.create(t, "often rotated")
	id := key.Key.ID
	for range domain.MaxInGrace {
		rotated, err := h.service.RotateKey(t.Context(), h.tenant, commands.RotateKey{KeyID: id})
		if err != nil {
			t.Fatal(err)
		}
		id = rotated.Rotated.KeyID
	}
	if _, _, err := h.service.UpdateKey(t.Context(), h.tenant, domain.UpdateKey{
		KeyID: id, EndpointID: domain.ChangeTo(endpoint), RotationIntervalSeconds: domain.ChangeTo(int64(2)), GraceSeconds: domain.ChangeTo(int64(1)),
	}); err != nil {
		t.Fatal(err)
	}
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationDeferred)) == 1 }, func() string { return "nobody was told" })
	body := string(h.receiver.of(webhook.TypeRotationDeferred)[0].body)
	if !strings.Contains(body, string(id)) || !strings.Contains(body, `"reason":"too_many_in_grace"`) || !strings.Contains(body, `"deferred_until":"2`) {
		t.Errorf("told %s", body)
	}
}

// Every type that endpoints can choose is one that messages have, and the other way round.
func TestMessageTypesAreOneList(t *testing.T) {
	t.Parallel()
	sent := []string{
		webhook.TypeRotationCreated, webhook.TypeRotationAcknowledged, webhook.TypeRotationStalled, webhook.TypeRotationBlocked,
		webhook.TypeRotationDeferred, webhook.TypeRotationCompleted, webhook.TypeRotationCancelled, webhook.TypeVersionRetired,
		webhook.TypeUsedInGrace, webhook.TypeKeyExpiring, webhook.TypeKeyRevoked, webhook.TypeEndpointDisabled, webhook.TypeEndpointFailing,
		"key.rotation.claimed_again",
	}
	var chosen []string
	for _, kind := range domain.MessageTypes() {
		chosen = append(chosen, string(kind))
	}
	slices.Sort(sent)
	slices.Sort(chosen)
	if !slices.Equal(sent, chosen) {
		t.Errorf("messages have %v, endpoints can choose %v", sent, chosen)
	}
}
