package workers

import (
	"net/http"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// NATS gets each webhook under its id, signed by those it goes to, shared secret and key pair, over the very bytes
// that are sent over HTTP: also a sealed secret. A readable one is left out.
func TestWebhooksOnNATSAreTheSame(t *testing.T) {
	t.Parallel()
	for _, mode := range []domain.SecretMode{domain.SecretPlain, domain.SecretSealed} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h := newHooks(t)
			h.receiver.answers(status(http.StatusServiceUnavailable))
			endpoint := h.register(t, h.receiver, mode, domain.AckAccepted)
			public, err := webhook.ParsePublicKey(one[string](t, h, `SELECT signing_public_key FROM webhook_endpoints WHERE id = $1`, endpoint))
			if err != nil {
				t.Fatal(err)
			}
			key := h.rotating(t, endpoint)
			relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationCreated)) > 0 }, func() string { return "no attempts" })
			overNATS := func() map[string]message {
				t.Helper()
				records, err := h.store.Read(t.Context(), eventstore.Lifecycle, 0, 1000)
				if err != nil {
					t.Fatal(err)
				}
				feed := WebhooksFeed(h.pool, h.service, time.Now)
				published, err := feed.Messages(t.Context(), records)
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
					if err := public.Verify(header, m.Data, time.Now()); err != nil {
						t.Errorf("by its key pair: %v", err)
					}
					if err := webhook.Verify(header, m.Data, time.Now(), h.receiver.secrets...); err != nil {
						t.Errorf("by its shared secret: %v", err)
					}
					if want := "rekey.webhooks." + string(h.tenant.Caller.OrganizationID) + "." + string(h.project); m.Subject != want {
						t.Errorf("published on %s, want %s", m.Subject, want)
					}
					out[header.Get(webhook.HeaderID)] = message{body: m.Data}
				}
				return out
			}
			sent := h.receiver.of(webhook.TypeRotationCreated)[0]
			got, ok := overNATS()[sent.id]
			if !ok {
				t.Fatal("the new secret's message is not on NATS")
			}
			switch mode {
			case domain.SecretSealed:
				if string(got.body) != string(sent.body) {
					t.Errorf("NATS has\n%s\nHTTP has\n%s", got.body, sent.body)
				}
			default:
				_, secret, err := webhook.ReadRotation(got.body)
				if err != nil || secret.Mode() != webhook.ModeOmitted {
					t.Errorf("a readable secret is %s on NATS: %v", secret.Mode(), err)
				}
			}
			h.receiver.answers(status(http.StatusNoContent))
			h.rotation(t, key, "overlap")
			relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationAcknowledged)) > 0 }, func() string { return "no word of it" })
			told := h.receiver.of(webhook.TypeRotationAcknowledged)[0]
			if got := overNATS()[told.id]; string(got.body) != string(told.body) {
				t.Errorf("NATS has\n%s\nHTTP has\n%s", got.body, told.body)
			}
		})
	}
}
