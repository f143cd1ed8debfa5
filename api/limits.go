package api

import (
	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// rateLimit is a rate limit as requests name it and answers show it.
type rateLimit struct {
	Requests      int64 `json:"requests" minimum:"1" maximum:"1000000000" example:"1000" doc:"How many valid verifies a window has"`
	WindowSeconds int64 `json:"window_seconds" minimum:"1" maximum:"86400" example:"60" doc:"How long a window lasts. Windows are aligned to the epoch: one of 60 seconds begins with each minute"`
}

// usageLimit is a budget of uses as requests name it and answers show it.
type usageLimit struct {
	Uses   int64              `json:"uses" minimum:"1" maximum:"1000000000000" example:"100000" doc:"How many valid verifies a period has"`
	Period domain.UsagePeriod `json:"period" enum:"total,day,month" example:"month" doc:"total is for the life of the lineage; days and months are those of UTC"`
}

// KeyLimitSettings are what limits the use of a new key. It is exported because huma and encoding/json read the fields of an
// embedded struct only then.
type KeyLimitSettings struct {
	Enabled    *bool                        `json:"enabled,omitempty" nullable:"true" doc:"false: it verifies as DISABLED until it is enabled; default true"`
	AllowedIPs surface.Optional[[]string]   `json:"allowed_ips,omitempty" minItems:"1" maxItems:"64" doc:"Addresses and networks that it may be used from; default: anywhere"`
	RateLimit  surface.Optional[rateLimit]  `json:"rate_limit,omitempty" doc:"Of the lineage, all its keys together; default: none"`
	UsageLimit surface.Optional[usageLimit] `json:"usage_limit,omitempty" doc:"Of the lineage, all its keys together; default: none"`
}

// lay lays the settings over the request for a key.
func (l *KeyLimitSettings) lay(c *commands.CreateKey) (err error) {
	c.Disabled = l.Enabled != nil && !*l.Enabled
	c.RateLimit = (*domain.RateLimit)(l.RateLimit.Pointer())
	c.UsageLimit = (*domain.UsageLimit)(l.UsageLimit.Pointer())
	c.AllowedIPs, err = networksOf(l.AllowedIPs.Pointer())
	return err
}

// KeyLimitChanges are what limits the use of a key, in an edit.
type KeyLimitChanges struct {
	Enabled    surface.Optional[bool]       `json:"enabled,omitempty" nullable:"false" doc:"false: no key of the lineage may be used, and it does not rotate by itself, until it is enabled again"`
	AllowedIPs surface.Optional[[]string]   `json:"allowed_ips,omitempty" minItems:"1" maxItems:"64" doc:"Replaces all of them; null: anywhere"`
	RateLimit  surface.Optional[rateLimit]  `json:"rate_limit,omitempty" doc:"null: none"`
	UsageLimit surface.Optional[usageLimit] `json:"usage_limit,omitempty" doc:"null: none. Another number of uses goes on with what was counted in the period"`
}

// KeyLimits are what limits the use of a key, as answers show it.
type KeyLimits struct {
	Enabled    bool                         `json:"enabled" example:"true" doc:"false: it verifies as DISABLED, whatever its status"`
	AllowedIPs []string                     `json:"allowed_ips" nullable:"true" example:"[\"203.0.113.7/32\"]" doc:"null: anywhere"`
	RateLimit  surface.Nullable[rateLimit]  `json:"rate_limit" doc:"Of the lineage: all its keys together"`
	UsageLimit surface.Nullable[usageLimit] `json:"usage_limit" doc:"Of the lineage: all its keys together"`
}

func limitsShown(k *projections.Key) KeyLimits {
	return KeyLimits{
		Enabled: !k.Disabled, AllowedIPs: k.AllowedIPs.Strings(),
		RateLimit:  surface.Nullable[rateLimit]{Value: (*rateLimit)(k.RateLimit())},
		UsageLimit: surface.Nullable[usageLimit]{Value: (*usageLimit)(k.UsageLimit())},
	}
}

// change lays the edit over the command.
func (l *KeyLimitChanges) change(u *domain.UpdateKey) error {
	if l.Enabled.Null {
		return domain.InvalidField("enabled", "cannot be null", "send true or false")
	}
	u.Enabled = l.Enabled.Change()
	u.RateLimit = domain.Change[*domain.RateLimit]{Set: l.RateLimit.Set, Value: (*domain.RateLimit)(l.RateLimit.Pointer())}
	u.UsageLimit = domain.Change[*domain.UsageLimit]{Set: l.UsageLimit.Set, Value: (*domain.UsageLimit)(l.UsageLimit.Pointer())}
	networks, err := networksOf(l.AllowedIPs.Pointer())
	u.AllowedIPs = domain.Change[domain.Networks]{Set: l.AllowedIPs.Set, Value: networks}
	return err
}

func networksOf(texts *[]string) (domain.Networks, error) {
	if texts == nil {
		return nil, nil
	}
	return domain.ParseNetworks("allowed_ips", *texts)
}

// rateLimitState is a rate limit beside a verdict.
type rateLimitState struct {
	Requests      int64  `json:"requests" example:"1000"`
	WindowSeconds int64  `json:"window_seconds" example:"60"`
	Remaining     *int64 `json:"remaining" example:"998" doc:"In this window, as far as this replica knows: what others have taken in advance counts as used. null: the verify was refused before the limit was asked"`
}

// usageLimitState is a usage limit beside a verdict.
type usageLimitState struct {
	Uses      int64              `json:"uses" example:"100000"`
	Period    domain.UsagePeriod `json:"period" enum:"total,day,month" example:"month"`
	Remaining *int64             `json:"remaining" example:"99998" doc:"In this period, as far as this replica knows: what others have taken in advance counts as used. null: the verify was refused before the limit was asked"`
}

// showSpending shows what the key's limits say of a use.
func (b *verdictBody) showSpending(a *verifier.Answer, k *projections.Key) {
	s := a.Spending
	b.RetryAfterSeconds = known(a.RetryAfterSeconds())
	if limit := k.RateLimit(); limit != nil {
		b.RateLimit.Value = &rateLimitState{limit.Requests, limit.WindowSeconds, known(s.RateRemaining)}
	}
	if limit := k.UsageLimit(); limit != nil {
		b.UsageLimit.Value = &usageLimitState{limit.Uses, limit.Period, known(s.UsageRemaining)}
	}
}

// known is nil for what is not.
func known(remaining int64) *int64 {
	if remaining < 0 {
		return nil
	}
	return &remaining
}
