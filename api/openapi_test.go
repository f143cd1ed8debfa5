package api_test

import (
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
var openRoutes = []string{"GET /healthz", "GET /readyz", "GET /openapi.json"}

// anyKeyRoutes are all that need a key but no scope.
var anyKeyRoutes = []string{"POST /v1/api-keys/{id}/successor"}

func TestDocument(t *testing.T) {
	t.Parallel()
	d := published()
	t.Run("NamesEveryRoute", func(t *testing.T) {
		handler := api.New(api.Config{Logger: slog.New(slog.DiscardHandler)})
		count := 0
		err := chi.Walk(handler.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
			count++
			if path != "/openapi.json" && d.Paths[path][strings.ToLower(method)] == nil {
				t.Errorf("%s %s is served but not documented", method, path)
			}
			return nil
		})
		must(t, err)
		documented := 0
		d.each(func(string, string, *operation) { documented++ })
		if count != documented+1 {
			t.Errorf("%d routes, %d documented beside /openapi.json", count, documented)
		}
	})
	t.Run("ClosesEveryRouteButTheListed", func(t *testing.T) {
		d.each(func(method, path string, o *operation) {
			name := method + " " + path
			if open := len(o.Security) == 0; open != slices.Contains(openRoutes, name) {
				t.Errorf("%s: open is %v", name, open)
			}
			if len(o.Security) > 0 && (neededScope(o) == "") != slices.Contains(anyKeyRoutes, name) {
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
	t.Run("DocumentsEachErrorAsAProblem", func(t *testing.T) {
		d.each(func(method, path string, o *operation) {
			errors := 0
			for status := range o.Responses {
				if status < "400" {
					continue
				}
				errors++
				response := d.answer(o, status)
				media, ok := response.Content["application/problem+json"]
				if !ok || media.Schema["$ref"] != "#/components/schemas/Problem" || len(response.Content) != 1 {
					t.Errorf("%s %s %s: %v", method, path, status, response.Content)
				}
			}
			if errors == 0 {
				t.Errorf("%s %s: no errors", method, path)
			}
		})
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
			if s["additionalProperties"] == false != strings.HasSuffix(name, "Request") {
				t.Errorf("%s: requests are closed, answers are open", name)
			}
		}
	})
	t.Run("DocumentsEachField", func(t *testing.T) {
		for name, s := range d.Components.Schemas {
			for field, of := range asSchema(s["properties"]) {
				// A name that says all, such as created_at, is enough.
				if p := asSchema(of); p["description"] == nil && p["examples"] == nil && p["format"] != "date-time" &&
					!slices.Contains([]string{"last_used_ip", "metadata", "scopes", "status", "version", "field", "message", "remedy"}, field) {
					t.Errorf("%s.%s has neither a description nor an example", name, field)
				}
			}
		}
	})
	t.Run("IsOpen", func(t *testing.T) {
		recorder := httptest.NewRecorder()
		api.New(api.Config{Logger: slog.New(slog.DiscardHandler)}).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
		if recorder.Code != http.StatusOK || recorder.Header().Get("Content-Type") != "application/openapi+json" {
			t.Errorf("got %d %s", recorder.Code, recorder.Header().Get("Content-Type"))
		}
		if !strings.HasPrefix(d.OpenAPI, "3.1.") || d.Components.SecuritySchemes["bearerAuth"] == nil {
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
		golden(t, "openapi.json", indented(t, d.raw))
	})
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
