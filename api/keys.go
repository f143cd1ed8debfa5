package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// KeyPath is the key that a path names. It is exported because huma fills embedded fields only then.
type KeyPath struct {
	ID domain.KeyID `path:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The key"`
}

type keyOutput struct {
	ETag string `header:"ETag" doc:"Of the key as it is here, for If-Match"`
	Body KeyBody
}

type createKeyInput struct {
	Body struct {
		ProjectID         domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		EnvironmentID     *domain.EnvironmentID `json:"environment_id,omitempty" nullable:"true" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Default: the project's first environment"`
		WebhookEndpointID *domain.EndpointID    `json:"webhook_endpoint_id,omitempty" nullable:"true" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a" doc:"A registered webhook endpoint of the project, in place of rotation_webhook_url"`
		KeySettings
	}
}

// createdKeyBody is a new key with what is shown only once.
type createdKeyBody struct {
	KeyBody
	Key                   string  `json:"key" example:"rk_live_..." doc:"The secret. It is shown only here"`
	RotationWebhookSecret *string `json:"rotation_webhook_secret" example:"whsec_..." doc:"What the webhooks are signed with. It is shown only here; null without a webhook"`
}

type createdKeyOutput struct {
	ETag string `header:"ETag" doc:"Of the key as it is here, for If-Match"`
	Body createdKeyBody
}

func (s *server) createKey(ctx context.Context, in *createKeyInput) (*createdKeyOutput, error) {
	create, err := in.Body.command()
	if err != nil {
		return nil, err
	}
	create.ProjectID, create.EnvironmentID = in.Body.ProjectID, surface.OrZero(in.Body.EnvironmentID)
	create.EndpointID = surface.OrZero(in.Body.WebhookEndpointID)
	created, err := s.Commands.CreateKey(ctx, surface.Keeping(ctx, s.shownCreated), create)
	if err != nil {
		return nil, err
	}
	return s.shownCreated(created), nil
}

func (s *server) shownCreated(created commands.CreatedKey) *createdKeyOutput {
	out := &createdKeyOutput{
		ETag: surface.ETag(created.Key.Version),
		Body: createdKeyBody{KeyBody: bodyOf(created.Key, s.Now()), Key: created.Secret.Reveal()},
	}
	if !created.WebhookSecret.IsZero() {
		secret := created.WebhookSecret.Reveal()
		out.Body.RotationWebhookSecret = &secret
	}
	return out
}

type listKeysInput struct {
	surface.PageInput
	ProjectID      domain.ProjectID     `query:"project_id" required:"true" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Whose keys"`
	EnvironmentID  domain.EnvironmentID `query:"environment_id" doc:"Only of this environment"`
	LineageID      domain.LineageID     `query:"lineage_id" doc:"Only of this lineage, and then also its revoked, expired and retired keys"`
	IncludeRevoked bool                 `query:"include_revoked" doc:"Also revoked, expired and retired keys"`
}

func (s *server) listKeys(ctx context.Context, in *listKeysInput) (*surface.List[KeyBody], error) {
	if err := cmp.Or(
		in.Check(domain.PrefixKey),
		surface.CheckFilter("environment_id", domain.PrefixEnvironment, string(in.EnvironmentID)),
		surface.CheckFilter("lineage_id", domain.PrefixLineage, string(in.LineageID)),
	); err != nil {
		return nil, err
	}
	if _, err := s.project(ctx, in.ProjectID); err != nil {
		return nil, err
	}
	keys, err := s.Reader.Keys(ctx, projections.KeyList{
		Reach: surface.Reach(ctx), Project: in.ProjectID, Environment: in.EnvironmentID, Lineage: in.LineageID,
		IncludeEnded: in.IncludeRevoked || in.LineageID != "", Now: s.Now(), Before: domain.KeyID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	query := url.Values{
		"project_id": {string(in.ProjectID)}, "environment_id": {string(in.EnvironmentID)}, "lineage_id": {string(in.LineageID)},
	}
	if in.IncludeRevoked {
		query.Set("include_revoked", "true")
	}
	return surface.ListOf(in.PageInput, "/v1/api-keys", keys, func(k *projections.Key) string { return string(k.ID) }, query,
		func(k *projections.Key) KeyBody { return bodyOf(k, s.Now()) }), nil
}

func (s *server) getKey(ctx context.Context, in *KeyPath) (*keyOutput, error) {
	key, err := s.Reader.Key(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &keyOutput{ETag: surface.ETag(key.Version), Body: bodyOf(key, s.Now())}, nil
}

type updateKeyInput struct {
	KeyPath
	surface.IfMatch
	Body struct {
		Name                    surface.Optional[string]            `json:"name,omitempty" nullable:"false" doc:"1 to 200 printable characters"`
		Scopes                  surface.Optional[[]string]          `json:"scopes,omitempty" doc:"null: none at all"`
		Resources               surface.Optional[surface.Resources] `json:"resources,omitempty" doc:"null: no limit"`
		ExpiresAt               surface.Optional[string]            `json:"expires_at,omitempty" format:"date-time" doc:"RFC 3339; null: never"`
		RotationIntervalDays    surface.Optional[int64]             `json:"rotation_interval_days,omitempty" minimum:"0" maximum:"3650" doc:"In place of rotation_interval_seconds"`
		RotationIntervalSeconds surface.Optional[int64]             `json:"rotation_interval_seconds,omitempty" minimum:"0" maximum:"315360000" doc:"null or 0: it does not rotate by itself"`
		RotationWebhookURL      surface.Optional[string]            `json:"rotation_webhook_url,omitempty" doc:"A new URL gets a new signing secret; null: the old key fetches its successor"`
		WebhookEndpointID       surface.Optional[domain.EndpointID] `json:"webhook_endpoint_id,omitempty" doc:"A registered webhook endpoint of the project, in place of rotation_webhook_url; null: none"`
		GracePeriodMinutes      surface.Optional[int64]             `json:"grace_period_minutes,omitempty" nullable:"false" minimum:"0" maximum:"43200" doc:"In place of grace_period_seconds"`
		GracePeriodSeconds      surface.Optional[int64]             `json:"grace_period_seconds,omitempty" nullable:"false" minimum:"0" maximum:"2592000" doc:"How long the old key stays valid after an interval rotation was acknowledged; 0 ends it then"`
		Metadata                surface.Optional[surface.Object]    `json:"metadata,omitempty" doc:"Replaces all of it; null: none"`
		KeyLimitChanges
	}
}

type updatedKeyOutput struct {
	ETag string `header:"ETag" doc:"Of the key as it is here, for If-Match"`
	Body struct {
		KeyBody
		RotationWebhookSecret *string `json:"rotation_webhook_secret" example:"whsec_..." doc:"Only if the edit made a new receiver, else null. It is shown only here"`
	}
}

func (s *server) updateKey(ctx context.Context, in *updateKeyInput) (*updatedKeyOutput, error) {
	b := &in.Body
	interval, err := changeInUnits("rotation_interval_seconds", b.RotationIntervalSeconds, "rotation_interval_days", b.RotationIntervalDays, secondsPerDay)
	if err != nil {
		return nil, err
	}
	if b.GracePeriodSeconds.Null || b.GracePeriodMinutes.Null { // zero would be the harshest reading of it
		return nil, domain.InvalidField("grace_period_seconds", "cannot be null", "send a number; 0 ends the old key at each rotation")
	}
	grace, err := changeInUnits("grace_period_seconds", b.GracePeriodSeconds, "grace_period_minutes", b.GracePeriodMinutes, 60)
	if err != nil {
		return nil, err
	}
	expires, err := surface.Instant("expires_at", b.ExpiresAt.Pointer())
	if err != nil {
		return nil, err
	}
	update := domain.UpdateKey{
		KeyID: in.ID, Name: b.Name.Change(), RotationIntervalSeconds: interval, GraceSeconds: grace,
		WebhookURL: b.RotationWebhookURL.Change(), EndpointID: b.WebhookEndpointID.Change(),
		ExpiresAt: domain.Change[*time.Time]{Set: b.ExpiresAt.Set, Value: expires},
		Scopes:    domain.Change[domain.Scopes]{Set: b.Scopes.Set, Value: b.Scopes.Value},
		Resources: domain.Change[domain.Resources]{Set: b.Resources.Set, Value: domain.Resources(b.Resources.Value)},
		Metadata:  domain.Change[json.RawMessage]{Set: b.Metadata.Set, Value: b.Metadata.Value.RawMessage},
	}
	if err := b.change(&update); err != nil {
		return nil, err
	}
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	key, secret, err := s.Commands.UpdateKey(ctx, by, update)
	if err != nil {
		return nil, err
	}
	out := &updatedKeyOutput{ETag: surface.ETag(key.Version)}
	out.Body.KeyBody = bodyOf(key, s.Now())
	if !secret.IsZero() {
		shown := secret.Reveal()
		out.Body.RotationWebhookSecret = &shown
	}
	return out, nil
}

// changeInUnits is inUnits for an edit.
func changeInUnits(secondsField string, seconds surface.Optional[int64], unitField string, unit surface.Optional[int64], perUnit int64) (domain.Change[int64], error) {
	pointer := func(o surface.Optional[int64]) *int64 {
		if !o.Set {
			return nil
		}
		return &o.Value
	}
	merged, err := surface.InUnits(secondsField, pointer(seconds), unitField, pointer(unit), perUnit)
	return domain.Change[int64]{Set: merged != nil, Value: surface.OrZero(merged)}, err
}

type revokeKeyInput struct {
	KeyPath
	surface.IfMatch
	Reason string `query:"reason" maxLength:"500" doc:"Why, for the history"`
	Body   *struct {
		Reason *string `json:"reason,omitempty" nullable:"true" maxLength:"500" doc:"In place of the parameter"`
	}
}

func (s *server) revokeKey(ctx context.Context, in *revokeKeyInput) (*struct{}, error) {
	reason := in.Reason
	if in.Body != nil && in.Body.Reason != nil {
		reason = *in.Body.Reason
	}
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	return nil, s.Commands.RevokeKey(ctx, by, in.ID, reason)
}

type rotateKeyInput struct {
	KeyPath
	surface.IfMatch
	Body *struct {
		GracePeriodMinutes *int64 `json:"grace_period_minutes,omitempty" nullable:"true" minimum:"0" maximum:"43200" example:"60" doc:"How long the old key stays valid; 0 ends it now; default 60, unless the project's policy has another"`
		GracePeriodSeconds *int64 `json:"grace_period_seconds,omitempty" nullable:"true" minimum:"0" maximum:"2592000" doc:"In place of grace_period_minutes"`
		Supersede          bool   `json:"supersede,omitempty" nullable:"true" doc:"Replace a rotation that still waits for its receiver"`
		Compromised        bool   `json:"compromised,omitempty" nullable:"true" doc:"Somebody else may have the secret: unless a grace is named, all older keys of the lineage are revoked now. Whoever has not got the new one is locked out"`
	}
}

type rotatedKeyOutput struct {
	ETag string `header:"ETag" doc:"Of the new key, for If-Match"`
	Body struct {
		OldKeyID       domain.KeyID      `json:"old_key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
		NewKeyID       domain.KeyID      `json:"new_key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7b"`
		RotationID     domain.RotationID `json:"rotation_id" example:"rot_01jz8q0v6me5et8b3k2c9d4x7a"`
		ProjectID      domain.ProjectID  `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		Name           string            `json:"name" example:"CI of the billing service"`
		Key            string            `json:"key" example:"rk_live_..." doc:"The new secret. It is shown only here"`
		KeyPrefix      string            `json:"key_prefix" example:"rk_live_x7Fq" doc:"Of the new secret"`
		LastFour       string            `json:"last_four" example:"9aZk"`
		Generation     int               `json:"generation" example:"2" doc:"Of the new key"`
		Scopes         []string          `json:"scopes" nullable:"false"`
		ExpiresAt      *time.Time        `json:"expires_at"`
		CreatedAt      time.Time         `json:"created_at"`
		GraceExpiresAt *time.Time        `json:"grace_expires_at" doc:"Until when the old key is valid; in the past or now: it has ended"`
	}
}

func (s *server) rotateKey(ctx context.Context, in *rotateKeyInput) (*rotatedKeyOutput, error) {
	rotate := commands.RotateKey{KeyID: in.ID}
	if in.Body != nil {
		grace, err := surface.InUnits("grace_period_seconds", in.Body.GracePeriodSeconds, "grace_period_minutes", in.Body.GracePeriodMinutes, 60)
		if err != nil {
			return nil, err
		}
		if grace != nil {
			wanted := time.Duration(*grace) * time.Second
			rotate.Grace = &wanted
		}
		rotate.Supersede, rotate.Compromised = in.Body.Supersede, in.Body.Compromised
	}
	by, err := in.Expecting(ctx, surface.Keeping(ctx, shownRotated))
	if err != nil {
		return nil, err
	}
	rotated, err := s.Commands.RotateKey(ctx, by, rotate)
	if err != nil {
		return nil, err
	}
	return shownRotated(rotated), nil
}

func shownRotated(rotated commands.RotatedKey) *rotatedKeyOutput {
	out := &rotatedKeyOutput{ETag: surface.ETag(rotated.Version)}
	b, r := &out.Body, rotated.Rotated
	b.OldKeyID, b.NewKeyID, b.RotationID, b.ProjectID = r.PreviousKeyID, r.KeyID, r.RotationID, rotated.ProjectID
	b.Name, b.Scopes, b.ExpiresAt = rotated.Settings.Name, orEmpty(rotated.Settings.Scopes), rotated.Settings.ExpiresAt
	b.Key, b.KeyPrefix, b.LastFour, b.Generation = rotated.Secret.Reveal(), r.Prefix, r.LastFour, r.Generation
	b.CreatedAt, b.GraceExpiresAt = rotated.CreatedAt, r.GraceExpiresAt
	return out
}

type successorOutput struct {
	Body struct {
		KeyID          domain.KeyID      `json:"key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7b" doc:"The successor"`
		PreviousKeyID  domain.KeyID      `json:"previous_key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The presented key"`
		RotationID     domain.RotationID `json:"rotation_id" example:"rot_01jz8q0v6me5et8b3k2c9d4x7a"`
		Key            string            `json:"key" example:"rk_live_..." doc:"The new secret. It is shown only here, once"`
		GraceExpiresAt time.Time         `json:"grace_expires_at" doc:"Until when the presented key is valid"`
	}
}

func (s *server) claimSuccessor(ctx context.Context, in *KeyPath) (*successorOutput, error) {
	presented := surface.Caller(ctx)
	if presented.ID != in.ID {
		return nil, domain.NotFound("key")
	}
	claimed, err := s.Commands.ClaimSuccessor(ctx, surface.Keeping(ctx, shownClaimed), presented)
	if err != nil {
		return nil, err
	}
	return shownClaimed(claimed), nil
}

func shownClaimed(claimed commands.ClaimedKey) *successorOutput {
	out := &successorOutput{}
	a := claimed.Acknowledged
	out.Body.KeyID, out.Body.PreviousKeyID, out.Body.RotationID = a.KeyID, a.PreviousKeyID, a.RotationID
	out.Body.Key, out.Body.GraceExpiresAt = claimed.Secret.Reveal(), a.GraceExpiresAt
	return out
}
