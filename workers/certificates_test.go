package workers

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
)

// mutual is a receiver over TLS that notes with which certificate each message came.
type mutual struct {
	*hookReceiver
	authority *webhooktest.Authority

	mu   sync.Mutex
	came map[string]map[string]int // messages by path, then by the name in the certificate
}

// newMutual takes the place of a receiver without TLS.
func newMutual(t *testing.T, r *hookReceiver, change ...func(*httptest.Server)) *mutual {
	t.Helper()
	m := &mutual{hookReceiver: r, authority: webhooktest.NewAuthority(t, "Acme"), came: map[string]map[string]int{}}
	m.server, _ = m.authority.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		name := "nobody"
		if peers := request.TLS.PeerCertificates; len(peers) > 0 {
			name = peers[0].Subject.CommonName
		}
		m.mu.Lock()
		if m.came[request.URL.Path] == nil {
			m.came[request.URL.Path] = map[string]int{}
		}
		m.came[request.URL.Path][name]++
		m.mu.Unlock()
		m.hookReceiver.ServeHTTP(w, request)
	}), change...)
	return m
}

// taken is how many messages came to a path, by the name in the certificate; it starts anew.
func (m *mutual) taken(path string) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	came := m.came[path]
	delete(m.came, path)
	return came
}

func (h *hooks) certificate(t *testing.T, m *mutual, name string) webhook.ClientCertificate {
	t.Helper()
	certificate, err := h.service.ReadCertificate(m.authority.New(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// certified makes a path of the receiver an endpoint that shows a certificate, and has it prove itself with that.
func (h *hooks) certified(t *testing.T, m *mutual, name string, certificate webhook.ClientCertificate) domain.EndpointID {
	t.Helper()
	made, err := h.service.RegisterEndpoint(t.Context(), h.tenant, commands.RegisterEndpoint{
		ProjectID: h.project, URL: m.hookReceiver.server.URL + "/" + name, Certificate: certificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.hookReceiver.mu.Lock()
	m.secrets = append(m.secrets, made.Secret)
	m.hookReceiver.mu.Unlock()
	h.verify(t, made.Endpoint.ID)
	return made.Endpoint.ID
}

func (h *hooks) show(t *testing.T, id domain.EndpointID, certificate webhook.ClientCertificate) {
	t.Helper()
	_, err := h.service.UpdateEndpoint(t.Context(), h.tenant, commands.UpdateEndpoint{ID: id, Certificate: domain.ChangeTo(certificate)})
	if err != nil {
		t.Fatal(err)
	}
}

// outcome tells how a test message ended.
func (h *hooks) outcome(t *testing.T, id domain.EndpointID) webhook.Outcome {
	t.Helper()
	probe, err := h.service.TestEndpoint(t.Context(), h.tenant, id)
	if err != nil {
		t.Fatal(err)
	}
	return probe.Outcome
}

// soonGivenUp has a delivery given up after fewTries attempts.
func soonGivenUp(c *Config) {
	c.Retry = func(attempts int, _ time.Duration) (time.Duration, bool) { return 0, attempts < fewTries }
}

const fewTries = 2

const sqlUnfinished = `SELECT count(*)::text FROM webhook_deliveries WHERE state IN ('pending', 'held')`

// challenges, tests, new secrets and messages of two endpoints on one host and port come with the certificate of their
// endpoint, each with its own; another certificate is used from the next message on.
func TestR47DeliveriesShowTheirCertificate(t *testing.T) {
	t.Parallel()
	h := newHooks(t, soonGivenUp)
	m := newMutual(t, h.receiver)
	ids := map[string]domain.EndpointID{}
	for _, name := range []string{"one", "two"} {
		ids[name] = h.certified(t, m, name, h.certificate(t, m, name))
	}
	told := 0
	rotate := func(n int) {
		t.Helper()
		var keys []commands.CreatedKey
		for range n {
			for _, id := range ids {
				keys = append(keys, h.rotating(t, id))
			}
		}
		for _, key := range keys {
			h.rotation(t, key, "overlap")
		}
		told += len(keys) * len(ids) // each endpoint of the project is told of each arrival
		h.await(t, fmt.Sprint(told), `SELECT count(*)::text FROM webhook_deliveries WHERE state = 'delivered' AND type = 'key.rotation.acknowledged'`)
		h.await(t, "0", sqlUnfinished)
	}
	came := func(path, name string, least int) {
		t.Helper()
		if got := m.taken(path); len(got) != 1 || got[name] < least {
			t.Errorf("at %s messages came with %v, want %d or more with %s", path, got, least, name)
		}
	}
	const keys = 12
	rotate(keys)
	for name, id := range ids {
		if outcome := h.outcome(t, id); outcome != webhook.Delivered {
			t.Errorf("a test: %s", outcome)
		}
		came("/"+name, name, 1+keys+2*keys+1) // the challenge, the secrets, what is told of all arrivals, the test
	}
	if got := len(m.of(webhook.TypeRotationCreated)); got != 2*keys {
		t.Errorf("%d new secrets came", got)
	}

	h.show(t, ids["one"], h.certificate(t, m, "another"))
	rotate(1)
	came("/one", "another", 3)
	came("/two", "two", 3)

	// Whoever shows none is not let in.
	h.show(t, ids["one"], webhook.ClientCertificate{})
	if outcome := h.outcome(t, ids["one"]); outcome != webhook.TLSError && outcome != webhook.ConnectError {
		t.Errorf("a test without a certificate: %s", outcome)
	}
	key := h.rotating(t, ids["one"])
	rotation := h.rotation(t, key, "stalled")
	if n := one[int](t, h, `SELECT count(*) FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id
		WHERE d.rotation_id = $1 AND d.type = 'key.rotation.created' AND a.outcome IN ('tls_error', 'connect_error')`, rotation); n != fewTries {
		t.Errorf("%d attempts were refused, want all %d", n, fewTries)
	}
	if status := h.valid(t, key.Secret.Reveal()); status != domain.StatusActive {
		t.Errorf("the old key is %s", status)
	}
	if got := m.taken("/one"); got != nil {
		t.Errorf("without a certificate %v came", got)
	}
}

// F-33: a certificate that is broken, lost, another endpoint's or past its time fails the attempt, under a code of its own;
// nothing goes without it to a receiver that would take it so. The old key keeps working, and a certificate mends it.
func TestF33BrokenCertificatesFailClosed(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	h := newHooks(t, soonGivenUp, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	m := newMutual(t, h.receiver, func(s *httptest.Server) { s.TLS.ClientAuth = tls.VerifyClientCertIfGiven })
	certificate := h.certificate(t, m, "one")
	id := h.certified(t, m, "one", certificate)
	other := h.certified(t, m, "two", h.certificate(t, m, "two"))
	const lost = `DELETE FROM endpoint_certificates WHERE endpoint_id = $1`
	for what, sql := range map[string]string{
		"broken":             `UPDATE endpoint_certificates SET sealed = 'broken' WHERE endpoint_id = $1`,
		"lost":               lost,
		"another endpoint's": `UPDATE endpoint_certificates SET sealed = (SELECT sealed FROM endpoint_certificates WHERE endpoint_id = '` + string(other) + `') WHERE endpoint_id = $1`,
		"another chain's":    `UPDATE endpoint_certificates SET digest = 'ff' WHERE endpoint_id = $1`,
	} {
		m.taken("/one")
		if _, err := h.owner.Exec(t.Context(), sql, id); err != nil {
			t.Fatal(err)
		}
		if outcome := h.outcome(t, id); outcome != webhook.BadCertificate {
			t.Errorf("%s: a test ends as %s", what, outcome)
		}
		if probe, err := h.service.VerifyEndpoint(t.Context(), h.tenant, id); err != nil || probe.Outcome != webhook.BadCertificate {
			t.Errorf("%s: a challenge ends as %s, %v", what, probe.Outcome, err)
		}
		if sql == lost {
			h.wantStalled(t, id)
		}
		if got := m.taken("/one"); got != nil {
			t.Errorf("%s: %v came", what, got)
		}
		h.show(t, id, certificate) // the same one mends it
		if outcome := h.outcome(t, id); outcome != webhook.Delivered || m.taken("/one")["one"] == 0 {
			t.Errorf("%s, and mended: %s", what, outcome)
		}
	}
	if text := log.String(); !strings.Contains(text, "client certificate") || strings.Contains(text, "PRIVATE KEY") {
		t.Errorf("the log says %.2000s", text)
	}
}

// wantStalled has a key rotate to an endpoint whose certificate is lost, and to be mended later.
func (h *hooks) wantStalled(t *testing.T, id domain.EndpointID) {
	t.Helper()
	key := h.rotating(t, id)
	rotation := h.rotation(t, key, "stalled")
	want := fmt.Sprintf("client_certificate_error %d", fewTries)
	h.await(t, want, `SELECT string_agg(DISTINCT a.outcome, ',') || ' ' || count(*) FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id
		WHERE d.rotation_id = $1 AND d.type = 'key.rotation.created'`, rotation)
	if reason := one[string](t, h, `SELECT reason FROM rotations WHERE id = $1`, rotation); reason != string(webhook.BadCertificate) {
		t.Errorf("it stalled for %q", reason)
	}
	if n := one[int](t, h, `SELECT count(*) FROM endpoint_health WHERE endpoint_id = $1 AND consecutive_failures > 0`, id); n != 0 {
		t.Error("a receiver that was not asked counts as failing")
	}
	if status := h.valid(t, key.Secret.Reveal()); status != domain.StatusActive {
		t.Errorf("the old key is %s", status)
	}
}

// What expires after it was stored fails the attempts from then on.
func TestF33ExpiredCertificateFailsClosed(t *testing.T) {
	t.Parallel()
	later := make(chan struct{})
	h := newHooks(t, soonGivenUp, func(c *Config) {
		guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
		if err != nil {
			t.Fatal(err)
		}
		sender := webhook.NewSender(webhook.SenderConfig{Guard: guard, RootCAs: receiversTLS(), Now: func() time.Time {
			select {
			case <-later:
				return time.Now().AddDate(200, 0, 0)
			default:
				return time.Now()
			}
		}})
		t.Cleanup(sender.Close)
		c.Sender = sender
	})
	m := newMutual(t, h.receiver, func(s *httptest.Server) { s.TLS.ClientAuth = tls.VerifyClientCertIfGiven })
	id := h.certified(t, m, "one", h.certificate(t, m, "one"))
	h.rotation(t, h.rotating(t, id), "overlap")
	h.await(t, "delivered", `SELECT state FROM webhook_deliveries WHERE type = 'key.rotation.acknowledged'`)
	if got := m.taken("/one"); len(got) != 1 || got["one"] == 0 {
		t.Errorf("messages came with %v", got)
	}
	close(later)
	h.wantStalled(t, id)
	if got := m.taken("/one"); got != nil {
		t.Errorf("%v came", got)
	}
}

// A certificate that is changed while an attempt begins is not used any more, and nothing goes without one: the attempt is put
// back, and the next one finds what is there then.
func TestR47CertificateChangesUnderAnAttempt(t *testing.T) {
	t.Parallel()
	h := newHooks(t, func(c *Config) {
		c.Retry = func(int, time.Duration) (time.Duration, bool) { return time.Hour, true }
	})
	m := newMutual(t, h.receiver, func(s *httptest.Server) { s.TLS.ClientAuth = tls.VerifyClientCertIfGiven })
	id := h.certified(t, m, "one", h.certificate(t, m, "one"))
	h.receiver.answers(status(http.StatusInternalServerError))
	key := h.rotating(t, id)
	h.await(t, "server_error", `SELECT last_outcome FROM webhook_deliveries`)
	h.receiver.answers(status(http.StatusNoContent))
	m.taken("/one")
	args := deliverArgs{DeliveryID: one[string](t, h, `SELECT id FROM webhook_deliveries`), Attempts: 1, EndpointID: string(id)}
	attempt := func(meanwhile func()) {
		t.Helper()
		begun, err := h.w.beginAttempt(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		meanwhile()
		if err := h.w.attempt(t.Context(), begun); err != nil {
			t.Fatal(err)
		}
	}
	for what, next := range map[string]webhook.ClientCertificate{"taken away": {}, "replaced": h.certificate(t, m, "next")} {
		h.show(t, id, h.certificate(t, m, "before"))
		attempt(func() { h.show(t, id, next) })
		if n := one[int](t, h, `SELECT d.attempts + (SELECT count(*) FROM webhook_attempts)::int FROM webhook_deliveries d WHERE state = 'pending'`); n != 2 {
			t.Errorf("%s: the attempt was not put back: %d", what, n)
		}
		if got := m.taken("/one"); got != nil {
			t.Errorf("%s: %v came", what, got)
		}
	}
	h.show(t, id, h.certificate(t, m, "last"))
	attempt(func() {})
	h.rotation(t, key, "overlap")
	if got := m.taken("/one"); len(got) != 1 || got["last"] == 0 {
		t.Errorf("it came with %v", got)
	}
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
