package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
)

// Outcome is how one attempt ended. The values are stored and shown: they never change their meaning.
type Outcome string

// The closed list of outcomes.
const (
	// Delivered: the receiver answered 2xx, and its answer arrived whole or as far as it is read.
	Delivered Outcome = "delivered"
	// AckMissing: the receiver answered 2xx without the proof that was demanded, or with a wrong one.
	AckMissing Outcome = "ack_missing"
	// RedirectRefused: the receiver answered 3xx. Redirects are never followed.
	RedirectRefused Outcome = "redirect_refused"
	// Gone: the receiver answered 410 and wants no more webhooks.
	Gone Outcome = "gone"
	// Throttled: the receiver answered 429.
	Throttled Outcome = "throttled"
	// ClientError: the receiver answered another 4xx.
	ClientError Outcome = "client_error"
	// ServerError: the receiver answered 5xx.
	ServerError Outcome = "server_error"
	// InvalidResponse: what the receiver sent is no HTTP answer, or its header is too large.
	InvalidResponse Outcome = "invalid_response"
	// TimedOut: the attempt was not over in time.
	TimedOut Outcome = "timeout"
	// ConnectError: no connection could be made, or it broke before the answer was complete.
	ConnectError Outcome = "connect_error"
	// DNSError: the receiver's host name could not be resolved.
	DNSError Outcome = "dns_error"
	// TLSError: the receiver's certificate or its TLS was not accepted, or it did not accept ours.
	TLSError Outcome = "tls_error"
	// BadCertificate: the certificate that the endpoint has for its receiver is broken, or not valid at this time.
	// Nothing was sent.
	BadCertificate Outcome = "client_certificate_error"
	// AddressRefused: the guard does not let webhooks go there.
	AddressRefused Outcome = "address_refused"
	// Canceled: the caller ended the attempt, in a shutdown for example. Nobody's failure; the message may have arrived.
	Canceled Outcome = "canceled"
	// ProxyFailed: the proxy that webhooks leave through could not be reached, or failed. The receiver has no part in it.
	ProxyFailed Outcome = "proxy_failed"
	// InvalidRequest: the request cannot be signed or sent, now or later. A bug on our side.
	InvalidRequest Outcome = "invalid_request"
)

var messages = map[Outcome]string{
	Delivered:       "The receiver accepted the webhook.",
	AckMissing:      "The receiver accepted the webhook, but its answer does not carry the right proof.",
	RedirectRefused: "The receiver answered with a redirect. Redirects are not followed; register the final URL.",
	Gone:            "The receiver answered 410 Gone, so no more webhooks are sent to it.",
	Throttled:       "The receiver answered 429 Too Many Requests. The webhook is sent again later.",
	ClientError:     "The receiver refused the webhook with a 4xx answer.",
	ServerError:     "The receiver failed with a 5xx answer.",
	InvalidResponse: "The receiver did not answer in valid HTTP.",
	TimedOut:        "The receiver did not answer in time.",
	ConnectError:    "No connection to the receiver could be made, or it broke before the receiver had answered.",
	DNSError:        "The host name of the webhook URL could not be resolved.",
	TLSError:        "No secure connection to the receiver could be made. Check its TLS certificate, and whether it wants a client certificate.",
	BadCertificate:  "The endpoint's client certificate cannot be used; it may have expired. Nothing was sent. Set a valid one.",
	AddressRefused:  "The webhook URL leads to a place that webhooks may not reach.",
	Canceled:        "The attempt was interrupted on our side. It is made again.",
	ProxyFailed:     "The webhook could not leave our network. It is sent again, and no attempt is counted.",
	InvalidRequest:  "The webhook could not be prepared on our side.",
}

// Delivered says whether the message counts as received.
func (o Outcome) Delivered() bool { return o == Delivered }

// Permanent says that another attempt would end the same way.
func (o Outcome) Permanent() bool { return o == Gone || o == InvalidRequest }

// Message tells the owner of the endpoint what happened. It holds no address and nothing of the receiver's answer.
func (o Outcome) Message() string {
	if text, ok := messages[o]; ok {
		return text
	}
	return "The attempt ended in an unknown way."
}

// outcomeOfStatus judges an answer whose header arrived.
func outcomeOfStatus(status int) Outcome {
	switch {
	case status >= 200 && status <= 299:
		return Delivered
	case status >= 300 && status <= 399:
		return RedirectRefused
	case status == http.StatusGone:
		return Gone
	case status == http.StatusTooManyRequests:
		return Throttled
	case status >= 400 && status <= 499:
		return ClientError
	case status >= 500 && status <= 599:
		return ServerError
	}
	// Among them 101: the receiver speaks another protocol from here on.
	return InvalidResponse
}

// outcomeOfError judges an attempt that broke. caller is the context that Send got, without our own deadline.
func outcomeOfError(caller context.Context, err error, seen *progress) Outcome {
	switch {
	case errors.Is(caller.Err(), context.Canceled):
		return Canceled
	case isProxy(err):
		return outcomeOfProxy(err)
	case errors.Is(err, ErrAddressRefused):
		return AddressRefused
	case isDNS(err):
		return DNSError
	case isTimeout(err):
		return TimedOut
	case isTLS(err):
		return TLSError
	case isBroken(err):
		return ConnectError
	case seen.handshakeFailed():
		return TLSError
	case seen.answered():
		return InvalidResponse
	}
	return ConnectError
}

func isDNS(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	// crypto/tls marks an alert from the other side by this operation only: its type is not exported. With TLS 1.3 a
	// demand for a client certificate arrives so, after our handshake has succeeded.
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// isBroken holds for what the network reports and for a connection that ended too early.
func isBroken(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF)
}

// operatorError is what may be logged of err. Once the receiver has the message, its bytes may echo it, and net/http
// quotes bytes it cannot read: from then on only errors whose text is known are passed on.
func operatorError(outcome Outcome, err error, seen *progress) error {
	if !seen.connected() {
		return fmt.Errorf("connect to receiver: %w", err)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("exchange with receiver: %w", errno)
	}
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return fmt.Errorf("exchange with receiver: %w", known)
		}
	}
	return fmt.Errorf("exchange with receiver: %s, error of type %T", outcome, err)
}
