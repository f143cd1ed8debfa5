package domain

import (
	"cmp"
	"fmt"
	"time"
)

// settingsFields are the fields of the native API that a person may choose.
var settingsFields = []string{
	"name", "scopes", "resources", "expires_at", "rotation_interval_seconds", "grace_period_seconds", "rotation_webhook_url", "metadata",
	"enabled", "allowed_ips", "rate_limit", "usage_limit",
}

// validate checks the fields that are new, one by one, and returns the settings in canonical form. What stays as it was is
// not judged again: an edit of a name must not fail because a bound has moved since the key was made.
func (s Settings) validate(fields []string, limits Limits, now time.Time) (Settings, error) {
	var err error
	for _, field := range fields {
		switch field {
		case "name":
			s.Name, err = validateName(field, s.Name)
		case "scopes":
			s.Scopes, err = validateScopes(field, s.Scopes)
		case "resources":
			s.Resources, err = validateResources(field, s.Resources)
		case "metadata":
			s.Metadata, err = validateMetadata(field, s.Metadata)
		case "expires_at":
			s.ExpiresAt, err = validateExpiry(field, s.ExpiresAt, now)
		case "rotation_interval_seconds":
			err = cmp.Or(s.validateInterval(field, limits), s.validateGrace("grace_period_seconds"))
		case "grace_period_seconds":
			err = s.validateGrace(field)
		case "allowed_ips":
			s.AllowedIPs, err = validateNetworks(field, s.AllowedIPs)
		case "rate_limit":
			err = validateRate(field, s.RateLimit)
		case "usage_limit":
			err = validateUsage(field, s.UsageLimit)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func validateExpiry(field string, end *time.Time, now time.Time) (*time.Time, error) {
	if end == nil {
		return nil, nil
	}
	at := end.UTC().Truncate(time.Microsecond)
	if !at.After(now) {
		return nil, InvalidField(field, "is not in the future", "choose a later time, in RFC 3339 with an offset")
	}
	if at.Year() > 9999 { // JSON has no form for it
		return nil, InvalidField(field, "is too far away", "leave it out for a key that does not expire")
	}
	return &at, nil
}

// validateInterval compares seconds, because a huge number would overflow a duration. It comes before the grace, which may
// be one that was derived from the interval.
func (s Settings) validateInterval(field string, limits Limits) error {
	interval, least := s.RotationIntervalSeconds, max(1, int64(limits.MinRotationInterval/time.Second))
	if interval != 0 && (interval < least || interval > int64(MaxRotationInterval/time.Second)) {
		return InvalidField(field, "is out of range",
			fmt.Sprintf("choose at least %d seconds (REKEY_MIN_ROTATION_INTERVAL) and at most ten years", least))
	}
	return nil
}

func (s Settings) validateGrace(field string) error {
	if s.GraceSeconds < 0 || s.GraceSeconds > int64(MaxGrace/time.Second) {
		return graceOutOfRange()
	}
	if s.RotationIntervalSeconds != 0 && s.GraceSeconds >= s.RotationIntervalSeconds {
		return InvalidField(field, "is not shorter than the rotation interval", "choose less than the interval, or leave it out")
	}
	return nil
}

func graceOutOfRange() *Error {
	return InvalidField("grace_period_seconds", "is out of range", "choose 0 to 2592000 (30 days)")
}
