package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// find returns the operation of a request, or nil.
func (d *document) find(method, path string) *operation {
	if o := d.Paths[path][strings.ToLower(method)]; o != nil {
		return o
	}
	for pattern, methods := range d.Paths {
		if o := methods[strings.ToLower(method)]; o != nil && matches(pattern, path) {
			return o
		}
	}
	return nil
}

// answer is what an operation promises to answer with a status.
func (d *document) answer(o *operation, status string) (response, bool) {
	r, ok := o.Responses[status]
	if name, shared := strings.CutPrefix(r.Ref, "#/components/responses/"); shared {
		r, ok = d.Components.Responses[name]
	}
	return r, ok
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

// secondJudge, if the build has one, holds every answer against the document too (kin_test.go).
var secondJudge func(t *testing.T, request *http.Request, response *http.Response, body []byte)

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
	if problem := published().judge(request, response, body); problem != "" {
		d.t.Errorf("%s %s answered %d: %s\n%s", request.Method, request.URL.Path, response.StatusCode, problem, body)
	}
	if secondJudge != nil {
		secondJudge(d.t, request, response, body)
	}
	return response, nil
}

// judge names what an answer has that the document does not promise, or the other way round.
func (d *document) judge(request *http.Request, response *http.Response, body []byte) string {
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := response.Header.Get(name); got != want {
			return fmt.Sprintf("%s is %q", name, got)
		}
	}
	if response.Header.Get("X-Request-Id") == "" {
		return "no X-Request-Id"
	}
	if request.Method == http.MethodHead || request.Method == http.MethodOptions || request.URL.Path == "/openapi.json" {
		return ""
	}
	kind := response.Header.Get("Content-Type")
	o := d.find(request.Method, request.URL.EscapedPath())
	if o == nil {
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed || kind != "application/problem+json" {
			return "not in the document, and no problem of the routes"
		}
		return d.judgeBody(d.Components.Schemas["Problem"], body)
	}
	promised, ok := d.answer(o, fmt.Sprint(response.StatusCode))
	if !ok {
		return "the status is not documented"
	}
	for _, name := range []string{"Link", "WWW-Authenticate", "Retry-After", "X-Request-Id"} {
		if _, ok := promised.Headers[name]; response.Header.Get(name) != "" && !ok {
			return name + " is not documented"
		}
	}
	if len(promised.Content) == 0 {
		if len(body) > 0 {
			return "a body, but none is documented"
		}
		return ""
	}
	media, ok := promised.Content[kind]
	if !ok {
		return fmt.Sprintf("content type %q is not documented", kind)
	}
	return d.judgeBody(media.Schema, body)
}

func (d *document) judgeBody(s schema, body []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return "not JSON: " + err.Error()
	}
	return d.check(s, value, "body")
}

// schema is the part of JSON Schema 2020-12 that the document uses. A keyword that is not known here is a fault of the test.
type schema map[string]any

// check names the first thing in which a value does not follow a schema. It is stricter than the schema in two ways: an
// object with named properties may have no other, and times are in UTC.
func (d *document) check(s schema, value any, at string) string {
	if len(s) == 0 {
		return "" // anything
	}
	for keyword := range s {
		if !slices.Contains(keywords, keyword) {
			return "unknown keyword " + keyword + " in the schema of " + at
		}
	}
	if ref, ok := s["$ref"].(string); ok {
		return d.check(d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")], value, at)
	}
	if kinds := types(s); len(kinds) > 0 && !slices.Contains(kinds, kindOf(value)) {
		return fmt.Sprintf("%s is %s, documented as %v", at, kindOf(value), kinds)
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, value) {
		return fmt.Sprintf("%s is %v, documented as one of %v", at, value, enum)
	}
	switch value := value.(type) {
	case string:
		if _, err := time.Parse(time.RFC3339, value); s["format"] == "date-time" && (err != nil || !strings.HasSuffix(value, "Z")) {
			return at + " is not a time in UTC"
		}
	case []any:
		for i, item := range value {
			if problem := d.check(asSchema(s["items"]), item, fmt.Sprintf("%s[%d]", at, i)); problem != "" {
				return problem
			}
		}
	case map[string]any:
		return d.checkObject(s, value, at)
	}
	return ""
}

var keywords = []string{
	"$ref", "type", "enum", "format", "items", "properties", "required", "additionalProperties", // checked
	"description", "examples", "default", "minimum", "maximum", "maxLength", "maxItems", // of requests, or for people
}

func (d *document) checkObject(s schema, value map[string]any, at string) string {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := value[name.(string)]; !ok {
			return fmt.Sprintf("%s lacks %s", at, name)
		}
	}
	properties := asSchema(s["properties"])
	for _, name := range slices.Sorted(maps.Keys(value)) {
		of, known := properties[name]
		if !known {
			of = s["additionalProperties"]
		}
		if !known && (of == nil || of == false) {
			return fmt.Sprintf("%s has %s, which is not documented", at, name)
		}
		if problem := d.check(asSchema(of), value[name], at+"."+name); problem != "" {
			return problem
		}
	}
	return ""
}

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

func kindOf(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}
