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
	NewEndpointID           EndpointID // names the endpoint if the webhook URL changes to another one
	Caller                  Caller
}

// Update decides other settings for the lineage. An edit that changes nothing decides nothing.
func (l *Lineage) Update(c UpdateKey, limits Limits, now time.Time) ([]Decided, error) {
	active := l.Active()
	if active == nil || active.KeyID != c.KeyID || !l.StatusAt(active, now).Valid() {
		return nil, l.notActive(c.KeyID)
	}
	wanted := l.edited(c)
	wanted, err := wanted.validate(limits, now)
	if err != nil {
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
		updated.NextRotationAt = firstSlot(l.ID, wanted, now)
	}
	var out []Decided
	if wanted.EndpointID != l.Settings.EndpointID && wanted.EndpointID != "" {
		endpoint := l.decided(EndpointCreated{URL: wanted.WebhookURL, LineageID: l.ID})
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
	s.ExpiresAt = c.ExpiresAt.over(s.ExpiresAt)
	s.Metadata = c.Metadata.over(s.Metadata)
	s.GraceSeconds = c.GraceSeconds.over(s.GraceSeconds)
	s.RotationIntervalSeconds = c.RotationIntervalSeconds.over(s.RotationIntervalSeconds)
	if interval := seconds(s.RotationIntervalSeconds); c.RotationIntervalSeconds.Set && !c.GraceSeconds.Set && interval > 0 {
		s.GraceSeconds = min(s.GraceSeconds, int64(defaultGraceFor(interval)/time.Second))
	}
	if c.WebhookURL.Set && c.WebhookURL.Value != s.WebhookURL {
		s.WebhookURL, s.EndpointID = c.WebhookURL.Value, c.NewEndpointID
		if s.WebhookURL == "" {
			s.EndpointID = ""
		}
	}
	return s
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
	compare("metadata", string(before.Metadata), string(after.Metadata))
	return changed
}
