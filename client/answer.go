package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// verdictOf reads an answer. Whatever does not clearly say what a key is worth is no verdict.
func verdictOf(response *http.Response, raw []byte) (Verdict, *Error) {
	if response.StatusCode != http.StatusOK {
		return Verdict{}, refusal(response, raw)
	}
	var v Verdict
	if err := json.Unmarshal(raw, &v); err != nil {
		// Its text is left out: an answer that is not rekey's may repeat what it was sent.
		return Verdict{}, &Error{Kind: ErrUnavailable, Status: response.StatusCode, Message: "the answer is not one of rekey's"}
	}
	if err := v.check(); err != nil {
		return Verdict{}, &Error{Kind: ErrUnavailable, Status: response.StatusCode, Cause: err}
	}
	return v, nil
}

// check refuses what contradicts itself.
func (v *Verdict) check() error {
	switch {
	case v.Code == "":
		return errors.New("the answer has no code")
	case v.Valid != (v.Code == CodeValid):
		return errors.New("the answer's code says otherwise than valid")
	case v.Valid && v.KeyID.IsZero():
		return errors.New("the answer says valid of no key")
	case v.Valid && v.Status != StatusActive && v.Status != StatusPending && v.Status != StatusGrace:
		return errors.New("the answer says valid of a key that has ended")
	}
	return nil
}

// problem is a problem document (RFC 9457) as rekey writes it.
type problem struct {
	Code      string       `json:"code"`
	Detail    string       `json:"detail"`
	RequestID string       `json:"request_id"`
	Errors    []FieldError `json:"errors"`
	Details   struct {
		RequiredScope string `json:"required_scope"`
	} `json:"details"`
}

// refusal reads an answer that is no verdict.
func refusal(response *http.Response, raw []byte) *Error {
	e := &Error{Kind: kindOf(response.StatusCode), Status: response.StatusCode, RetryAfter: retryAfter(response.Header)}
	var p problem
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		e.Message = "the answer is not one of rekey's"
		return e
	}
	e.Code, e.Message, e.Fields, e.RequestID, e.RequiredScope = p.Code, p.Detail, p.Errors, p.RequestID, p.Details.RequiredScope
	return e
}

func kindOf(status int) error {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrRefused
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return ErrUnavailable
	case status >= 400 && status < 500:
		return ErrBadRequest
	}
	return ErrUnavailable
}

// maxRetryAfter bounds what is believed; nobody who asks waits that long.
const maxRetryAfter = time.Hour

// retryAfter reads seconds, which is what rekey sends, or a date, which a proxy may send.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(0, seconds), int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(0, time.Until(at)), maxRetryAfter)
	}
	return 0
}
