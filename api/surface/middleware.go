package surface

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// requestInfo is what one request's log line is made of. It is filled in on the way.
type requestInfo struct {
	id          string
	surface     *Surface // whose form the answer has
	caller      *projections.Key
	once        *once // the request carries an Idempotency-Key
	conditional bool  // it carries an If-Match
	code        domain.Code
	err         error // only for faults of ours
}

type infoKey struct{}

func info(ctx context.Context) *requestInfo {
	if i, ok := ctx.Value(infoKey{}).(*requestInfo); ok {
		return i
	}
	return &requestInfo{}
}

func requestID(ctx context.Context) string { return info(ctx).id }

// noteError keeps what the log line says of a refusal. The cause is kept only of faults: refusals are the caller's.
func noteError(ctx context.Context, code domain.Code, err error) {
	i := info(ctx)
	i.code = code
	if status[code].status >= http.StatusInternalServerError {
		i.err = err
	}
}

// observe gives each request an id and writes one line when it is done.
func (c *Core) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		i := &requestInfo{id: r.Header.Get("X-Request-Id"), surface: c.surfaceOf(r.URL.Path)}
		if !validRequestID(i.id) {
			i.id = requestIDs.New("req", c.Now())
		}
		w.Header().Set("X-Request-Id", i.id)
		w.Header().Set("Cache-Control", "no-store") // answers are about secrets, or show who may use them
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r = r.WithContext(context.WithValue(r.Context(), infoKey{}, i))
		recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			c.Counter(routeOf(r), recorder.Status())(time.Since(began))
			logRequest(c.Logger, r, i, recorder.Status(), time.Since(began))
		}()
		next.ServeHTTP(recorder, r)
	})
}

// logRequest names the route and well-formed ids of ours, never the path or the query: a secret may have slipped into them.
func logRequest(logger *slog.Logger, r *http.Request, i *requestInfo, status int, took time.Duration) {
	level := slog.LevelDebug
	gone := r.Context().Err() != nil // a caller that left is no fault of ours, whatever it was answered
	if (i.err != nil || status >= http.StatusInternalServerError) && !gone {
		level = slog.LevelError
	}
	if !logger.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", i.id), slog.String("method", knownMethod(r.Method)), slog.String("route", routeOf(r)),
		slog.Int("status", status), slog.Duration("took", took),
	}
	if id := chi.URLParam(r, "id"); wellFormedID(id) {
		attrs = append(attrs, slog.String("id", id))
	}
	if i.caller != nil {
		attrs = append(attrs, slog.String("actor", string(i.caller.ID)))
	}
	if i.code != "" {
		attrs = append(attrs, slog.String("code", string(i.code)))
	}
	if i.err != nil {
		attrs = append(attrs, slog.Any("error", i.err))
	}
	logger.LogAttrs(r.Context(), level, "request", attrs...)
}

// knownMethod returns a method that may be repeated; any other is the caller's own text.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return method
	}
	return "another method"
}

// routeOf is the pattern that the request matched; empty if none did.
func routeOf(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil {
		return c.RoutePattern()
	}
	return ""
}

// wellFormedID reports whether a path's id is one of ours, and so no secret.
func wellFormedID(id string) bool {
	return slices.ContainsFunc([]string{
		domain.PrefixKey, domain.PrefixOrganization, domain.PrefixProject, domain.PrefixEnvironment,
	}, func(prefix string) bool { return domain.ValidID(prefix, id) })
}

// recoverPanics turns a panic into a 500 whose cause is in the log only. Where the answer has begun already, the
// connection is cut: the caller must not take the part for the whole.
func recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			err := fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
			if begun, ok := w.(middleware.WrapResponseWriter); ok && begun.Status() != 0 {
				noteError(r.Context(), domain.CodeInternal, err)
				panic(http.ErrAbortHandler)
			}
			WriteError(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}
