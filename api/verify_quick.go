package api

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// quickVerify answers the verify of a plain request, byte for byte as verify does. It is the one route that callers feel on
// each of their own requests, and what all routes share costs several times what a verify costs. Whatever is not as usual,
// also every refusal, is left to verify.
func (s *server) quickVerify(r *http.Request, body string, out []byte) ([]byte, bool) {
	var in quickInput
	authorization := r.Header["Authorization"]
	if len(authorization) != 1 || !in.parse(body) {
		return nil, false
	}
	presented, ok := strings.CutPrefix(authorization[0], "Bearer ")
	if !ok {
		return nil, false
	}
	caller, err := s.Verifier.Authenticate(r.Context(), presented)
	if err != nil || caller == nil || !caller.Scopes().Allow(domain.ScopeKeysVerify) {
		return nil, false
	}
	from := s.ClientIP(r)
	if !caller.MayUseFrom(from) {
		return nil, false
	}
	in.request.Reach = caller.Reach()
	answer, err := s.Verifier.Verify(r.Context(), &in.request)
	if err != nil {
		return nil, false
	}
	s.Used(caller, from, surface.Agent(r.UserAgent(), presented), answer.At)
	s.count(answer, &in.request, in.agent)
	return answer.AppendJSON(out), true
}

// maxAgent is the schema's bound on user_agent.
const maxAgent = 256

// quickInput is a verify's body as it is usually written.
type quickInput struct {
	request projections.VerifyRequest
	agent   string
	names   [8]string // room for scopes
}

// parse reads a body without escapes, without nulls and with each field at most once; of another one it returns false.
func (in *quickInput) parse(body string) bool {
	p := plainJSON{text: body}
	var seen struct{ key, scopes, resources, ip, agent bool }
	once := func(flag *bool) bool {
		first := !*flag
		*flag = true
		return first
	}
	ok := p.object(func(name string) bool {
		switch name {
		case "key":
			return once(&seen.key) && p.string(&in.request.Secret)
		case "ip":
			var ip string
			if !once(&seen.ip) || !p.string(&ip) {
				return false
			}
			var err error
			in.request.IP, err = netip.ParseAddr(ip)
			return err == nil
		case "user_agent":
			return once(&seen.agent) && p.string(&in.agent) && len(in.agent) <= maxAgent
		case "scopes":
			in.request.Scopes = in.names[:0]
			return once(&seen.scopes) && p.list(&in.request.Scopes)
		case "resources":
			in.request.Resources = map[string]string{}
			return once(&seen.resources) && p.strings(in.request.Resources)
		}
		return false
	})
	return ok && p.end() && seen.key && len(in.request.Scopes) <= cap(in.names)
}
