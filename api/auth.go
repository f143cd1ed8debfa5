package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// authPath is what gateways ask.
const authPath = "/v1/auth"

// auth tells a gateway whether to let a request through that it holds. The request's own headers come along, so the
// gateway shows its own key in one that no client sends.
//
// It must never fail open: 200 is written in one place, admit, for a verdict that says valid.
func (s *server) auth(w http.ResponseWriter, r *http.Request) {
	var q question
	gateway, answer, err := s.askedBy(r, &q)
	if gateway != nil {
		surface.NoteCaller(r.Context(), gateway.Key())
	}
	switch {
	case err != nil: // nothing is said of the client: this is the gateway's, or ours
		w.Header().Set("Rekey-Gateway-Error", gatewayError(err))
		surface.WriteError(w, r, err)
	case answer.Valid():
		s.admit(w, r, &q, gateway, answer)
	default:
		s.asked(r, gateway, answer)
		if answer.Key != nil {
			s.Denied(answer.Key, answer.At)
		}
		w.Header().Set("Rekey-Code", string(answer.Code))
		if after := answer.RetryAfterSeconds(); after > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(after, 10))
		}
		surface.WriteError(w, r, q.refusal(answer.Code))
	}
}

// quickAuth is auth for a request that is let through.
func (s *server) quickAuth(w http.ResponseWriter, r *http.Request) bool {
	var q question
	gateway, answer, err := s.askedBy(r, &q)
	if err != nil || !answer.Valid() {
		return false
	}
	s.admit(w, r, &q, gateway, answer)
	return true
}

// askedBy finds out who asks, what, and the verdict. An error is never about the client's key.
func (s *server) askedBy(r *http.Request, q *question) (*verifier.Record, verifier.Answer, error) {
	gateway, err := s.gateway(r)
	if err != nil {
		return gateway, verifier.Answer{}, err
	}
	if err := q.read(r); err != nil {
		return gateway, verifier.Answer{}, err
	}
	q.request.Reach = projections.Reach{Organization: s.GatewayOrganization}
	if gateway != nil {
		q.request.Reach = gateway.Reach()
	}
	q.request.IP = s.clientIP(r, q)
	answer, err := s.Verifier.Verify(r.Context(), &q.request)
	return gateway, answer, err
}

// gateway returns the key of the gateway itself. One that shows none may ask only where it is configured whose keys it
// asks about: then it is nil.
func (s *server) gateway(r *http.Request) (*verifier.Record, error) {
	credential := surface.BearerIn(r.Header["Rekey-Authorization"])
	if len(r.Header["Rekey-Authorization"]) == 0 && s.GatewayOrganization != "" {
		return nil, nil
	}
	record, err := s.Verifier.Authenticate(r.Context(), credential.Secret)
	if err != nil {
		return nil, err
	}
	if record != nil && !record.MayUseFrom(surface.RemoteHost(r)) {
		return record, domain.Refuse(domain.CodeIPDenied, "the gateway's own key, in Rekey-Authorization, may not be used from where this request comes from")
	}
	if record == nil {
		refused := domain.Refuse(domain.CodeUnauthenticated, "the gateway must send a valid key of its own as `Rekey-Authorization: Bearer <key>`")
		if credential.Presented {
			refused.With("presented", true)
		}
		return nil, refused
	}
	if !record.Scopes().Allow(domain.ScopeKeysVerify) {
		refused := domain.Refuse(domain.CodeInsufficientScope, "the gateway's own key, in Rekey-Authorization, lacks the scope %s", domain.ScopeKeysVerify)
		return record, refused.With("required_scope", domain.ScopeKeysVerify)
	}
	return record, nil
}

// gatewayError is why there is no verdict, in a word for the gateway's log.
func gatewayError(err error) string {
	if code := domain.CodeOf(err); code != "" {
		return string(code)
	}
	return string(domain.CodeInternal)
}

// admit lets a request through and says whose it is. All of these headers are always there: one that was missing, some
// gateways would leave as the client sent it.
func (s *server) admit(w http.ResponseWriter, r *http.Request, q *question, gateway *verifier.Record, answer verifier.Answer) {
	key := answer.Key
	s.asked(r, gateway, answer)
	s.Used(key, q.request.IP, surface.Agent(r.UserAgent(), q.request.Secret), answer.At)
	values := [...]string{
		string(answer.Code), key.KeyID(), key.LineageID(), string(key.OrganizationID()), string(key.ProjectID()), string(key.EnvironmentID()),
		strings.Join(key.Scopes(), " "), keyStatus(answer),
	}
	h := w.Header()
	for i, name := range admitted {
		h[name] = values[i : i+1 : i+1]
	}
	w.WriteHeader(http.StatusOK)
}

// asked takes note that the gateway's own key was used, if it has one.
func (s *server) asked(r *http.Request, gateway *verifier.Record, answer verifier.Answer) {
	if gateway != nil {
		s.Used(gateway, surface.RemoteHost(r), "", answer.At)
	}
}

// admitted are the headers of a 200, as Go spells them.
var admitted = [...]string{
	"Rekey-Code", "Rekey-Key-Id", "Rekey-Lineage-Id", "Rekey-Organization-Id", "Rekey-Project-Id", "Rekey-Environment-Id",
	"Rekey-Scopes", "Rekey-Key-Status",
}

// keyStatus is the status of a key that may be used, and until when one in grace may.
func keyStatus(answer verifier.Answer) string {
	if ends := answer.Key.GraceEnds(); answer.Status == domain.StatusGrace && !ends.IsZero() {
		return "grace; until=" + strconv.FormatInt(ends.Unix(), 10)
	}
	return string(answer.Status)
}

// refusal is what the client is told, by gateways that pass it on: no more than rekey's own API tells it. Codes that are
// not listed mean that the key is right and this use of it is not.
func (q *question) refusal(code projections.Code) error {
	switch code {
	case projections.CodeNotFound, projections.CodeRevoked, projections.CodeExpired, projections.CodeGraceExpired, projections.CodeDisabled:
		refused := domain.Refuse(domain.CodeUnauthenticated, "send a valid key as `Authorization: Bearer <key>` or `X-API-Key: <key>`, and only one")
		if q.presented {
			refused.With("presented", true)
		}
		return refused
	case projections.CodeInsufficientScope:
		needed := domain.WithoutKeys(strings.Join(q.request.Scopes, " ")) // one may have been put there by mistake
		return domain.Refuse(domain.CodeInsufficientScope, "this needs a scope that your key does not hold").With("required_scope", needed)
	case projections.CodeRateLimited, projections.CodeUsageExceeded:
		return domain.Refuse(domain.CodeRateLimited, "your key has no uses left for now")
	}
	return domain.Refuse(domain.CodeInsufficientScope, "your key may not be used for this, or not from here")
}

// clientIP is where the client's request came from: as for every request, or what the gateway says in a header that it
// has named in its query. A client could write such a header itself, so none is read unasked.
func (s *server) clientIP(r *http.Request, q *question) netip.Addr {
	if q.ipHeader == "" {
		return s.ClientIP(r)
	}
	values := r.Header[q.ipHeader]
	if len(values) != 1 {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(values[0]) // what is none is not known
	return addr.Unmap().WithZone("")
}
