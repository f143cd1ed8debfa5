package surface

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/rekeyhq/rekey/domain"
)

// MaxBodyBytes bounds the body of a request unless its route says otherwise; it must arrive within bodyTimeout.
const (
	MaxBodyBytes = 64 << 10
	bodyTimeout  = 5 * time.Second
)

// useOurErrors makes huma answer with our errors; huma keeps that choice in package variables.
var useOurErrors = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true // two spellings of one field would be two values for it
	huma.NewErrorWithContext = fromHuma
	huma.NewError = func(code int, message string, errs ...error) huma.StatusError {
		return fromHuma(nil, code, message, errs...)
	}
})

// humaConfig is huma without what it would serve by itself.
func humaConfig(version string, style Style) huma.Config {
	config := huma.DefaultConfig(style.Title, version)
	config.Info.Description = style.Description
	config.Info.License = &huma.License{Name: "Apache License 2.0", URL: "https://www.apache.org/licenses/LICENSE-2.0"}
	config.Servers = []*huma.Server{{URL: "/", Description: "Where this document comes from"}}
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	config.Components.Schemas = huma.NewMapRegistry(schemaPrefix, schemaName)
	config.Components.SecuritySchemes = style.Schemes
	config.Formats = map[string]huma.Format{
		"application/json": {Marshal: EncodeJSON, Unmarshal: decodeJSON},
		"json":             {Marshal: EncodeJSON, Unmarshal: decodeJSON},
	}
	return config
}

// AnyScope marks a route that every valid key may call.
const AnyScope = "-"

// Route names a route of a surface.
type Route struct {
	Method, Path, ID, Summary string
	// Scope is what the caller's key must hold. Only open routes have none.
	Scope string
}

// Open registers a route that needs no key.
func Open[I, O any](s *Surface, route Route, handler func(context.Context, *I) (*O, error), options ...func(*huma.Operation)) {
	operation := operationOf(route, 400, 500, 503)
	operation.Description = "Needs no key."
	if route.Method != http.MethodGet {
		operation.Errors = append(operation.Errors, bodyErrors...)
	}
	register(s, operation, handler, options)
}

// bodyErrors are the statuses of routes that take a body.
var bodyErrors = []int{409, 413, 415, 422}

// Closed registers a route that needs a key with a scope.
func Closed[I, O any](s *Surface, route Route, handler func(context.Context, *I) (*O, error), options ...func(*huma.Operation)) {
	if route.Scope == "" {
		panic("surface: route " + route.Method + " " + route.Path + " names no scope")
	}
	operation := s.closed(route)
	operation.Middlewares = huma.Middlewares{s.requires(route.Scope)}
	if route.Method != http.MethodGet { // it has a body, and changes something
		operation.Errors = append(operation.Errors, bodyErrors...)
	}
	register(s, operation, handler, options)
}

// Plain registers a route whose handler reads the request and writes the answer by itself, and so also asks for the key:
// what it says of that here is for the document only.
func Plain(s *Surface, route Route, handler http.HandlerFunc, options ...func(*huma.Operation)) {
	operation := s.closed(route)
	for _, option := range options {
		option(&operation)
	}
	s.describeErrors(&operation)
	s.huma.OpenAPI().AddOperation(&operation)
	s.Handle(route.Method, route.Path, handler)
}

// closed describes a route that needs a key with a scope.
func (s *Surface) closed(route Route) huma.Operation {
	operation := operationOf(route, 400, 401, 403, 404, 422, 500, 503)
	for _, scheme := range slices.Sorted(maps.Keys(s.style.Schemes)) { // any one of them
		operation.Security = append(operation.Security, map[string][]string{scheme: {}})
	}
	operation.Description = "Needs the scope `" + route.Scope + "`."
	if route.Scope == AnyScope {
		operation.Description = "Needs a key, whatever its scopes."
	}
	return operation
}

// SchemaOf describes answers of a type in the surface's document.
func SchemaOf[T any](s *Surface) *huma.Schema {
	return s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

func operationOf(route Route, errors ...int) huma.Operation {
	return huma.Operation{
		OperationID: route.ID, Method: route.Method, Path: route.Path, Summary: route.Summary, Errors: errors,
		MaxBodyBytes: MaxBodyBytes + 1, BodyReadTimeout: bodyTimeout, // huma refuses a body of exactly its maximum
	}
}

// Creates marks a route that answers 201.
func Creates(operation *huma.Operation) { operation.DefaultStatus = http.StatusCreated }

// Hidden leaves a second spelling of a route out of the document.
func Hidden(operation *huma.Operation) { operation.Hidden = true }

// Bodies lets a route take larger bodies.
func Bodies(limit int64, patience time.Duration) func(*huma.Operation) {
	return func(operation *huma.Operation) {
		operation.MaxBodyBytes, operation.BodyReadTimeout = limit+1, patience
	}
}

func register[I, O any](s *Surface, operation huma.Operation, handler func(context.Context, *I) (*O, error), options []func(*huma.Operation)) {
	for _, option := range options {
		option(&operation)
	}
	operation.Middlewares = append(slices.Clip(operation.Middlewares), readableQuery)
	if len(operation.Security) > 0 { // only a known caller has requests of its own
		s.idempotent(&operation)
	}
	s.describeErrors(&operation)
	huma.Register(s.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.answerTo(ctx, err)
		}
		s.finish(ctx, out)
		return out, nil
	})
}

// answerTo is what an error is answered with: what was answered before, or the error in the surface's shape.
func (s *Surface) answerTo(ctx context.Context, err error) huma.StatusError {
	err = s.lost(ctx, err)
	if again, ok := errors.AsType[*replay](err); ok {
		return again
	}
	return errorOf(ctx, err)
}

// requires lets only callers through whose key holds the scope.
func (s *Surface) requires(scope string) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humachi.Unwrap(ctx)
		if err := s.Require(r, scope); err != nil {
			WriteError(w, r, err)
			return
		}
		next(ctx)
	}
}

// readableQuery refuses a query that cannot be read as a whole. What cannot be read would else be passed over: a list whose
// filter or cursor is lost shows what nobody asked for, and proxies and we would disagree on what was asked. It comes after
// the look at the caller's key, who else learns nothing.
func readableQuery(ctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(ctx)
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		// Not the error's own text: it repeats what was sent.
		WriteError(w, r, domain.Refuse(domain.CodeInvalidRequest,
			"the query cannot be read: write a percent sign as %%25 and a semicolon as %%3B, and separate parameters by &"))
		return
	}
	next(ctx)
}

// Require refuses a request that shows no key with the scope.
func (s *Surface) Require(r *http.Request, scope string) error {
	key, err := s.Authenticate(r)
	if err == nil && scope != AnyScope {
		err = key.Caller().Require(scope)
	}
	return err
}
