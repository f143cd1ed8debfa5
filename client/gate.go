package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Gate lets requests through to handlers if they present a key that is good for them. Its zero value is of no use: see
// NewGate.
type Gate struct {
	verifier  Verifier
	realm     string
	clientIP  func(*http.Request) netip.Addr
	resources func(*http.Request) map[string]string
	onError   func(*http.Request, error)
}

// GateOption changes how a Gate works.
type GateOption func(*Gate)

// WithRealm names what is guarded, in the challenge to who comes without a key. The usual is "api".
func WithRealm(realm string) GateOption {
	return func(g *Gate) {
		g.realm = strings.Map(func(c rune) rune {
			if c == ' ' {
				return c
			}
			return tokenOnly(c)
		}, realm)
	}
}

// WithClientIP says where a request came from, for services behind a proxy. The usual is who is at the other end of the
// connection; a header such as X-Forwarded-For is believed by nobody unless this does.
func WithClientIP(address func(*http.Request) netip.Addr) GateOption {
	return func(g *Gate) { g.clientIP = address }
}

// WithResources says what a request is for, a name per kind, so that keys that are limited to resources are good for no
// others.
func WithResources(resources func(*http.Request) map[string]string) GateOption {
	return func(g *Gate) { g.resources = resources }
}

// WithOnError is told of each verify that had no answer. Who asked was answered 503.
func WithOnError(told func(*http.Request, error)) GateOption {
	return func(g *Gate) { g.onError = told }
}

// NewGate returns a Gate that asks a Verifier.
func NewGate(verifier Verifier, options ...GateOption) *Gate {
	g := &Gate{
		verifier: verifier, realm: "api", clientIP: peer,
		resources: func(*http.Request) map[string]string { return nil }, onError: func(*http.Request, error) {},
	}
	for _, option := range options {
		option(g)
	}
	return g
}

// Require guards handlers with a Gate of the usual kind: a request needs a key that holds all the scopes.
func Require(verifier Verifier, scopes ...string) func(http.Handler) http.Handler {
	return NewGate(verifier).Require(scopes...)
}

// Require guards handlers: a request needs a key that holds all the scopes, presented as "Authorization: Bearer" or as
// "X-API-Key". The handler finds the Verdict in the request's context. Others are answered as RFC 6750 has it: 401 without
// a valid key, 403 where the key is not good for this, 400 for several keys at once; and 503 where there is no verdict.
// It panics on a scope that cannot be one.
func (g *Gate) Require(scopes ...string) func(http.Handler) http.Handler {
	for _, scope := range scopes {
		if scope == "" || strings.Map(tokenOnly, scope) != scope {
			panic("client: require a scope: it is empty or has characters that no scope has")
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			verdict, no := g.judge(r, scopes)
			if no != nil {
				g.refuse(w, *no)
				return
			}
			if verdict.InGrace() {
				w.Header().Set(statusHeader, graceStatus(verdict))
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), verdictKey{}, verdict)))
		})
	}
}

// judge returns the verdict on a request that may pass, or how it is refused.
func (g *Gate) judge(r *http.Request, scopes []string) (Verdict, *denial) {
	secret, several := presented(r.Header)
	switch {
	case several:
		return Verdict{}, &denial{status: http.StatusBadRequest, reason: "invalid_request", title: "The request presents more than one key"}
	case secret.IsZero():
		return Verdict{}, &denial{status: http.StatusUnauthorized, title: "A key is needed"}
	}
	verdict, err := g.verifier.Verify(r.Context(), Request{
		Secret: secret, Scopes: scopes, Resources: g.resources(r), IP: g.clientIP(r),
	})
	if err != nil {
		g.onError(r, err)
		return Verdict{}, unanswered(err)
	}
	if !verdict.Valid {
		return Verdict{}, denialOf(verdict, scopes)
	}
	return verdict, nil
}

// unanswered is the refusal where there is no verdict. That our own key is refused, too, is no fault of who asked.
func unanswered(err error) *denial {
	d := &denial{status: http.StatusServiceUnavailable, title: "The key cannot be checked at present", retryAfter: time.Second}
	if e, ok := errors.AsType[*Error](err); ok {
		d.retryAfter = max(d.retryAfter, e.RetryAfter)
	}
	return d
}

type verdictKey struct{}

// FromContext returns the Verdict on the key of a request that a Gate has let through.
func FromContext(ctx context.Context) (Verdict, bool) {
	verdict, ok := ctx.Value(verdictKey{}).(Verdict)
	return verdict, ok
}

// presented returns the key of a request, and whether there are several. Then none counts: who looks at another one than
// we do must not take it for checked.
func presented(h http.Header) (secret Secret, several bool) {
	authorization, apiKey := h["Authorization"], h["X-Api-Key"]
	if len(authorization) > 1 || len(apiKey) > 1 {
		return Secret{}, true
	}
	var bearer, own string
	if len(authorization) == 1 {
		scheme, rest, _ := strings.Cut(authorization[0], " ")
		if strings.EqualFold(scheme, "Bearer") {
			bearer = strings.Trim(rest, " ")
		}
	}
	if len(apiKey) == 1 {
		own = strings.Trim(apiKey[0], " ")
	}
	switch {
	case bearer != "" && own != "":
		return Secret{}, true
	case bearer != "":
		return NewSecret(bearer), false
	}
	return NewSecret(own), false
}

// peer is who is at the other end of the connection.
func peer(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, _ := netip.ParseAddr(host) // zero: not known
	return address
}
