package domain

import (
	"errors"
	"fmt"
)

// Code is a stable, machine-readable reason of a refusal. The list below is closed: every surface maps each of them.
type Code string

// Codes of refusals.
const (
	CodeInvalidRequest     Code = "invalid_request"        // the request cannot be read: broken JSON, wrong framing
	CodeValidation         Code = "validation_failed"      // the request was read, a field in it is wrong
	CodeUnauthenticated    Code = "unauthenticated"        // no key, or one that is not valid
	CodeInsufficientScope  Code = "insufficient_scope"     // the caller's key lacks a scope
	CodeEscalation         Code = "grant_exceeds_caller"   // the caller would hand out what it does not hold
	CodeSurfaceDisabled    Code = "surface_disabled"       // the caller's organization has switched this surface off
	CodeNotFound           Code = "not_found"              // unknown, or not the caller's: the two look the same
	CodeVersionConflict    Code = "version_conflict"       // the stream moved past the expected version
	CodeKeyNotActive       Code = "key_not_active"         // the key has ended or is not the current one
	CodeKeyDisabled        Code = "key_disabled"           // the key is disabled: enable it first
	CodeIPDenied           Code = "ip_denied"              // the caller's key may not be used from there
	CodeRotationInProgress Code = "rotation_in_progress"   // a rotation waits for its receiver
	CodeRateLimited        Code = "rate_limited"           // the key has no uses left in this window or period
	CodeTooManyInGrace     Code = "too_many_in_grace"      // older generations have not run out yet
	CodeNoRotation         Code = "rotation_not_found"     // no such live rotation
	CodeRotationState      Code = "rotation_state"         // the rotation is in a state that does not allow this
	CodeProjectNotEmpty    Code = "project_not_empty"      // a project that has live keys is not deleted
	CodeEndpointState      Code = "endpoint_state"         // the webhook endpoint is in a state that does not allow this
	CodeEndpointInUse      Code = "endpoint_in_use"        // a webhook endpoint that live keys use is not deleted
	CodeSelectionChanged   Code = "selection_changed"      // not the keys that the dry run named
	CodePrecondition       Code = "precondition_failed"    // the caller said what it has seen, and that is out of date
	CodeAnswerInUse        Code = "idempotency_key_in_use" // a request with this key is still being carried out
	CodeAnswerDiffers      Code = "idempotency_key_reused" // another request was answered for this key
	CodeMethodNotAllowed   Code = "method_not_allowed"     // the path exists, the method does not
	CodeTooLarge           Code = "payload_too_large"      // the body is over the limit
	CodeUnsupportedMedia   Code = "unsupported_media_type" // the body is not JSON, or not what the route takes
	CodeOverloaded         Code = "overloaded"             // too many commands wait; nothing was done
	CodeUnavailable        Code = "unavailable"            // the store cannot be reached; nothing was done
	CodeOutcomeUnknown     Code = "outcome_unknown"        // the connection broke during the commit
	CodeInternal           Code = "internal"               // a fault of ours
)

// Codes lists all codes, for the tests that require each surface to map each of them.
func Codes() []Code {
	return []Code{
		CodeInvalidRequest, CodeValidation, CodeUnauthenticated, CodeInsufficientScope, CodeEscalation, CodeSurfaceDisabled,
		CodeNotFound,
		CodeVersionConflict, CodeKeyNotActive, CodeKeyDisabled, CodeIPDenied, CodeRateLimited, CodeRotationInProgress, CodeTooManyInGrace, CodeNoRotation, CodeRotationState, CodeProjectNotEmpty,
		CodeEndpointState, CodeEndpointInUse, CodeSelectionChanged, CodePrecondition, CodeAnswerInUse, CodeAnswerDiffers,
		CodeMethodNotAllowed, CodeTooLarge, CodeUnsupportedMedia, CodeOverloaded, CodeUnavailable, CodeOutcomeUnknown,
		CodeInternal,
	}
}

// FieldError names a field of the request, what is wrong with it and what to do.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

// Error is a refusal: a code for machines, a message for people, and a cause for the log that no caller sees.
type Error struct {
	Code    Code
	Message string
	Fields  []FieldError
	Details map[string]any
	cause   error
}

// Refuse returns an Error without a cause.
func Refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidField returns a validation error about one field.
func InvalidField(field, message, remedy string) *Error {
	return &Error{
		Code:    CodeValidation,
		Message: field + " " + message,
		Fields:  []FieldError{{Field: field, Message: message, Remedy: remedy}},
	}
}

// NotFound is the one answer for what does not exist and for what belongs to somebody else.
func NotFound(what string) *Error {
	return Refuse(CodeNotFound, "no such %s", what)
}

// WithCause attaches the reason for the log.
func (e *Error) WithCause(cause error) *Error {
	e.cause = cause
	return e
}

// With adds a detail that the answer shows.
func (e *Error) With(name string, value any) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details[name] = value
	return e
}

// Error writes code and message, and the cause, for logs.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of the refusal in err's chain; anything unknown is internal.
func CodeOf(err error) Code {
	if refusal, ok := errors.AsType[*Error](err); ok {
		return refusal.Code
	}
	return CodeInternal
}
