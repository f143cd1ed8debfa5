package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// An installation may let webhooks leave through a proxy of its own choice, never through one of the environment. Then the
// proxy resolves names and connects, so where webhooks may go is its duty: the guard still judges each URL, but sees no
// address. Plain HTTP, which is for receivers on this machine alone, does not go through it.

// ParseProxy reads the URL of a proxy that is asked by CONNECT; user and password go along as Basic authentication. Its
// errors do not repeat the URL, which may hold a password.
func ParseProxy(raw string) (*url.URL, error) {
	proxy, err := url.Parse(raw)
	if err != nil || proxy.Scheme != "http" || proxy.Hostname() == "" || proxy.RawQuery != "" || proxy.Fragment != "" ||
		proxy.Path != "" && proxy.Path != "/" {
		return nil, errors.New("is not the URL of a proxy; write it like http://proxy.example.com:3128")
	}
	return proxy, nil
}

// proxied is a transport that lets everything out through a proxy. The hop to it is not guarded: an operator named it.
func proxied(transport *http.Transport, proxy *url.URL, cfg SenderConfig) *http.Transport {
	out := transport.Clone()
	out.Proxy = http.ProxyURL(proxy)
	out.DialContext = (&net.Dialer{Timeout: positiveOr(cfg.ConnectTimeout, defaultConnectTimeout), Resolver: cfg.Resolver}).DialContext
	out.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		return &proxyRefusal{answer.StatusCode}
	}
	return out
}

// proxyRefusal is the answer of a proxy that made no connection.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string { return fmt.Sprintf("the proxy answered %d", e.status) }

// isProxy reports whether an attempt ended at the proxy.
func isProxy(err error) bool {
	if _, refused := errors.AsType[*proxyRefusal](err); refused {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "proxyconnect"
}

// outcomeOfProxy tells the proxy's own failures from what it says of the receiver: those must be counted like others, or a
// dead receiver would be tried for ever.
func outcomeOfProxy(err error) Outcome {
	refused, ok := errors.AsType[*proxyRefusal](err)
	if !ok {
		return ProxyFailed
	}
	switch refused.status {
	case http.StatusForbidden:
		return AddressRefused
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return ConnectError
	}
	return ProxyFailed
}
