package api

import (
	"context"
	"net/netip"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

type verifyInput struct{ Body verifyRequest }

type verifyRequest struct {
	Key       string            `json:"key" example:"rk_live_..." doc:"The secret that was presented"`
	Scopes    []string          `json:"scopes,omitempty" maxItems:"64" doc:"Scopes it must hold, all of them"`
	Resources map[string]string `json:"resources,omitempty" nullable:"true" doc:"The resource it is used for, per kind" example:"{\"app\":\"com.demo.app\"}"`
	IP        string            `json:"ip,omitempty" nullable:"true" maxLength:"64" example:"203.0.113.7" doc:"Where the secret was presented from. A key with allowed_ips is denied without it"`
	UserAgent string            `json:"user_agent,omitempty" nullable:"true" maxLength:"256" example:"curl/8.5.0" doc:"What presented it says it is. While the key is in grace, its owner is told who still uses it"`
}

type verdictBody struct {
	Valid          bool                   `json:"valid" doc:"Whether it may be used as asked; in grace too"`
	Code           projections.Code       `json:"code" enum:"VALID,NOT_FOUND,REVOKED,EXPIRED,GRACE_EXPIRED,INSUFFICIENT_SCOPE,RESOURCE_DENIED,DISABLED,IP_DENIED,RATE_LIMITED,USAGE_EXCEEDED" doc:"Judged in this order: what has ended, DISABLED, IP_DENIED, scopes, resources, USAGE_EXCEEDED, RATE_LIMITED; the first that applies is told. NOT_FOUND also for a malformed secret and for a key of another organization: then all that follows is null"`
	Status         *domain.Status         `json:"status" enum:"active,pending,grace,revoked,expired,retired"`
	KeyID          *domain.KeyID          `json:"key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID      *domain.LineageID      `json:"lineage_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a"`
	Generation     *int                   `json:"generation" example:"1"`
	OrganizationID *domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      *domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	EnvironmentID  *domain.EnvironmentID  `json:"environment_id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name           *string                `json:"name" example:"CI of the billing service"`
	Scopes         []string               `json:"scopes"`
	Metadata       surface.Object         `json:"metadata"`
	ExpiresAt      *time.Time             `json:"expires_at"`
	GraceExpiresAt *time.Time             `json:"grace_expires_at" doc:"In grace: when that ends"`
	ReplacedBy     *domain.KeyID          `json:"replaced_by_key_id" doc:"In grace: the key that replaced it"`

	RetryAfterSeconds *int64                            `json:"retry_after_seconds" example:"12" doc:"With RATE_LIMITED: when the next window begins; else null"`
	RateLimit         surface.Nullable[rateLimitState]  `json:"rate_limit" doc:"What the lineage's rate limit is; null: it has none"`
	UsageLimit        surface.Nullable[usageLimitState] `json:"usage_limit" doc:"What the lineage's usage limit is; null: it has none"`
}

type verifyOutput struct{ Body verdictBody }

func (s *server) verify(ctx context.Context, in *verifyInput) (*verifyOutput, error) {
	if err := checkIP("ip", in.Body.IP); err != nil {
		return nil, err
	}
	question := in.Body.in(surface.Reach(ctx))
	answer, err := s.Verifier.Verify(ctx, question)
	if err != nil {
		return nil, err
	}
	s.count(answer, question, in.Body.UserAgent)
	return &verifyOutput{Body: verdictOf(answer)}, nil
}

// count takes note of a verdict on a secret, and of who has presented it.
func (s *server) count(answer verifier.Answer, question *projections.VerifyRequest, agent string) {
	switch {
	case answer.Valid():
		s.Used(answer.Key, question.IP, surface.Agent(agent, question.Secret), answer.At)
	case answer.Key != nil:
		s.Denied(answer.Key, answer.At)
	}
}

func checkIP(field, ip string) error {
	if ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return domain.InvalidField(field, "is not an IP address", "send it without port, such as 203.0.113.7 or 2001:db8::1, or leave it out")
		}
	}
	return nil
}

// in is the question to the verifier, for a caller who sees so far.
func (q *verifyRequest) in(reach projections.Reach) *projections.VerifyRequest {
	from, _ := netip.ParseAddr(q.IP) // checked before
	return &projections.VerifyRequest{Reach: reach, Secret: q.Key, Scopes: q.Scopes, Resources: q.Resources, IP: from}
}

func verdictOf(answer verifier.Answer) verdictBody {
	b := verdictBody{Valid: answer.Valid(), Code: answer.Code}
	if answer.Key != nil {
		k := answer.Key.Key()
		b.Status, b.KeyID, b.LineageID, b.Generation = &answer.Status, &k.ID, &k.LineageID, &k.Generation
		b.OrganizationID, b.ProjectID, b.EnvironmentID = &k.OrganizationID, &k.ProjectID, &k.EnvironmentID
		b.Name, b.Scopes, b.Metadata, b.ExpiresAt = &k.Name, orEmpty(k.Scopes), surface.Object{RawMessage: k.Metadata}, k.ExpiresAt
		b.GraceExpiresAt, b.ReplacedBy = k.GraceExpiresAt, k.ReplacedBy
		b.showSpending(&answer, k)
	}
	return b
}
