package surface

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

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
	domain.CodeSurfaceDisabled:    {http.StatusForbidden, "The organization has switched this surface off"},
	domain.CodeNotFound:           {http.StatusNotFound, "Not found"},
	domain.CodeVersionConflict:    {http.StatusConflict, "Changed meanwhile"},
	domain.CodeKeyNotActive:       {http.StatusConflict, "The key is not active"},
	domain.CodeKeyDisabled:        {http.StatusConflict, "The key is disabled"},
	domain.CodeIPDenied:           {http.StatusForbidden, "The key may not be used from there"},
	domain.CodeRotationInProgress: {http.StatusConflict, "A rotation is in progress"},
	domain.CodeRateLimited:        {http.StatusTooManyRequests, "The key has no uses left for now"},
	domain.CodeTooManyInGrace:     {http.StatusConflict, "Too many older keys are in grace"},
	domain.CodeNoRotation:         {http.StatusNotFound, "No such rotation"},
	domain.CodeRotationState:      {http.StatusConflict, "The rotation is in another state"},
	domain.CodeProjectNotEmpty:    {http.StatusConflict, "The project has live keys"},
	domain.CodeEndpointState:      {http.StatusConflict, "The webhook endpoint's state does not allow this"},
	domain.CodeEndpointInUse:      {http.StatusConflict, "Live keys use the webhook endpoint"},
	domain.CodeSelectionChanged:   {http.StatusConflict, "The selection has changed"},
	domain.CodePrecondition:       {http.StatusPreconditionFailed, "Changed since it was read"},
	domain.CodeAnswerInUse:        {http.StatusConflict, "The same request is being carried out"},
	domain.CodeAnswerDiffers:      {http.StatusUnprocessableEntity, "The Idempotency-Key belongs to another request"},
	domain.CodeMethodNotAllowed:   {http.StatusMethodNotAllowed, "Method not allowed"},
	domain.CodeTooLarge:           {http.StatusRequestEntityTooLarge, "The body is too large"},
	domain.CodeUnsupportedMedia:   {http.StatusUnsupportedMediaType, "The body has another media type"},
	domain.CodeOverloaded:         {http.StatusServiceUnavailable, "Overloaded"},
	domain.CodeUnavailable:        {http.StatusServiceUnavailable, "The store cannot be reached"},
	domain.CodeOutcomeUnknown:     {http.StatusServiceUnavailable, "The outcome is not known"},
	domain.CodeInternal:           {http.StatusInternalServerError, "An internal error"},
}

// Problem is an RFC 9457 problem document, the body of every error.
type Problem struct {
	Type      string              `json:"type" example:"urn:rekey:problem:validation_failed" doc:"Stable URI of the kind of problem"`
	Title     string              `json:"title" example:"A field of the request is not valid" doc:"The kind of problem, in words"`
	Status    int                 `json:"status" example:"422" doc:"The HTTP status"`
	Code      domain.Code         `json:"code" example:"validation_failed" doc:"Stable code of the problem, for programs"`
	Detail    string              `json:"detail" example:"name is empty" doc:"This occurrence, in words"`
	RequestID string              `json:"request_id,omitempty" example:"req_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Names the request in the service's log"`
	Errors    []domain.FieldError `json:"errors,omitempty" nullable:"false" doc:"The fields that are wrong, and what to do"`
	Details   map[string]any      `json:"details,omitempty" doc:"Facts that a program may act on, such as required_scope"`

	OAuthError string `json:"error,omitempty" example:"invalid_request" doc:"On /v1/introspect only: the code of RFC 6749 or RFC 6750"`

	headers http.Header
}

var (
	_ huma.StatusError       = (*shaped)(nil)
	_ huma.HeadersError      = (*shaped)(nil)
	_ huma.ContentTypeFilter = (*shaped)(nil)
)

// shaped is a problem in the form of the surface that answers.
type shaped struct {
	*Problem `json:"-"`
	body     any // nil: the problem itself
}

// ContentType is that of RFC 9457 for a problem document, and plain JSON for any other body.
func (s *shaped) ContentType(string) string {
	if s.body != nil {
		return "application/json"
	}
	return problemType
}

const problemType = "application/problem+json"

// shown is what is encoded.
func (s *shaped) shown() any {
	if s.body != nil {
		return s.body
	}
	return s.Problem
}

// errorOf translates an error into the form of the surface that answers.
func errorOf(ctx context.Context, err error) *shaped {
	out := &shaped{Problem: problemOf(ctx, err)}
	if s := info(ctx).surface; s != nil && s.style.Shape != nil {
		out.body = s.style.Shape(out.Problem)
	}
	return out
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that belong to the problem: a challenge, or when to try again.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// problemOf translates an error. What is not a refusal is ours: its text stays in the log.
func problemOf(ctx context.Context, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok {
		refusal = domain.Refuse(domain.CodeInternal, "an internal error; the request id leads to its cause").WithCause(err)
	}
	if refusal.Code == domain.CodeVersionConflict && info(ctx).conditional {
		refusal = domain.Refuse(domain.CodePrecondition, "this was changed since the If-Match you sent; read it again").WithCause(err)
	}
	about := status[refusal.Code]
	p := &Problem{
		Type: "urn:rekey:problem:" + string(refusal.Code), Title: about.title, Status: about.status, Code: refusal.Code,
		Detail: refusal.Message, Errors: refusal.Fields, Details: refusal.Details, RequestID: requestID(ctx),
		headers: http.Header{},
	}
	if p.Code == domain.CodeAnswerInUse {
		p.headers.Set("Retry-After", "1")
	}
	switch p.Status {
	case http.StatusUnauthorized:
		p.headers.Set("WWW-Authenticate", challenge(refusal))
	case http.StatusForbidden:
		if scope, ok := refusal.Details["required_scope"].(string); ok {
			p.headers.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="rekey", error="insufficient_scope", scope=%q`, scope))
		}
	case http.StatusServiceUnavailable:
		if p.Code != domain.CodeOutcomeUnknown { // which must be looked at before it is tried again
			p.headers.Set("Retry-After", "1")
		}
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

// WriteError answers with an error outside of huma.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	writeShaped(w, errorOf(r.Context(), err))
}

// oauthErrors are the words of RFC 6749, section 5.2, and RFC 6750, section 3.1, for what a caller did wrong.
var oauthErrors = map[int]string{
	http.StatusBadRequest:            "invalid_request",
	http.StatusUnauthorized:          "invalid_token",
	http.StatusForbidden:             "insufficient_scope",
	http.StatusRequestEntityTooLarge: "invalid_request",
	http.StatusUnsupportedMediaType:  "invalid_request",
}

// WriteOAuthError answers with an error that also says what a client of OAuth looks for.
func WriteOAuthError(w http.ResponseWriter, r *http.Request, err error) {
	answer := errorOf(r.Context(), err)
	answer.OAuthError = oauthErrors[answer.Status]
	writeShaped(w, answer)
}

func writeShaped(w http.ResponseWriter, answer *shaped) {
	for name, values := range answer.headers {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", answer.ContentType(""))
	w.WriteHeader(answer.Status)
	_ = EncodeJSON(w, answer) // the caller may be gone; nothing is left to tell
}

// fromHuma translates huma's own errors, from reading and validating requests. It drops the values that huma attaches:
// they are the caller's input, and may be a secret.
func fromHuma(ctx huma.Context, code int, _ string, errs ...error) huma.StatusError {
	reqCtx := context.Background()
	if ctx != nil {
		reqCtx = ctx.Context()
	}
	document := documentOf(reqCtx)
	refusal := domain.Refuse(domain.CodeValidation, "the request is not valid")
	switch code {
	case http.StatusUnsupportedMediaType:
		refusal = domain.Refuse(domain.CodeUnsupportedMedia, "send the body with Content-Type: application/json")
	case http.StatusRequestEntityTooLarge:
		refusal = domain.Refuse(domain.CodeTooLarge, "the body is larger than %d bytes", maxBody(ctx))
	case http.StatusRequestTimeout:
		refusal = domain.Refuse(domain.CodeInvalidRequest, "the body did not arrive in time")
	case http.StatusInternalServerError: // huma's word for a body that broke off, which is the caller's doing
		refusal = domain.Refuse(domain.CodeInvalidRequest, "the body broke off").WithCause(errors.Join(errs...))
	case http.StatusBadRequest:
		refusal.Code = domain.CodeInvalidRequest
		if refusal.Fields = fieldErrors(errs, document); len(errs) == 0 {
			refusal.Fields = []domain.FieldError{{Field: "body", Message: "is missing", Remedy: "send a JSON object"}}
		}
	default:
		if refusal.Fields = fieldErrors(errs, document); slices.ContainsFunc(errs, emptyPart) {
			refusal = domain.NotFound("route")
		}
	}
	if len(refusal.Fields) > 0 {
		refusal.Message = refusal.Fields[0].Field + " " + refusal.Fields[0].Message
	}
	return errorOf(reqCtx, refusal)
}

// emptyPart reports a path with nothing where an id should be, such as /apikey//: nobody's id is empty.
func emptyPart(err error) bool {
	detailer, ok := err.(huma.ErrorDetailer)
	return ok && detailer.ErrorDetail().Message == "required path parameter is missing"
}

// documentOf is where the caller can read what the surface takes.
func documentOf(ctx context.Context) string {
	if s := info(ctx).surface; s != nil {
		return s.document
	}
	return "the OpenAPI document"
}

// maxBody is the limit of the route that a request is for.
func maxBody(ctx huma.Context) int64 {
	if ctx == nil || ctx.Operation() == nil {
		return MaxBodyBytes
	}
	return ctx.Operation().MaxBodyBytes - 1
}

// maxFieldErrors bounds an answer: a body has room for thousands of faults.
const maxFieldErrors = 20

func fieldErrors(errs []error, document string) []domain.FieldError {
	var out []domain.FieldError
	for _, err := range errs {
		if detailer, ok := err.(huma.ErrorDetailer); ok && len(out) < maxFieldErrors {
			out = append(out, fieldError(detailer.ErrorDetail(), document))
		}
	}
	return out
}

// fieldError says in our words what huma found in the shape of a request.
func fieldError(d *huma.ErrorDetail, document string) domain.FieldError {
	field, shown := fieldName(d.Location)
	if name, message, ok := strings.Cut(d.Message, ": "); ok && d.Location == "body" { // a bodyFault
		return domain.FieldError{Field: name, Message: message, Remedy: "send one JSON object as " + document + " describes it"}
	}
	var missing string
	if n, _ := fmt.Sscanf(d.Message, validation.MsgExpectedRequiredProperty, &missing); n == 1 {
		if shown { // it is missing in an object within
			missing = field + "." + missing
		}
		return domain.FieldError{Field: missing, Message: "is missing", Remedy: "add it"}
	}
	switch {
	case d.Message == "required query parameter is missing":
		return domain.FieldError{Field: field, Message: "is missing", Remedy: "add it to the query"}
	case d.Message == validation.MsgUnexpectedProperty && shown:
		return domain.FieldError{Field: field, Message: "is not a field here", Remedy: "remove it, or look for a misspelling; " + document + " lists the fields"}
	case d.Message == validation.MsgUnexpectedProperty:
		return domain.FieldError{Field: field, Message: "has a field that does not exist here, whose name is too long to be shown", Remedy: "see the fields in " + document}
	}
	return domain.FieldError{Field: field, Message: "does not fit: " + d.Message, Remedy: "see the field's type in " + document}
}

// fieldName is the field that a location names. Names of unknown fields and of kinds of resources are the caller's input:
// they are shown only if they are too short for a secret, else what they stand in is.
func fieldName(location string) (name string, shown bool) {
	where, rest, _ := strings.Cut(location, ".")
	name, inner, _ := strings.Cut(rest, ".")
	switch {
	case name == "" || len(name) >= domain.MinSecretLength || !plainName(name):
		return where, false
	case inner != "" && len(inner) < domain.MinSecretLength && plainName(inner):
		return name + "." + inner, true
	}
	return name, true
}

func plainName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-[]") == ""
}
