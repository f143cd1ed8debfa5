package api_test

import (
	"bytes"
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

	"github.com/rekeyhq/rekey/api"
)

// document is the OpenAPI document as a client's tools read it: from the wire.
type document struct {
	raw        []byte
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

type response struct {
	Ref     string `json:"$ref"`
	Headers map[string]any
	Content content
}

type content map[string]struct{ Schema schema }

// published returns the document. It needs no store.
var published = sync.OnceValue(func() *document {
	handler := api.New(api.Config{Logger: slog.New(slog.DiscardHandler), Version: "test"})
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	d := &document{raw: recorder.Body.Bytes()}
	if err := json.Unmarshal(d.raw, d); err != nil {
		panic(err)
	}
	return d
})

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
		if o := methods[strings.ToLower(method)]; o != nil && matches(pattern, path) {
			return pattern, o
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
	if err := published().judge(request, response, body); err != nil {
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
	if request.Method == http.MethodHead || request.Method == http.MethodOptions || request.URL.Path == "/openapi.json" {
		return nil
	}
	if local := notUTC.Find(body); local != nil {
		return fmt.Errorf("the time %s is not in UTC", local)
	}
	pattern, o := d.find(request.Method, request.URL.EscapedPath())
	if o == nil {
		return judgeRoutes(response, body)
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
	return judgeAnswer(pattern, request, response, body)
}

var notUTC = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*[^"Z]"`)

// closed is the document as kin-openapi reads it, with every named schema closed: an answer with a field that is not
// documented is a fault here, though not of a client that meets it.
var closed = sync.OnceValue(func() *openapi3.T {
	var whole map[string]any
	if err := json.Unmarshal(published().raw, &whole); err != nil {
		panic(err)
	}
	for _, s := range whole["components"].(map[string]any)["schemas"].(map[string]any) {
		s.(map[string]any)["additionalProperties"] = false
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		panic(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		panic(err)
	}
	openapi3filter.RegisterBodyDecoder("application/problem+json", openapi3filter.JSONBodyDecoder)
	return doc
})

// judgeAnswer has kin-openapi validate an answer of a documented operation: JSON Schema 2020-12 decides, with null only
// where the schema says so.
func judgeAnswer(pattern string, request *http.Request, response *http.Response, body []byte) error {
	doc := closed()
	item := doc.Paths.Value(pattern)
	route := &routers.Route{Spec: doc, Path: pattern, PathItem: item, Method: request.Method, Operation: item.GetOperation(request.Method)}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: route},
		Status:                 response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	return openapi3filter.ValidateResponse(context.Background(), input.SetBodyBytes(body))
}

// judgeRoutes judges the answer where there is no such route or method.
func judgeRoutes(response *http.Response, body []byte) error {
	if s := response.StatusCode; s != http.StatusNotFound && s != http.StatusMethodNotAllowed {
		return errors.New("the operation is not documented")
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return closed().Components.Schemas["Problem"].Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
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
