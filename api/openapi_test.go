package api_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"

	"github.com/rekeyhq/rekey/api"
)

// openRoutes are all that may be called without a key. A route that is not listed must ask for one.
var openRoutes = []string{"GET /healthz", "GET /readyz", "GET /openapi.json", "GET /api/v1/healthz", "POST /v1/revoke-leaked", "POST /v1/leaks/github", "POST /v1/claims/{token}"}

// anyKeyRoutes are all that need a key but no scope.
var anyKeyRoutes = []string{"POST /v1/api-keys/{id}/successor"}

// TestDocuments_NameEveryRoute requires each route in the one document that is about its path, and nothing else there.
func TestDocuments_NameEveryRoute(t *testing.T) {
	t.Parallel()
	documented, served := map[string]bool{}, map[string]bool{}
	for _, d := range documents() {
		d.each(func(method, path string, _ *operation) { documented[method+" "+path] = about(path) == d })
	}
	handler := api.New(api.Config{Logger: slog.New(slog.DiscardHandler)})
	err := chi.Walk(handler.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !slices.Contains(documentPaths(), path) {
			served[method+" "+path] = true
		}
		return nil
	})
	must(t, err)
	for route := range served { // written with a slash at its end, it is also served without
		if !documented[route] && !documented[route+"/"] {
			t.Errorf("%s is served but not documented", route)
		}
	}
	for route, rightly := range documented {
		if !rightly || !served[route] {
			t.Errorf("%s is documented, but not served or not in that document", route)
		}
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	for _, d := range documents() {
		t.Run(strings.Trim(d.path, "/"), func(t *testing.T) {
			t.Parallel()
			checkDocument(t, d)
		})
	}
}

func checkDocument(t *testing.T, d *document) {
	t.Run("ClosesEveryRouteButTheListed", func(t *testing.T) {
		d.each(func(method, path string, o *operation) {
			name := method + " " + path
			if open := o.open(); open != slices.Contains(openRoutes, name) {
				t.Errorf("%s: open is %v", name, open)
			}
			if !o.open() && (neededScope(o) == "") != slices.Contains(anyKeyRoutes, name) {
				t.Errorf("%s: needs the scope %q", name, neededScope(o))
			}
		})
	})
	t.Run("NamesEachOperationOnce", func(t *testing.T) {
		seen := map[string]bool{}
		d.each(func(method, path string, o *operation) {
			if o.OperationID == "" || seen[o.OperationID] || o.Summary == "" {
				t.Errorf("%s %s: id %q, summary %q", method, path, o.OperationID, o.Summary)
			}
			seen[o.OperationID] = true
		})
	})
	t.Run("DocumentsEachErrorInOneForm", func(t *testing.T) {
		forms := map[any]bool{}
		d.each(func(method, path string, o *operation) {
			errors := 0
			for status := range o.Responses {
				if status < "400" {
					continue
				}
				errors++
				response := d.answer(o, status)
				media := response.Content[d.errorType()]
				if media.Schema["$ref"] == nil || len(response.Content) != 1 {
					t.Errorf("%s %s %s: %v", method, path, status, response.Content)
				}
				forms[media.Schema["$ref"]] = true
			}
			if errors == 0 {
				t.Errorf("%s %s: no errors", method, path)
			}
		})
		if len(forms) != 1 {
			t.Errorf("errors have the forms %v", forms)
		}
	})
	t.Run("HasSchemasThatToolsCanRead", func(t *testing.T) {
		for name, s := range d.Components.Schemas {
			walk(s, name, func(at string, s schema) {
				for _, kind := range types(s) {
					if !slices.Contains([]string{"string", "integer", "number", "boolean", "array", "object", "null"}, kind) {
						t.Errorf("%s has the type %q", at, kind)
					}
				}
				if slices.Contains(types(s), "array") && asSchema(s["items"]) == nil {
					t.Errorf("%s is a list of nothing", at)
				}
			})
			if s["additionalProperties"] == false != d.isAsked(name) {
				t.Errorf("%s: requests are closed, answers are open", name)
			}
		}
	})
	t.Run("DocumentsEachField", func(t *testing.T) {
		for name, s := range d.Components.Schemas {
			for field, of := range asSchema(s["properties"]) {
				// A name that says all, such as created_at, is enough; what is a schema of its own is documented there.
				if p := asSchema(of); p["description"] == nil && p["examples"] == nil && p["format"] != "date-time" && p["$ref"] == nil &&
					!slices.Contains([]string{"last_used_ip", "metadata", "scopes", "status", "version", "field", "message", "remedy"}, field) {
					t.Errorf("%s.%s has neither a description nor an example", name, field)
				}
			}
		}
	})
	t.Run("IsOpen", func(t *testing.T) {
		recorder := httptest.NewRecorder()
		api.New(api.Config{Logger: slog.New(slog.DiscardHandler)}).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, d.path, nil))
		if recorder.Code != http.StatusOK || recorder.Header().Get("Content-Type") != "application/openapi+json" {
			t.Errorf("got %d %s", recorder.Code, recorder.Header().Get("Content-Type"))
		}
		if !strings.HasPrefix(d.OpenAPI, "3.1.") || len(d.Components.SecuritySchemes) == 0 {
			t.Errorf("version %q, security %v", d.OpenAPI, d.Components.SecuritySchemes)
		}
	})
	t.Run("IsValidForATool", func(t *testing.T) { // references resolve, examples and defaults fit their schemas
		doc, err := openapi3.NewLoader().LoadFromData(d.raw)
		must(t, err)
		must(t, doc.Validate(t.Context()))
		if !doc.IsOpenAPI31OrLater() {
			t.Errorf("kin-openapi took it for %s", doc.OpenAPI)
		}
	})
	t.Run("IsTheReviewedOne", func(t *testing.T) {
		golden(t, strings.TrimPrefix(strings.ReplaceAll(strings.TrimSuffix(d.path, "/openapi.json"), "/", "-")+"-openapi.json", "-"), indented(t, d.raw))
	})
}

// errorType is the media type of a surface's errors.
func (d *document) errorType() string {
	if d.path == "/openapi.json" {
		return "application/problem+json"
	}
	return "application/json"
}

// uncheckedRoutes take whatever more somebody else's program may send one day.
var uncheckedRoutes = []string{"POST /v1/leaks/github", "POST /v1/introspect"}

// isAsked says whether requests are made of a schema.
func (d *document) isAsked(name string) bool {
	asked := false
	var look func(s schema)
	look = func(s schema) {
		walk(s, "", func(_ string, part schema) {
			if of, ok := strings.CutPrefix(fmt.Sprint(part["$ref"]), "#/components/schemas/"); ok {
				asked = asked || of == name
				look(d.Components.Schemas[of])
			}
		})
	}
	d.each(func(method, path string, o *operation) {
		if o.RequestBody != nil && !slices.Contains(uncheckedRoutes, method+" "+path) {
			for _, media := range o.RequestBody.Content {
				look(media.Schema)
			}
		}
	})
	return asked
}

// walk visits a schema and all that it is made of.
func walk(s schema, at string, f func(at string, s schema)) {
	f(at, s)
	for name, of := range asSchema(s["properties"]) {
		walk(asSchema(of), at+"."+name, f)
	}
	for _, part := range []string{"items", "additionalProperties"} {
		if of := asSchema(s[part]); of != nil {
			walk(of, at+"."+part, f)
		}
	}
}

var scopeInDescription = regexp.MustCompile("^Needs the scope `([a-z:]+)`")

// neededScope is the scope that an operation documents.
func neededScope(o *operation) string {
	if match := scopeInDescription.FindStringSubmatch(o.Description); match != nil {
		return match[1]
	}
	return ""
}
