package domain

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

// edit asks for a change of the active key after ten minutes.
func edit(change func(*UpdateKey)) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) {
		c := UpdateKey{KeyID: key1, NewEndpointID: ep2, Caller: System()}
		change(&c)
		return l.Update(c, testLimits, at(10*time.Minute))
	}
}

// updated is what an edit of a lineage created by change leads to: its settings, changed again.
func updated(from fact, change func(*Updated), fields ...string) Updated {
	c := from.data.(Created)
	u := Updated{Changed: fields, Settings: c.Settings, NextRotationAt: c.NextRotationAt}
	change(&u)
	return u
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	rich := func(c *Created) {
		hourly(c)
		c.ExpiresAt, c.Metadata = new(at(day)), json.RawMessage(`{"a":1,"b":2}`)
		c.Resources, c.Scopes = Resources{"app": {"x"}}, Scopes{"a:read", "b"}
	}
	for _, c := range []struct {
		name   string
		from   func(*Created)
		edit   func(*UpdateKey)
		want   func(*Updated) // nil: nothing is decided
		fields []string
		before []Payload
	}{
		{
			name: "ChangesTheName", from: hourly, edit: func(c *UpdateKey) { c.Name = ChangeTo(" new ") },
			want: func(u *Updated) { u.Name = "new" }, fields: []string{"name"},
		}, {
			name: "ReplacesWhatIsNamedAndKeepsTheRest", from: rich,
			edit: func(c *UpdateKey) {
				c.Scopes, c.Resources = ChangeTo(Scopes{"c:*"}), ChangeTo(Resources{"org": {"y"}})
				c.Metadata, c.ExpiresAt = ChangeTo(json.RawMessage(`{"c":[]}`)), ChangeTo(new(at(2*day)))
			},
			want: func(u *Updated) {
				u.Scopes, u.Resources = Scopes{"c:*"}, Resources{"org": {"y"}}
				u.Metadata, u.ExpiresAt = json.RawMessage(`{"c":[]}`), new(at(2*day))
			},
			fields: []string{"scopes", "resources", "expires_at", "metadata"},
		}, {
			name: "TakesAway", from: rich,
			edit: func(c *UpdateKey) {
				c.Scopes, c.Resources = ChangeTo(Scopes(nil)), ChangeTo(Resources(nil))
				c.Metadata, c.ExpiresAt = ChangeTo(json.RawMessage(`null`)), ChangeTo[*time.Time](nil)
				c.RotationIntervalSeconds, c.WebhookURL = ChangeTo[int64](0), ChangeTo("")
			},
			want: func(u *Updated) {
				u.Settings = Settings{Name: u.Name, GraceSeconds: u.GraceSeconds}
				u.NextRotationAt = nil
			},
			fields: []string{"scopes", "resources", "expires_at", "rotation_interval_seconds", "rotation_webhook_url", "metadata"},
		}, {
			name: "DecidesNothingWithoutAChange", from: rich,
			edit: func(c *UpdateKey) {
				c.Name, c.Scopes, c.Resources = ChangeTo("ci "), ChangeTo(Scopes{"a:read", "b", "b"}), ChangeTo(Resources{"app": {"x"}})
				c.Metadata = ChangeTo(json.RawMessage(`{ "b":2, "a":1 }`))
				c.ExpiresAt = ChangeTo(new(at(day).In(time.FixedZone("", 3600))))
				c.RotationIntervalSeconds, c.GraceSeconds = ChangeTo[int64](3600), ChangeTo[int64](1800)
				c.WebhookURL = ChangeTo("https://example.com/hook")
			},
		}, {
			name: "DecidesNothingWithoutAWish", from: rich, edit: func(*UpdateKey) {},
		}, {
			name: "BeginsAnIntervalWithAFittingGrace",
			edit: func(c *UpdateKey) { c.RotationIntervalSeconds = ChangeTo[int64](3600) },
			want: func(u *Updated) {
				u.RotationIntervalSeconds, u.GraceSeconds, u.NextRotationAt = 3600, 1800, new(at(10*time.Minute+slot(1)))
			},
			fields: []string{"rotation_interval_seconds", "grace_period_seconds"},
		}, {
			name: "KeepsAGraceThatFits",
			edit: func(c *UpdateKey) { c.RotationIntervalSeconds = ChangeTo[int64](7200) },
			want: func(u *Updated) {
				u.RotationIntervalSeconds = 7200
				u.NextRotationAt = new(nextSlot(lin1, at(10*time.Minute), 2*hour, at(10*time.Minute)))
			},
			fields: []string{"rotation_interval_seconds"},
		}, {
			name: "TakesANamedGrace",
			edit: func(c *UpdateKey) {
				c.RotationIntervalSeconds, c.GraceSeconds = ChangeTo[int64](3600), ChangeTo[int64](3599)
			},
			want: func(u *Updated) {
				u.RotationIntervalSeconds, u.GraceSeconds, u.NextRotationAt = 3600, 3599, new(at(10*time.Minute+slot(1)))
			},
			fields: []string{"rotation_interval_seconds", "grace_period_seconds"},
		}, {
			name: "KeepsTheSlotsIfOnlyTheGraceChanges", from: hourly,
			edit: func(c *UpdateKey) { c.GraceSeconds = ChangeTo[int64](0) },
			want: func(u *Updated) { u.GraceSeconds = 0 }, fields: []string{"grace_period_seconds"},
		}, {
			name: "MakesAnEndpointForANewReceiver", from: hourly,
			edit:   func(c *UpdateKey) { c.WebhookURL = ChangeTo("https://example.org") },
			want:   func(u *Updated) { u.WebhookURL, u.EndpointID = "https://example.org", ep2 },
			fields: []string{"rotation_webhook_url"}, before: []Payload{onTheFly("https://example.org", lin1, "")},
		}, {
			name: "GoesToARegisteredEndpoint", from: hourly,
			edit: func(c *UpdateKey) { c.EndpointID, c.Endpoint = ChangeTo(ep2), registered(ep2, proj1) },
			want: func(u *Updated) { u.WebhookURL, u.EndpointID = "", ep2 }, fields: []string{"rotation_webhook_url", "webhook_endpoint_id"},
		}, {
			name: "LeavesARegisteredEndpointForAnAddress", from: toEndpoint,
			edit:   func(c *UpdateKey) { c.WebhookURL = ChangeTo("https://example.org") },
			want:   func(u *Updated) { u.WebhookURL, u.EndpointID = "https://example.org", ep2 },
			fields: []string{"rotation_webhook_url"}, before: []Payload{onTheFly("https://example.org", lin1, "")},
		}, {
			name: "LeavesARegisteredEndpoint", from: toEndpoint,
			edit: func(c *UpdateKey) { c.EndpointID = ChangeTo(EndpointID("")) },
			want: func(u *Updated) { u.EndpointID = "" }, fields: []string{"webhook_endpoint_id"},
		}, {
			name: "RepeatsItsRegisteredEndpoint", from: toEndpoint,
			edit: func(c *UpdateKey) { c.EndpointID, c.WebhookURL = ChangeTo(ep1), ChangeTo("") },
		}, {
			name: "RepeatsTheEndpointOfItsAddress", from: hourly,
			edit: func(c *UpdateKey) { c.EndpointID, c.WebhookURL = ChangeTo(ep1), ChangeTo("https://example.com/hook") },
		}, {
			name: "ByALimitedCallerWithinItsLimits", from: func(c *Created) {
				c.Scopes, c.Resources, c.ExpiresAt = Scopes{"a:read"}, Resources{"app": {"x"}}, new(at(hour))
			},
			edit:   func(c *UpdateKey) { c.Caller, c.Scopes = limitedCaller(), ChangeTo(Scopes{"a:*"}) },
			want:   func(u *Updated) { u.Scopes = Scopes{"a:*"} },
			fields: []string{"scopes"},
		},
	} {
		from := created()
		if c.from != nil {
			from = created(c.from)
		}
		d := decision{name: c.name, given: []fact{from}, when: edit(c.edit)}
		if c.want != nil {
			d.then = append(c.before, updated(from, c.want, c.fields...))
		}
		runDecisions(t, []decision{d})
	}
}

func TestUpdateRefuses(t *testing.T) {
	t.Parallel()
	rename := func(c *UpdateKey) { c.Name = ChangeTo("new") }
	renameOf := func(id KeyID) func(*UpdateKey) { return func(c *UpdateKey) { c.Name, c.KeyID = ChangeTo("new"), id } }
	interval := func(n int64) func(*UpdateKey) {
		return func(c *UpdateKey) { c.RotationIntervalSeconds = ChangeTo(n) }
	}
	graceOf := func(n int64) func(*UpdateKey) { return func(c *UpdateKey) { c.GraceSeconds = ChangeTo(n) } }
	runDecisions(t, []decision{
		{
			name: "AnotherThanTheActiveKey", given: []fact{created(), byHand(time.Minute, 1, hour)}, when: edit(rename),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key2},
		}, {
			name: "APendingKey", given: []fact{created(hourly), bySlot()}, when: edit(renameOf(key2)),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key1},
		},
		{name: "ARevokedKey", given: []fact{created(), revoked(time.Minute, key1)}, when: edit(rename), code: CodeKeyNotActive},
		{name: "AKeyWhoseLifeIsOver", given: []fact{created(ending(10 * time.Minute))}, when: edit(rename), code: CodeKeyNotActive},
		{
			name: "ALifeAfterDeath", given: []fact{created(ending(10 * time.Minute))}, code: CodeKeyNotActive,
			when: edit(func(c *UpdateKey) { c.ExpiresAt = ChangeTo[*time.Time](nil) }),
		},
		{name: "NoName", given: []fact{created()}, when: edit(func(c *UpdateKey) { c.Name = ChangeTo("") }), code: CodeValidation, field: "name"},
		{name: "ABadScope", given: []fact{created()}, when: edit(func(c *UpdateKey) { c.Scopes = ChangeTo(Scopes{""}) }), code: CodeValidation, field: "scopes[0]"},
		{
			name: "AnExpiryInThePast", given: []fact{created()}, code: CodeValidation, field: "expires_at",
			when: edit(func(c *UpdateKey) { c.ExpiresAt = ChangeTo(new(at(10 * time.Minute))) }),
		},
		{name: "AnIntervalBelowTheMinimum", given: []fact{created()}, when: edit(interval(59)), code: CodeValidation, field: "rotation_interval_seconds"},
		{name: "ANegativeInterval", given: []fact{created()}, when: edit(interval(-3600)), code: CodeValidation, field: "rotation_interval_seconds"},
		{name: "TheGreatestInterval", given: []fact{created()}, when: edit(interval(math.MaxInt64)), code: CodeValidation, field: "rotation_interval_seconds"},
		{
			name: "AnIntervalThatOverflowsToOneSecond", given: []fact{created()}, code: CodeValidation, field: "rotation_interval_seconds",
			when: edit(interval(1<<55 + 1)),
		},
		{name: "AGraceAsLongAsTheInterval", given: []fact{created(hourly)}, when: edit(graceOf(3600)), code: CodeValidation, field: "grace_period_seconds"},
		{name: "ANegativeGrace", given: []fact{created()}, when: edit(graceOf(-1)), code: CodeValidation, field: "grace_period_seconds"},
		{name: "TheGreatestGrace", given: []fact{created()}, when: edit(graceOf(math.MaxInt64)), code: CodeValidation, field: "grace_period_seconds"},
	})
}

// TestG8UpdateHandsOutNoMoreThanTheCallerHolds: an edit by a lesser key must neither widen a key, nor touch one that is
// more than the editor: it could send the secrets of its rotations to a receiver of its own.
func TestG8UpdateHandsOutNoMoreThanTheCallerHolds(t *testing.T) {
	t.Parallel()
	small := func(c *Created) {
		c.Scopes, c.Resources, c.ExpiresAt = Scopes{"a:read"}, Resources{"app": {"x"}}, new(at(hour))
	}
	limited := func(change func(*UpdateKey)) func(*Lineage) ([]Decided, error) {
		return edit(func(c *UpdateKey) { c.Caller = limitedCaller(); change(c) })
	}
	redirect := func(c *UpdateKey) {
		c.WebhookURL, c.RotationIntervalSeconds = ChangeTo("https://evil.example"), ChangeTo[int64](60)
	}
	runDecisions(t, []decision{
		{
			name: "RefusesFurtherScopes", given: []fact{created(small)}, code: CodeEscalation, field: "scopes",
			when: limited(func(c *UpdateKey) { c.Scopes = ChangeTo(Scopes{"*"}) }),
		}, {
			name: "RefusesFurtherResources", given: []fact{created(small)}, code: CodeEscalation, field: "resources",
			when: limited(func(c *UpdateKey) { c.Resources = ChangeTo(Resources{"app": {"x", "z"}}) }),
		}, {
			name: "RefusesNoLimitOnResources", given: []fact{created(small)}, code: CodeEscalation, field: "resources",
			when: limited(func(c *UpdateKey) { c.Resources = ChangeTo(Resources(nil)) }),
		}, {
			name: "RefusesALongerLife", given: []fact{created(small)}, code: CodeEscalation, field: "expires_at",
			when: limited(func(c *UpdateKey) { c.ExpiresAt = ChangeTo(new(at(day + 1000))) }),
		}, {
			name: "RefusesAnEndlessLife", given: []fact{created(small)}, code: CodeEscalation, field: "expires_at",
			when: limited(func(c *UpdateKey) { c.ExpiresAt = ChangeTo[*time.Time](nil) }),
		},
		{name: "RefusesToRedirectABiggerKey", given: []fact{created()}, when: limited(redirect), code: CodeEscalation, field: "scopes"},
		{
			name: "RefusesToRedirectAnOperator", given: []fact{created(func(c *Created) { c.Operator = true })},
			when: edit(func(c *UpdateKey) { c.Caller = Caller{Scopes: Scopes{"*"}}; redirect(c) }),
			code: CodeEscalation, field: "operator",
		},
	})
}

func TestSettingsChangeOverTime(t *testing.T) {
	t.Parallel()

	// What an owner reads as the end of a grace must be true after the life was cut short, and stay the end if the life
	// is made longer again: a deadline never moves later.
	t.Run("AShorterLifeShortensGraces", func(t *testing.T) {
		t.Parallel()
		shorter, longer := created(ending(hour)).data.(Created).Settings, created(ending(9*hour)).data.(Created).Settings
		history := []fact{created(), byHand(time.Minute, 1, 2*hour), {10 * time.Minute, Updated{Settings: shorter}}}
		same(t, "deadlines", given(t, history...).Generation(key1).GraceExpiresAt, new(at(hour)))
		history = append(history, fact{11 * time.Minute, Updated{Settings: longer}})
		same(t, "deadlines", given(t, history...).Generation(key1).GraceExpiresAt, new(at(hour)))
	})

	t.Run("AnotherIntervalBeginsNewSlots", func(t *testing.T) {
		t.Parallel()
		s := created(hourly).data.(Created).Settings
		s.Name = "new"
		renamed := fact{10 * time.Minute, Updated{Settings: s}}
		if l := given(t, created(hourly), renamed); !l.Anchor.Equal(start) {
			t.Fatalf("another name moved the anchor to %v", l.Anchor)
		}
		s.RotationIntervalSeconds = 7200
		if l := given(t, created(hourly), fact{10 * time.Minute, Updated{Settings: s}}); !l.Anchor.Equal(at(10 * time.Minute)) {
			t.Fatalf("another interval left the anchor at %v", l.Anchor)
		}
	})
}
