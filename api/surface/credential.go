package surface

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// Credential is the key that a request shows. Presented tells a wrong key from none; Refused, if not nil, is why the
// request cannot be read as showing one key.
type Credential struct {
	Secret    string
	Presented bool
	Refused   error
}

// Bearer returns the key of a request by RFC 6750, with the scheme in any case. A request with another scheme, or with two
// Authorization headers of which somebody else may read the other, shows none.
func Bearer(header http.Header) Credential { return BearerIn(header["Authorization"]) }

// BearerIn returns the key that the values of one header show.
func BearerIn(values []string) Credential {
	if len(values) != 1 {
		return Credential{}
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return Credential{}
	}
	key := strings.TrimSpace(rest)
	return Credential{Secret: key, Presented: key != ""}
}

// Authenticate returns the caller's key. Missing, malformed, unknown, expired and revoked all get the same answer.
func (s *Surface) Authenticate(r *http.Request) (*projections.Key, error) {
	refused := domain.Refuse(domain.CodeUnauthenticated, "send a valid key as `Authorization: Bearer <key>`")
	credential := s.style.Credential(r.Header)
	if credential.Refused != nil {
		return nil, credential.Refused
	}
	if credential.Presented {
		refused.With("presented", true) // taken out again by the challenge
	}
	if credential.Secret == "" {
		return nil, refused
	}
	record, err := s.Verifier.Authenticate(r.Context(), credential.Secret)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, refused
	}
	from := s.ClientIP(r)
	if !record.MayUseFrom(from) {
		return nil, domain.Refuse(domain.CodeIPDenied, "your key may not be used from where this request comes from")
	}
	s.Used(record, from, Agent(r.UserAgent(), credential.Secret), s.Now())
	key := record.Key()
	if err := s.serves(r.Context(), key.OrganizationID); err != nil {
		return nil, err
	}
	if s.style.Narrow != nil {
		if key, err = s.style.Narrow(r.Context(), s.Core, r, key); err != nil {
			return nil, err
		}
	}
	info(r.Context()).caller = key
	return key, nil
}

// serves refuses the keys of an organization that has switched the surface off. Whether it has must be known: where it
// cannot be asked, nobody is let through.
func (s *Surface) serves(ctx context.Context, id domain.OrganizationID) error {
	if s.style.Switch == "" {
		return nil
	}
	organization, err := s.Reader.Organization(ctx, id)
	if err != nil {
		return fmt.Errorf("ask whether a surface is switched off: %w", err)
	}
	if !organization.Serves(s.style.Switch) {
		return domain.Refuse(domain.CodeSurfaceDisabled, "your organization has switched the surface %s off", s.style.Switch)
	}
	return nil
}

// Used takes note that a key was used, here or with a service that asked for its verdict.
func (c *Core) Used(key *verifier.Record, from netip.Addr, agent string, at time.Time) {
	if key.Pending() {
		c.Commands.FirstUse(key.Key())
	}
	c.Usage(key, from, agent, at)
}

// Agent is what a client says it is, unless that repeats its key: it is kept where no key may be.
func Agent(agent, secret string) string {
	if strings.Contains(agent, secret) {
		return ""
	}
	return agent
}

// RequestID names the request, also where no key asks.
func RequestID(ctx context.Context) string { return requestID(ctx) }

// NoteCaller says whose key a request shows, where its handler has found that out itself.
func NoteCaller(ctx context.Context, key *projections.Key) { info(ctx).caller = key }

// By says who asks, for the commands.
func By(ctx context.Context) commands.By {
	i := info(ctx)
	return commands.By{Caller: i.caller.Caller(), RequestID: i.id}
}

// Reach is how far the caller can see.
func Reach(ctx context.Context) projections.Reach { return projections.ReachOf(Caller(ctx).Caller()) }

// Caller is the key that asks.
func Caller(ctx context.Context) *projections.Key { return info(ctx).caller }
