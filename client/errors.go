package client

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Kinds of errors, for errors.Is.
var (
	// ErrRefused says that rekey does not let this service ask: its own key is not valid, or it lacks keys:verify. Somebody
	// has to look at it.
	ErrRefused = errors.New("rekey refuses this service's own key")
	// ErrBadRequest says that rekey does not accept what was asked. It is this service's fault, not that of who presented a
	// key.
	ErrBadRequest = errors.New("rekey does not accept the request")
	// ErrUnavailable says that there is no answer now.
	ErrUnavailable = errors.New("rekey has no answer now")
)

// Error is why there is no Verdict. It never contains a secret.
type Error struct {
	// Kind is ErrRefused, ErrBadRequest or ErrUnavailable.
	Kind error
	// Status is the HTTP status; 0: there was no answer.
	Status int
	// Code is rekey's code of the problem, such as validation_failed, and Message says it in words.
	Code, Message string
	// Fields are the fields of a bad request.
	Fields []FieldError
	// RequiredScope is what this service's own key lacks, if that is the matter.
	RequiredScope string
	// RetryAfter is how long rekey wants to be left alone; 0: it said nothing.
	RetryAfter time.Duration
	// RequestID names the request in rekey's log.
	RequestID string
	// Cause is what went wrong below, if there was no answer; it may be the context's error.
	Cause error
}

// FieldError is one field of a bad request.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Error says all of it on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Kind.Error())
	if e.Status != 0 {
		b.WriteString(" (" + strconv.Itoa(e.Status) + ")")
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	for _, f := range e.Fields {
		b.WriteString("; " + f.Field + " " + f.Message)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.RequestID != "" {
		b.WriteString(" [" + e.RequestID + "]")
	}
	return b.String()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}
