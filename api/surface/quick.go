package surface

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Quick answers plain requests of one route without what the others go through. It is given the request's body and appends
// the body of a 200 to out. What it does not answer, the router does: all refusals, and all that is not plain.
type Quick func(r *http.Request, body string, out []byte) ([]byte, bool)

// quickBody bounds the body of a plain request.
const quickBody = 4 << 10

// quickBuffers hold bodies while they are read and answers while they are written.
var quickBuffers = sync.Pool{New: func() any { buffer := make([]byte, 0, quickBody); return &buffer }}

// Header values that all quick answers share; nobody changes them.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
)

// quickRoute is a route that answers plain requests quickly, and what counts them.
type quickRoute struct {
	answer Quick
	count  func(took time.Duration)
}

// Quicken lets a POST route answer plain requests quickly.
func (c *Core) Quicken(path string, quick Quick) {
	c.quick[path] = quickRoute{quick, c.Counter(path, http.StatusOK)}
}

// quickly answers a request quickly, or hands it on with its body as it was.
func (c *Core) quickly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		quick, ok := c.quick[r.URL.Path]
		if !ok || !plain(r) || c.Logger.Enabled(r.Context(), slog.LevelDebug) { // who debugs wants a line of each request
			next.ServeHTTP(w, r)
			return
		}
		quick.try(w, r, next)
	})
}

func (quick quickRoute) try(w http.ResponseWriter, r *http.Request, next http.Handler) {
	began := time.Now()
	buffer := quickBuffers.Get().(*[]byte)
	defer quickBuffers.Put(buffer)
	read := (*buffer)[:r.ContentLength]
	n, err := io.ReadFull(r.Body, read)
	body := string(read[:n])
	if err == nil {
		if out, ok := quick.answer(r, body, read[:0]); ok {
			quick.write(w, r, out, began)
			return
		}
	}
	r.Body = &repeated{strings.NewReader(body), r.Body}
	next.ServeHTTP(w, r)
}

// plain reports whether a request has nothing about it that needs a closer look.
func plain(r *http.Request) bool {
	if r.Method != http.MethodPost || r.URL.RawQuery != "" || r.ContentLength <= 0 || r.ContentLength > quickBody {
		return false
	}
	h := r.Header
	kind, accept := h["Content-Type"], h["Accept"]
	return len(kind) == 1 && kind[0] == "application/json" && h["Content-Encoding"] == nil &&
		(accept == nil || len(accept) == 1 && (accept[0] == "*/*" || accept[0] == "application/json")) &&
		plainID(h)
}

func plainID(h http.Header) bool {
	id := h["X-Request-Id"]
	return id == nil || len(id) == 1 && validRequestID(id[0])
}

// write writes what the router would have: the same headers, and the same line of metrics.
func (quick quickRoute) write(w http.ResponseWriter, r *http.Request, out []byte, began time.Time) {
	h := quickHeader(w, r, began)
	h["Content-Type"] = jsonType
	_, _ = w.Write(out) // a caller that left is no fault of ours
	quick.count(time.Since(began))
}

// quickHeader sets what all answers have to a request whose id, if it has one, is well-formed.
func quickHeader(w http.ResponseWriter, r *http.Request, began time.Time) http.Header {
	h := w.Header()
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	if h["X-Request-Id"] = r.Header["X-Request-Id"]; h["X-Request-Id"] == nil {
		h["X-Request-Id"] = []string{requestIDs.New("req", began)}
	}
	return h
}

// repeated is a body of which a part was read already.
type repeated struct {
	read *strings.Reader
	rest io.ReadCloser
}

// Read reads what was read before, and then the rest.
func (b *repeated) Read(p []byte) (int, error) {
	if b.read.Len() > 0 {
		return b.read.Read(p)
	}
	return b.rest.Read(p)
}

// Close closes the rest.
func (b *repeated) Close() error { return b.rest.Close() }
