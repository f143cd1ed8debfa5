package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxReceivedBody  = 1 << 20
	receiveTimeout   = 15 * time.Second
	defaultRemembers = 10_000
)

// Received is a message whose signature was checked.
type Received struct {
	// ID is the same for every repetition of the message.
	ID string
	// SentAt is when this attempt was signed.
	SentAt time.Time
	Body   []byte
	// SignedBy is the secret that signed it; the zero Secret if only a public key shows that.
	SignedBy Secret
}

// ReceiverConfig makes a Receiver.
type ReceiverConfig struct {
	// Handle gets each message once. After an error the sender is asked to send it again. Required.
	Handle func(ctx context.Context, message Received) error
	// Answer gives headers for the answer 204, such as a proof. It is asked for repetitions too: the first answer may have
	// been lost. Nil gives none.
	Answer func(message Received) http.Header
	// Now is compared with the time of the signature. Nil means time.Now.
	Now func() time.Time
	// Remembers is how many ids of handled messages are kept in memory; 10,000 when zero.
	Remembers int
}

// Receiver is the other end: an http.Handler that hands on the messages that are signed by one of its secrets, each
// once. It remembers ids in memory: a receiver that must not act twice across a restart stores the id beside what it
// does in Handle.
//
// It answers 204 when the message was handled (now or before), 401 when no secret fits, 405, 413 above 1 MiB, 500 when
// Handle failed, and 503 while the same message is being handled.
type Receiver struct {
	handle    func(context.Context, Received) error
	answer    func(Received) http.Header
	now       func() time.Time
	remembers int
	timeout   time.Duration

	mu      sync.Mutex
	secrets []Secret
	public  []PublicKey
	// handled has an entry for each id at work (false) or done (true); order has the done ones, oldest first.
	handled map[string]bool
	order   []string
}

var _ http.Handler = (*Receiver)(nil)

// NewReceiver makes a Receiver without secrets, which refuses every message until it has one.
func NewReceiver(cfg ReceiverConfig) *Receiver {
	r := &Receiver{
		handle: cfg.Handle, answer: cfg.Answer, now: cfg.Now, remembers: cfg.Remembers, timeout: receiveTimeout, handled: make(map[string]bool),
	}
	if r.answer == nil {
		r.answer = func(Received) http.Header { return nil }
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.remembers <= 0 {
		r.remembers = defaultRemembers
	}
	return r
}

// AddSecret lets messages through that are signed with secret, from now on.
func (r *Receiver) AddSecret(secret Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A new slice: the old one may be in use without the lock.
	r.secrets = append(append([]Secret(nil), r.secrets...), secret)
}

// AddPublicKey lets messages through that are signed by the private half of key, from now on.
func (r *Receiver) AddPublicKey(key PublicKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.public = append(append([]PublicKey(nil), r.public...), key)
}

// ServeHTTP takes one message.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "webhooks are sent by POST", http.StatusMethodNotAllowed)
		return
	}
	body, status := r.readBody(w, request)
	if status != 0 {
		http.Error(w, http.StatusText(status), status)
		return
	}
	signer, err := r.verify(request.Header, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	at, _ := parseTimestamp(request.Header.Get(HeaderTimestamp)) // it was parsed to be verified
	r.once(w, request, Received{ID: request.Header.Get(HeaderID), SentAt: at.UTC(), Body: body, SignedBy: signer})
}

// verify says who signed. Secrets come first, since a proof can only be made with one of them.
func (r *Receiver) verify(h http.Header, body []byte) (Secret, error) {
	secrets, public := r.keys()
	now := r.now()
	for _, secret := range secrets {
		if err := Verify(h, body, now, secret); err == nil {
			return secret, nil
		}
	}
	return Secret{}, verify(h, body, now, secrets, public)
}

// readBody gives the body, or the status to refuse it with.
func (r *Receiver) readBody(w http.ResponseWriter, request *http.Request) ([]byte, int) {
	// A server without timeouts of its own would wait for ever. Where the writer has no deadlines (httptest), there is
	// no connection to wait for either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(r.timeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, maxReceivedBody))
	if err == nil {
		return body, 0
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, http.StatusRequestEntityTooLarge
	}
	return nil, http.StatusBadRequest
}

// once hands the message on unless that was done before or is being done.
func (r *Receiver) once(w http.ResponseWriter, request *http.Request, message Received) {
	done, working := r.begin(message.ID)
	switch {
	case done:
		r.accept(w, message)
		return
	case working:
		// Saying 204 now would lose the message if Handle fails.
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this message is being handled", http.StatusServiceUnavailable)
		return
	}
	succeeded := false
	defer func() { r.end(message.ID, succeeded) }() // also when Handle panics
	if err := r.handle(request.Context(), message); err != nil {
		http.Error(w, "the message could not be handled", http.StatusInternalServerError)
		return
	}
	succeeded = true
	r.accept(w, message)
}

func (r *Receiver) accept(w http.ResponseWriter, message Received) {
	for name, values := range r.answer(message) {
		w.Header()[name] = values
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *Receiver) begin(id string) (done, working bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	finished, known := r.handled[id]
	if !known {
		r.handled[id] = false
	}
	return finished, known && !finished
}

func (r *Receiver) end(id string, succeeded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !succeeded {
		delete(r.handled, id)
		return
	}
	r.handled[id] = true
	r.order = append(r.order, id)
	if len(r.order) > r.remembers {
		delete(r.handled, r.order[0])
		r.order = r.order[1:]
	}
}

func (r *Receiver) keys() ([]Secret, []PublicKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.secrets, r.public
}
