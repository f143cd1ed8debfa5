package api

import (
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// KeyBody is a key as the native API shows it. Absent values are null. It is exported because huma and encoding/json show
// the fields of an embedded struct only then.
type KeyBody struct {
	ID                      domain.KeyID          `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID               domain.LineageID      `json:"lineage_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Stays the same over rotations"`
	Generation              int                   `json:"generation" example:"1" doc:"Number of the key in its lineage, from 1"`
	OrganizationID          domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID               domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	EnvironmentID           domain.EnvironmentID  `json:"environment_id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name                    string                `json:"name" example:"CI of the billing service"`
	KeyPrefix               string                `json:"key_prefix" example:"rk_live_x7Fq" doc:"Brand, environment and four random characters"`
	LastFour                string                `json:"last_four" example:"9aZk"`
	Scopes                  []string              `json:"scopes" nullable:"false" doc:"Names, a:* for all that begin with a:, or * for all"`
	Resources               surface.Resources     `json:"resources" doc:"Limits per kind of resource; a kind that is not named is not limited, and null is no limit"`
	Status                  domain.Status         `json:"status" enum:"active,pending,grace,revoked,expired,retired" doc:"active, pending and grace are valid: pending waits for its receiver, grace was replaced. retired is replaced and out of grace"`
	ExpiresAt               *time.Time            `json:"expires_at" doc:"null: never"`
	LastUsedAt              *time.Time            `json:"last_used_at" doc:"null: not known to be used"`
	LastUsedIP              *string               `json:"last_used_ip"`
	UseCount                int64                 `json:"use_count" example:"0"`
	UseCompleteUntil        *time.Time            `json:"use_complete_until" doc:"Each verify that was answered before is counted, on every replica, but for the last second of one that crashed; null: not known"`
	CreatedAt               time.Time             `json:"created_at"`
	RevokedAt               *time.Time            `json:"revoked_at" doc:"When it was revoked, or discarded because its rotation was cancelled"`
	ReplacedByKeyID         *domain.KeyID         `json:"replaced_by_key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7b" doc:"The next generation, once that is active"`
	GraceExpiresAt          *time.Time            `json:"grace_expires_at" doc:"Until when a replaced key is still valid"`
	RotationIntervalDays    *int64                `json:"rotation_interval_days" example:"30" doc:"The interval, if it is whole days"`
	RotationIntervalSeconds *int64                `json:"rotation_interval_seconds" example:"2592000" doc:"null: it does not rotate by itself"`
	GracePeriodSeconds      int64                 `json:"grace_period_seconds" example:"3600" doc:"How long it stays valid after an interval rotation was acknowledged"`
	NextRotationAt          *time.Time            `json:"next_rotation_at" doc:"null: none is planned, or one waits for its receiver"`
	RotationWebhookURL      *string               `json:"rotation_webhook_url" example:"https://hooks.example.com/rekey" doc:"Who is sent the new secret; null: the old key fetches it"`
	WebhookEndpointID       *domain.EndpointID    `json:"webhook_endpoint_id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The webhook endpoint that is sent the new secret: a registered one, or the one of rotation_webhook_url"`
	Metadata                surface.Object        `json:"metadata"`
	KeyLimits
}

const secondsPerDay = 24 * 60 * 60

// bodyOf shows a key at a moment.
func bodyOf(k *projections.Key, now time.Time) KeyBody {
	b := KeyBody{
		ID: k.ID, LineageID: k.LineageID, Generation: k.Generation, OrganizationID: k.OrganizationID, ProjectID: k.ProjectID,
		EnvironmentID: k.EnvironmentID, Name: k.Name, KeyPrefix: k.Secret.Prefix, LastFour: k.Secret.LastFour,
		Scopes: orEmpty(k.Scopes), Resources: surface.Resources(k.Resources), Status: k.StatusAt(now), ExpiresAt: k.ExpiresAt,
		LastUsedAt: k.LastUsedAt, LastUsedIP: k.LastUsedIP, UseCount: k.UseCount, UseCompleteUntil: k.UseCompleteUntil,
		CreatedAt: k.CreatedAt, RevokedAt: k.RevokedAt, ReplacedByKeyID: k.ReplacedBy, GraceExpiresAt: k.GraceExpiresAt,
		RotationIntervalSeconds: k.RotationIntervalSeconds, GracePeriodSeconds: k.GraceSeconds,
		NextRotationAt: k.NextRotationAt, RotationWebhookURL: k.WebhookURL, WebhookEndpointID: k.EndpointID, Metadata: surface.Object{RawMessage: k.Metadata},
		KeyLimits: limitsShown(k),
	}
	if s := k.RotationIntervalSeconds; s != nil && *s%secondsPerDay == 0 {
		days := *s / secondsPerDay
		b.RotationIntervalDays = &days
	}
	return b
}

func orEmpty(s domain.Scopes) []string {
	if s == nil {
		return []string{}
	}
	return s
}
