package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTimeout        = 15 * time.Second
	defaultConnectTimeout = 5 * time.Second

	maxResponseHeader = 64 << 10
	maxResponseBody   = 4 << 10

	idleConnsPerHost = 256
	idleConns        = 1024
	idleConnTimeout  = 90 * time.Second

	// An HTTP/2 connection that died without a word would fail every message until its deadline; a ping finds it.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
	// What an HTTP/2 receiver may send ahead of our reading; the default is 4 MiB for each message.
	streamBuffer = 16 << 10
	connBuffer   = 256 << 10
)

// SenderConfig makes a Sender. Every field may be left out.
type SenderConfig struct {
	// Guard decides where webhooks may go. Nil lets through the public internet alone.
	Guard *Guard
	// Version stands in the User-Agent as rekey/<version>.
	Version string
	// Now gives the time that an attempt is signed with. Nil means time.Now.
	Now func() time.Time
	// Timeout is for the whole attempt, the reading of the answer included; 15 s when zero.
	Timeout time.Duration
	// ConnectTimeout is for resolving and connecting, and once more for the TLS handshake; 5 s when zero.
	ConnectTimeout time.Duration
	// RootCAs are trusted instead of the system's, where set.
	RootCAs *x509.CertPool
	// Proxy lets everything but plain HTTP out, asked by CONNECT; nil means none, whatever the environment says.
	Proxy *url.URL
	// Resolver is asked instead of the system's, where set.
	Resolver *net.Resolver
}

// Sender makes single attempts to deliver messages. It is safe for concurrent use, and keeps connections open between
// attempts until Close.
type Sender struct {
	guard     *Guard
	transport *http.Transport
	https     *http.Transport // the same one, or one that goes through a proxy
	own       transports      // of endpoints with a client certificate
	userAgent string
	now       func() time.Time
	timeout   time.Duration
}

// NewSender makes a Sender. It opens no connection yet.
func NewSender(cfg SenderConfig) *Sender {
	guard := cfg.Guard
	if guard == nil {
		guard, _ = NewGuard(nil) // fails on bad prefixes only
	}
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	version := cfg.Version
	if version == "" {
		version = "dev"
	}
	transport := newTransport(guard, cfg)
	https := transport
	if cfg.Proxy != nil {
		https = proxied(transport, cfg.Proxy, cfg)
	}
	return &Sender{
		guard:     guard,
		transport: transport,
		https:     https,
		own: transports{size: maxTransports, kept: map[string]*ownTransport{}, build: func(c ClientCertificate) *http.Transport {
			return newOwnTransport(guard, cfg, c)
		}},
		userAgent: "rekey/" + version,
		now:       now,
		timeout:   positiveOr(cfg.Timeout, defaultTimeout),
	}
}

func newTransport(guard *Guard, cfg SenderConfig) *http.Transport {
	connectTimeout := positiveOr(cfg.ConnectTimeout, defaultConnectTimeout)
	public := &net.Dialer{Timeout: connectTimeout, Resolver: cfg.Resolver, Control: guard.Control}
	local := &net.Dialer{Timeout: connectTimeout, Resolver: cfg.Resolver, Control: guard.controlLoopback}
	return &http.Transport{
		// A proxy from the environment would be dialled instead of the receiver, and the guard would judge the proxy.
		Proxy: nil,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(address); err == nil && strings.EqualFold(host, "localhost") {
				return local.DialContext(ctx, network, address)
			}
			return public.DialContext(ctx, network, address)
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout: connectTimeout,
		// Without it, net/http speaks HTTP/1.1 only as soon as the dialer is our own.
		ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			MaxReceiveBufferPerStream:     streamBuffer,
			MaxReceiveBufferPerConnection: connBuffer,
		},
		// We read a few bytes and throw them away; unpacking them is only a way to be attacked.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idleConnsPerHost,
		IdleConnTimeout:        idleConnTimeout,
	}
}

// newOwnTransport is like that of all others, and shows a client certificate.
func newOwnTransport(guard *Guard, cfg SenderConfig, certificate ClientCertificate) *http.Transport {
	transport := newTransport(guard, cfg)
	transport.TLSClientConfig.GetClientCertificate = certificate.show
	if cfg.Proxy != nil {
		return proxied(transport, cfg.Proxy, cfg)
	}
	return transport
}

// Close closes the connections that no attempt is using. The Sender may be used again afterwards.
func (s *Sender) Close() {
	s.own.close()
	s.transport.CloseIdleConnections()
	s.https.CloseIdleConnections()
}

// over is the transport for a request; leave ends its use.
func (s *Sender) over(r Request, request *http.Request) (transport *http.Transport, leave func()) {
	switch {
	case !r.Certificate.IsZero():
		own, leave := s.own.enter(r.Endpoint, r.Certificate)
		return own.Transport, leave
	case r.Endpoint != "":
		s.own.forget(r.Endpoint)
	}
	if request.URL.Scheme == "https" {
		return s.https, func() {}
	}
	return s.transport, func() {}
}

// Request is one message for one receiver.
type Request struct {
	URL string
	// Endpoint says whose message it is. Two endpoints never share connections that were opened with a Certificate.
	Endpoint string
	// Certificate is shown to the receiver; zero: none. If it cannot be, nothing is sent.
	Certificate ClientCertificate
	// ID is the message's, the same over all attempts: receivers drop what they have seen under it.
	ID   string
	Body []byte `json:"-"` // may hold a key's secret
	// Secrets sign the message, newest first. There must be one.
	Secrets []Secret
	// Attempt counts from 1. Attempt and DeliveryID go along unsigned, for the receiver's logs; zero values stay away.
	Attempt    int
	DeliveryID string
	// Expect looks at the header of a 2xx answer and says whether it proves what the receiver has to prove: ExpectProof,
	// ExpectChallenge. It keeps nothing. Nil expects nothing.
	Expect func(answer http.Header) bool `json:"-"`
	// MustProve makes a 2xx answer without that proof an AckMissing.
	MustProve bool
}

// Format prints what identifies the attempt, and neither body nor URL, with every verb of fmt.
func (r Request) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "webhook %q attempt %d delivery %q", r.ID, r.Attempt, r.DeliveryID)
}

// LogValue logs the same as Format prints.
func (r Request) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Result is how an attempt ended.
type Result struct {
	Outcome Outcome
	// Status is the HTTP status, 0 when there was no answer.
	Status int
	// Proved says that the answer was as Request.Expect wants it, whether or not it had to be.
	Proved bool
	// RetryAfter is what the receiver asked for with 429 or 503, a day at most.
	RetryAfter time.Duration
	Started    time.Time
	Duration   time.Duration
	Timing     Timing
	// Err is for the operator's log and never for the owner: it may name addresses. It holds nothing the receiver said
	// after it got the message, and no URL.
	Err error
}

// Send makes one attempt and says how it ended. It returns within the timeout, and soon after ctx is cancelled.
func (s *Sender) Send(ctx context.Context, r Request) Result {
	started := s.now()
	result := s.attempt(ctx, r, started)
	result.Started, result.Duration = started, s.now().Sub(started)
	return result
}

func (s *Sender) attempt(caller context.Context, r Request, at time.Time) Result {
	// The policy may have changed since the URL was registered.
	if err := s.guard.CheckURL(r.URL); err != nil {
		return Result{Outcome: AddressRefused, Err: fmt.Errorf("check webhook URL: %w", err)}
	}
	ctx, cancel := context.WithTimeout(caller, s.timeout)
	defer cancel()
	seen := progress{began: time.Now()}
	request, err := s.build(httptrace.WithClientTrace(ctx, seen.trace()), r, at)
	if err != nil {
		return Result{Outcome: InvalidRequest, Err: fmt.Errorf("build webhook request: %w", err)}
	}
	if !r.Certificate.IsZero() {
		if err := r.Certificate.usable(at, request.URL.Scheme); err != nil {
			return Result{Outcome: BadCertificate, Err: err}
		}
	}
	transport, leave := s.over(r, request)
	defer leave()
	// A transport and no http.Client: what does not exist cannot follow a redirect, keep a cookie or send a Referer.
	response, err := transport.RoundTrip(request)
	if err != nil {
		outcome := outcomeOfError(caller, err, &seen)
		return Result{Outcome: outcome, Timing: seen.timing(), Err: operatorError(outcome, err, &seen)}
	}
	result := s.judge(caller, r, response, &seen)
	result.Timing = seen.timing()
	return result
}

func (s *Sender) build(ctx context.Context, r Request, at time.Time) (*http.Request, error) {
	if !validID(r.ID) {
		return nil, ErrMalformedID
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, errors.New("URL cannot be used") // the original error repeats the URL
	}
	request.Header = Headers(r.ID, at, r.Body, r.Secrets...)
	if request.Header.Get(HeaderSignature) == "" {
		return nil, ErrNoSecret
	}
	if !r.Certificate.IsZero() && r.Endpoint == "" {
		return nil, errors.New("a client certificate belongs to an endpoint")
	}
	request.Header.Set("User-Agent", s.userAgent)
	if r.Attempt > 0 {
		request.Header.Set("Rekey-Attempt", strconv.Itoa(r.Attempt))
	}
	if r.DeliveryID != "" {
		request.Header.Set("Rekey-Delivery", r.DeliveryID)
	}
	// An empty list is not sent, but tells net/http that the request may be repeated when an idle connection turns out
	// to be closed. The webhook-id makes that harmless; without it the message would wait for its next attempt.
	request.Header["Idempotency-Key"] = nil
	return request, nil
}

// judge reads the little of the answer that is needed to use the connection again, and keeps none of it.
func (s *Sender) judge(caller context.Context, r Request, response *http.Response, seen *progress) Result {
	result := Result{Outcome: outcomeOfStatus(response.StatusCode), Status: response.StatusCode}
	if result.Outcome.Delivered() {
		result.Proved = r.Expect != nil && r.Expect(response.Header)
		if r.MustProve && !result.Proved {
			result.Outcome = AckMissing
		}
	}
	if result.Status == http.StatusTooManyRequests || result.Status == http.StatusServiceUnavailable {
		result.RetryAfter = parseRetryAfter(response.Header.Get("Retry-After"), s.now())
	}
	err := drain(response)
	if err == nil || errors.Is(err, io.EOF) {
		return result
	}
	// An answer that breaks off may come from a receiver that broke off as well. Not counting it costs a repetition at
	// most; counting it could start the end of an old key whose successor was never stored.
	if result.Outcome.Delivered() || errors.Is(caller.Err(), context.Canceled) {
		result.Outcome, result.Proved = outcomeOfError(caller, err, seen), false
	}
	result.Err = operatorError(result.Outcome, err, seen)
	return result
}

// drain reads what is read of an answer, and closes it.
func drain(response *http.Response) error {
	defer func() { _ = response.Body.Close() }() // nothing is read any more
	if response.StatusCode == http.StatusSwitchingProtocols {
		// This body is the bare connection: no deadline of ours ends a read from it.
		return nil
	}
	_, err := io.CopyN(io.Discard, response.Body, maxResponseBody+1)
	return err
}

// connected says whether the receiver may have got the message.
func (p *progress) connected() bool { return p.gotConn.Load() }

// answered says whether the receiver sent anything back.
func (p *progress) answered() bool { return p.gotByte.Load() }

// handshakeFailed leaves out a handshake that failed beside a connection that was used.
func (p *progress) handshakeFailed() bool { return p.failedHandshake.Load() && !p.gotConn.Load() }

func positiveOr(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
