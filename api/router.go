package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// Verifier judges secrets. The one in projections reads Postgres.
type Verifier interface {
	Verify(ctx context.Context, request projections.VerifyRequest) (projections.Verdict, error)
	Authenticate(ctx context.Context, secret string) (*projections.Key, error)
}

// Config says what the surface works with. All fields without "nil means" are required.
type Config struct {
	Commands *commands.Service
	Reader   *projections.Reader
	Verifier Verifier
	// Tail waits until the log may have moved past a position and returns its head, for streams of events.
	Tail func(ctx context.Context, after int64) (head int64, err error)
	// Ready names what keeps this replica from serving; nil means nothing can.
	Ready   func(ctx context.Context) error
	Logger  *slog.Logger
	Version string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Count, if not nil, is told of every request.
	Count func(route string, status int, took time.Duration)

	// heartbeat is how often a quiet stream shows life and its caller's key is looked at again; 0 means 10 s.
	heartbeat time.Duration
}

// MaxBodyBytes bounds the body of a request; it must arrive within bodyTimeout.
const (
	MaxBodyBytes = 64 << 10
	bodyTimeout  = 5 * time.Second
)

type server struct {
	cfg  Config
	huma huma.API
}

// useProblems makes huma answer with our problem documents; huma keeps that choice in package variables.
var useProblems = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true // two spellings of one field would be two values for it
	huma.NewErrorWithContext = fromHuma
	huma.NewError = func(code int, message string, errs ...error) huma.StatusError {
		return fromHuma(nil, code, message, errs...)
	}
})

// New returns the whole surface as one handler.
func New(cfg Config) http.Handler {
	useProblems()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) error { return nil }
	}
	if cfg.Count == nil {
		cfg.Count = func(string, int, time.Duration) {}
	}
	if cfg.heartbeat == 0 {
		cfg.heartbeat = 10 * time.Second
	}
	router := chi.NewMux()
	router.Use(observe(cfg.Logger, domain.IDs{}, cfg.Now, cfg.Count), recoverPanics, middleware.GetHead)
	router.NotFound(func(w http.ResponseWriter, r *http.Request) { writeProblem(w, r, domain.NotFound("route")) })
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) { otherMethod(router, w, r) })
	s := &server{cfg: cfg, huma: humachi.New(router, humaConfig(cfg.Version))}
	s.routes()
	router.Get("/openapi.json", serveDocument(s.huma.OpenAPI()))
	return router
}

// otherMethod answers a method that a path does not have: with those it has.
func otherMethod(routes chi.Routes, w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
		}
		if method == http.MethodGet && len(allowed) == 1 {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if len(allowed) == 0 {
		writeProblem(w, r, domain.NotFound("route"))
		return
	}
	w.Header().Set("Allow", strings.Join(append(allowed, http.MethodOptions), ", "))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeProblem(w, r, domain.Refuse(domain.CodeMethodNotAllowed, "%s is not possible here; the Allow header lists what is", knownMethod(r.Method)))
}

// routes is the whole surface.
func (s *server) routes() {
	open(s, "GET", "/healthz", "health", "Whether the process runs", s.health)
	open(s, "GET", "/readyz", "ready", "Whether this replica can serve", s.ready)

	route(s, "GET", "/v1/api-keys", "list-api-keys", "List the keys of a project", domain.ScopeKeysRead, s.listKeys)
	route(s, "POST", "/v1/api-keys", "create-api-key", "Create a key", domain.ScopeKeysWrite, s.createKey, creates)
	route(s, "GET", "/v1/api-keys/{id}", "get-api-key", "Get a key", domain.ScopeKeysRead, s.getKey)
	route(s, "PATCH", "/v1/api-keys/{id}", "update-api-key", "Change a key's settings", domain.ScopeKeysWrite, s.updateKey)
	route(s, "DELETE", "/v1/api-keys/{id}", "revoke-api-key", "Revoke a key", domain.ScopeKeysDelete, s.revokeKey)
	route(s, "POST", "/v1/api-keys/{id}/rotate", "rotate-api-key", "Rotate a key", domain.ScopeKeysWrite, s.rotateKey)
	route(s, "GET", "/v1/api-keys/{id}/events", "list-api-key-events", "The history of a key's lineage", domain.ScopeKeysRead, s.keyEvents)
	route(s, "POST", "/v1/api-keys/verify", "verify-api-key", "Verify a secret", domain.ScopeKeysVerify, s.verify)
	// The presented key proves the right to its own successor; it needs no scope.
	route(s, "POST", "/v1/api-keys/{id}/successor", "claim-successor", "Fetch the successor of the presented key, once", anyScope, s.claimSuccessor)

	route(s, "GET", "/v1/organizations", "list-organizations", "List organizations", domain.ScopeProjectsRead, s.listOrganizations)
	route(s, "POST", "/v1/organizations", "create-organization", "Create an organization with a first key", domain.ScopeProjectsEdit, s.createOrganization, creates)
	route(s, "GET", "/v1/organizations/{id}", "get-organization", "Get an organization", domain.ScopeProjectsRead, s.getOrganization)
	route(s, "GET", "/v1/projects", "list-projects", "List projects", domain.ScopeProjectsRead, s.listProjects)
	route(s, "POST", "/v1/projects", "create-project", "Create a project", domain.ScopeProjectsEdit, s.createProject, creates)
	route(s, "GET", "/v1/projects/{id}", "get-project", "Get a project", domain.ScopeProjectsRead, s.getProject)
	route(s, "GET", "/v1/environments", "list-environments", "List environments", domain.ScopeProjectsRead, s.listEnvironments)
	route(s, "POST", "/v1/environments", "create-environment", "Create an environment", domain.ScopeProjectsEdit, s.createEnvironment, creates)
	route(s, "GET", "/v1/environments/{id}", "get-environment", "Get an environment", domain.ScopeProjectsRead, s.getEnvironment)

	route(s, "GET", "/v1/events", "list-events", "The audit feed of the organization", domain.ScopeEventsRead, s.listEvents, s.streams)
}

// humaConfig is huma without what it would serve by itself.
func humaConfig(version string) huma.Config {
	config := huma.DefaultConfig("rekey", version)
	config.Info.Description = "Issues, verifies, scopes, rotates and revokes API keys."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearerAuth": {Type: "http", Scheme: "bearer", Description: "A rekey key that holds the route's scope"},
	}
	config.Formats = map[string]huma.Format{
		"application/json": {Marshal: encodeJSON, Unmarshal: decodeJSON},
		"json":             {Marshal: encodeJSON, Unmarshal: decodeJSON},
	}
	return config
}

// anyScope marks a route that every valid key may call.
const anyScope = "-"

// open registers a route that needs no key.
func open[I, O any](s *server, method, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	register(s, huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Errors: []int{500, 503}}, handler)
}

// route registers a route that needs a key with a scope.
func route[I, O any](s *server, method, path, id, summary, scope string, handler func(context.Context, *I) (*O, error),
	options ...func(*huma.Operation),
) {
	if scope == "" {
		panic("api: route " + method + " " + path + " names no scope")
	}
	operation := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		Security: []map[string][]string{{"bearerAuth": {}}}, Middlewares: huma.Middlewares{s.requires(scope)},
		Errors: []int{401, 403, 404, 422, 500, 503},
	}
	if method != http.MethodGet { // it has a body, and changes something
		operation.Errors = append(operation.Errors, 400, 409, 413, 415)
	}
	if scope != anyScope {
		operation.Description = "Needs the scope `" + scope + "`."
	}
	for _, option := range options {
		option(&operation)
	}
	register(s, operation, handler)
}

// creates marks a route that answers 201.
func creates(operation *huma.Operation) { operation.DefaultStatus = http.StatusCreated }

func register[I, O any](s *server, operation huma.Operation, handler func(context.Context, *I) (*O, error)) {
	operation.MaxBodyBytes, operation.BodyReadTimeout = MaxBodyBytes+1, bodyTimeout // huma refuses a body of MaxBodyBytes
	huma.Register(s.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, problemOf(ctx, err)
		}
		return out, nil
	})
}

// requires lets only callers through whose key holds the scope.
func (s *server) requires(scope string) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humachi.Unwrap(ctx)
		key, err := s.authenticate(r)
		if err == nil && scope != anyScope {
			err = key.Caller().Require(scope)
		}
		if err != nil {
			writeProblem(w, r, err)
			return
		}
		next(ctx)
	}
}

// by says who asks, for the commands.
func by(ctx context.Context) commands.By {
	i := info(ctx)
	return commands.By{Caller: i.caller.Caller(), RequestID: i.id}
}

// caller is the key that asks.
func caller(ctx context.Context) *projections.Key { return info(ctx).caller }
