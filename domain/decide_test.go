package domain

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

var errNoRandomness = errors.New("no randomness")

func mintNothing(string, string) (Secret, error) { return Secret{}, errNoRandomness }

var testLimits = Limits{MinRotationInterval: time.Minute}

// limitedCaller holds little, of one app, for a day.
func limitedCaller() Caller {
	return Caller{
		KeyID: "key_0000000000000000000000000a", OrganizationID: org1, Scopes: Scopes{"a:*", "keys:write"},
		Resources: Resources{"app": {"x", "y"}}, ExpiresAt: new(at(day)),
	}
}

// project has the environments live and test.
func project(environments ...Environment) *Project {
	return &Project{ID: proj1, OrganizationID: org1, Name: "demo", Brand: "acme", Environments: environments}
}

var (
	liveEnvironment = Environment{ID: env1, Name: "live"}
	testEnvironment = Environment{ID: env2, Name: "test"}
)

// create is a command that System gives, changed for the case at hand.
func create(change func(*CreateKey)) CreateKey {
	c := CreateKey{LineageID: lin1, KeyID: key1, Settings: Settings{Name: "ci"}, Caller: System(), Mint: mintFixed}
	if change != nil {
		change(&c)
	}
	return c
}

func TestCreate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*CreateKey)
		want   func(*Created) // changes what the plain command leads to
		before []Payload
	}{
		{name: "TakesAllOfTheCallersScopesAndAnHourOfGrace"},
		{
			name:   "KeepsWhatIsNamed",
			change: func(c *CreateKey) { c.Settings.Scopes, c.Settings.Name = Scopes{"b", "a", "b"}, " ci\t" },
			want:   func(c *Created) { c.Scopes = Scopes{"b", "a"} },
		},
		{
			name:   "InANamedEnvironment",
			change: func(c *CreateKey) { c.Environment = env2 },
			want: func(c *Created) {
				s, _ := mintFixed("acme", "test")
				c.EnvironmentID, c.Environment, c.SecretFacts = env2, "test", FactsOf(s)
			},
		},
		{
			name:   "WithAnIntervalBeginsAtTheFirstSlot",
			change: func(c *CreateKey) { c.Settings.RotationIntervalSeconds = 3600 },
			want: func(c *Created) {
				c.RotationIntervalSeconds, c.GraceSeconds, c.NextRotationAt = 3600, 1800, new(at(slot(1)))
			},
		},
		{
			name:   "WithTheLeastInterval",
			change: func(c *CreateKey) { c.Settings.RotationIntervalSeconds = 60 },
			want: func(c *Created) {
				c.RotationIntervalSeconds, c.GraceSeconds = 60, 30
				c.NextRotationAt = new(nextSlot(lin1, start, time.Minute, start))
			},
		},
		{
			name:   "WithTheGreatestInterval",
			change: func(c *CreateKey) { c.Settings.RotationIntervalSeconds = 315360000 },
			want: func(c *Created) {
				c.RotationIntervalSeconds, c.NextRotationAt = 315360000, new(nextSlot(lin1, start, MaxRotationInterval, start))
			},
		},
		{
			name:   "WithNoGraceIfNamedSo",
			change: func(c *CreateKey) { c.GraceSet = true },
			want:   func(c *Created) { c.GraceSeconds = 0 },
		},
		{
			name:   "WithTheGreatestGrace",
			change: func(c *CreateKey) { c.GraceSet, c.Settings.GraceSeconds = true, 2592000 },
			want:   func(c *Created) { c.GraceSeconds = 2592000 },
		},
		{
			name: "WithAGraceJustShorterThanTheInterval",
			change: func(c *CreateKey) {
				c.GraceSet, c.Settings.GraceSeconds, c.Settings.RotationIntervalSeconds = true, 3599, 3600
			},
			want: func(c *Created) {
				c.GraceSeconds, c.RotationIntervalSeconds, c.NextRotationAt = 3599, 3600, new(at(slot(1)))
			},
		},
		{
			name:   "WithAReceiverMakesItsEndpointFirst",
			change: func(c *CreateKey) { c.Settings.EndpointID, c.Settings.WebhookURL = ep1, "https://example.com" },
			want:   func(c *Created) { c.EndpointID, c.WebhookURL = ep1, "https://example.com" },
			before: []Payload{onTheFly("https://example.com", lin1, "")},
		},
		{
			name:   "KeepsTimesInUTCAndMicroseconds",
			change: func(c *CreateKey) { c.Settings.ExpiresAt = new(at(hour + 1999).In(time.FixedZone("", 7200))) },
			want:   func(c *Created) { c.ExpiresAt = new(at(hour + 1000)) },
		},
		{
			name:   "KeepsMetadataInOneForm",
			change: func(c *CreateKey) { c.Settings.Metadata = json.RawMessage(`{ "b":1, "a":2 }`) },
			want:   func(c *Created) { c.Metadata = json.RawMessage(`{"a":2,"b":1}`) },
		},
		{
			name:   "ByAnOperatorForAnOperator",
			change: func(c *CreateKey) { c.Operator = true },
			want:   func(c *Created) { c.Operator = true },
		},
		{
			name:   "ByALimitedCallerIsCutDownToIt",
			change: func(c *CreateKey) { c.Caller = limitedCaller() },
			want: func(c *Created) {
				c.Scopes, c.Resources, c.ExpiresAt = Scopes{"a:*", "keys:write"}, Resources{"app": {"x", "y"}}, new(at(day))
			},
		},
		{
			name: "ByALimitedCallerWithinItsLimits",
			change: func(c *CreateKey) {
				c.Caller = limitedCaller()
				c.Settings.Scopes, c.Settings.ExpiresAt = Scopes{"a:read", "a:b:*"}, new(at(day))
				c.Settings.Resources = Resources{"app": {"y"}, "org": {"acme"}}
			},
			want: func(c *Created) {
				c.Scopes, c.Resources, c.ExpiresAt = Scopes{"a:read", "a:b:*"}, Resources{"app": {"y"}, "org": {"acme"}}, new(at(day))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			secret, err := mintFixed("acme", "live")
			if err != nil {
				t.Fatal(err)
			}
			want := Created{
				KeyID: key1, SecretFacts: FactsOf(secret), EnvironmentID: env1, Environment: "live", Brand: "acme",
				Settings: Settings{Name: "ci", Scopes: Scopes{"*"}, GraceSeconds: 3600},
			}
			if c.want != nil {
				c.want(&want)
			}
			got, err := project(liveEnvironment, testEnvironment).CreateKeyIn(create(c.change), testLimits, start)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "events", payloads(t, got), append(c.before, want))
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	interval := func(seconds int64) func(*CreateKey) {
		return func(c *CreateKey) { c.Settings.RotationIntervalSeconds = seconds }
	}
	grace := func(seconds, interval int64) func(*CreateKey) {
		return func(c *CreateKey) {
			c.GraceSet, c.Settings.GraceSeconds, c.Settings.RotationIntervalSeconds = true, seconds, interval
		}
	}
	expires := func(at time.Time) func(*CreateKey) {
		return func(c *CreateKey) { c.Settings.ExpiresAt = &at }
	}
	limited := func(change func(*Settings)) func(*CreateKey) {
		return func(c *CreateKey) { c.Caller = limitedCaller(); change(&c.Settings) }
	}
	for _, c := range []struct {
		name   string
		change func(*CreateKey)
		code   Code
		field  string
	}{
		{"NoName", func(c *CreateKey) { c.Settings.Name = " " }, CodeValidation, "name"},
		{"ANameOfTenKilobytes", func(c *CreateKey) { c.Settings.Name = strings.Repeat("a", 10<<10) }, CodeValidation, "name"},
		{"NUL", func(c *CreateKey) { c.Settings.Name = "a\x00" }, CodeValidation, "name"},
		{"ABadScope", func(c *CreateKey) { c.Settings.Scopes = Scopes{"a b"} }, CodeValidation, "scopes[0]"},
		{"ABadResource", func(c *CreateKey) { c.Settings.Resources = Resources{"app": {""}} }, CodeValidation, "resources.app"},
		{"BadMetadata", func(c *CreateKey) { c.Settings.Metadata = json.RawMessage(`[]`) }, CodeValidation, "metadata"},

		{"AnExpiryInThePast", expires(at(-hour)), CodeValidation, "expires_at"},
		{"AnExpiryNow", expires(start), CodeValidation, "expires_at"},
		{"AnExpiryWithinTheMicrosecond", expires(at(999)), CodeValidation, "expires_at"},
		{"TheZeroTime", expires(time.Time{}), CodeValidation, "expires_at"},
		{"AnExpiryAfterTheYear9999", expires(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)), CodeValidation, "expires_at"},
		{
			"AnExpiryAfterTheYear9999InUTC", expires(time.Date(9999, 12, 31, 23, 59, 0, 0, time.FixedZone("", -3600))),
			CodeValidation, "expires_at",
		},

		{"AnIntervalBelowTheMinimum", interval(59), CodeValidation, "rotation_interval_seconds"},
		{"ANegativeInterval", interval(-10), CodeValidation, "rotation_interval_seconds"},
		{"AVeryNegativeInterval", interval(math.MinInt64), CodeValidation, "rotation_interval_seconds"},
		{"AnIntervalOverTenYears", interval(315360001), CodeValidation, "rotation_interval_seconds"},
		{"AnIntervalThatOverflowsADuration", interval(math.MaxInt64/int64(time.Second) + 1), CodeValidation, "rotation_interval_seconds"},
		{"AnIntervalThatOverflowsToNothing", interval(1 << 62), CodeValidation, "rotation_interval_seconds"},
		{"TheGreatestInterval", interval(math.MaxInt64), CodeValidation, "rotation_interval_seconds"},

		{"ANegativeGrace", grace(-1, 0), CodeValidation, "grace_period_seconds"},
		{"AGraceOverThirtyDays", grace(2592001, 0), CodeValidation, "grace_period_seconds"},
		{"TheGreatestGrace", grace(math.MaxInt64, 0), CodeValidation, "grace_period_seconds"},
		{"TheLeastGrace", grace(math.MinInt64, 3600), CodeValidation, "grace_period_seconds"},
		{"AGraceAsLongAsTheInterval", grace(3600, 3600), CodeValidation, "grace_period_seconds"},
		{"AGraceLongerThanTheInterval", grace(7200, 3600), CodeValidation, "grace_period_seconds"},

		{"AnUnknownEnvironment", func(c *CreateKey) { c.Environment = "env_00000000000000000000000009" }, CodeNotFound, ""},

		{"ScopesBeyondTheCallers", limited(func(s *Settings) { s.Scopes = Scopes{"a:read", "b:read"} }), CodeEscalation, "scopes"},
		{"AllScopes", limited(func(s *Settings) { s.Scopes = Scopes{"*"} }), CodeEscalation, "scopes"},
		{"AResourceBeyondTheCallers", limited(func(s *Settings) { s.Resources = Resources{"app": {"z"}} }), CodeEscalation, "resources"},
		{"AnotherKindInsteadOfTheCallers", limited(func(s *Settings) { s.Resources = Resources{"org": {"z"}} }), CodeEscalation, "resources"},
		{"ALongerLifeThanTheCallers", limited(func(s *Settings) { s.ExpiresAt = new(at(day + time.Second)) }), CodeEscalation, "expires_at"},
		{"TheOperatorRight", func(c *CreateKey) { c.Operator, c.Caller = true, Caller{Scopes: Scopes{"*"}} }, CodeEscalation, "operator"},
		{"AnythingByACallerWithoutScopes", func(c *CreateKey) { c.Settings.Scopes, c.Caller = Scopes{"a"}, Caller{} }, CodeEscalation, "scopes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := project(liveEnvironment, testEnvironment).CreateKeyIn(create(c.change), testLimits, start)
			if refused(t, err, c.code, c.field); got != nil {
				t.Fatalf("a refusal came with %v", got)
			}
		})
	}

	t.Run("AProjectWithoutEnvironments", func(t *testing.T) {
		t.Parallel()
		_, err := project().CreateKeyIn(create(nil), testLimits, start)
		refused(t, err, CodeNotFound, "")
	})
	t.Run("ToGoOnWithoutASecret", func(t *testing.T) {
		t.Parallel()
		got, err := project(liveEnvironment).CreateKeyIn(create(func(c *CreateKey) { c.Mint = mintNothing }), testLimits, start)
		if !errors.Is(err, errNoRandomness) || got != nil {
			t.Fatalf("decided %v (%v)", got, err)
		}
	})
}

// Without a minimum of the installation, an interval is still at least a second.
func TestCreateHoldsToTheLeastInterval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		minimum  time.Duration
		interval int64
		accepted bool
	}{
		{0, 1, true}, {time.Second, 1, true}, {500 * time.Millisecond, 1, true}, {hour, 3600, true}, {hour, 3599, false}, {0, -1, false},
	} {
		_, err := project(liveEnvironment).CreateKeyIn(create(func(k *CreateKey) { k.Settings.RotationIntervalSeconds = c.interval }), Limits{c.minimum}, start)
		if (err == nil) != c.accepted {
			t.Errorf("interval %d with the minimum %v: %v", c.interval, c.minimum, err)
		}
	}
}
