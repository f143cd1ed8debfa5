package workers

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// Manners of a receiver.
const (
	proves  = "proves"  // answers 2xx with the proof
	accepts = "accepts" // answers 2xx without it
	lies    = "lies"    // answers 2xx with the proof of something else
	fails   = "fails"   // 500
	gone    = "gone"    // 410
	busy    = "busy"    // 429, come back in a day
	hangs   = "hangs"   // answers once it is let go, if anybody is still there then
	cuts    = "cuts"    // takes the message, and its answer is lost
	refuses = "refuses" // takes nothing
)

var manners = []string{proves, proves, accepts, lies, fails, gone, busy, hangs, cuts, refuses}

// modelReceiver is a receiver of webhooks, and what it knows.
type modelReceiver struct {
	m        *model
	endpoint domain.EndpointID
	server   *httptest.Server

	mu       sync.Mutex
	manner   string
	letGo    chan struct{}
	hanging  int
	signing  []webhook.Secret
	private  []webhook.ReceiverPrivateKey // newest last
	signs    map[string]domain.AckLevel   // by rotation: the strongest sign that it has given
	secrets  map[string]string            // by rotation
	tokens   map[string]string            // by rotation: of claims
	problems []string
}

func newModelReceiver(t testing.TB, m *model) *modelReceiver {
	r := &modelReceiver{m: m}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

// reset lets it know nothing, as before the first sequence.
func (r *modelReceiver) reset(t fataler) {
	private, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatalf("make a receiver key: %v", err)
	}
	r.behave(proves)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoint, r.signing, r.private = "", nil, []webhook.ReceiverPrivateKey{private}
	r.signs, r.secrets, r.tokens = map[string]domain.AckLevel{}, map[string]string{}, map[string]string{}
}

// behave gives it another manner. Whoever hangs is let go.
func (r *modelReceiver) behave(manner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.letGo != nil {
		close(r.letGo)
	}
	r.manner, r.letGo = manner, make(chan struct{})
}

func (r *modelReceiver) hang() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hanging
}

func (r *modelReceiver) publicKey() string {
	return r.private[len(r.private)-1].Public().String()
}

func (r *modelReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manner == refuses {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	if len(r.signing) > 0 { // a key's own address may be sent something before the test knows the signing secret
		if err := webhook.Verify(request.Header, body, r.m.clock.Now(), r.signing...); err != nil {
			r.problem("verify a message: " + err.Error())
		}
	}
	if r.manner == hangs {
		letGo := r.letGo
		r.hanging++
		r.mu.Unlock()
		select {
		case <-letGo:
		case <-request.Context().Done():
		}
		r.mu.Lock()
		r.hanging--
	}
	var head struct{ Type string }
	_ = json.Unmarshal(body, &head)
	m := message{id: request.Header.Get(webhook.HeaderID), kind: head.Type, header: request.Header, body: body}
	if head.Type == webhook.TypeEndpointVerification {
		r.challenged(w, m)
		return
	}
	var secret string
	if head.Type == webhook.TypeRotationCreated {
		if m.rotation, m.secret, err = webhook.ReadRotation(body); err != nil {
			r.problem("read a rotation: " + err.Error())
			return
		}
		secret = r.take(m)
	}
	r.reply(w, m, secret)
}

// take keeps what a message brings.
func (r *modelReceiver) take(m message) string {
	if address, _, ok := m.secret.Claim(); ok {
		r.tokens[m.rotation.RotationID] = address[strings.LastIndex(address, "/")+1:]
		return ""
	}
	secret, err := m.secret.Open(m.rotation, m.id, r.private...)
	if err != nil {
		r.problem("open a secret: " + err.Error())
		return ""
	}
	if before, ok := r.secrets[m.rotation.RotationID]; ok && before != secret {
		r.problem("two secrets of one rotation")
	}
	r.secrets[m.rotation.RotationID] = secret
	return secret
}

// reply answers as the manner is now. A sign that may have been seen counts as given.
func (r *modelReceiver) reply(w http.ResponseWriter, m message, secret string) {
	rotation := m.rotation.RotationID
	switch r.manner {
	case fails:
		w.WriteHeader(http.StatusInternalServerError)
	case gone:
		w.WriteHeader(http.StatusGone)
	case busy:
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(http.StatusTooManyRequests)
	case cuts:
		panic(http.ErrAbortHandler)
	case lies:
		w.Header().Set(webhook.HeaderAck, webhook.Proof("another", "rot_x", m.id))
		r.sign(rotation, domain.AckAccepted)
	case proves:
		if secret == "" {
			r.sign(rotation, domain.AckAccepted)
			return
		}
		w.Header().Set(webhook.HeaderAck, webhook.Proof(secret, rotation, m.id))
		r.sign(rotation, domain.AckProof)
	default:
		r.sign(rotation, domain.AckAccepted)
	}
}

func (r *modelReceiver) sign(rotation string, level domain.AckLevel) {
	if had, ok := r.signs[rotation]; !ok || level.Meets(had) {
		r.signs[rotation] = level
	}
}

// challenged answers a challenge whenever it answers well at all.
func (r *modelReceiver) challenged(w http.ResponseWriter, m message) {
	if r.manner != proves && r.manner != accepts {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	challenge, err := webhook.ReadVerification(m.body, m.id, r.private...)
	if err != nil {
		r.problem("read a challenge: " + err.Error())
		return
	}
	answer, err := webhook.AnswerChallenge(r.signing[len(r.signing)-1], challenge)
	if err != nil {
		r.problem("answer a challenge: " + err.Error())
	}
	w.Header().Set(webhook.HeaderChallenge, answer)
}

// problem is reported by the next look at the truth: a handler must not touch rapid's test.
func (r *modelReceiver) problem(text string) { r.problems = append(r.problems, text) }
