package workers

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// hooks is a running store and workers, and a receiver that is registered as an endpoint.
type hooks struct {
	db       *dbtest.DB
	pool     *pgxpool.Pool
	owner    *pgxpool.Pool
	store    *eventstore.Store
	reader   *projections.Reader
	verifier *projections.Verifier
	service  *commands.Service
	master   []byte
	config   Config
	w        *Workers
	tenant   commands.By
	project  domain.ProjectID
	receiver *hookReceiver
	idle     bool // the workers of this process do not run

	// Of tests that kill processes:
	kill   func()
	posted <-chan struct{} // the receiver has a message
	answer func()          // lets it answer from now on
}

// message is one attempt as the receiver saw it.
type message struct {
	id, kind string
	header   http.Header
	body     []byte
	rotation webhook.Rotation // of a key.rotation.created
	secret   webhook.KeySecret
}

// hookReceiver answers challenges by itself, and all else as it is told. It checks each signature.
type hookReceiver struct {
	t       *testing.T
	server  *httptest.Server
	private webhook.ReceiverPrivateKey

	mu      sync.Mutex
	secrets []webhook.Secret // of the endpoints that send to it
	got     []message
	answer  func(m message, w http.ResponseWriter)
}

func newHookReceiver(t *testing.T) *hookReceiver {
	t.Helper()
	private, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &hookReceiver{t: t, private: private, answer: func(message, http.ResponseWriter) {}}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *hookReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	var head struct{ Type string }
	_ = json.Unmarshal(body, &head)
	m := message{id: request.Header.Get(webhook.HeaderID), kind: head.Type, header: request.Header.Clone(), body: body}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.kind == webhook.TypeEndpointVerification {
		r.prove(w, m)
		return
	}
	if len(r.secrets) > 0 {
		if err := webhook.Verify(request.Header, body, time.Now(), r.secrets...); err != nil {
			r.t.Errorf("%s: %v", m.kind, err)
		}
	}
	if m.kind == webhook.TypeRotationCreated {
		if m.rotation, m.secret, err = webhook.ReadRotation(body); err != nil {
			r.t.Error(err)
		}
	}
	r.got = append(r.got, m)
	r.answer(m, w)
}

func (r *hookReceiver) prove(w http.ResponseWriter, m message) {
	challenge, err := webhook.ReadVerification(m.body, m.id, r.private)
	if err != nil {
		r.t.Error(err)
		return
	}
	answer, err := webhook.AnswerChallenge(r.secrets[len(r.secrets)-1], challenge)
	if err != nil {
		r.t.Error(err)
	}
	w.Header().Set(webhook.HeaderChallenge, answer)
}

// answers has all that follows answered by f.
func (r *hookReceiver) answers(f func(m message, w http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// of lists what came of a type.
func (r *hookReceiver) of(kind string) []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []message
	for _, m := range r.got {
		if m.kind == kind {
			out = append(out, m)
		}
	}
	return out
}

// status answers with a status.
func status(code int) func(message, http.ResponseWriter) {
	return func(_ message, w http.ResponseWriter) { w.WriteHeader(code) }
}

// newHooks runs everything but the relay; change alters the workers' configuration.
func newHooks(t *testing.T, change ...func(*Config)) *hooks {
	t.Helper()
	return newHooksIn(t, false, change...)
}

func newHooksIn(t *testing.T, idle bool, change ...func(*Config)) *hooks {
	t.Helper()
	db := dbtest.New(t)
	h := &hooks{db: db, pool: db.Pool(t), owner: db.OwnerPool(t), master: seal.NewKey(), receiver: newHookReceiver(t), idle: idle}
	h.build(t, change...)
	setup, err := h.service.Setup(t.Context(), domain.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	h.tenant, h.project = commands.By{Caller: setup.Key.Caller()}, setup.Key.ProjectID
	return h
}

// receiversTLS trusts receivers over TLS: package httptest gives all of them the same certificate.
var receiversTLS = sync.OnceValue(func() *x509.CertPool {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return pool
})

// build makes and runs the parts of one process on the database.
func (h *hooks) build(t *testing.T, change ...func(*Config)) {
	t.Helper()
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(h.master)
	if err != nil {
		t.Fatal(err)
	}
	h.store = eventstore.New(eventstore.Config{Pool: h.db.Pool(t), Projection: projections.ReadModel{}})
	relayTestRun(t, h.store.Run)
	h.reader = projections.NewReader(h.pool, dbtest.Tenants(t, h.pool))
	h.verifier = projections.NewVerifier(h.reader, time.Now)
	sender := webhook.NewSender(webhook.SenderConfig{Guard: guard, Version: "test", RootCAs: receiversTLS()})
	t.Cleanup(sender.Close)
	h.service = commands.New(commands.Config{
		Store: h.store, Reader: h.reader, Sealer: sealer, CheckURL: guard.CheckURL, Sender: sender, PublicURL: "http://127.0.0.1:8080",
		Limits: domain.Limits{MinRotationInterval: time.Second},
	})
	h.config = Config{
		Pool: h.pool, Store: h.store, Reader: h.reader, Commands: h.service, Sender: sender, Logger: slog.New(slog.DiscardHandler),
		BreakerPause: time.Millisecond,
		Retry:        func(attempts int, _ time.Duration) (time.Duration, bool) { return 0, attempts < webhook.MaxAttempts },
	}
	for _, f := range change {
		f(&h.config)
	}
	if h.w, err = New(h.config); err != nil {
		t.Fatal(err)
	}
	if !h.idle {
		relayTestRun(t, h.w.Run)
	}
}

// register makes the receiver an endpoint that has proven itself.
func (h *hooks) register(t *testing.T, r *hookReceiver, mode domain.SecretMode, level domain.AckLevel) domain.EndpointID {
	t.Helper()
	made, err := h.service.RegisterEndpoint(t.Context(), h.tenant, commands.RegisterEndpoint{
		ProjectID: h.project, URL: r.server.URL, SecretMode: mode, AckLevel: level, ReceiverPublicKey: r.private.Public().String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.secrets = append(r.secrets, made.Secret)
	r.mu.Unlock()
	h.verify(t, made.Endpoint.ID)
	return made.Endpoint.ID
}

func (h *hooks) verify(t *testing.T, id domain.EndpointID) {
	t.Helper()
	if probe, err := h.service.VerifyEndpoint(t.Context(), h.tenant, id); err != nil || !probe.Outcome.Delivered() {
		t.Fatalf("verify: %+v, %v", probe, err)
	}
}

// rotating makes a key that is due now and then not for a day.
func (h *hooks) rotating(t *testing.T, endpoint domain.EndpointID) commands.CreatedKey {
	t.Helper()
	created, err := h.service.CreateKey(t.Context(), h.tenant, commands.CreateKey{
		ProjectID: h.project, Name: "rotated", RotationIntervalSeconds: 24 * 60 * 60, EndpointID: endpoint,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.bringForward(t, created.Key.LineageID)
	return created
}

// bringForward makes a key due now.
func (h *hooks) bringForward(t *testing.T, lineage domain.LineageID) {
	t.Helper()
	// The decision asks the lineage itself whether it is due, so the slot is brought forward there too.
	for _, sql := range []string{
		`UPDATE due_work SET due_at = now(), scan_at = now() WHERE kind = 'rotate' AND lineage_id = $1`,
		`UPDATE streams SET state = jsonb_set(state::jsonb, '{next_rotation_at}', to_jsonb(to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))::text WHERE stream_id = $1`,
	} {
		if _, err := h.owner.Exec(t.Context(), sql, lineage); err != nil {
			t.Fatal(err)
		}
	}
}

// one returns a single value of the database.
func one[T any](t *testing.T, h *hooks, sql string, args ...any) (v T) {
	t.Helper()
	if err := h.owner.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// await waits until a question to the database has an answer.
func (h *hooks) await(t *testing.T, want, sql string, args ...any) {
	t.Helper()
	var got string
	relayTestPoll(t, func() bool {
		got = ""
		_ = h.owner.QueryRow(t.Context(), sql, args...).Scan(&got)
		return got == want
	}, func() string { return "got " + got + ", want " + want + ": " + sql })
}

// rotation waits until the rotation of a key is in a state and returns its id.
func (h *hooks) rotation(t *testing.T, key commands.CreatedKey, state string) domain.RotationID {
	t.Helper()
	h.await(t, state, `SELECT state FROM rotations WHERE from_key_id = $1 ORDER BY id DESC LIMIT 1`, key.Key.ID)
	return one[domain.RotationID](t, h, `SELECT id FROM rotations WHERE from_key_id = $1 ORDER BY id DESC LIMIT 1`, key.Key.ID)
}

// valid reports how a secret is judged.
func (h *hooks) valid(t *testing.T, secret string) domain.Status {
	t.Helper()
	verdict, err := h.verifier.Verify(t.Context(), projections.VerifyRequest{
		Reach: projections.Reach{Organization: h.tenant.Caller.OrganizationID}, Secret: secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	return verdict.Status
}

// wantOneMessage asserts that all attempts were of one message: the same id and bytes.
func wantOneMessage(t *testing.T, got []message, attempts int) {
	t.Helper()
	if len(got) != attempts {
		t.Errorf("%d attempts, want %d", len(got), attempts)
	}
	for _, m := range got {
		if m.id != got[0].id || !bytes.Equal(m.body, got[0].body) {
			t.Errorf("attempts differ: %s and %s", m.id, got[0].id)
		}
	}
}

func updateReceiverKey(id domain.EndpointID, key string) commands.UpdateEndpoint {
	return commands.UpdateEndpoint{ID: id, ReceiverPublicKey: domain.ChangeTo(key)}
}
