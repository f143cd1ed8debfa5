package workers

import (
	"net/http"
	"testing"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// R-59, E14, E24: a key's own address that may have got a secret is told when that is taken back, and its late 2xx changes
// nothing. It is told of nothing else, and one that was sent nothing is told nothing.
func TestOwnAddressIsToldOfCancellation(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	begun, release := make(chan struct{}, 64), make(chan struct{})
	h.receiver.answers(func(m message, _ http.ResponseWriter) {
		if m.kind == webhook.TypeRotationCreated {
			begun <- struct{}{}
			<-release
		}
	})
	key := h.own(t)
	<-begun
	rotation := h.rotation(t, key, "delivering")
	if _, err := h.service.CancelRotation(t.Context(), h.tenant, rotation, "not now"); err != nil {
		t.Fatal(err)
	}
	close(release)
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationCancelled)) == 1 }, func() string { return "it was not told" })
	h.await(t, "delivered", `SELECT outcome FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id WHERE d.type = 'key.rotation.created'`)
	h.rotation(t, key, "cancelled")
	m := h.receiver.of(webhook.TypeRotationCreated)[0]
	secret, err := m.secret.Open(m.rotation, m.id)
	if err != nil {
		t.Fatal(err)
	}
	if h.valid(t, secret).Valid() || h.valid(t, key.Secret.Reveal()) != domain.StatusActive {
		t.Errorf("the new key is %s, the old one %s", h.valid(t, secret), h.valid(t, key.Secret.Reveal()))
	}
	if n := one[int](t, h, `SELECT count(*) FROM webhook_deliveries`); n != 2 {
		t.Errorf("%d messages, want the secret and the word that it is void", n)
	}
}

// own makes a key with an address of its own that is due now.
func (h *hooks) own(t *testing.T) commands.CreatedKey {
	t.Helper()
	created, err := h.service.CreateKey(t.Context(), h.tenant, commands.CreateKey{
		ProjectID: h.project, Name: "rotated", RotationIntervalSeconds: 24 * 60 * 60, WebhookURL: h.receiver.server.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.bringForward(t, created.Key.LineageID)
	return created
}
