package domain

import (
	"encoding/json"
	"reflect"
	"time"
)

// Change is a field of an edit: unset leaves what is there, set replaces it, also by nothing.
type Change[T any] struct {
	Set   bool
	Value T
}

// ChangeTo returns a set change.
func ChangeTo[T any](value T) Change[T] { return Change[T]{Set: true, Value: value} }

func (c Change[T]) over(current T) T {
	if c.Set {
		return c.Value
	}
	return current
}

// UpdateKey asks for other settings.
type UpdateKey struct {
	KeyID                   KeyID
	Name                    Change[string]
	Scopes                  Change[Scopes]
	Resources               Change[Resources]
	ExpiresAt               Change[*time.Time]
	RotationIntervalSeconds Change[int64]
	GraceSeconds            Change[int64]
	WebhookURL              Change[string]
	Metadata                Change[json.RawMessage]
	Enabled                 Change[bool]
	AllowedIPs              Change[Networks]
	RateLimit               Change[*RateLimit]
	UsageLimit              Change[*UsageLimit]
	NewEndpointID           EndpointID // names the endpoint if the webhook URL changes to another one
	SigningPublicKey        string     // of that endpoint
	EndpointID              Change[EndpointID]
	Endpoint                *Endpoint // the one that EndpointID names; nil: there is none
	Caller                  Caller
	Policy                  Policy // of the key's project; it binds what the edit changes
}

// Update decides other settings for the lineage. An edit that changes nothing decides nothing.
func (l *Lineage) Update(c UpdateKey, limits Limits, now time.Time) ([]Decided, error) {
	active := l.Active()
	if active == nil || active.KeyID != c.KeyID || !l.StatusAt(active, now).Valid() {
		return nil, l.notActive(c.KeyID)
	}
	if err := l.mayUse(c); err != nil {
		return nil, err
	}
	wanted := l.edited(c)
	named := changedFields(l.Settings, wanted)
	wanted, err := wanted.validate(named, limits, now)
	if err != nil {
		return nil, err
	}
	if err := c.Policy.check(wanted, named, l.CreatedAt); err != nil {
		return nil, err
	}
	changed := changedFields(l.Settings, wanted)
	if len(changed) == 0 {
		return nil, nil
	}
	if err := c.Caller.covers(wanted, l.Operator); err != nil {
		return nil, err
	}
	updated := Updated{Changed: changed, Settings: wanted, NextRotationAt: l.NextRotationAt}
	if wanted.RotationIntervalSeconds != l.Settings.RotationIntervalSeconds {
		updated.NextRotationAt = firstSlot(l.ID, wanted, c.Policy.RotationWindow, now)
	} else if next := l.NextRotationAt; l.Settings.Disabled && !wanted.Disabled && next != nil && !next.After(now) {
		updated.NextRotationAt = l.slotAfter(c.Policy.RotationWindow, now) // slots that passed meanwhile collapse into the next one
	}
	var out []Decided
	if wanted.EndpointID != l.Settings.EndpointID && wanted.WebhookURL != "" {
		endpoint := l.decided(onTheFly(wanted.WebhookURL, l.ID, c.SigningPublicKey))
		endpoint.StreamID = string(wanted.EndpointID)
		out = append(out, endpoint)
	}
	return append(out, l.decided(updated)), nil
}

// edited lays the changes over the current settings.
func (l *Lineage) edited(c UpdateKey) Settings {
	s := l.Settings
	s.Name = c.Name.over(s.Name)
	s.Scopes = c.Scopes.over(s.Scopes)
	s.Resources = c.Resources.over(s.Resources)
	s.ExpiresAt = l.editedExpiry(c)
	s.Metadata = c.Metadata.over(s.Metadata)
	s.Disabled = !c.Enabled.over(!s.Disabled)
	s.AllowedIPs = c.AllowedIPs.over(s.AllowedIPs)
	s.RateLimit = c.RateLimit.over(s.RateLimit)
	s.UsageLimit = c.UsageLimit.over(s.UsageLimit)
	s.GraceSeconds = c.GraceSeconds.over(s.GraceSeconds)
	s.RotationIntervalSeconds = c.RotationIntervalSeconds.over(s.RotationIntervalSeconds)
	if interval := seconds(s.RotationIntervalSeconds); c.RotationIntervalSeconds.Set && !c.GraceSeconds.Set && interval > 0 {
		fitting := c.Policy.shorten(defaultGraceFor(interval))
		s.GraceSeconds = min(s.GraceSeconds, int64(fitting/time.Second))
	}
	if c.WebhookURL.Set && c.WebhookURL.Value != s.WebhookURL {
		s.WebhookURL, s.EndpointID = c.WebhookURL.Value, c.NewEndpointID
		if s.WebhookURL == "" {
			s.EndpointID = ""
		}
	}
	if c.otherEndpoint(l) {
		s.EndpointID, s.WebhookURL = c.EndpointID.Value, ""
	}
	return s
}

// otherEndpoint reports whether the edit names another endpoint than the one in use. To repeat that one is no edit.
func (c UpdateKey) otherEndpoint(l *Lineage) bool {
	return c.EndpointID.Set && c.EndpointID.Value != l.Settings.EndpointID
}

// mayUse refuses an endpoint that is not one for this key, and one beside an address of the key's own.
func (l *Lineage) mayUse(c UpdateKey) error {
	if !c.otherEndpoint(l) || c.EndpointID.Value == "" {
		return nil
	}
	if c.WebhookURL.Set && c.WebhookURL.Value != "" {
		return TwoReceivers()
	}
	if c.Endpoint == nil || c.Endpoint.LineageID != "" { // a key's own address is named by the address
		return NotFound("webhook endpoint")
	}
	return c.Endpoint.ForKey(l.ProjectID, l.ID)
}

// TwoReceivers is the refusal of a key that names an endpoint and an address of its own.
func TwoReceivers() *Error {
	return InvalidField("webhook_endpoint_id", "is given beside rotation_webhook_url", "send one of the two")
}

// editedExpiry is the end that an edit leaves: the longest life allowed if it takes the end away. The same time in another
// zone is no change.
func (l *Lineage) editedExpiry(c UpdateKey) *time.Time {
	current, end := l.Settings.ExpiresAt, c.ExpiresAt.Value
	switch {
	case !c.ExpiresAt.Set, current != nil && end != nil && current.Equal(*end):
		return current
	case end == nil:
		return c.Policy.ending(nil, l.CreatedAt)
	}
	return end
}

// changedFields names the fields of the native API that differ.
func changedFields(before, after Settings) []string {
	var changed []string
	compare := func(field string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			changed = append(changed, field)
		}
	}
	compare("name", before.Name, after.Name)
	compare("scopes", before.Scopes, after.Scopes)
	compare("resources", before.Resources, after.Resources)
	compare("expires_at", before.ExpiresAt, after.ExpiresAt)
	compare("rotation_interval_seconds", before.RotationIntervalSeconds, after.RotationIntervalSeconds)
	compare("grace_period_seconds", before.GraceSeconds, after.GraceSeconds)
	compare("rotation_webhook_url", before.WebhookURL, after.WebhookURL)
	if after.WebhookURL == "" && (after.EndpointID != "" || before.WebhookURL == "") { // else the address says it all
		compare("webhook_endpoint_id", before.EndpointID, after.EndpointID)
	}
	compare("metadata", string(before.Metadata), string(after.Metadata))
	compare("enabled", before.Disabled, after.Disabled)
	compare("allowed_ips", before.AllowedIPs, after.AllowedIPs)
	compare("rate_limit", before.RateLimit, after.RateLimit)
	compare("usage_limit", before.UsageLimit, after.UsageLimit)
	return changed
}
