package surface

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/domain"
)

// Envelope is an error of the surfaces that wrap their answers: {"success": false, "error": {...}}.
type Envelope struct {
	Success bool          `json:"success" example:"false" doc:"Always false"`
	Error   EnvelopeFault `json:"error"`
}

// EnvelopeFault is what is wrong.
type EnvelopeFault struct {
	Code    string          `json:"code" example:"FORBIDDEN" doc:"Stable code of the error, for programs; each belongs to one HTTP status"`
	Message string          `json:"message" example:"this needs the scope projects:write, which your key does not hold" doc:"This occurrence, in words"`
	Details EnvelopeDetails `json:"details"`
}

// EnvelopeDetails are facts that a program may act on. There is always an object, so that clients may look into it.
type EnvelopeDetails map[string]any

// Schema names the facts that are to be expected; there may be more.
func (EnvelopeDetails) Schema(r huma.Registry) *huma.Schema {
	text := func(example, description string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Examples: []any{example}, Description: description}
	}
	return &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: true, Description: "Facts that a program may act on; may be empty",
		Properties: map[string]*huma.Schema{
			"request_id":     text("req_01jz8q0v6me5et8b3k2c9d4x7a", "Names the request in the service's log"),
			"required_scope": text("projects:write", "On 403: the scope that the key lacks"),
			"fields": {
				Type: huma.TypeArray, Items: r.Schema(reflect.TypeFor[domain.FieldError](), true, "FieldError"),
				Description: "The fields that are wrong, and what to do",
			},
		},
	}
}

// envelopeCodes has one code for each status that an error can have. A test requires an entry for each.
var envelopeCodes = map[int]string{
	http.StatusBadRequest:            "BAD_REQUEST",
	http.StatusUnauthorized:          "UNAUTHORIZED",
	http.StatusForbidden:             "FORBIDDEN",
	http.StatusNotFound:              "NOT_FOUND",
	http.StatusMethodNotAllowed:      "METHOD_NOT_ALLOWED",
	http.StatusConflict:              "CONFLICT",
	http.StatusPreconditionFailed:    "PRECONDITION_FAILED",
	http.StatusRequestEntityTooLarge: "PAYLOAD_TOO_LARGE",
	http.StatusUnsupportedMediaType:  "UNSUPPORTED_MEDIA_TYPE",
	http.StatusUnprocessableEntity:   "VALIDATION_ERROR",
	http.StatusInternalServerError:   "INTERNAL",
	http.StatusTooManyRequests:       "RATE_LIMITED",
	http.StatusServiceUnavailable:    "UNAVAILABLE",
}

// InEnvelope is a Style's Shape.
func InEnvelope(p *Problem) any {
	details := EnvelopeDetails{}
	for name, value := range p.Details {
		details[name] = value
	}
	if p.RequestID != "" {
		details["request_id"] = p.RequestID
	}
	if len(p.Errors) > 0 {
		details["fields"] = p.Errors
	}
	return Envelope{Error: EnvelopeFault{Code: envelopeCodes[p.Status], Message: p.Detail, Details: details}}
}
