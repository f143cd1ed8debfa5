package surface

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Document serves the surface's OpenAPI document at a path. It is written once, when all routes are there. Whoever may not
// call a route may still read of it.
func (s *Surface) Document(path string) {
	s.document = path
	document := s.huma.OpenAPI()
	finish(document)
	s.sort(document)
	raw, err := json.Marshal(document)
	if err != nil {
		panic("surface: encode the OpenAPI document: " + err.Error())
	}
	s.Handle(http.MethodGet, path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(raw) // the caller may be gone
	})
}

// describeErrors documents the errors of an operation in the surface's own shape. huma knows one shape for all.
func (s *Surface) describeErrors(operation *huma.Operation) {
	body, media := any(Problem{}), problemType
	if s.style.Shape != nil {
		body, media = s.style.ErrorBody, "application/json"
	}
	schema := s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(body), true, "Problem")
	if operation.Responses == nil {
		operation.Responses = map[string]*huma.Response{}
	}
	for _, status := range operation.Errors {
		operation.Responses[strconv.Itoa(status)] = &huma.Response{
			Description: http.StatusText(status), Content: map[string]*huma.MediaType{media: {Schema: schema}},
		}
	}
	operation.Errors = nil
}

// schemaName names a schema after its type, as a generated client will: CreateKeyRequest and Key, not CreateKeyInputBody
// and KeyBody.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if of, ok := strings.CutSuffix(name, "InputBody"); ok {
		return of + requestSuffix
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, "Body"), "Output")
}

const (
	requestSuffix = "Request"
	schemaPrefix  = "#/components/schemas/"
)

// finish adds what huma does not know.
func finish(document *huma.OpenAPI) {
	delete(document.Components.Schemas.Map(), "Shaped") // huma's idea of our errors; describeErrors knows better
	openAnswers(document.Components.Schemas.Map())
	document.Components.Responses = map[string]*huma.Response{}
	for _, path := range document.Paths {
		for _, operation := range operationsOf(path) {
			describeAnswers(operation.Responses, document.Components.Responses)
			describeParameters(operation.Parameters)
			if len(operation.Security) == 0 { // an empty list would be left out, which says nothing
				operation.Security = []map[string][]string{{}}
			}
		}
	}
}

// openAnswers lets answers have more fields than are known today, so that a strict client does not break on a new one.
// What requests are made of, by its name, stays closed: these very schemas refuse what is misspelt. A test holds the names
// against what requests are really made of.
func openAnswers(schemas map[string]*huma.Schema) {
	for name, schema := range schemas {
		allowNull(schema)
		if !strings.HasSuffix(name, requestSuffix) {
			schema.AdditionalProperties = nil
		}
	}
}

// allowNull adds null to the lists of what nullable fields may be, also of objects within. Schemas may share those.
func allowNull(schema *huma.Schema) {
	for _, property := range schema.Properties {
		if property.Nullable && property.Enum != nil && !slices.Contains(property.Enum, nil) {
			property.Enum = append(property.Enum, nil)
		}
		allowNull(property)
	}
}

func operationsOf(path *huma.PathItem) []*huma.Operation {
	all := []*huma.Operation{path.Get, path.Post, path.Put, path.Patch, path.Delete}
	return slices.DeleteFunc(all, func(operation *huma.Operation) bool { return operation == nil })
}

// describeParameters spells out how lists stand in a query.
func describeParameters(parameters []*huma.Param) {
	for _, parameter := range parameters {
		if parameter.In == "query" && parameter.Explode != nil {
			parameter.Style = "form"
		}
	}
}

// Topic groups routes in a document.
type Topic struct {
	Name, Description string
	Paths             []string // what theirs begin with
}

// sort puts each operation under its topic.
func (s *Surface) sort(document *huma.OpenAPI) {
	for _, topic := range s.style.Topics {
		document.Tags = append(document.Tags, &huma.Tag{Name: topic.Name, Description: topic.Description})
		for path, item := range document.Paths {
			if !slices.ContainsFunc(topic.Paths, func(begin string) bool { return strings.HasPrefix(path, begin) }) {
				continue
			}
			for _, operation := range operationsOf(item) {
				operation.Tags = append(operation.Tags, topic.Name)
			}
		}
	}
}

// describeAnswers documents the headers of answers, and moves errors to where all operations share them.
func describeAnswers(answers, shared map[string]*huma.Response) {
	for status, answer := range answers {
		describeHeaders(status, answer)
		if status >= "400" {
			name := "Problem" + status
			shared[name], answers[status] = answer, &huma.Response{Ref: "#/components/responses/" + name}
		}
	}
}

func describeHeaders(status string, answer *huma.Response) {
	if answer.Headers == nil {
		answer.Headers = map[string]*huma.Header{}
	}
	header := func(name, description string) {
		answer.Headers[name] = &huma.Header{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	header("X-Request-Id", "Names the request in the service's log; the caller's own if it sent one")
	switch status {
	case strconv.Itoa(http.StatusUnauthorized):
		header("WWW-Authenticate", `RFC 6750: Bearer, with error="invalid_token" if a key was sent`)
	case strconv.Itoa(http.StatusForbidden):
		header("WWW-Authenticate", `RFC 6750: Bearer, with error="insufficient_scope" and the scope, if one is missing`)
	case strconv.Itoa(http.StatusConflict):
		header("Retry-After", "Seconds to wait, if a request with the same Idempotency-Key is being carried out")
	case strconv.Itoa(http.StatusServiceUnavailable):
		header("Retry-After", "Seconds to wait before trying again; absent if it is not known whether something was done")
	}
}
