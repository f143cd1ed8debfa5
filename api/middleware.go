package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// requestInfo is what one request's log line is made of. It is filled in on the way.
type requestInfo struct {
	id     string
	caller *projections.Key
	code   domain.Code
	err    error // only for faults of ours
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
func observe(logger *slog.Logger, ids domain.IDs, now func() time.Time, count func(route string, status int, took time.Duration)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			i := &requestInfo{id: r.Header.Get("X-Request-Id")}
			if !validRequestID(i.id) {
				i.id = ids.New("req", now())
			}
			w.Header().Set("X-Request-Id", i.id)
			w.Header().Set("Cache-Control", "no-store") // answers are about secrets, or show who may use them
			w.Header().Set("X-Content-Type-Options", "nosniff")
			r = r.WithContext(context.WithValue(r.Context(), infoKey{}, i))
			recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			defer func() {
				route := chi.RouteContext(r.Context()).RoutePattern()
				count(route, recorder.Status(), time.Since(began))
				logRequest(logger, r, i, recorder.Status(), time.Since(began))
			}()
			next.ServeHTTP(recorder, r)
		})
	}
}

func logRequest(logger *slog.Logger, r *http.Request, i *requestInfo, status int, took time.Duration) {
	level := slog.LevelDebug
	if i.err != nil || status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	if !logger.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", i.id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", status), slog.Duration("took", took),
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

// validRequestID accepts a caller's own id if it is short and plain: it ends up in the log and in events.
func validRequestID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// recoverPanics turns a panic into a 500 whose cause is in the log only.
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
			writeProblem(w, r, fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
		}()
		next.ServeHTTP(w, r)
	})
}

// bearer returns the key of a request: RFC 6750, with the scheme in any case.
func bearer(header string) (key string, presented bool) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", header != ""
	}
	key = strings.TrimSpace(rest)
	return key, key != ""
}

// authenticate returns the caller's key. Missing, malformed, unknown, expired and revoked all get the same answer.
func (s *server) authenticate(r *http.Request) (*projections.Key, error) {
	refused := domain.Refuse(domain.CodeUnauthenticated, "send a valid key as `Authorization: Bearer <key>`")
	secret, presented := bearer(r.Header.Get("Authorization"))
	if presented {
		refused.With("presented", true) // taken out again by the challenge
	}
	if secret == "" {
		return nil, refused
	}
	key, err := s.cfg.Verifier.Authenticate(r.Context(), secret)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, refused
	}
	s.cfg.Commands.FirstUse(key)
	info(r.Context()).caller = key
	return key, nil
}
