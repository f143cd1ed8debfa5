package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/domain"
)

// status maps each code of a refusal to its HTTP status and title. A test requires an entry for every code.
var status = map[domain.Code]struct {
	status int
	title  string
}{
	domain.CodeInvalidRequest:     {http.StatusBadRequest, "The request cannot be read"},
	domain.CodeValidation:         {http.StatusUnprocessableEntity, "A field of the request is not valid"},
	domain.CodeUnauthenticated:    {http.StatusUnauthorized, "A valid key is needed"},
	domain.CodeInsufficientScope:  {http.StatusForbidden, "The key lacks a scope"},
	domain.CodeEscalation:         {http.StatusForbidden, "A key cannot grant what it does not hold"},
	domain.CodeNotFound:           {http.StatusNotFound, "Not found"},
	domain.CodeVersionConflict:    {http.StatusConflict, "Changed meanwhile"},
	domain.CodeKeyNotActive:       {http.StatusConflict, "The key is not active"},
	domain.CodeRotationInProgress: {http.StatusConflict, "A rotation is in progress"},
	domain.CodeTooManyInGrace:     {http.StatusConflict, "Too many older keys are in grace"},
	domain.CodeNoRotation:         {http.StatusNotFound, "No such rotation"},
	domain.CodeMethodNotAllowed:   {http.StatusMethodNotAllowed, "Method not allowed"},
	domain.CodeTooLarge:           {http.StatusRequestEntityTooLarge, "The body is too large"},
	domain.CodeUnsupportedMedia:   {http.StatusUnsupportedMediaType, "The body must be JSON"},
	domain.CodeOverloaded:         {http.StatusServiceUnavailable, "Overloaded"},
	domain.CodeUnavailable:        {http.StatusServiceUnavailable, "The store cannot be reached"},
	domain.CodeOutcomeUnknown:     {http.StatusServiceUnavailable, "The outcome is not known"},
	domain.CodeInternal:           {http.StatusInternalServerError, "An internal error"},
}

// Problem is an RFC 9457 problem document, the body of every error.
type Problem struct {
	Type      string              `json:"type" example:"urn:rekey:problem:validation_failed" doc:"Stable URI of the kind of problem"`
	Title     string              `json:"title" doc:"The kind of problem, in words"`
	Status    int                 `json:"status" doc:"HTTP status"`
	Code      domain.Code         `json:"code" example:"validation_failed" doc:"Stable code of the problem"`
	Detail    string              `json:"detail" doc:"This occurrence, in words"`
	RequestID string              `json:"request_id,omitempty" doc:"Names the request in the service's log"`
	Errors    []domain.FieldError `json:"errors,omitempty" doc:"The fields that are wrong, and what to do"`
	Details   map[string]any      `json:"details,omitempty" doc:"Facts that a program may act on, such as required_scope"`

	headers http.Header
}

var (
	_ huma.StatusError       = (*Problem)(nil)
	_ huma.HeadersError      = (*Problem)(nil)
	_ huma.ContentTypeFilter = (*Problem)(nil)
)

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that belong to the problem: a challenge, or when to try again.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType is that of RFC 9457.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problemOf translates an error. What is not a refusal is ours: its text stays in the log.
func problemOf(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok {
		refusal = domain.Refuse(domain.CodeInternal, "an internal error; the request id leads to its cause").WithCause(err)
	}
	about := status[refusal.Code]
	p := &Problem{
		Type: "urn:rekey:problem:" + string(refusal.Code), Title: about.title, Status: about.status, Code: refusal.Code,
		Detail: refusal.Message, Errors: refusal.Fields, Details: refusal.Details, RequestID: requestID(ctx),
		headers: http.Header{},
	}
	switch p.Status {
	case http.StatusUnauthorized:
		p.headers.Set("WWW-Authenticate", challenge(refusal))
	case http.StatusForbidden:
		if scope, ok := refusal.Details["required_scope"].(string); ok {
			p.headers.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="rekey", error="insufficient_scope", scope=%q`, scope))
		}
	case http.StatusServiceUnavailable:
		p.headers.Set("Retry-After", "1")
	}
	noteError(ctx, p.Code, err)
	return p
}

// challenge is the RFC 6750 challenge: without a key it names only the scheme, with a bad one it says so.
func challenge(refusal *domain.Error) string {
	if refusal.Details["presented"] == true {
		delete(refusal.Details, "presented")
		return `Bearer realm="rekey", error="invalid_token"`
	}
	return `Bearer realm="rekey"`
}

// writeProblem answers with an error outside of huma.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(r.Context(), err)
	raw, marshalErr := json.Marshal(p)
	if marshalErr != nil {
		raw = []byte(`{"type":"urn:rekey:problem:internal","title":"An internal error","status":500,"code":"internal","detail":"an internal error"}`)
	}
	for name, values := range p.headers {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(raw, '\n')) // the caller may be gone; nothing is left to tell
}

// fromHuma translates huma's own errors, from reading and validating requests. It drops the values that huma attaches:
// they are the caller's input, and may be a secret.
func fromHuma(ctx huma.Context, code int, message string, errs ...error) huma.StatusError {
	refusal := &domain.Error{Code: domain.CodeValidation, Message: "the request is not valid"}
	switch code {
	case http.StatusBadRequest, http.StatusRequestTimeout:
		refusal.Code, refusal.Message = domain.CodeInvalidRequest, "the body cannot be read as JSON"
		if len(errs) == 0 {
			refusal.Message = message
		}
	case http.StatusUnsupportedMediaType:
		refusal.Code, refusal.Message = domain.CodeUnsupportedMedia, "send the body with Content-Type: application/json"
	case http.StatusRequestEntityTooLarge:
		refusal.Code, refusal.Message = domain.CodeTooLarge, message
	case http.StatusUnprocessableEntity:
		refusal.Fields = fieldErrors(errs)
		if len(refusal.Fields) > 0 {
			refusal.Message = refusal.Fields[0].Field + ": " + refusal.Fields[0].Message
		}
	default:
		if code >= http.StatusInternalServerError {
			refusal = domain.Refuse(domain.CodeInternal, "an internal error").WithCause(errors.Join(errs...))
		}
	}
	reqCtx := context.Background()
	if ctx != nil {
		reqCtx = ctx.Context()
	}
	return problemOf(reqCtx, refusal)
}

func fieldErrors(errs []error) []domain.FieldError {
	var out []domain.FieldError
	for _, err := range errs {
		detailer, ok := err.(huma.ErrorDetailer)
		if !ok {
			continue
		}
		d := detailer.ErrorDetail()
		field := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(d.Location, "body."), "query."), "path.")
		out = append(out, domain.FieldError{Field: field, Message: d.Message, Remedy: remedyFor(d.Message)})
	}
	return out
}

// remedyFor says what to do about the faults that huma finds in the shape of a request.
func remedyFor(message string) string {
	switch {
	case message == "unexpected property":
		return "remove it, or look for a misspelling; /openapi.json lists the fields"
	case strings.HasPrefix(message, "expected required property"):
		return "add it"
	}
	return "see the field's type in /openapi.json"
}
