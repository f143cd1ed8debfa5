package domain

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestScopesAllow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		granted string // separated by spaces
		asked   string
		want    bool
	}{
		{"a:read", "a:read", true},
		{"a:read b:write", "b:write", true},
		{"a:read", "a:write", false},
		{"a:read", "a:reader", false},
		{"a:read", "a:rea", false},
		{"a:read", "A:read", false},
		{"a:read", "a:*", false},
		{"a:read", "*", false},
		{"a:read", "", false},
		{"read", "read", true},
		{"read", "a:read", false},

		{"a:*", "a:read", true},
		{"a:*", "a:*", true},
		{"a:*", "a:b:read", true},
		{"a:*", "a:b:*", true},
		{"a:*", "a:", true},
		{"a:*", "a", false},
		{"a:*", "ab:read", false},
		{"a:*", "ab:*", false},
		{"a:*", "b:a:read", false},
		{"a:*", "*", false},
		{"a:*", "", false},
		{"a:b:*", "a:b:c", true},
		{"a:b:*", "a:read", false},
		{"a:b:*", "a:bc:read", false},
		{"a:b:*", "a:*", false},

		{"*", "a:read", true},
		{"*", "a:*", true},
		{"*", "*", true},
		{"*", "", true},

		{"", "a:read", false},
		{"", "*", false},
		{"a:read a:write", "a:*", false},
	} {
		if got := Scopes(strings.Fields(c.granted)).Allow(c.asked); got != c.want {
			t.Errorf("%q allows %q = %v", c.granted, c.asked, got)
		}
	}
}

func TestScopesMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		granted, asked, missing string
	}{
		{"a:* b:read", "a:read b:read", ""},
		{"a:* b:read", "a:read b:write c:read", "b:write"},
		{"a:* b:read", "b:*", "b:*"},
		{"a:*", "", ""},
		{"", "", ""},
		{"", "*", "*"},
	} {
		got, missing := Scopes(strings.Fields(c.granted)).Missing(strings.Fields(c.asked))
		if got != c.missing || missing != (c.missing != "") {
			t.Errorf("%q misses %q of %q, %v; want %q", c.granted, got, c.asked, missing, c.missing)
		}
	}
}

var anyScope = rapid.Custom(func(t *rapid.T) string {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "ab", "b", "read", "write"}), 0, 3).Draw(t, "parts")
	last := rapid.SampledFrom([]string{"*", "read", "a"}).Draw(t, "last")
	return strings.Join(append(parts, last), ":")
})

// TestG8ScopesCannotBeWidened: who may hand out a scope has all that the scope grants.
func TestG8ScopesCannotBeWidened(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		held := Scopes(rapid.SliceOfN(anyScope, 0, 3).Draw(t, "held"))
		handed, used := anyScope.Draw(t, "handed"), anyScope.Draw(t, "used")
		if held.Allow(handed) && (Scopes{handed}).Allow(used) && !held.Allow(used) {
			t.Fatalf("%v may hand out %q, which allows %q, which it has not", held, handed, used)
		}
	})
}

func TestValidateScopes(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"*", "read", "a:read", "a:*", "a:b:*", "keys:write", "A.b_c/d-e:f", "0", ":read", strings.Repeat("a", MaxScopeLength),
		strings.Repeat("a", MaxScopeLength-2) + ":*",
	} {
		got, err := validateScopes("scopes", []string{good})
		if err != nil {
			t.Errorf("%q is refused: %v", good, err)
			continue
		}
		same(t, "scopes", got, Scopes{good})
	}
	for _, bad := range []string{
		"", " ", "a b", " a", "a\n", "a\x00", "**", "a*", "a:**", "*:read", "a:*:b", "*a", ":*", "a,b", "é", "a:é", "\xff", `a"b`, "a;b",
		strings.Repeat("a", MaxScopeLength+1), strings.Repeat("a", MaxScopeLength-1) + ":*",
	} {
		_, err := validateScopes("scopes", []string{"ok", bad})
		refused(t, err, CodeValidation, "scopes[1]")
	}

	t.Run("DropsRepetitionAndKeepsTheOrder", func(t *testing.T) {
		t.Parallel()
		got, err := validateScopes("scopes", []string{"b", "a", "b", "*", "a"})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "scopes", got, Scopes{"b", "a", "*"})
	})

	t.Run("TakesSixtyFourAndNoMore", func(t *testing.T) {
		t.Parallel()
		var names []string
		for i := range MaxScopes + 1 {
			names = append(names, fmt.Sprintf("s%d", i))
		}
		if _, err := validateScopes("scopes", names[:MaxScopes]); err != nil {
			t.Fatal(err)
		}
		_, err := validateScopes("scopes", names)
		refused(t, err, CodeValidation, "scopes")
	})

	// A list that the caller changes later must not change what was decided.
	t.Run("ReturnsAListOfItsOwn", func(t *testing.T) {
		t.Parallel()
		names := []string{"a", "b"}
		got, err := validateScopes("scopes", names)
		if names[0] = "changed"; err != nil || got[0] != "a" {
			t.Fatalf("scopes are %v (%v)", got, err)
		}
	})
}

func TestResourcesAllow(t *testing.T) {
	t.Parallel()
	limited := Resources{"app": {"com.demo.app", "com.demo.other"}, "org": {}}
	for _, c := range []struct {
		resources  Resources
		kind, name string
		want       bool
	}{
		{nil, "app", "com.demo.app", true},
		{nil, "", "", true},
		{limited, "app", "com.demo.app", true},
		{limited, "app", "com.demo.other", true},
		{limited, "app", "com.demo", false},
		{limited, "app", "com.demo.app2", false},
		{limited, "app", "COM.DEMO.APP", false},
		{limited, "app", "*", false},
		{limited, "app", "", false},
		{limited, "org", "acme", false},
		{limited, "team", "billing", true},
	} {
		if got := c.resources.Allow(c.kind, c.name); got != c.want {
			t.Errorf("%v allows %s %q = %v", c.resources, c.kind, c.name, got)
		}
	}
}

func TestResourcesCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		mine, asks Resources
		want       bool
	}{
		{"UnlimitedCoversUnlimited", nil, nil, true},
		{"UnlimitedCoversLimited", nil, Resources{"app": {"a"}}, true},
		{"LimitedDoesNotCoverUnlimited", Resources{"app": {"a"}}, nil, false},
		{"LimitedDoesNotCoverAnotherKind", Resources{"app": {"a"}}, Resources{"org": {"a"}}, false},
		{"SameCovers", Resources{"app": {"a", "b"}}, Resources{"app": {"b", "a"}}, true},
		{"MoreCoversLess", Resources{"app": {"a", "b"}}, Resources{"app": {"b"}}, true},
		{"LessDoesNotCoverMore", Resources{"app": {"b"}}, Resources{"app": {"a", "b"}}, false},
		{"AnyCoversNoneOfTheKind", Resources{"app": {"a"}}, Resources{"app": {}}, true},
		{"NoneOfTheKindDoesNotCoverOne", Resources{"app": {}}, Resources{"app": {"a"}}, false},
		{"AFurtherKindIsAFurtherLimit", Resources{"app": {"a"}}, Resources{"app": {"a"}, "org": {"x"}}, true},
		{"EachKindMustBeCovered", Resources{"app": {"a"}, "org": {"x"}}, Resources{"app": {"a"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := c.mine.Covers(c.asks); got != c.want {
				t.Fatalf("%v covers %v = %v", c.mine, c.asks, got)
			}
		})
	}
}

// TestG8ResourcesCannotBeWidened: covering means exactly that no use is allowed there which is not allowed here.
func TestG8ResourcesCannotBeWidened(t *testing.T) {
	t.Parallel()
	kinds, names := []string{"app", "org", "unnamed"}, []string{"a", "b", "c", "unnamed"}
	limits := rapid.MapOfN(rapid.SampledFrom(kinds[:2]), rapid.SliceOfN(rapid.SampledFrom(names[:3]), 0, 3), 0, 2)
	rapid.Check(t, func(t *rapid.T) {
		mine, asks := Resources(limits.Draw(t, "mine")), Resources(limits.Draw(t, "asks"))
		want := true
		for _, kind := range kinds {
			for _, name := range names {
				want = want && (!asks.Allow(kind, name) || mine.Allow(kind, name))
			}
		}
		if got := mine.Covers(asks); got != want {
			t.Fatalf("%v covers %v = %v", mine, asks, got)
		}
	})
}

func TestCallerRequire(t *testing.T) {
	t.Parallel()
	if err := (Caller{Scopes: Scopes{"keys:*"}}).Require(ScopeKeysWrite); err != nil {
		t.Fatal(err)
	}
	err := Caller{Scopes: Scopes{"keys:read"}}.Require(ScopeKeysWrite)
	same(t, "details", refused(t, err, CodeInsufficientScope, "").Details, map[string]any{"required_scope": "keys:write"})
	if err := System().Require("anything"); err != nil {
		t.Fatal(err)
	}
}
