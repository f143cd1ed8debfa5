package api_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
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
	Parameters  []parameter
	RequestBody *struct{ Content content }
	Responses   map[string]response
}

type parameter struct {
	Name, In string
	Required bool
	Schema   schema
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
	if method != strings.ToUpper(method) { // methods are case-sensitive; the document has them in lower case
		return "", nil
	}
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
