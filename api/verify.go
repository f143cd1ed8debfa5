package api

import (
	"context"
	"net/netip"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type verifyInput struct {
	Body struct {
		Key       string            `json:"key" example:"rk_live_..." doc:"The secret that was presented"`
		Scopes    []string          `json:"scopes,omitempty" maxItems:"64" doc:"Scopes it must hold, all of them"`
		Resources map[string]string `json:"resources,omitempty" nullable:"true" doc:"The resource it is used for, per kind" example:"{\"app\":\"com.demo.app\"}"`
		IP        string            `json:"ip,omitempty" nullable:"true" maxLength:"64" example:"203.0.113.7" doc:"Where the secret was presented from"`
		UserAgent string            `json:"user_agent,omitempty" nullable:"true" maxLength:"256" example:"curl/8.5.0" doc:"What presented it says it is. While the key is in grace, its owner is told who still uses it"`
	}
}

type verdictBody struct {
	Valid          bool                   `json:"valid" doc:"Whether it may be used as asked; in grace too"`
	Code           projections.Code       `json:"code" enum:"VALID,NOT_FOUND,REVOKED,EXPIRED,GRACE_EXPIRED,INSUFFICIENT_SCOPE,RESOURCE_DENIED,DISABLED" doc:"NOT_FOUND also for a malformed secret and for a key of another organization: then all that follows is null"`
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
}

type verifyOutput struct{ Body verdictBody }

func (s *server) verify(ctx context.Context, in *verifyInput) (*verifyOutput, error) {
	if in.Body.IP != "" {
		if _, err := netip.ParseAddr(in.Body.IP); err != nil {
			return nil, domain.InvalidField("ip", "is not an IP address", "send it without port, such as 203.0.113.7 or 2001:db8::1, or leave it out")
		}
	}
	verdict, err := s.Verifier.Verify(ctx, projections.VerifyRequest{
		Reach: surface.Reach(ctx), Secret: in.Body.Key, Scopes: in.Body.Scopes, Resources: in.Body.Resources,
	})
	if err != nil {
		return nil, err
	}
	b := verdictBody{Valid: verdict.Valid(), Code: verdict.Code}
	if k := verdict.Key; k != nil {
		if b.Valid {
			s.Used(k, in.Body.IP, surface.Agent(in.Body.UserAgent, in.Body.Key))
		}
		b.Status, b.KeyID, b.LineageID, b.Generation = &verdict.Status, &k.ID, &k.LineageID, &k.Generation
		b.OrganizationID, b.ProjectID, b.EnvironmentID = &k.OrganizationID, &k.ProjectID, &k.EnvironmentID
		b.Name, b.Scopes, b.Metadata, b.ExpiresAt = &k.Name, orEmpty(k.Scopes), surface.Object{RawMessage: k.Metadata}, k.ExpiresAt
		b.GraceExpiresAt, b.ReplacedBy = k.GraceExpiresAt, k.ReplacedBy
	}
	return &verifyOutput{Body: b}, nil
}
