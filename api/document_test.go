package api_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/go-chi/chi/v5"

	"github.com/rekeyhq/rekey/api"
)

// served are the surfaces without a store, which is enough for their documents and their list of routes.
var served = sync.OnceValue(func() http.Handler {
	return api.New(api.Config{Logger: slog.New(slog.DiscardHandler), Version: "test"})
})

// documentPaths are where the surfaces have their documents, as the router knows them; the native one comes first. Each is
// about the paths beside it and below.
var documentPaths = sync.OnceValue(func() []string {
	var paths []string
	err := chi.Walk(served().(chi.Routes), func(_, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasSuffix(path, "/openapi.json") {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	slices.SortStableFunc(paths, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	return paths
})

// document is the OpenAPI document of a surface as a client's tools read it: from the wire.
type document struct {
	path       string
	raw        []byte
	asIs       func() *openapi3.T
	closed     func() *openapi3.T
	OpenAPI    string
	Paths      map[string]map[string]*operation
	Components struct {
		Schemas         map[string]schema
		Responses       map[string]response
		SecuritySchemes map[string]any
	}
}

type operation struct {
	OperationID string
	Summary     string
	Description string
	Security    []map[string][]string
	Parameters  []struct{ Name, In string }
	RequestBody *struct{ Content content }
	Responses   map[string]response
}

// open says that nobody has to show a key. One of the alternatives is then to show nothing.
func (o *operation) open() bool {
	return slices.ContainsFunc(o.Security, func(needed map[string][]string) bool { return len(needed) == 0 })
}

type response struct {
	Ref     string `json:"$ref"`
	Headers map[string]any
	Content content
}

type content map[string]struct{ Schema schema }

// published returns the native document.
func published() *document { return documents()[0] }

// documents returns those of all surfaces, the native one's first.
var documents = sync.OnceValue(func() []*document {
	openapi3filter.RegisterBodyDecoder("application/problem+json", openapi3filter.JSONBodyDecoder)
	var read []*document
	for _, path := range documentPaths() {
		recorder := httptest.NewRecorder()
		served().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		d := &document{path: path, raw: recorder.Body.Bytes()}
		d.asIs = sync.OnceValue(func() *openapi3.T { return loaded(d.raw) })
		d.closed = sync.OnceValue(func() *openapi3.T { return withClosedSchemas(d.raw) })
		if err := json.Unmarshal(d.raw, d); err != nil {
			panic(err)
		}
		read = append(read, d)
	}
	return read
})

// about returns the document that a path belongs to: of those above it, the nearest.
func about(path string) *document {
	found := published()
	for _, d := range documents() {
		folder := strings.TrimSuffix(d.path, "/openapi.json")
		if len(d.path) > len(found.path) && (path == folder || strings.HasPrefix(path, folder+"/")) {
			found = d
		}
	}
	return found
}

// each calls f with each operation.
func (d *document) each(f func(method, path string, o *operation)) {
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			f(strings.ToUpper(method), path, d.Paths[path][method])
		}
	}
}

// find returns the operation of a request and its path in the document, or nil.
func (d *document) find(method, path string) (string, *operation) {
	if o := d.Paths[path][strings.ToLower(method)]; o != nil {
		return path, o
	}
	for pattern, methods := range d.Paths {
		if o := methods[strings.ToLower(method)]; o != nil && (matches(pattern, path) || matches(pattern, path+"/")) {
			return pattern, o // written with a slash at its end, it is also served without
		}
	}
	return "", nil
}

// answer is what an operation promises to answer with a status.
func (d *document) answer(o *operation, status string) response {
	r := o.Responses[status]
	if name, shared := strings.CutPrefix(r.Ref, "#/components/responses/"); shared {
		return d.Components.Responses[name]
	}
	return r
}

func matches(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == h || strings.HasPrefix(w, "{") && h != "" })
}

// documented holds every answer against the document. Each test of the package calls through it.
type documented struct {
	t    *testing.T
	next http.RoundTripper
}

func (d documented) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	if err != nil || response.Header.Get("Content-Type") == "text/event-stream" {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return response, err
	}
	if err := about(request.URL.Path).judge(request, response, body); err != nil {
		d.t.Errorf("%s %s answered %d: %v\n%s", request.Method, request.URL.Path, response.StatusCode, err, body)
	}
	return response, nil
}

// judge says what an answer has that the document does not promise, or the other way round.
func (d *document) judge(request *http.Request, response *http.Response, body []byte) error {
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := response.Header.Get(name); got != want {
			return fmt.Errorf("%s is %q", name, got)
		}
	}
	if response.Header.Get("X-Request-Id") == "" {
		return errors.New("no X-Request-Id")
	}
	if request.Method == http.MethodHead || request.Method == http.MethodOptions || request.URL.Path == d.path {
		return nil
	}
	if local := notUTC.Find(body); local != nil {
		return fmt.Errorf("the time %s is not in UTC", local)
	}
	pattern, o := d.find(request.Method, request.URL.EscapedPath())
	if o == nil {
		return d.judgeRoutes(response, body)
	}
	promised := d.answer(o, fmt.Sprint(response.StatusCode))
	for _, name := range []string{"Link", "WWW-Authenticate", "Retry-After", "X-Request-Id"} {
		if _, ok := promised.Headers[name]; response.Header.Get(name) != "" && !ok {
			return errors.New(name + " is not documented")
		}
	}
	if len(promised.Content) == 0 && len(body) > 0 {
		return errors.New("a body, but none is documented")
	}
	if response.StatusCode < http.StatusMultipleChoices {
		if err := d.judgeRequest(pattern, request); err != nil {
			return fmt.Errorf("it was accepted, but the document has no such request: %w", err)
		}
	}
	return d.judgeAnswer(pattern, request, response, body)
}

var notUTC = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*[^"Z]"`)

// loaded is a document as kin-openapi reads it.
func loaded(raw []byte) *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		panic(err)
	}
	return doc
}

// withClosedSchemas is a document with every named schema closed: an answer with a field that is
// not documented is a fault here, though not of a client that meets it.
func withClosedSchemas(raw []byte) *openapi3.T {
	var whole map[string]any
	if err := json.Unmarshal(raw, &whole); err != nil {
		panic(err)
	}
	for _, s := range whole["components"].(map[string]any)["schemas"].(map[string]any) {
		s.(map[string]any)["additionalProperties"] = false
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		panic(err)
	}
	return loaded(raw)
}

// judgeAnswer has kin-openapi validate an answer of a documented operation: JSON Schema 2020-12 decides, with null only
// where the schema says so.
func (d *document) judgeAnswer(pattern string, request *http.Request, response *http.Response, body []byte) error {
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: routeIn(d.closed(), pattern, request)},
		Status:                 response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	return openapi3filter.ValidateResponse(context.Background(), input.SetBodyBytes(body))
}

// routeIn is a documented operation as kin-openapi has it.
func routeIn(doc *openapi3.T, pattern string, request *http.Request) *routers.Route {
	item := doc.Paths.Value(pattern)
	return &routers.Route{Spec: doc, Path: pattern, PathItem: item, Method: request.Method, Operation: item.GetOperation(request.Method)}
}

// judgeRequest has kin-openapi validate a request: its body, its parameters and its headers. Two things are taken beyond
// the document, which no tool can say: a body without a Content-Type, and parameters that are empty in place of absent.
func (d *document) judgeRequest(pattern string, request *http.Request) error {
	sent := request.Clone(context.Background())
	if sent.Header.Get("Content-Type") == "" {
		sent.Header.Set("Content-Type", "application/json")
	}
	query := sent.URL.Query()
	maps.DeleteFunc(query, func(_ string, values []string) bool { return slices.Equal(values, []string{""}) })
	sent.URL.RawQuery = query.Encode()
	if request.GetBody != nil { // what was sent has been read
		body, err := request.GetBody()
		if err != nil {
			return err
		}
		sent.Body = body
	}
	named := map[string]string{}
	have := strings.Split(request.URL.Path, "/")
	for i, part := range strings.Split(pattern, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			named[strings.TrimSuffix(name, "}")] = have[i]
		}
	}
	return openapi3filter.ValidateRequest(context.Background(), &openapi3filter.RequestValidationInput{
		Request: sent, PathParams: named, Route: routeIn(d.asIs(), pattern, request),
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	})
}

// judgeRoutes judges the answer where there is no such route or method: it has the form of every other 404.
func (d *document) judgeRoutes(response *http.Response, body []byte) error {
	if !slices.Contains([]int{401, 403, 404, 405, 503}, response.StatusCode) { // some surfaces ask for a key even there
		return errors.New("the operation is not documented")
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	form := d.closed().Components.Responses["Problem404"].Value.Content[response.Header.Get("Content-Type")]
	if form == nil {
		return errors.New("another media type than every other 404")
	}
	return form.Schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
}

// schema is a schema of the document, to be looked at.
type schema map[string]any

func asSchema(v any) schema {
	s, _ := v.(map[string]any)
	return s
}

func types(s schema) []string {
	switch t := s["type"].(type) {
	case string:
		return []string{t}
	case []any:
		var out []string
		for _, name := range t {
			out = append(out, fmt.Sprint(name))
		}
		return out
	}
	return nil
}
