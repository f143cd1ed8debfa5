package api

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type verifyInput struct {
	Body struct {
		Key       string            `json:"key" doc:"The secret that was presented"`
		Scopes    []string          `json:"scopes,omitempty" maxItems:"64" doc:"Scopes it must hold, all of them"`
		Resources map[string]string `json:"resources,omitempty" doc:"The resource it is used for, per kind" example:"{\"app\":\"com.demo.app\"}"`
		IP        string            `json:"ip,omitempty" maxLength:"64" doc:"Where the secret was presented from"`
	}
}

type verifyBody struct {
	Valid          bool                   `json:"valid" doc:"True in grace too"`
	Code           projections.Code       `json:"code" enum:"VALID,NOT_FOUND,REVOKED,EXPIRED,GRACE_EXPIRED,INSUFFICIENT_SCOPE,RESOURCE_DENIED,DISABLED"`
	Status         *domain.Status         `json:"status"`
	KeyID          *domain.KeyID          `json:"key_id"`
	LineageID      *domain.LineageID      `json:"lineage_id"`
	Generation     *int                   `json:"generation"`
	OrganizationID *domain.OrganizationID `json:"organization_id"`
	ProjectID      *domain.ProjectID      `json:"project_id"`
	EnvironmentID  *domain.EnvironmentID  `json:"environment_id"`
	Name           *string                `json:"name"`
	Scopes         []string               `json:"scopes"`
	Metadata       json.RawMessage        `json:"metadata"`
	ExpiresAt      *time.Time             `json:"expires_at"`
	GraceExpiresAt *time.Time             `json:"grace_expires_at" doc:"In grace: when that ends"`
	ReplacedBy     *domain.KeyID          `json:"replaced_by_key_id" doc:"In grace: the key that replaced it"`
}

type verifyOutput struct{ Body verifyBody }

func (s *server) verify(ctx context.Context, in *verifyInput) (*verifyOutput, error) {
	verdict, err := s.cfg.Verifier.Verify(ctx, projections.VerifyRequest{
		Organization: caller(ctx).OrganizationID, Secret: in.Body.Key, Scopes: in.Body.Scopes, Resources: in.Body.Resources,
	})
	if err != nil {
		return nil, err
	}
	b := verifyBody{Valid: verdict.Valid(), Code: verdict.Code}
	if k := verdict.Key; k != nil {
		if b.Valid {
			s.cfg.Commands.FirstUse(k)
		}
		b.Status, b.KeyID, b.LineageID, b.Generation = &verdict.Status, &k.ID, &k.LineageID, &k.Generation
		b.OrganizationID, b.ProjectID, b.EnvironmentID = &k.OrganizationID, &k.ProjectID, &k.EnvironmentID
		b.Name, b.Scopes, b.Metadata, b.ExpiresAt = &k.Name, orEmpty(k.Scopes), k.Metadata, k.ExpiresAt
		b.GraceExpiresAt, b.ReplacedBy = k.GraceExpiresAt, k.ReplacedBy
	}
	return &verifyOutput{Body: b}, nil
}
