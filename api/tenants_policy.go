package api

import (
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// policyBody is what a project asks of its keys. What it does not ask is null, or an empty list.
type policyBody struct {
	MaxLifetimeSeconds  *int64            `json:"max_lifetime_seconds" example:"7776000" doc:"A key ends at most so long after it was made; null: no bound"`
	RequireExpiry       bool              `json:"require_expiry" doc:"A key must be given an end"`
	DefaultGraceSeconds *int64            `json:"default_grace_seconds" example:"600" doc:"The grace where none is named; null: an hour"`
	MaxGraceSeconds     *int64            `json:"max_grace_seconds" example:"3600" doc:"The longest grace; null: 30 days"`
	AllowedScopes       []string          `json:"allowed_scopes" nullable:"false" doc:"What keys may be given; empty: any scope"`
	OnLeak              domain.LeakAction `json:"on_leak" enum:"revoke,notify" doc:"What happens to a key that is reported as leaked"`

	MaxOverlapSeconds  int64                        `json:"max_overlap_seconds" example:"604800" doc:"How long an interval rotation may wait for its secret to arrive, and how far after that a grace may be extended"`
	RotationTimeout    domain.TimeoutAction         `json:"rotation_timeout" enum:"hold,rollback,expire_old" doc:"What happens when it waits for longer: hold keeps the old key and says so each day; rollback cancels the rotation; expire_old gives the old key its grace, whoever has the new one"`
	RotationWindow     surface.Nullable[windowBody] `json:"rotation_window" doc:"When interval rotations may begin; null: at any time"`
	EarlyRetireSeconds *int64                       `json:"early_retire_seconds" example:"86400" doc:"An old key ends ahead of its grace once nobody has used it for so long since its successor arrived; null: it keeps its grace"`
}

// windowBody is when interval rotations may begin.
type windowBody struct {
	Days          []string `json:"days,omitempty" enum:"mon,tue,wed,thu,fri,sat,sun" doc:"Default: every day"`
	Start         string   `json:"start" example:"02:00" doc:"On the clocks of the zone"`
	LengthMinutes int64    `json:"length_minutes" minimum:"60" maximum:"1440" example:"120"`
	TimeZone      string   `json:"time_zone" example:"Europe/Berlin" doc:"A name of the IANA database"`
}

func bodyOfPolicy(p domain.Policy) policyBody {
	body := policyBody{
		RequireExpiry: p.RequireExpiry, DefaultGraceSeconds: p.DefaultGraceSeconds, MaxGraceSeconds: p.MaxGraceSeconds,
		AllowedScopes: orEmpty(p.AllowedScopes), OnLeak: p.LeakAction(),
		MaxOverlapSeconds: int64(p.MaxOverlap() / time.Second), RotationTimeout: p.TimeoutAction(),
	}
	if w := p.RotationWindow; w != nil {
		body.RotationWindow.Value = &windowBody{w.Days, w.Start, w.LengthMinutes, w.TimeZone}
	}
	if p.MaxLifetimeSeconds != 0 {
		body.MaxLifetimeSeconds = &p.MaxLifetimeSeconds
	}
	if p.EarlyRetireSeconds != 0 {
		body.EarlyRetireSeconds = &p.EarlyRetireSeconds
	}
	return body
}

// policyInput names terms of a policy. The others stay, or in a new project ask nothing.
type policyInput struct {
	MaxLifetimeSeconds  surface.Optional[int64]             `json:"max_lifetime_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"A key ends at most so long after it was made; null or 0: no bound"`
	RequireExpiry       surface.Optional[bool]              `json:"require_expiry,omitempty" doc:"A key must be given an end"`
	DefaultGraceSeconds surface.Optional[int64]             `json:"default_grace_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"The grace where none is named; null: an hour"`
	MaxGraceSeconds     surface.Optional[int64]             `json:"max_grace_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"The longest grace; null: 30 days"`
	AllowedScopes       surface.Optional[[]string]          `json:"allowed_scopes,omitempty" doc:"What keys may be given; null or empty: any scope"`
	OnLeak              surface.Optional[domain.LeakAction] `json:"on_leak,omitempty" enum:"revoke,notify" doc:"What happens to a key that is reported as leaked; null: revoke"`

	MaxOverlapSeconds  surface.Optional[int64]                `json:"max_overlap_seconds,omitempty" minimum:"3600" maximum:"2592000" doc:"How long an interval rotation may wait for its secret to arrive; null: 7 days"`
	RotationTimeout    surface.Optional[domain.TimeoutAction] `json:"rotation_timeout,omitempty" enum:"hold,rollback,expire_old" doc:"What happens when it waits for longer; null: hold"`
	RotationWindow     surface.Optional[windowBody]           `json:"rotation_window,omitempty" doc:"When interval rotations may begin; null: at any time"`
	EarlyRetireSeconds surface.Optional[int64]                `json:"early_retire_seconds,omitempty" minimum:"3600" maximum:"2592000" doc:"An old key ends ahead of its grace once nobody has used it for so long since its successor arrived; choose more than the longest pause between two uses; null: it keeps its grace"`
}

func (in policyInput) change() domain.PolicyChange {
	return domain.PolicyChange{
		MaxLifetimeSeconds: in.MaxLifetimeSeconds.Change(), RequireExpiry: in.RequireExpiry.Change(),
		DefaultGraceSeconds: domain.Change[*int64]{Set: in.DefaultGraceSeconds.Set, Value: in.DefaultGraceSeconds.Pointer()},
		MaxGraceSeconds:     domain.Change[*int64]{Set: in.MaxGraceSeconds.Set, Value: in.MaxGraceSeconds.Pointer()},
		AllowedScopes:       domain.Change[domain.Scopes]{Set: in.AllowedScopes.Set, Value: in.AllowedScopes.Value},
		OnLeak:              in.OnLeak.Change(),
		MaxOverlapSeconds:   in.MaxOverlapSeconds.Change(), RotationTimeout: in.RotationTimeout.Change(),
		RotationWindow:     domain.Change[*domain.Window]{Set: in.RotationWindow.Set, Value: in.window()},
		EarlyRetireSeconds: in.EarlyRetireSeconds.Change(),
	}
}

func (in policyInput) window() *domain.Window {
	w := in.RotationWindow.Pointer()
	if w == nil {
		return nil
	}
	return &domain.Window{Days: w.Days, Start: w.Start, LengthMinutes: w.LengthMinutes, TimeZone: w.TimeZone}
}
