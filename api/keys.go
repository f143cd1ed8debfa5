package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// KeyPath is the key that a path names. It is exported because huma fills embedded fields only then.
type KeyPath struct {
	ID domain.KeyID `path:"id" maxLength:"64" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
}

type keyOutput struct{ Body keyBody }

type createKeyInput struct {
	Body struct {
		ProjectID               domain.ProjectID     `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		Name                    string               `json:"name" doc:"1 to 200 printable characters"`
		EnvironmentID           domain.EnvironmentID `json:"environment_id,omitempty" doc:"Default: the project's first environment"`
		Scopes                  []string             `json:"scopes,omitempty" doc:"Default: all that the caller's key holds"`
		Resources               map[string][]string  `json:"resources,omitempty" doc:"Limits per kind of resource"`
		ExpiresAt               *time.Time           `json:"expires_at,omitempty" nullable:"true"`
		RotationIntervalDays    *int64               `json:"rotation_interval_days,omitempty" nullable:"true"`
		RotationIntervalSeconds *int64               `json:"rotation_interval_seconds,omitempty" nullable:"true"`
		RotationWebhookURL      *string              `json:"rotation_webhook_url,omitempty" nullable:"true" doc:"Where the new secret is sent, signed, at each interval rotation"`
		GracePeriodMinutes      *int64               `json:"grace_period_minutes,omitempty" nullable:"true"`
		GracePeriodSeconds      *int64               `json:"grace_period_seconds,omitempty" nullable:"true" doc:"How long the old key stays valid after an interval rotation was acknowledged; default an hour, or half the interval if that is shorter"`
		Metadata                json.RawMessage      `json:"metadata,omitempty" doc:"An object of up to 4096 bytes"`
	}
}

type createdKeyBody struct {
	keyBody
	Key                   string  `json:"key" doc:"The secret. It is shown only here"`
	RotationWebhookSecret *string `json:"rotation_webhook_secret,omitempty" doc:"What the webhooks are signed with (whsec_...). It is shown only here"`
}

type createdKeyOutput struct {
	Status int
	Body   createdKeyBody
}

func (s *server) createKey(ctx context.Context, in *createKeyInput) (*createdKeyOutput, error) {
	b := &in.Body
	interval, err := inUnits("rotation_interval_seconds", b.RotationIntervalSeconds, "rotation_interval_days", b.RotationIntervalDays, secondsPerDay)
	if err != nil {
		return nil, err
	}
	grace, err := inUnits("grace_period_seconds", b.GracePeriodSeconds, "grace_period_minutes", b.GracePeriodMinutes, 60)
	if err != nil {
		return nil, err
	}
	created, err := s.cfg.Commands.CreateKey(ctx, by(ctx), commands.CreateKey{
		ProjectID: b.ProjectID, EnvironmentID: b.EnvironmentID, Name: b.Name, Scopes: b.Scopes, Resources: b.Resources,
		ExpiresAt: b.ExpiresAt, RotationIntervalSeconds: orZero(interval), GraceSeconds: grace,
		WebhookURL: orZero(b.RotationWebhookURL), Metadata: b.Metadata,
	})
	if err != nil {
		return nil, err
	}
	out := &createdKeyOutput{Status: 201, Body: createdKeyBody{keyBody: bodyOf(created.Key, s.cfg.Now()), Key: created.Secret.Reveal()}}
	if !created.WebhookSecret.IsZero() {
		secret := created.WebhookSecret.Reveal()
		out.Body.RotationWebhookSecret = &secret
	}
	return out, nil
}

func orZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

type listKeysInput struct {
	ProjectID      domain.ProjectID     `query:"project_id" required:"true"`
	EnvironmentID  domain.EnvironmentID `query:"environment_id"`
	LineageID      domain.LineageID     `query:"lineage_id"`
	IncludeRevoked bool                 `query:"include_revoked" doc:"Also revoked, expired and retired keys"`
	Limit          int                  `query:"limit" default:"50" minimum:"1" maximum:"500"`
	Cursor         string               `query:"cursor" doc:"From the Link header of the page before"`
}

type keysOutput struct {
	Link string    `header:"Link" doc:"The next page, rel=next"`
	Body []keyBody `nullable:"false"`
}

func (s *server) listKeys(ctx context.Context, in *listKeysInput) (*keysOutput, error) {
	organization := caller(ctx).OrganizationID
	if in.Cursor != "" && !domain.ValidID(domain.PrefixKey, in.Cursor) {
		return nil, badCursor()
	}
	if _, err := s.project(ctx, organization, in.ProjectID); err != nil {
		return nil, err
	}
	keys, err := s.cfg.Reader.Keys(ctx, projections.KeyList{
		Organization: organization, Project: in.ProjectID, Environment: in.EnvironmentID, Lineage: in.LineageID,
		IncludeEnded: in.IncludeRevoked || in.LineageID != "", Before: domain.KeyID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	out := &keysOutput{Body: []keyBody{}}
	if len(keys) > in.Limit {
		keys = keys[:in.Limit]
		out.Link = nextLink("/v1/api-keys", string(keys[len(keys)-1].ID), url.Values{
			"project_id": {string(in.ProjectID)}, "environment_id": {string(in.EnvironmentID)}, "lineage_id": {string(in.LineageID)},
			"include_revoked": {fmt.Sprint(in.IncludeRevoked)}, "limit": {fmt.Sprint(in.Limit)},
		})
	}
	for _, k := range keys {
		out.Body = append(out.Body, bodyOf(k, s.cfg.Now()))
	}
	return out, nil
}

func badCursor() error {
	return domain.InvalidField("cursor", "is not one of ours", "take it from the Link header of the page before")
}

// nextLink is the Link header that leads to the next page.
func nextLink(path, cursor string, query url.Values) string {
	for name, values := range query {
		if values[0] == "" {
			query.Del(name)
		}
	}
	query.Set("cursor", cursor)
	return fmt.Sprintf(`<%s?%s>; rel="next"`, path, query.Encode())
}

func (s *server) getKey(ctx context.Context, in *KeyPath) (*keyOutput, error) {
	key, err := s.cfg.Reader.Key(ctx, caller(ctx).OrganizationID, in.ID)
	if err != nil {
		return nil, err
	}
	return &keyOutput{Body: bodyOf(key, s.cfg.Now())}, nil
}

type updateKeyInput struct {
	KeyPath
	Body struct {
		Name                    optional[string]              `json:"name,omitempty"`
		Scopes                  optional[[]string]            `json:"scopes,omitempty"`
		Resources               optional[map[string][]string] `json:"resources,omitempty"`
		ExpiresAt               optional[time.Time]           `json:"expires_at,omitempty" doc:"null: never"`
		RotationIntervalDays    optional[int64]               `json:"rotation_interval_days,omitempty"`
		RotationIntervalSeconds optional[int64]               `json:"rotation_interval_seconds,omitempty" doc:"null: no interval rotation"`
		RotationWebhookURL      optional[string]              `json:"rotation_webhook_url,omitempty" doc:"A new URL gets a new signing secret"`
		GracePeriodMinutes      optional[int64]               `json:"grace_period_minutes,omitempty"`
		GracePeriodSeconds      optional[int64]               `json:"grace_period_seconds,omitempty"`
		Metadata                optional[json.RawMessage]     `json:"metadata,omitempty"`
	}
}

type updatedKeyOutput struct {
	Body struct {
		keyBody
		RotationWebhookSecret *string `json:"rotation_webhook_secret,omitempty" doc:"Only if the edit made a new receiver. It is shown only here"`
	}
}

func (s *server) updateKey(ctx context.Context, in *updateKeyInput) (*updatedKeyOutput, error) {
	b := &in.Body
	interval, err := changeInUnits("rotation_interval_seconds", b.RotationIntervalSeconds, "rotation_interval_days", b.RotationIntervalDays, secondsPerDay)
	if err != nil {
		return nil, err
	}
	grace, err := changeInUnits("grace_period_seconds", b.GracePeriodSeconds, "grace_period_minutes", b.GracePeriodMinutes, 60)
	if err != nil {
		return nil, err
	}
	update := domain.UpdateKey{
		KeyID: in.ID, Name: b.Name.change(), RotationIntervalSeconds: interval, GraceSeconds: grace,
		WebhookURL: b.RotationWebhookURL.change(), Metadata: b.Metadata.change(),
		Scopes:    domain.Change[domain.Scopes]{Set: b.Scopes.set, Value: b.Scopes.value},
		Resources: domain.Change[domain.Resources]{Set: b.Resources.set, Value: b.Resources.value},
	}
	if b.ExpiresAt.set {
		update.ExpiresAt = domain.ChangeTo[*time.Time](nil)
		if !b.ExpiresAt.null {
			update.ExpiresAt.Value = &b.ExpiresAt.value
		}
	}
	key, secret, err := s.cfg.Commands.UpdateKey(ctx, by(ctx), update)
	if err != nil {
		return nil, err
	}
	out := &updatedKeyOutput{}
	out.Body.keyBody = bodyOf(key, s.cfg.Now())
	if !secret.IsZero() {
		shown := secret.Reveal()
		out.Body.RotationWebhookSecret = &shown
	}
	return out, nil
}

// changeInUnits is inUnits for an edit.
func changeInUnits(secondsField string, seconds optional[int64], unitField string, unit optional[int64], perUnit int64) (domain.Change[int64], error) {
	pointer := func(o optional[int64]) *int64 {
		if !o.set {
			return nil
		}
		return &o.value
	}
	merged, err := inUnits(secondsField, pointer(seconds), unitField, pointer(unit), perUnit)
	return domain.Change[int64]{Set: merged != nil, Value: orZero(merged)}, err
}

type revokeKeyInput struct {
	KeyPath
	Reason string `query:"reason" maxLength:"500" doc:"Why, for the history"`
	Body   *struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
}

func (s *server) revokeKey(ctx context.Context, in *revokeKeyInput) (*struct{}, error) {
	reason := in.Reason
	if in.Body != nil && in.Body.Reason != "" {
		reason = in.Body.Reason
	}
	return nil, s.cfg.Commands.RevokeKey(ctx, by(ctx), in.ID, reason)
}

type rotateKeyInput struct {
	KeyPath
	Body *struct {
		GracePeriodMinutes *int64 `json:"grace_period_minutes,omitempty" nullable:"true" doc:"How long the old key stays valid; 0 ends it now; default 60"`
		GracePeriodSeconds *int64 `json:"grace_period_seconds,omitempty" nullable:"true"`
		Supersede          bool   `json:"supersede,omitempty" doc:"Replace a rotation that still waits for its receiver"`
	}
}

type rotatedKeyOutput struct {
	Body struct {
		OldKeyID       domain.KeyID      `json:"old_key_id"`
		NewKeyID       domain.KeyID      `json:"new_key_id"`
		RotationID     domain.RotationID `json:"rotation_id"`
		ProjectID      domain.ProjectID  `json:"project_id"`
		Name           string            `json:"name"`
		Key            string            `json:"key" doc:"The new secret. It is shown only here"`
		KeyPrefix      string            `json:"key_prefix"`
		LastFour       string            `json:"last_four"`
		Generation     int               `json:"generation"`
		Scopes         []string          `json:"scopes" nullable:"false"`
		ExpiresAt      *time.Time        `json:"expires_at"`
		CreatedAt      time.Time         `json:"created_at"`
		GraceExpiresAt *time.Time        `json:"grace_expires_at" doc:"Until when the old key is valid"`
	}
}

func (s *server) rotateKey(ctx context.Context, in *rotateKeyInput) (*rotatedKeyOutput, error) {
	rotate := commands.RotateKey{KeyID: in.ID, Grace: domain.DefaultGrace}
	if in.Body != nil {
		grace, err := inUnits("grace_period_seconds", in.Body.GracePeriodSeconds, "grace_period_minutes", in.Body.GracePeriodMinutes, 60)
		if err != nil {
			return nil, err
		}
		if grace != nil {
			if *grace < 0 || *grace > int64(domain.MaxGrace/time.Second) {
				return nil, domain.InvalidField("grace_period_seconds", "is out of range", "choose 0 to 2592000 (30 days)")
			}
			rotate.Grace = time.Duration(*grace) * time.Second
		}
		rotate.Supersede = in.Body.Supersede
	}
	rotated, err := s.cfg.Commands.RotateKey(ctx, by(ctx), rotate)
	if err != nil {
		return nil, err
	}
	out := &rotatedKeyOutput{}
	b, r := &out.Body, rotated.Rotated
	b.OldKeyID, b.NewKeyID, b.RotationID, b.ProjectID = r.PreviousKeyID, r.KeyID, r.RotationID, rotated.ProjectID
	b.Name, b.Scopes, b.ExpiresAt = rotated.Settings.Name, orEmpty(rotated.Settings.Scopes), rotated.Settings.ExpiresAt
	b.Key, b.KeyPrefix, b.LastFour, b.Generation = rotated.Secret.Reveal(), r.Prefix, r.LastFour, r.Generation
	b.CreatedAt, b.GraceExpiresAt = rotated.CreatedAt, r.GraceExpiresAt
	return out, nil
}

type successorOutput struct {
	Body struct {
		KeyID          domain.KeyID      `json:"key_id"`
		PreviousKeyID  domain.KeyID      `json:"previous_key_id"`
		RotationID     domain.RotationID `json:"rotation_id"`
		Key            string            `json:"key" doc:"The new secret. It is shown only here, once"`
		GraceExpiresAt time.Time         `json:"grace_expires_at" doc:"Until when the presented key is valid"`
	}
}

func (s *server) claimSuccessor(ctx context.Context, in *KeyPath) (*successorOutput, error) {
	presented := caller(ctx)
	if presented.ID != in.ID {
		return nil, domain.NotFound("key")
	}
	claimed, err := s.cfg.Commands.ClaimSuccessor(ctx, by(ctx), presented)
	if err != nil {
		return nil, err
	}
	out := &successorOutput{}
	a := claimed.Acknowledged
	out.Body.KeyID, out.Body.PreviousKeyID, out.Body.RotationID = a.KeyID, a.PreviousKeyID, a.RotationID
	out.Body.Key, out.Body.GraceExpiresAt = claimed.Secret.Reveal(), a.GraceExpiresAt
	return out, nil
}
