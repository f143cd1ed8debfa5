package domain

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// Policy is what a project asks of its keys. The zero value asks nothing.
//
// It binds whoever chooses: who makes a key, the fields that an edit changes, and the grace of a rotation that was asked
// for. What was chosen before stays as it is, and so does the work of time: an interval rotation keeps the settings of
// its key, because a policy that became tighter must not break rotations that run.
type Policy struct {
	MaxLifetimeSeconds  int64      `json:"max_lifetime_seconds,omitempty"`  // of a lineage, from its creation; 0: no bound
	RequireExpiry       bool       `json:"require_expiry,omitempty"`        // a key must be given an end
	DefaultGraceSeconds *int64     `json:"default_grace_seconds,omitempty"` // where none is named; nil: an hour
	MaxGraceSeconds     *int64     `json:"max_grace_seconds,omitempty"`     // nil: MaxGrace
	AllowedScopes       Scopes     `json:"allowed_scopes,omitempty"`        // none: any
	OnLeak              LeakAction `json:"on_leak,omitempty"`               // empty: LeakRevoke

	MaxOverlapSeconds int64         `json:"max_overlap_seconds,omitempty"` // how long a new secret may take to arrive; 0: DefaultMaxOverlap
	RotationTimeout   TimeoutAction `json:"rotation_timeout,omitempty"`    // what happens then; empty: TimeoutHold
	RotationWindow    *Window       `json:"rotation_window,omitempty"`     // when interval rotations may begin; nil: at any time

	EarlyRetireSeconds int64 `json:"early_retire_seconds,omitempty"` // for how long an old key must be unused to end before its grace; 0: it does not
}

// LeakAction says what happens to a key that was found where anybody can read it.
type LeakAction string

// Actions on a leak.
const (
	LeakRevoke LeakAction = "revoke"
	LeakNotify LeakAction = "notify" // it is only recorded, and told
)

// maxLifetime bounds the lifetime that a policy may name, so that a time in the future can still be computed from it.
const maxLifetime = 100 * 365 * 24 * time.Hour

// PolicyChange asks for other terms. What is not set stays.
type PolicyChange struct {
	MaxLifetimeSeconds  Change[int64]
	RequireExpiry       Change[bool]
	DefaultGraceSeconds Change[*int64]
	MaxGraceSeconds     Change[*int64]
	AllowedScopes       Change[Scopes]
	OnLeak              Change[LeakAction]
	MaxOverlapSeconds   Change[int64]
	RotationTimeout     Change[TimeoutAction]
	RotationWindow      Change[*Window]
	EarlyRetireSeconds  Change[int64]
}

// ChangePolicyTo changes every term.
func ChangePolicyTo(p Policy) PolicyChange {
	return PolicyChange{
		MaxLifetimeSeconds: ChangeTo(p.MaxLifetimeSeconds), RequireExpiry: ChangeTo(p.RequireExpiry),
		DefaultGraceSeconds: ChangeTo(p.DefaultGraceSeconds), MaxGraceSeconds: ChangeTo(p.MaxGraceSeconds),
		AllowedScopes: ChangeTo(p.AllowedScopes), OnLeak: ChangeTo(p.OnLeak), MaxOverlapSeconds: ChangeTo(p.MaxOverlapSeconds),
		RotationTimeout: ChangeTo(p.RotationTimeout), RotationWindow: ChangeTo(p.RotationWindow), EarlyRetireSeconds: ChangeTo(p.EarlyRetireSeconds),
	}
}

// Over lays the changes over a policy.
func (c PolicyChange) Over(p Policy) Policy {
	return Policy{
		MaxLifetimeSeconds: c.MaxLifetimeSeconds.over(p.MaxLifetimeSeconds), RequireExpiry: c.RequireExpiry.over(p.RequireExpiry),
		DefaultGraceSeconds: c.DefaultGraceSeconds.over(p.DefaultGraceSeconds), MaxGraceSeconds: c.MaxGraceSeconds.over(p.MaxGraceSeconds),
		AllowedScopes: c.AllowedScopes.over(p.AllowedScopes), OnLeak: c.OnLeak.over(p.OnLeak),
		MaxOverlapSeconds: c.MaxOverlapSeconds.over(p.MaxOverlapSeconds), RotationTimeout: c.RotationTimeout.over(p.RotationTimeout),
		RotationWindow: c.RotationWindow.over(p.RotationWindow), EarlyRetireSeconds: c.EarlyRetireSeconds.over(p.EarlyRetireSeconds),
	}
}

// LeakAction is what the policy says about leaks, with its default.
func (p Policy) LeakAction() LeakAction { return cmp.Or(p.OnLeak, LeakRevoke) }

// validate checks the terms and returns them in canonical form: what says the same as nothing is left out.
func (p Policy) validate() (Policy, error) {
	if p.MaxLifetimeSeconds < 0 || p.MaxLifetimeSeconds > int64(maxLifetime/time.Second) {
		return p, InvalidField("policy.max_lifetime_seconds", "is out of range", "choose 1 to 3153600000 (100 years), or 0 for no bound")
	}
	if !validGrace(p.DefaultGraceSeconds) {
		return p, InvalidField("policy.default_grace_seconds", "is out of range", "choose 0 to 2592000 (30 days), or leave it out")
	}
	if !validGrace(p.MaxGraceSeconds) {
		return p, InvalidField("policy.max_grace_seconds", "is out of range", "choose 0 to 2592000 (30 days), or leave it out")
	}
	if p.DefaultGraceSeconds != nil && p.MaxGraceSeconds != nil && *p.DefaultGraceSeconds > *p.MaxGraceSeconds {
		return p, InvalidField("policy.default_grace_seconds", "is longer than the maximum", "choose at most policy.max_grace_seconds")
	}
	scopes, err := validateScopes("policy.allowed_scopes", p.AllowedScopes)
	if err != nil {
		return p, err
	}
	if p.AllowedScopes = scopes; len(scopes) == 0 {
		p.AllowedScopes = nil
	}
	switch p.OnLeak {
	case LeakRevoke:
		p.OnLeak = ""
	case "", LeakNotify:
	default:
		return p, InvalidField("policy.on_leak", "is not an action", "choose revoke or notify")
	}
	return p.validateRotation()
}

func validGrace(seconds *int64) bool {
	return seconds == nil || *seconds >= 0 && *seconds <= int64(MaxGrace/time.Second)
}

// changedTerms names the terms that differ.
func changedTerms(before, after Policy) []string {
	var changed []string
	compare := func(field string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			changed = append(changed, "policy."+field)
		}
	}
	compare("max_lifetime_seconds", before.MaxLifetimeSeconds, after.MaxLifetimeSeconds)
	compare("require_expiry", before.RequireExpiry, after.RequireExpiry)
	compare("default_grace_seconds", before.DefaultGraceSeconds, after.DefaultGraceSeconds)
	compare("max_grace_seconds", before.MaxGraceSeconds, after.MaxGraceSeconds)
	compare("allowed_scopes", before.AllowedScopes, after.AllowedScopes)
	compare("on_leak", before.OnLeak, after.OnLeak)
	compare("max_overlap_seconds", before.MaxOverlapSeconds, after.MaxOverlapSeconds)
	compare("rotation_timeout", before.RotationTimeout, after.RotationTimeout)
	compare("rotation_window", before.RotationWindow, after.RotationWindow)
	compare("early_retire_seconds", before.EarlyRetireSeconds, after.EarlyRetireSeconds)
	return changed
}

// fill cuts down what a request for a key did not name, and its maker's own rights filled in, to what the project allows.
func (p Policy) fill(s *Settings, named Settings, now time.Time) error {
	if len(named.Scopes) == 0 && len(p.AllowedScopes) > 0 {
		if s.Scopes = s.Scopes.within(p.AllowedScopes); len(s.Scopes) == 0 {
			return InvalidField("scopes", "are none, because this project allows none of those that your key holds",
				"use a key that holds some of the project's allowed scopes")
		}
	}
	if named.ExpiresAt == nil {
		s.ExpiresAt = p.ending(s.ExpiresAt, now)
	}
	return nil
}

// ending cuts an end that nobody named down to the longest life. Where an end must be named, none stays none.
func (p Policy) ending(end *time.Time, createdAt time.Time) *time.Time {
	last := p.lastMoment(createdAt)
	if last == nil || end == nil && p.RequireExpiry || end != nil && !end.After(*last) {
		return end
	}
	return last
}

// lastMoment is when a lineage that was made at a time must have ended, or nil.
func (p Policy) lastMoment(createdAt time.Time) *time.Time {
	if p.MaxLifetimeSeconds == 0 {
		return nil
	}
	last := createdAt.Add(seconds(p.MaxLifetimeSeconds))
	return &last
}

// defaultGrace is the grace where none is named, in rotations each interval, or asked for with an interval of 0.
func (p Policy) defaultGrace(interval time.Duration) time.Duration {
	grace := defaultGraceFor(interval)
	if d := p.DefaultGraceSeconds; d != nil && (interval == 0 || seconds(*d) < interval) {
		grace = seconds(*d)
	}
	return p.shorten(grace)
}

// shorten cuts a grace that nobody named down to the longest one.
func (p Policy) shorten(grace time.Duration) time.Duration {
	if p.MaxGraceSeconds == nil {
		return grace
	}
	return min(grace, seconds(*p.MaxGraceSeconds))
}

// graceOf is the grace of a rotation that is asked for.
func (p Policy) graceOf(named *time.Duration) (time.Duration, error) {
	switch {
	case named == nil:
		return p.defaultGrace(0), nil
	case *named < 0 || *named > MaxGrace:
		return 0, graceOutOfRange()
	case p.MaxGraceSeconds != nil && *named > seconds(*p.MaxGraceSeconds):
		return 0, p.graceTooLong()
	}
	return *named, nil
}

func (p Policy) graceTooLong() *Error {
	return InvalidField("grace_period_seconds", "is longer than this project allows", fmt.Sprintf("choose at most %d", *p.MaxGraceSeconds))
}

// check refuses settings that break the policy in one of the fields.
func (p Policy) check(s Settings, fields []string, createdAt time.Time) error {
	if slices.Contains(fields, "scopes") && len(p.AllowedScopes) > 0 {
		if scope, missing := p.AllowedScopes.Missing(s.Scopes); missing {
			return InvalidField("scopes", fmt.Sprintf("include %s, which this project does not allow", shownScope(scope)),
				"name only scopes that the project's policy allows")
		}
	}
	if slices.Contains(fields, "expires_at") {
		if err := p.checkExpiry(s.ExpiresAt, createdAt); err != nil {
			return err
		}
	}
	if slices.Contains(fields, "grace_period_seconds") && p.MaxGraceSeconds != nil && s.GraceSeconds > *p.MaxGraceSeconds {
		return p.graceTooLong()
	}
	return nil
}

func (p Policy) checkExpiry(end *time.Time, createdAt time.Time) error {
	last := p.lastMoment(createdAt)
	switch {
	case end == nil && p.RequireExpiry:
		return InvalidField("expires_at", "is missing, and this project requires it", "choose when the key ends")
	case last != nil && (end == nil || end.After(*last)):
		return InvalidField("expires_at", "is later than this project allows", "choose a time up to "+last.Format(time.RFC3339))
	}
	return nil
}
