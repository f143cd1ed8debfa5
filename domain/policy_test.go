package domain

import (
	"testing"
	"time"
)

// under makes a key in a project with a policy.
func under(p Policy, change func(*CreateKey)) ([]Decided, error) {
	in := project(liveEnvironment)
	in.Policy = p
	return in.CreateKeyIn(create(change), testLimits, start)
}

func TestPolicyFillsWhatANewKeyLeavesOpen(t *testing.T) {
	t.Parallel()
	limited := func(c *CreateKey) { c.Caller = limitedCaller() }
	hourlyInterval := func(c *CreateKey) { c.Settings.RotationIntervalSeconds = 3600 }
	for _, c := range []struct {
		name   string
		policy Policy
		change func(*CreateKey)
		want   func(*Settings) // changes what is made without a policy
	}{
		{
			name: "ScopesOfACallerWhoHoldsAll", policy: Policy{AllowedScopes: Scopes{"orders:*", "keys:read"}},
			want: func(s *Settings) { s.Scopes = Scopes{"orders:*", "keys:read"} },
		}, {
			name: "ScopesThatBothAllow", policy: Policy{AllowedScopes: Scopes{"a:read", "b", "keys:*"}}, change: limited,
			want: func(s *Settings) { s.Scopes = Scopes{"keys:write", "a:read"} },
		}, {
			name: "AnEnd", policy: Policy{MaxLifetimeSeconds: 3600},
			want: func(s *Settings) { s.ExpiresAt = new(at(hour)) },
		}, {
			name: "TheEarlierEndOfTheCallersAndThePolicys", policy: Policy{MaxLifetimeSeconds: 3600}, change: limited,
			want: func(s *Settings) { s.ExpiresAt = new(at(hour)) },
		}, {
			name: "TheCallersEndIfItIsEarlier", policy: Policy{MaxLifetimeSeconds: 864000, RequireExpiry: true}, change: limited,
			want: func(s *Settings) { s.ExpiresAt = new(at(day)) },
		}, {
			name: "TheDefaultGrace", policy: Policy{DefaultGraceSeconds: new(int64(7200))},
			want: func(s *Settings) { s.GraceSeconds = 7200 },
		}, {
			name: "NoGraceByDefault", policy: Policy{DefaultGraceSeconds: new(int64(0))},
			want: func(s *Settings) { s.GraceSeconds = 0 },
		}, {
			name: "TheDefaultGraceOfAnInterval", policy: Policy{DefaultGraceSeconds: new(int64(3599))}, change: hourlyInterval,
			want: func(s *Settings) { s.GraceSeconds = 3599 },
		}, {
			name: "AFittingGraceIfTheDefaultIsNoShorterThanTheInterval", policy: Policy{DefaultGraceSeconds: new(int64(3600))}, change: hourlyInterval,
			want: func(s *Settings) { s.GraceSeconds = 1800 },
		}, {
			name: "NoMoreThanTheMaximumGrace", policy: Policy{MaxGraceSeconds: new(int64(60))}, change: hourlyInterval,
			want: func(s *Settings) { s.GraceSeconds = 60 },
		}, {
			name: "NothingThatIsNamedAndAllowed",
			policy: Policy{
				MaxLifetimeSeconds: 86400, RequireExpiry: true, DefaultGraceSeconds: new(int64(1)), MaxGraceSeconds: new(int64(60)), AllowedScopes: Scopes{"a:*"},
			},
			change: func(c *CreateKey) {
				c.Settings.Scopes, c.Settings.ExpiresAt = Scopes{"a:read"}, new(at(day))
				c.Settings.GraceSeconds, c.GraceSet = 60, true
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := made(t, Policy{}, c.change)
			if c.want != nil {
				c.want(&want)
			}
			same(t, "settings", made(t, c.policy, c.change), want)
		})
	}
}

// made are the settings of a key that is made under a policy.
func made(t *testing.T, p Policy, change func(*CreateKey)) Settings {
	t.Helper()
	got, err := under(p, change)
	if err != nil {
		t.Fatal(err)
	}
	return got[0].Data.(Created).Settings
}

func TestPolicyRefusesANewKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		policy Policy
		change func(*CreateKey)
		field  string
	}{
		{"AScopeThatIsNotAllowed", Policy{AllowedScopes: Scopes{"a"}}, func(c *CreateKey) { c.Settings.Scopes = Scopes{"a", "b"} }, "scopes"},
		{"AWiderScope", Policy{AllowedScopes: Scopes{"a:read"}}, func(c *CreateKey) { c.Settings.Scopes = Scopes{"a:*"} }, "scopes"},
		{"ACallerWhoHoldsNoneOfThem", Policy{AllowedScopes: Scopes{"b"}}, func(c *CreateKey) { c.Caller = limitedCaller() }, "scopes"},
		{"NoEnd", Policy{RequireExpiry: true}, nil, "expires_at"},
		{"NoEndThoughThereIsAMaximum", Policy{RequireExpiry: true, MaxLifetimeSeconds: 60}, nil, "expires_at"},
		{"TooLongALife", Policy{MaxLifetimeSeconds: 3600}, func(c *CreateKey) { c.Settings.ExpiresAt = new(at(hour + time.Microsecond)) }, "expires_at"},
		{
			"TooLongAGrace", Policy{MaxGraceSeconds: new(int64(59))},
			func(c *CreateKey) { c.Settings.GraceSeconds, c.GraceSet = 60, true }, "grace_period_seconds",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := under(c.policy, c.change)
			refused(t, err, CodeValidation, c.field)
			if len(got) != 0 {
				t.Fatalf("a refusal came with %v", got)
			}
		})
	}
}

func TestPolicyBindsWhatAnEditChanges(t *testing.T) {
	t.Parallel()
	tight := Policy{
		MaxLifetimeSeconds: 7200, RequireExpiry: true, DefaultGraceSeconds: new(int64(5)), MaxGraceSeconds: new(int64(10)), AllowedScopes: Scopes{"a"},
	}
	lifelong := Policy{MaxLifetimeSeconds: 7200}
	with := func(p Policy, change func(*UpdateKey)) func(*Lineage) ([]Decided, error) {
		return edit(func(c *UpdateKey) { c.Policy = p; change(c) })
	}
	settled := created(hourly, ending(day)) // made before the policy, and against all of it
	runDecisions(t, []decision{
		{
			name: "NotWhatStays", given: []fact{settled}, when: with(tight, func(c *UpdateKey) { c.Name = ChangeTo("new") }),
			then: []Payload{updated(settled, func(u *Updated) { u.Name = "new" }, "name")},
		}, {
			name: "NotWhatIsNamedAsItIs", given: []fact{settled},
			when: with(tight, func(c *UpdateKey) {
				c.Scopes, c.GraceSeconds, c.ExpiresAt = ChangeTo(Scopes{"*"}), ChangeTo[int64](1800), ChangeTo(new(at(day).In(time.FixedZone("", 3600))))
			}),
		}, {
			name: "Scopes", given: []fact{settled}, when: with(tight, func(c *UpdateKey) { c.Scopes = ChangeTo(Scopes{"b"}) }),
			code: CodeValidation, field: "scopes",
		}, {
			name: "Grace", given: []fact{settled}, when: with(tight, func(c *UpdateKey) { c.GraceSeconds = ChangeTo[int64](11) }),
			code: CodeValidation, field: "grace_period_seconds",
		}, {
			name: "NoEnd", given: []fact{settled}, when: with(tight, func(c *UpdateKey) { c.ExpiresAt = ChangeTo[*time.Time](nil) }),
			code: CodeValidation, field: "expires_at",
		}, {
			name: "TheLifeCountsFromTheCreation", given: []fact{settled}, code: CodeValidation, field: "expires_at",
			when: with(tight, func(c *UpdateKey) { c.ExpiresAt = ChangeTo(new(at(2*hour + time.Microsecond))) }),
		}, {
			name: "UpToTheMaximum", given: []fact{settled}, when: with(tight, func(c *UpdateKey) { c.ExpiresAt = ChangeTo(new(at(2 * hour))) }),
			then: []Payload{updated(settled, func(u *Updated) { u.ExpiresAt = new(at(2 * hour)) }, "expires_at")},
		}, {
			name: "WithoutAnEndItGetsTheMaximum", given: []fact{settled},
			when: with(lifelong, func(c *UpdateKey) { c.ExpiresAt = ChangeTo[*time.Time](nil) }),
			then: []Payload{updated(settled, func(u *Updated) { u.ExpiresAt = new(at(2 * hour)) }, "expires_at")},
		}, {
			name: "AGraceThatNobodyNamedIsCutDown", given: []fact{created()},
			when: with(tight, func(c *UpdateKey) { c.RotationIntervalSeconds = ChangeTo[int64](3600) }),
			then: []Payload{updated(created(), func(u *Updated) {
				u.RotationIntervalSeconds, u.GraceSeconds, u.NextRotationAt = 3600, 10, new(at(10*time.Minute+slot(1)))
			}, "rotation_interval_seconds", "grace_period_seconds")},
		},
	})
}

// A bound that was raised after a key was made must not keep its owner from renaming it, nor let a new value pass.
func TestUpdateJudgesOnlyWhatChanges(t *testing.T) {
	t.Parallel()
	quick := created(func(c *Created) { c.RotationIntervalSeconds, c.GraceSeconds = 10, 5 }) // testLimits ask for a minute
	runDecisions(t, []decision{
		{
			name: "ARename", given: []fact{quick}, when: edit(func(c *UpdateKey) { c.Name = ChangeTo("new") }),
			then: []Payload{updated(quick, func(u *Updated) { u.Name = "new" }, "name")},
		}, {
			name: "TheIntervalItHas", given: []fact{quick},
			when: edit(func(c *UpdateKey) { c.Name, c.RotationIntervalSeconds = ChangeTo("new"), ChangeTo[int64](10) }),
			then: []Payload{updated(quick, func(u *Updated) { u.Name = "new" }, "name")},
		}, {
			name: "AnotherInterval", given: []fact{quick}, when: edit(func(c *UpdateKey) { c.RotationIntervalSeconds = ChangeTo[int64](11) }),
			code: CodeValidation, field: "rotation_interval_seconds",
		}, {
			name: "AnIntervalNoLongerThanTheGraceThatStays", given: []fact{created()},
			when: edit(func(c *UpdateKey) {
				c.RotationIntervalSeconds, c.GraceSeconds = ChangeTo[int64](3600), ChangeTo[int64](3600)
			}),
			code: CodeValidation, field: "grace_period_seconds",
		},
	})
}

func TestPolicyBindsTheGraceOfARotation(t *testing.T) {
	t.Parallel()
	const now = 10 * time.Minute
	with := func(p Policy, named ...time.Duration) func(*Lineage) ([]Decided, error) {
		return rotate(TriggerManual, now, func(c *RotateKey) {
			c.Policy, c.Grace = p, nil
			if len(named) > 0 {
				c.Grace = &named[0]
			}
		})
	}
	lasting := func(d time.Duration) []Payload {
		return []Payload{handed(t, func(r *Rotated) { r.GraceSeconds, r.GraceExpiresAt = int64(d/time.Second), new(at(now+d)) })}
	}
	table := []decision{
		{name: "AnHourWithoutAPolicy", when: with(Policy{}), then: lasting(hour)},
		{name: "TheDefault", when: with(Policy{DefaultGraceSeconds: new(int64(60))}), then: lasting(time.Minute)},
		{name: "NoneByDefault", when: with(Policy{DefaultGraceSeconds: new(int64(0))}), then: lasting(0)},
		{name: "AnHourCutDownToTheMaximum", when: with(Policy{MaxGraceSeconds: new(int64(60))}), then: lasting(time.Minute)},
		{name: "ANamedOne", when: with(Policy{DefaultGraceSeconds: new(int64(60)), MaxGraceSeconds: new(int64(120))}, 2*time.Minute), then: lasting(2 * time.Minute)},
		{name: "ATooLongOne", when: with(Policy{MaxGraceSeconds: new(int64(120))}, 121*time.Second), code: CodeValidation, field: "grace_period_seconds"},
	}
	for i := range table {
		table[i].given = []fact{created()}
	}
	runDecisions(t, append(table, decision{
		// Rotations that run go on: with the grace that the key has.
		name: "NotOfAnIntervalRotation", given: []fact{created(hourly)},
		when: rotate(TriggerInterval, slot(1), func(c *RotateKey) {
			c.Policy, c.RotationID, c.NewKeyID = Policy{MaxGraceSeconds: new(int64(1)), MaxLifetimeSeconds: 1, AllowedScopes: Scopes{"a"}}, rot1, key2
		}),
		then: []Payload{func() Rotated {
			r := bySlot().data.(Rotated)
			r.SecretFacts, r.Deadline = mintedFacts(t), new(at(slot(1)+7*day))
			return r
		}()},
	}))
}

func TestLeakAction(t *testing.T) {
	t.Parallel()
	if (Policy{}).LeakAction() != LeakRevoke || (Policy{OnLeak: LeakNotify}).LeakAction() != LeakNotify {
		t.Error("the default is not to revoke, or what is chosen is not taken")
	}
}

func TestScopesWithin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ a, b, want Scopes }{
		{Scopes{"*"}, Scopes{"*"}, Scopes{"*"}},
		{Scopes{"*"}, Scopes{"a:*", "b"}, Scopes{"a:*", "b"}},
		{Scopes{"a:*"}, Scopes{"a:b:*", "a:c", "d"}, Scopes{"a:b:*", "a:c"}},
		{Scopes{"a:b", "c:*"}, Scopes{"a:*", "c:x"}, Scopes{"a:b", "c:x"}},
		{Scopes{"a"}, Scopes{"b"}, nil},
	} {
		same(t, "scopes", c.a.within(c.b), c.want)
	}
}

func TestKeyNumber(t *testing.T) {
	t.Parallel()
	// Written out: a number that was handed out must lead to its key for ever.
	if got := KeyNumber(key1); got != 5433738125614383 {
		t.Errorf("the number of %s is %d", key1, got)
	}
	seen := map[int64]bool{}
	for i := range 1000 {
		n := KeyNumber(KeyID(IDs{Random: seeded(byte(i))}.New(PrefixKey, at(time.Duration(i)*time.Second))))
		if n < 0 || n >= 1<<53 || seen[n] {
			t.Fatalf("number %d of %d", n, i)
		}
		seen[n] = true
	}
}
