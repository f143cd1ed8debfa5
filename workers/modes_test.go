package workers

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// prove answers with the proof that the secret can be read.
func prove(t *testing.T, r *hookReceiver, m message, w http.ResponseWriter) {
	secret, err := m.secret.Open(m.rotation, m.id, r.private)
	if err != nil {
		t.Errorf("open the secret: %v", err)
	}
	w.Header().Set(webhook.HeaderAck, webhook.Proof(secret, m.rotation.RotationID, m.id))
}

// assertNowhere asserts that a secret is in no table, in no spelling.
func (h *hooks) assertNowhere(t *testing.T, secret string) {
	t.Helper()
	rows, err := h.owner.Query(t.Context(), `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'river')`)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	for _, table := range tables {
		for _, spelling := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
			if n := one[int](t, h, `SELECT count(*) FROM `+table+` AS r WHERE position($1 in r::text) > 0`, spelling); n > 0 {
				t.Errorf("%d rows of %s hold the secret", n, table)
			}
		}
	}
}

// a new secret arrives in each mode, with proof, and is nowhere else: not while it waits, and not
// afterwards.
func TestG5ModesOfSecrets(t *testing.T) {
	t.Parallel()
	for _, mode := range []domain.SecretMode{domain.SecretPlain, domain.SecretSealed} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h := newHooks(t)
			h.receiver.answers(status(http.StatusServiceUnavailable))
			endpoint := h.register(t, h.receiver, mode, domain.AckProof)
			key := h.rotating(t, endpoint)
			relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationCreated)) > 1 }, func() string { return "no attempts" })
			m := h.receiver.of(webhook.TypeRotationCreated)[0]
			if got := m.secret.Mode(); got != string(mode) {
				t.Errorf("the secret is %s", got)
			}
			secret, err := m.secret.Open(m.rotation, m.id, h.receiver.private)
			if err != nil {
				t.Fatal(err)
			}
			h.assertNowhere(t, secret)
			if mode == domain.SecretSealed && strings.Contains(string(m.body), secret) {
				t.Error("the body of a sealed message can be read")
			}
			h.receiver.answers(func(m message, w http.ResponseWriter) {
				if m.kind == webhook.TypeRotationCreated {
					prove(t, h.receiver, m, w)
				}
			})
			h.rotation(t, key, "overlap")
			if level := one[string](t, h, `SELECT ack_level FROM rotations`); level != "proof" {
				t.Errorf("acknowledged by %s", level)
			}
			if h.valid(t, secret) != domain.StatusActive || h.valid(t, key.Secret.Reveal()) != domain.StatusGrace {
				t.Error("the keys are not as the acknowledgment leaves them")
			}
			if n := one[int](t, h, `SELECT count(*) FROM pending_secrets`); n != 0 {
				t.Errorf("%d secrets still wait", n)
			}
			h.assertNowhere(t, secret)
		})
	}
}

// without the proof that is demanded a 2xx counts for nothing, and neither does the proof of another message.
func TestProofIsDemanded(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(func(m message, w http.ResponseWriter) {
		if m.kind != webhook.TypeRotationCreated {
			return
		}
		switch m.header.Get("Rekey-Attempt") {
		case "1":
		case "2":
			w.Header().Set(webhook.HeaderAck, webhook.Proof("another", m.rotation.RotationID, m.id))
		default:
			prove(t, h.receiver, m, w)
		}
	})
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretSealed, domain.AckProof))
	h.rotation(t, key, "overlap")
	wantOneMessage(t, h.receiver.of(webhook.TypeRotationCreated), 3)
	if n := one[int](t, h, `SELECT count(*) FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id
		WHERE d.type = 'key.rotation.created' AND outcome = 'ack_missing' AND status = 200`); n != 2 {
		t.Errorf("%d attempts lacked their proof, want 2", n)
	}
}

// Where the first use is demanded, a 2xx delivers the message and acknowledges nothing.
func TestFirstUseIsDemanded(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckFirstUse))
	h.await(t, "delivered", `SELECT state FROM webhook_deliveries WHERE type = 'key.rotation.created'`)
	h.rotation(t, key, "delivering")
	if h.valid(t, key.Secret.Reveal()) != domain.StatusActive {
		t.Error("the old key is not active")
	}
	m := h.receiver.of(webhook.TypeRotationCreated)[0]
	secret, err := m.secret.Open(m.rotation, m.id)
	if err != nil {
		t.Fatal(err)
	}
	used, err := h.verifier.Authenticate(t.Context(), secret)
	if err != nil || used == nil {
		t.Fatalf("the new key is not valid: %v", err)
	}
	h.service.FirstUse(used)
	h.rotation(t, key, "overlap")
}

// The address of a claim gives the secret once; a second use gives nothing and raises one alarm, however often.
func TestClaim(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretClaim, domain.AckFirstUse))
	h.await(t, "delivered", `SELECT state FROM webhook_deliveries WHERE type = 'key.rotation.created'`)
	m := h.receiver.of(webhook.TypeRotationCreated)[0]
	address, _, ok := m.secret.Claim()
	token := address[strings.LastIndex(address, "/")+1:]
	if !ok || !strings.HasPrefix(address, "http://127.0.0.1:8080/v1/claims/") {
		t.Fatalf("the claim is at %q", address)
	}
	h.assertNowhere(t, token)
	if _, err := h.service.ClaimSecret(t.Context(), "", strings.Repeat("x", len(token))); domain.CodeOf(err) != domain.CodeNotFound {
		t.Errorf("an unknown claim: %v", err)
	}
	claimed, err := h.service.ClaimSecret(t.Context(), "", token)
	if err != nil {
		t.Fatal(err)
	}
	h.rotation(t, key, "overlap")
	if h.valid(t, claimed.Secret.Reveal()) != domain.StatusActive {
		t.Error("what was claimed is not the new key")
	}
	for range 3 {
		if _, err := h.service.ClaimSecret(t.Context(), "", token); domain.CodeOf(err) != domain.CodeNotFound {
			t.Errorf("claimed again: %v", err)
		}
	}
	if n := one[int](t, h, `SELECT count(*) FROM events WHERE type = 'RotationClaimedAgain'`); n != 1 {
		t.Errorf("%d alarms, want 1", n)
	}
	relayTestPoll(t, func() bool { return len(h.receiver.of(string(domain.MessageRotationClaimedAgain))) == 1 }, func() string { return "no webhook of the alarm" })
	h.assertNowhere(t, claimed.Secret.Reveal())
}

// once the key of its day is destroyed, a waiting secret cannot be read by anybody, not even from a copy. Its
// rotation stalls, and a redelivery brings another secret; the first one is refused.
func TestEpochsEnd(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(status(http.StatusServiceUnavailable))
	key := h.rotating(t, h.register(t, h.receiver, domain.SecretPlain, domain.AckAccepted))
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationCreated)) > 0 }, func() string { return "no attempts" })
	first := h.receiver.of(webhook.TypeRotationCreated)[0]
	if _, err := h.owner.Exec(t.Context(), `UPDATE epoch_keys SET destroy_after = now()`); err != nil {
		t.Fatal(err)
	}
	if n, err := h.service.EndEpochs(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d epochs destroyed, %v", n, err)
	}
	id := h.rotation(t, key, "stalled")
	if _, err := h.service.OpenPending(context.Background(), id); err == nil {
		t.Error("the secret can still be opened")
	}
	h.receiver.answers(status(http.StatusNoContent))
	h.build(t) // another process, which makes the key of the day anew
	if _, err := h.service.RedeliverRotation(t.Context(), h.tenant, id, true); err != nil {
		t.Fatal(err)
	}
	h.rotation(t, key, "overlap")
	secret, err := first.secret.Open(first.rotation, first.id)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.valid(t, secret); got.Valid() {
		t.Errorf("the first secret is %s", got)
	}
}

// a receiver that registers another key before the secret arrived gets another secret, sealed to that one.
func TestOtherReceiverKeyGetsAnotherSecret(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	h.receiver.answers(status(http.StatusServiceUnavailable))
	endpoint := h.register(t, h.receiver, domain.SecretSealed, domain.AckAccepted)
	key := h.rotating(t, endpoint)
	relayTestPoll(t, func() bool { return len(h.receiver.of(webhook.TypeRotationCreated)) > 0 }, func() string { return "no attempts" })
	other, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.service.UpdateEndpoint(t.Context(), h.tenant, updateReceiverKey(endpoint, other.Public().String())); err != nil {
		t.Fatal(err)
	}
	h.receiver.mu.Lock()
	former := h.receiver.private
	h.receiver.private = other
	h.receiver.mu.Unlock()
	h.verify(t, endpoint)
	h.receiver.answers(status(http.StatusNoContent))
	h.rotation(t, key, "overlap")
	got := h.receiver.of(webhook.TypeRotationCreated)
	first, last := got[0], got[len(got)-1]
	before, err := first.secret.Open(first.rotation, first.id, former)
	if err != nil {
		t.Fatal(err)
	}
	after, err := last.secret.Open(last.rotation, last.id, other)
	if err != nil {
		t.Fatal(err)
	}
	if h.valid(t, before).Valid() || h.valid(t, after) != domain.StatusActive {
		t.Errorf("the first secret is %s, the last one %s", h.valid(t, before), h.valid(t, after))
	}
}
