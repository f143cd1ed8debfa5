package api

import (
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
}

func bodyOfPolicy(p domain.Policy) policyBody {
	body := policyBody{
		RequireExpiry: p.RequireExpiry, DefaultGraceSeconds: p.DefaultGraceSeconds, MaxGraceSeconds: p.MaxGraceSeconds,
		AllowedScopes: orEmpty(p.AllowedScopes), OnLeak: p.LeakAction(),
	}
	if p.MaxLifetimeSeconds != 0 {
		body.MaxLifetimeSeconds = &p.MaxLifetimeSeconds
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
}

func (in policyInput) change() domain.PolicyChange {
	return domain.PolicyChange{
		MaxLifetimeSeconds: in.MaxLifetimeSeconds.Change(), RequireExpiry: in.RequireExpiry.Change(),
		DefaultGraceSeconds: domain.Change[*int64]{Set: in.DefaultGraceSeconds.Set, Value: in.DefaultGraceSeconds.Pointer()},
		MaxGraceSeconds:     domain.Change[*int64]{Set: in.MaxGraceSeconds.Set, Value: in.MaxGraceSeconds.Pointer()},
		AllowedScopes:       domain.Change[domain.Scopes]{Set: in.AllowedScopes.Set, Value: in.AllowedScopes.Value},
		OnLeak:              in.OnLeak.Change(),
	}
}
