package api

import (
	"encoding/json"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// keyBody is a key as the native API shows it. Absent values are null.
type keyBody struct {
	ID                      domain.KeyID          `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID               domain.LineageID      `json:"lineage_id" doc:"Stays the same over rotations"`
	Generation              int                   `json:"generation" doc:"Number of the key in its lineage, from 1"`
	OrganizationID          domain.OrganizationID `json:"organization_id"`
	ProjectID               domain.ProjectID      `json:"project_id"`
	EnvironmentID           domain.EnvironmentID  `json:"environment_id"`
	Name                    string                `json:"name"`
	KeyPrefix               string                `json:"key_prefix" example:"rk_live_x7Fq" doc:"Brand, environment and four random characters"`
	LastFour                string                `json:"last_four"`
	Scopes                  []string              `json:"scopes" nullable:"false"`
	Resources               map[string][]string   `json:"resources" doc:"Limits per kind of resource; null is no limit"`
	Status                  domain.Status         `json:"status" enum:"active,pending,grace,revoked,expired,retired"`
	ExpiresAt               *time.Time            `json:"expires_at"`
	LastUsedAt              *time.Time            `json:"last_used_at"`
	LastUsedIP              *string               `json:"last_used_ip"`
	UseCount                int64                 `json:"use_count"`
	CreatedAt               time.Time             `json:"created_at"`
	RevokedAt               *time.Time            `json:"revoked_at"`
	ReplacedByKeyID         *domain.KeyID         `json:"replaced_by_key_id"`
	GraceExpiresAt          *time.Time            `json:"grace_expires_at" doc:"Until when a replaced key is still valid"`
	RotationIntervalDays    *int64                `json:"rotation_interval_days" doc:"The interval, if it is whole days"`
	RotationIntervalSeconds *int64                `json:"rotation_interval_seconds"`
	GracePeriodSeconds      int64                 `json:"grace_period_seconds" doc:"Grace of interval rotations"`
	NextRotationAt          *time.Time            `json:"next_rotation_at"`
	RotationWebhookURL      *string               `json:"rotation_webhook_url"`
	Metadata                json.RawMessage       `json:"metadata"`
}

const secondsPerDay = 24 * 60 * 60

// bodyOf shows a key at a moment.
func bodyOf(k *projections.Key, now time.Time) keyBody {
	b := keyBody{
		ID: k.ID, LineageID: k.LineageID, Generation: k.Generation, OrganizationID: k.OrganizationID, ProjectID: k.ProjectID,
		EnvironmentID: k.EnvironmentID, Name: k.Name, KeyPrefix: k.Secret.Prefix, LastFour: k.Secret.LastFour,
		Scopes: orEmpty(k.Scopes), Resources: k.Resources, Status: k.StatusAt(now), ExpiresAt: k.ExpiresAt,
		CreatedAt: k.CreatedAt, RevokedAt: k.RevokedAt, ReplacedByKeyID: k.ReplacedBy, GraceExpiresAt: k.GraceExpiresAt,
		RotationIntervalSeconds: k.RotationIntervalSeconds, GracePeriodSeconds: k.GraceSeconds,
		NextRotationAt: k.NextRotationAt, RotationWebhookURL: k.WebhookURL, Metadata: k.Metadata,
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
