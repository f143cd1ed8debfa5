package surface

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Document serves the surface's OpenAPI document at a path. It is written once, when all routes are there. Whoever may not
// call a route may still read of it.
func (s *Surface) Document(path string) {
	document := s.huma.OpenAPI()
	finish(document)
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

const requestSuffix = "Request"

// finish adds what huma does not know.
func finish(document *huma.OpenAPI) {
	delete(document.Components.Schemas.Map(), "Shaped") // huma's idea of our errors; describeErrors knows better
	for name, schema := range document.Components.Schemas.Map() {
		if strings.HasSuffix(name, requestSuffix) {
			continue
		}
		schema.AdditionalProperties = nil // answers may get more fields; a strict client must not break on them
		for _, property := range schema.Properties {
			if property.Nullable && property.Enum != nil {
				property.Enum = append(property.Enum, nil)
			}
		}
	}
	document.Components.Responses = map[string]*huma.Response{}
	for _, path := range document.Paths {
		for _, operation := range []*huma.Operation{path.Get, path.Post, path.Put, path.Patch, path.Delete} {
			if operation != nil {
				describeAnswers(operation.Responses, document.Components.Responses)
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
	case strconv.Itoa(http.StatusServiceUnavailable):
		header("Retry-After", "Seconds to wait before trying again; absent if it is not known whether something was done")
	}
}
