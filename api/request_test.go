package api_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
)

// form is a route as its document describes it: what a request to it is made of.
type form struct {
	method, pattern string // as the router has them
	d               *document
	o               *operation // nil: the document does not have it
}

func (f form) String() string { return f.method + " " + f.pattern }

// forms are all routes of all surfaces, read from the router, so that a new one is among them by itself. The documents
// themselves are left out.
var forms = sync.OnceValue(func() (all []form) {
	err := chi.Walk(served().(chi.Routes), func(method, pattern string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !slices.Contains(documentPaths(), pattern) {
			d := about(pattern)
			_, o := d.find(method, pattern)
			all = append(all, form{method, pattern, d, o})
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	slices.SortFunc(all, func(a, b form) int { return cmp.Compare(a.pattern+a.method, b.pattern+b.method) })
	return all
})

const formType = "application/x-www-form-urlencoded"

// place is where a request has a value: a parameter, or a field of the body.
type place struct {
	in       string // path, query, header or body
	name     string
	required bool
	schema   schema
}

// shot is a request to a route.
type shot struct {
	method, path string
	query        url.Values
	headers      []string // in pairs
	body         any      // nil: none
}

func (s shot) target() string {
	if len(s.query) == 0 {
		return s.path
	}
	return s.path + "?" + s.query.Encode()
}

// request makes a request, with what value gives for each place; nil leaves the place out.
func (f form) request(value func(place) any) shot {
	s := shot{method: f.method, path: f.pattern, query: url.Values{}}
	for _, p := range f.o.Parameters {
		v := value(place{p.In, p.Name, p.Required, p.Schema})
		if v == nil {
			continue
		}
		switch text := fmt.Sprint(v); p.In {
		case "path":
			s.path = strings.ReplaceAll(s.path, "{"+p.Name+"}", url.PathEscape(text))
		case "query":
			s.query.Set(p.Name, text)
		case "header":
			s.headers = append(s.headers, p.Name, text)
		}
	}
	if f.o.RequestBody != nil {
		if of, isForm := f.o.RequestBody.Content[formType]; isForm {
			form := url.Values{}
			for name, v := range f.fill(of.Schema, value).(fields) {
				form.Set(name, fmt.Sprint(v))
			}
			s.body, s.headers = form.Encode(), append(s.headers, "Content-Type", formType)
			return s
		}
		s.body = f.fill(f.o.RequestBody.Content["application/json"].Schema, value)
	}
	return s
}

// fill makes a value of a schema: of objects each field, of a list of objects one.
func (f form) fill(of schema, value func(place) any) any {
	of = f.d.resolve(of)
	if items := asSchema(of["items"]); items != nil {
		return []any{f.fill(items, value)}
	}
	required, _ := of["required"].([]any)
	properties, out := asSchema(of["properties"]), fields{}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		property := f.d.resolve(asSchema(properties[name]))
		needed := slices.Contains(required, any(name))
		var v any
		if f.d.holdsObjects(property) {
			if inner := f.fill(property, value); needed || len(written(inner)) > len("{}") {
				v = inner
			}
		} else {
			v = value(place{"body", name, needed, property})
		}
		if v != nil {
			out[name] = v
		}
	}
	return out
}

// holdsObjects reports whether a schema is an object with named fields, or a list of such.
func (d *document) holdsObjects(s schema) bool {
	if items := asSchema(s["items"]); items != nil {
		s = d.resolve(items)
	}
	return s["properties"] != nil
}

// resolve follows a reference.
func (d *document) resolve(s schema) schema {
	if ref, ok := s["$ref"].(string); ok {
		return d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
	}
	return s
}
