package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/rekeyhq/rekey/domain"
)

const (
	// defaultTimeout bounds a verify with all its attempts.
	defaultTimeout = 2 * time.Second
	// connections that are kept open; more than this many verifies at a time open connections of their own.
	keptConnections = 128
	// keptFor is less than the two minutes after which rekey closes a connection that nothing comes over.
	keptFor = 90 * time.Second
	// maxAnswer bounds what is read of an answer. A verdict is a few hundred bytes and the key's metadata.
	maxAnswer = 1 << 20
	// maxSecret is the length of the longest key there can be. What is longer is not sent.
	maxSecret = domain.MaxSecretLength
)

// Client verifies over HTTP. It is for any number of goroutines, which share its connections.
type Client struct {
	endpoint string
	key      Secret
	timeout  time.Duration
	http     *http.Client
}

var _ Verifier = (*Client)(nil)

// Option changes how a Client works.
type Option func(*Client)

// WithTimeout bounds a verify, with all its attempts and the pauses between them. The usual is two seconds. A context that
// ends earlier counts all the same.
func WithTimeout(timeout time.Duration) Option {
	return func(c *Client) { c.timeout = timeout }
}

// WithTransport has requests go another way, for a proxy, certificates of your own, or traces. It should keep connections.
func WithTransport(transport http.RoundTripper) Option {
	return func(c *Client) { c.http.Transport = transport }
}

// New returns a Client for the rekey at an address such as https://rekey.example.com, which asks with a key that holds
// keys:verify. It does not connect yet.
func New(address, key string, options ...Option) (*Client, error) {
	endpoint, err := endpointOf(address)
	if err != nil {
		return nil, err
	}
	if key = strings.TrimSpace(key); key == "" || strings.ContainsAny(key, "\r\n") {
		return nil, errors.New("make a rekey client: the key is empty or has several lines; it is one that holds keys:verify")
	}
	c := &Client{endpoint: endpoint, key: NewSecret(key), timeout: defaultTimeout, http: &http.Client{
		Transport: transport(),
		// A request has a secret in it, which goes to the address that was named and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for _, option := range options {
		option(c)
	}
	c.timeout = cmp.Or(max(0, c.timeout), defaultTimeout)
	return c, nil
}

// endpointOf does not repeat an address that it refuses: there may be a password in it.
func endpointOf(address string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("make a rekey client: the address cannot be used; write it like https://rekey.example.com, without a user or a query")
	}
	return strings.TrimSuffix(u.String(), "/") + "/v1/api-keys/verify", nil
}

// transport keeps connections. It takes no proxy from the environment: that would be told the secrets of a plain address.
func transport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          keptConnections,
		MaxIdleConnsPerHost:   keptConnections,
		IdleConnTimeout:       keptFor,
		ExpectContinueTimeout: time.Second,
	}
}

// Close closes the connections that are open and unused.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// String names the address.
func (c *Client) String() string { return "rekey client for " + c.endpoint }

// Verify asks rekey. Where there is no answer it asks again, as often as the time allows.
func (c *Client) Verify(ctx context.Context, request Request) (Verdict, error) {
	if request.Secret.IsZero() || request.Secret.length > maxSecret {
		return Verdict{Code: CodeNotFound}, nil
	}
	body, err := encode(request)
	if err != nil {
		return Verdict{}, &Error{Kind: ErrBadRequest, Cause: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	pauses := backoff.NewExponentialBackOff(backoff.WithInitialInterval(25*time.Millisecond),
		backoff.WithMaxInterval(500*time.Millisecond), backoff.WithMaxElapsedTime(0))
	for {
		verdict, err := c.once(ctx, body)
		if err == nil {
			return verdict, nil
		}
		// The pause has a random part, so that those who were told the same do not all come back at once.
		if !again(err) || !pause(ctx, err.RetryAfter+pauses.NextBackOff()) {
			return Verdict{}, err
		}
	}
}

// again reports whether it makes sense to ask once more.
func again(err *Error) bool {
	if err.Kind != ErrUnavailable {
		return false
	}
	switch err.Status {
	case 0, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// pause waits, unless the time would be over then.
func pause(ctx context.Context, span time.Duration) bool {
	if until, ok := ctx.Deadline(); ok && time.Until(until) <= span {
		return false
	}
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func encode(request Request) ([]byte, error) {
	body := struct {
		Key       string            `json:"key"`
		Scopes    []string          `json:"scopes,omitempty"`
		Resources map[string]string `json:"resources,omitempty"`
		IP        string            `json:"ip,omitempty"`
	}{Key: request.Secret.Reveal(), Scopes: request.Scopes, Resources: request.Resources}
	if request.IP.IsValid() {
		body.IP = request.IP.Unmap().WithZone("").String()
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	return raw, nil
}

// once asks one time. It takes half of the time at most, so that a connection that swallows everything leaves some for
// another one.
func (c *Client) once(ctx context.Context, body []byte) (Verdict, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout/2)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return Verdict{}, &Error{Kind: ErrBadRequest, Cause: err}
	}
	r.Header["Authorization"] = []string{"Bearer " + c.key.Reveal()}
	r.Header["Content-Type"] = []string{"application/json"}
	r.Header["User-Agent"] = []string{"rekey-client"}
	// Not sent: it tells the transport that the request may go over another connection if one was closed meanwhile.
	r.Header["Idempotency-Key"] = []string{}
	response, err := c.http.Do(r)
	if err != nil {
		return Verdict{}, &Error{Kind: ErrUnavailable, Cause: err}
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1)) // to its end, or the connection is not used again
	if err == nil && len(raw) > maxAnswer {
		err = errors.New("it is too large")
	}
	if err != nil {
		return Verdict{}, &Error{Kind: ErrUnavailable, Cause: fmt.Errorf("read the answer: %w", err)}
	}
	return verdictOf(response, raw)
}
