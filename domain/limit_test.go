package domain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseNetworks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"203.0.113.7", "203.0.113.7/32"}, {"2001:db8::1", "2001:db8::1/128"}, {"10.0.0.0/8", "10.0.0.0/8"},
		{"2001:DB8:0::/32", "2001:db8::/32"}, {"::ffff:203.0.113.7", "203.0.113.7/32"}, {"::ffff:10.0.0.0/104", "10.0.0.0/8"},
		{"0.0.0.0/0", "0.0.0.0/0"}, {"::/0", "::/0"},
		{"10.1.0.0/16 10.0.0.0/8 10.1.0.0/16 203.0.113.7 203.0.113.7/32", "10.0.0.0/8 10.1.0.0/16 203.0.113.7/32"},
	} {
		got, err := ParseNetworks("allowed_ips", strings.Fields(c.in))
		if err != nil || strings.Join(got.Strings(), " ") != c.want {
			t.Errorf("%s is %v (%v), want %s", c.in, got, err, c.want)
		}
		if again, err := validateNetworks("allowed_ips", got); err != nil || !slices.Equal(again, got) {
			t.Errorf("%s is not accepted as what it became: %v (%v)", c.in, again, err)
		}
	}
	for _, in := range []string{"", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/08", "010.0.0.1", "10.0.0", "fe80::1%eth0", "example.com", "10.0.0.1:80", " 10.0.0.1"} {
		_, err := ParseNetworks("allowed_ips", []string{"10.0.0.0/8", in})
		refused(t, err, CodeValidation, "allowed_ips[1]")
	}
	_, err := ParseNetworks("allowed_ips", nil)
	refused(t, err, CodeValidation, "allowed_ips")
	_, err = ParseNetworks("allowed_ips", slices.Repeat([]string{"10.0.0.1"}, MaxAllowedIPs+1))
	refused(t, err, CodeValidation, "allowed_ips")
}

func TestNetworksAllow(t *testing.T) {
	t.Parallel()
	n, err := ParseNetworks("allowed_ips", []string{"10.0.0.0/8", "2001:db8::/32", "203.0.113.7"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"10.255.0.1": true, "::ffff:10.0.0.1": true, "203.0.113.7": true, "2001:db8::1": true, "2001:db8::1%eth0": true,
		"11.0.0.1": false, "203.0.113.8": false, "2001:db9::1": false, "::ffff:11.0.0.1": false,
	} {
		if got := n.Allow(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
	if n.Allow(netip.Addr{}) {
		t.Error("an unknown address is allowed")
	}
	if !(Networks)(nil).Allow(netip.Addr{}) {
		t.Error("without networks an unknown address is denied")
	}
}

func TestLimitsOfANewKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Settings)
		field  string // empty: it is accepted
	}{
		{"AllOfThem", func(s *Settings) {
			s.RateLimit, s.UsageLimit = &RateLimit{MaxRateRequests, 86400}, &UsageLimit{MaxUses, UsageTotal}
			s.Disabled, s.AllowedIPs = true, Networks{netip.MustParsePrefix("10.0.0.0/8")}
		}, ""},
		{"TheLeast", func(s *Settings) { s.RateLimit, s.UsageLimit = &RateLimit{1, 1}, &UsageLimit{1, UsageDay} }, ""},
		{"NoRequests", func(s *Settings) { s.RateLimit = &RateLimit{0, 1} }, "rate_limit.requests"},
		{"TooManyRequests", func(s *Settings) { s.RateLimit = &RateLimit{MaxRateRequests + 1, 1} }, "rate_limit.requests"},
		{"NoWindow", func(s *Settings) { s.RateLimit = &RateLimit{1, 0} }, "rate_limit.window_seconds"},
		{"AWindowOfOverADay", func(s *Settings) { s.RateLimit = &RateLimit{1, 86401} }, "rate_limit.window_seconds"},
		{"NoUses", func(s *Settings) { s.UsageLimit = &UsageLimit{0, UsageDay} }, "usage_limit.uses"},
		{"TooManyUses", func(s *Settings) { s.UsageLimit = &UsageLimit{MaxUses + 1, UsageDay} }, "usage_limit.uses"},
		{"AnotherPeriod", func(s *Settings) { s.UsageLimit = &UsageLimit{1, "week"} }, "usage_limit.period"},
		{"ANetworkInAnotherForm", func(s *Settings) { s.AllowedIPs = Networks{netip.MustParsePrefix("10.0.0.1/8")} }, "allowed_ips[0]"},
		{"NoNetwork", func(s *Settings) { s.AllowedIPs = Networks{{}} }, "allowed_ips[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wanted := create(func(k *CreateKey) { c.change(&k.Settings) })
			decided, err := project(liveEnvironment).CreateKeyIn(wanted, testLimits, start)
			if c.field != "" {
				refused(t, err, CodeValidation, c.field)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := decided[len(decided)-1].Data.(Created).Settings
			same(t, "settings", []any{got.Disabled, got.AllowedIPs, got.RateLimit, got.UsageLimit},
				[]any{wanted.Settings.Disabled, wanted.Settings.AllowedIPs, wanted.Settings.RateLimit, wanted.Settings.UsageLimit})
		})
	}
}

// Limits bound the use of a key, not what it may grant (guarantee G8): a caller that has some makes keys that have none.
func TestLimitsAreNotInherited(t *testing.T) {
	t.Parallel()
	wanted := create(func(k *CreateKey) { k.Caller = limitedCaller(); k.Settings.Scopes = nil })
	decided, err := project(liveEnvironment).CreateKeyIn(wanted, testLimits, start)
	if err != nil {
		t.Fatal(err)
	}
	if s := decided[0].Data.(Created).Settings; s.RateLimit != nil || s.UsageLimit != nil || s.AllowedIPs != nil || s.Disabled {
		t.Errorf("it has %+v", s)
	}
}

func TestUpdateLimits(t *testing.T) {
	t.Parallel()
	full := func(c *Created) {
		c.Disabled, c.AllowedIPs = true, Networks{netip.MustParsePrefix("10.0.0.0/8")}
		c.RateLimit, c.UsageLimit = &RateLimit{1, 1}, &UsageLimit{1, UsageDay}
	}
	changed := func(t *testing.T, from func(*Created), change func(*UpdateKey)) *Updated {
		t.Helper()
		decided, err := edit(change)(given(t, created(from)))
		if err != nil {
			t.Fatal(err)
		}
		if len(decided) == 0 {
			return nil
		}
		u := decided[0].Data.(Updated)
		return &u
	}
	set := changed(t, func(*Created) {}, func(c *UpdateKey) {
		c.Enabled, c.AllowedIPs = ChangeTo(false), ChangeTo(Networks{netip.MustParsePrefix("10.0.0.0/8")})
		c.RateLimit, c.UsageLimit = ChangeTo(&RateLimit{1, 1}), ChangeTo(&UsageLimit{1, UsageDay})
	})
	same(t, "changed", set.Changed, []string{"enabled", "allowed_ips", "rate_limit", "usage_limit"})
	var want Created
	full(&want)
	same(t, "settings", []any{set.Disabled, set.AllowedIPs, set.RateLimit, set.UsageLimit},
		[]any{want.Disabled, want.AllowedIPs, want.RateLimit, want.UsageLimit})
	if u := changed(t, full, func(c *UpdateKey) {
		c.Enabled, c.AllowedIPs = ChangeTo(false), ChangeTo(slices.Clone(want.AllowedIPs))
		c.RateLimit, c.UsageLimit = ChangeTo(&RateLimit{1, 1}), ChangeTo(&UsageLimit{1, UsageDay})
	}); u != nil {
		t.Errorf("the same again changes %v", u.Changed)
	}
	cleared := changed(t, full, func(c *UpdateKey) {
		c.Enabled, c.AllowedIPs = ChangeTo(true), ChangeTo(Networks(nil))
		c.RateLimit, c.UsageLimit = ChangeTo[*RateLimit](nil), ChangeTo[*UsageLimit](nil)
	})
	if cleared.Disabled || cleared.AllowedIPs != nil || cleared.RateLimit != nil || cleared.UsageLimit != nil {
		t.Errorf("it keeps %+v", cleared.Settings)
	}
	_, err := edit(func(c *UpdateKey) { c.RateLimit = ChangeTo(&RateLimit{1, 0}) })(given(t, created(full)))
	refused(t, err, CodeValidation, "rate_limit.window_seconds")
}

// the schedule of a disabled key is empty, and nobody rotates it. Once it is enabled it goes on at its next slot.
func TestDisabledKeysDoNotRotate(t *testing.T) {
	t.Parallel()
	disabled := func(c *Created) { hourly(c); c.Disabled = true }
	l := given(t, created(disabled))
	if due := l.Due(); len(due) != 0 {
		t.Errorf("due is %v", due)
	}
	for _, trigger := range []Trigger{TriggerManual, TriggerCompromise} {
		_, err := l.Rotate(RotateKey{KeyID: key1, NewKeyID: key2, RotationID: rot1, Trigger: trigger, Caller: System(), Mint: mintFixed}, at(slot(1)))
		refused(t, err, CodeKeyDisabled, "")
	}
	if decided, err := l.Rotate(RotateKey{KeyID: key1, NewKeyID: key2, RotationID: rot1, Trigger: TriggerInterval, Caller: System(), Mint: mintFixed}, at(slot(1))); err != nil || len(decided) != 0 {
		t.Errorf("its interval rotation: %v (%v)", decided, err)
	}
	waiting := given(t, created(hourly), bySlot(), fact{slot(1), Updated{Settings: func() Settings {
		var c Created
		disabled(&c)
		return c.Settings
	}()}})
	_, err := waiting.Redeliver(Redeliver{RotationID: rot1, Fresh: true, With: RotateKey{RotationID: rot2, NewKeyID: key3, Mint: mintFixed}}, at(slot(1)))
	refused(t, err, CodeKeyDisabled, "")

	later := at(slot(3) + time.Minute)
	decided, err := l.Update(UpdateKey{KeyID: key1, Enabled: ChangeTo(true), Caller: System()}, testLimits, later)
	if err != nil {
		t.Fatal(err)
	}
	updated := decided[0].Data.(Updated)
	if next := updated.NextRotationAt; next == nil || !next.Equal(at(slot(4))) {
		t.Errorf("it rotates next at %v, want %v", next, at(slot(4)))
	}
	l = given(t, created(disabled), fact{slot(3) + time.Minute, updated})
	same(t, "due", l.Due(), []Due{{DueRotate, key1, at(slot(4))}})
}
