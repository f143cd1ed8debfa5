package api

import (
	"cmp"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// KeySettings are what may be chosen for a new key, whoever makes its secret. It is exported because huma and
// encoding/json read the fields of an embedded struct only then.
type KeySettings struct {
	Name                    string            `json:"name" example:"CI of the billing service" doc:"1 to 200 printable characters"`
	Scopes                  []string          `json:"scopes,omitempty" doc:"Default, also for an empty list: all that the caller's key holds"`
	Resources               surface.Resources `json:"resources,omitempty" doc:"Limits per kind of resource; default: those of the caller's key"`
	ExpiresAt               *string           `json:"expires_at,omitempty" nullable:"true" format:"date-time" doc:"RFC 3339; default: as the caller's key, or never"`
	RotationIntervalDays    *int64            `json:"rotation_interval_days,omitempty" nullable:"true" minimum:"0" maximum:"3650" doc:"In place of rotation_interval_seconds"`
	RotationIntervalSeconds *int64            `json:"rotation_interval_seconds,omitempty" nullable:"true" minimum:"0" maximum:"315360000" doc:"It rotates by itself this often; the installation has a minimum. Default and 0: it does not"`
	RotationWebhookURL      *string           `json:"rotation_webhook_url,omitempty" nullable:"true" example:"https://hooks.example.com/rekey" doc:"Where the new secret is sent, signed, at each interval rotation; default: the old key fetches it"`
	GracePeriodMinutes      *int64            `json:"grace_period_minutes,omitempty" nullable:"true" minimum:"0" maximum:"43200" doc:"In place of grace_period_seconds"`
	GracePeriodSeconds      *int64            `json:"grace_period_seconds,omitempty" nullable:"true" minimum:"0" maximum:"2592000" doc:"How long the old key stays valid after an interval rotation was acknowledged; default an hour, or half the interval if that is shorter"`
	Metadata                surface.Object    `json:"metadata,omitempty" doc:"An object of up to 4096 bytes"`
	KeyLimitSettings
}

// command is the request for a key with these settings, without where it is to be.
func (k *KeySettings) command() (commands.CreateKey, error) {
	interval, badInterval := surface.InUnits("rotation_interval_seconds", k.RotationIntervalSeconds, "rotation_interval_days", k.RotationIntervalDays, secondsPerDay)
	grace, badGrace := surface.InUnits("grace_period_seconds", k.GracePeriodSeconds, "grace_period_minutes", k.GracePeriodMinutes, 60)
	expires, badTime := surface.Instant("expires_at", k.ExpiresAt)
	create := commands.CreateKey{
		Name: k.Name, Scopes: k.Scopes, Resources: domain.Resources(k.Resources), ExpiresAt: expires,
		RotationIntervalSeconds: surface.OrZero(interval), GraceSeconds: grace, WebhookURL: surface.OrZero(k.RotationWebhookURL),
		Metadata: k.Metadata.RawMessage,
	}
	return create, cmp.Or(badInterval, badGrace, badTime, k.lay(&create))
}
