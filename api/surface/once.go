package surface

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// once is a request that carries an Idempotency-Key: it is carried out once, and its answer is given again for a day. The
// answer is kept in the transaction of the command itself (commands.Answer), so there is nothing between doing and
// remembering for a crash to fall into, and no claim that could outlive whoever made it. Two replicas that carry the same
// request out at the same time find out at the commit: one of them fails as a whole and then gives the other's answer.
type once struct {
	id          projections.AnswerID
	fingerprint [sha256.Size]byte
	status      int
	kept        bool // with the command
}

// keptAnswer is what is sealed. The fingerprint lies inside too: a digest of a body may betray what was in it.
type keptAnswer struct {
	Fingerprint []byte            `json:"fingerprint"`
	Status      int               `json:"status"`
	Headers     map[string]string `json:"headers,omitempty"`
	Body        []byte            `json:"body"`
}

const (
	maxIdempotencyKey = 255
	// onceWait is how long a retry waits for the request that is under way on this replica.
	onceWait = 10 * time.Second
)

// Repeatable marks a POST that changes nothing: it is simply carried out again. To give an old verdict again would break
// the promise that revoked means revoked.
func Repeatable(operation *huma.Operation) {
	operation.Metadata = map[string]any{repeatable: true}
}

const repeatable = "repeatable"

// idempotent gives routes that create something their idempotency.
func (s *Surface) idempotent(operation *huma.Operation) {
	if operation.Method != http.MethodPost || operation.Metadata[repeatable] == true {
		return
	}
	operation.Middlewares = append(operation.Middlewares, s.once)
	operation.Parameters = append(operation.Parameters, &huma.Param{
		Name: "Idempotency-Key", In: "header", Example: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		Description: "Makes a retry safe: for 24 hours the same caller gets the same answer, with the same secret, for the same key. " +
			"Another request under a used key is refused with 422, and one that is still being carried out with 409",
		Schema: &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(maxIdempotencyKey)},
	})
}

func ptr[T any](v T) *T { return &v }

// once lets a request with an Idempotency-Key through only if it has no answer yet.
func (s *Surface) once(ctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(ctx)
	key, given, err := idempotencyKey(r.Header)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if !given {
		next(ctx)
		return
	}
	ctx = withBody(ctx)
	o := &once{status: successOf(ctx.Operation()), fingerprint: fingerprint(r, ctx.BodyReader())}
	o.id = answerID(Caller(r.Context()).LineageID, key)
	done, err := s.running.begin(r.Context(), o.id)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	defer done()
	found, err := s.answered(r.Context(), o)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	if found != nil {
		found.write(w)
		return
	}
	info(r.Context()).once = o
	next(ctx)
}

// idempotencyKey reads the header: a string of RFC 8941, in quotes, or the bare text that most clients send.
func idempotencyKey(header http.Header) (key string, given bool, err error) {
	values := header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", false, nil
	}
	key = values[0]
	if inner, ok := strings.CutPrefix(key, `"`); ok && strings.HasSuffix(inner, `"`) {
		key = strings.TrimSuffix(inner, `"`)
	}
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || strings.ContainsFunc(key, bad) {
		refusal := domain.InvalidField("Idempotency-Key", "is not a key", "send one of 1 to 255 visible characters without quotes, such as a UUID")
		refusal.Code = domain.CodeInvalidRequest
		return "", false, refusal
	}
	return key, true, nil
}

// answerID is a digest, so that neither who asked nor with which key can be read from the database.
func answerID(caller domain.LineageID, key string) projections.AnswerID {
	return sha256.Sum256([]byte("idempotency\x00" + string(caller) + "\x00" + key))
}

// fingerprint tells one request from another.
func fingerprint(r *http.Request, body io.Reader) [sha256.Size]byte {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00", r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	_, _ = io.Copy(sum, body)
	return [sha256.Size]byte(sum.Sum(nil))
}

func successOf(operation *huma.Operation) int {
	if operation.DefaultStatus != 0 {
		return operation.DefaultStatus
	}
	return http.StatusOK
}

// humaContext is embedded under another name, since Context is one of its methods.
type humaContext huma.Context

// bodied is a request whose body was read ahead.
type bodied struct {
	humaContext
	body []byte
	rest io.Reader // what lies beyond the limit, or the error of reading, for huma to find
}

// BodyReader begins anew each time.
func (b *bodied) BodyReader() io.Reader { return io.MultiReader(bytes.NewReader(b.body), b.rest) }

// Unwrap leads to the request.
func (b *bodied) Unwrap() huma.Context { return b.humaContext }

// withBody reads the body ahead, within the route's limits.
func withBody(ctx huma.Context) *bodied {
	operation := ctx.Operation()
	_ = ctx.SetReadDeadline(time.Now().Add(operation.BodyReadTimeout))
	body, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), operation.MaxBodyBytes+1))
	_ = ctx.SetReadDeadline(time.Time{})
	rest := io.Reader(bytes.NewReader(nil))
	if err != nil {
		rest = failing{err}
	}
	return &bodied{humaContext: ctx, body: body, rest: rest}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// answered returns the answer that was kept for a request, if there is one. Another request's is refused.
func (s *Surface) answered(ctx context.Context, o *once) (*replay, error) {
	raw, err := s.Commands.KeptAnswer(ctx, o.id)
	if err != nil || raw == nil {
		return nil, err
	}
	var kept keptAnswer
	if err := json.Unmarshal(raw, &kept); err != nil {
		return nil, fmt.Errorf("read a kept answer: %w", err)
	}
	if !bytes.Equal(kept.Fingerprint, o.fingerprint[:]) {
		return nil, domain.Refuse(domain.CodeAnswerDiffers,
			"this Idempotency-Key was used for another request; use a new one for each request, and the same one only to repeat it")
	}
	return &replay{kept}, nil
}

// Keeping says who asks, and has what show makes of the command's outcome kept as the answer if the request wants that.
func Keeping[R, O any](ctx context.Context, show func(R) *O) commands.By {
	by := By(ctx)
	if o := info(ctx).once; o != nil {
		by.Answer = &commands.Answer{ID: o.id, Show: func(outcome any) ([]byte, error) {
			result, ok := outcome.(R)
			if !ok {
				return nil, fmt.Errorf("keep an answer: the outcome is a %T", outcome)
			}
			o.kept = true
			return o.encode(show(result))
		}}
	}
	return by
}

// encode writes an output of a handler as it will be answered: its body, and its fields that are headers.
func (o *once) encode(output any) ([]byte, error) {
	kept := keptAnswer{Fingerprint: o.fingerprint[:], Status: o.status, Headers: map[string]string{}}
	value := reflect.ValueOf(output).Elem()
	for i := range value.NumField() {
		field := value.Type().Field(i)
		if name := field.Tag.Get("header"); name != "" && !value.Field(i).IsZero() {
			kept.Headers[name] = fmt.Sprint(value.Field(i).Interface())
		}
		if field.Name == "Body" {
			var body bytes.Buffer
			if err := EncodeJSON(&body, value.Field(i).Interface()); err != nil {
				return nil, fmt.Errorf("keep an answer: %w", err)
			}
			kept.Body = body.Bytes()
		}
	}
	return json.Marshal(kept)
}

// finish keeps the answer of a request whose command did not keep it itself: one of several commands, or of none.
func (s *Surface) finish(ctx context.Context, output any) {
	o := info(ctx).once
	if o == nil || o.kept {
		return
	}
	raw, err := o.encode(output)
	if err == nil {
		err = s.Commands.KeepAnswer(ctx, o.id, raw)
	}
	if err != nil { // it is done and will be answered; only a retry would do it again, which such a request allows
		s.Logger.Warn("an answer could not be kept", "request_id", requestID(ctx), "error", err)
	}
}

// lost gives the answer of the replica that carried the same request out a moment earlier.
func (s *Surface) lost(ctx context.Context, err error) error {
	o := info(ctx).once
	if o == nil || domain.CodeOf(err) != domain.CodeAnswerInUse {
		return err
	}
	found, readErr := s.answered(ctx, o)
	if readErr != nil || found == nil {
		return errors.Join(err, readErr)
	}
	return found
}

// replay is an answer that is given again. It is an error to huma, which lets it have any status and body.
type replay struct{ kept keptAnswer }

var (
	_ huma.StatusError       = (*replay)(nil)
	_ huma.HeadersError      = (*replay)(nil)
	_ huma.ContentTypeFilter = (*replay)(nil)
)

func (p *replay) Error() string             { return "answered before" }
func (p *replay) GetStatus() int            { return p.kept.Status }
func (p *replay) ContentType(string) string { return "application/json" }

func (p *replay) GetHeaders() http.Header {
	headers := http.Header{"Idempotent-Replayed": {"true"}}
	for name, value := range p.kept.Headers {
		headers.Set(name, value)
	}
	return headers
}

func (p *replay) write(w http.ResponseWriter) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.kept.Status)
	_, _ = w.Write(p.kept.Body) // the caller may be gone
}

// running are the requests with an Idempotency-Key that this replica carries out now. A retry waits for its original, so
// that a storm of them costs one command.
type running struct {
	mu  sync.Mutex
	ids map[projections.AnswerID]chan struct{}
}

// begin waits for its turn, and returns how to end it.
func (r *running) begin(ctx context.Context, id projections.AnswerID) (done func(), err error) {
	patience, cancel := context.WithTimeout(ctx, onceWait)
	defer cancel()
	for {
		r.mu.Lock()
		other, busy := r.ids[id]
		if !busy {
			mine := make(chan struct{})
			if r.ids == nil {
				r.ids = map[projections.AnswerID]chan struct{}{}
			}
			r.ids[id] = mine
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.ids, id)
				r.mu.Unlock()
				close(mine)
			}, nil
		}
		r.mu.Unlock()
		select {
		case <-other:
		case <-patience.Done():
			return nil, domain.Refuse(domain.CodeAnswerInUse, "a request with this Idempotency-Key is still being carried out; try again for its answer")
		}
	}
}
