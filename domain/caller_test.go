package domain

import (
	"testing"
	"time"
)

// TestCallerCovers guards G8 where a key acts as another one: whatever the other one has and it has not, it does not cover.
func TestCallerCovers(t *testing.T) {
	t.Parallel()
	full := func() Caller {
		return Caller{
			KeyID: key1, OrganizationID: org1, Scopes: Scopes{"keys:*", "read"}, Operator: true, ExpiresAt: new(at(time.Hour)),
			Resources: Resources{"app": {"a", "b"}, "project": {string(proj1)}},
		}
	}
	for name, c := range map[string]struct {
		other func(*Caller)
		want  bool
	}{
		"Itself":              {func(*Caller) {}, true},
		"Less":                {func(c *Caller) { c.Scopes, c.Operator = Scopes{"keys:read"}, false }, true},
		"None":                {func(c *Caller) { c.Scopes = nil }, true},
		"FewerResources":      {func(c *Caller) { c.Resources["app"] = []string{"b"} }, true},
		"AnotherLimit":        {func(c *Caller) { c.Resources["org"] = []string{"x"} }, true},
		"AnEarlierEnd":        {func(c *Caller) { c.ExpiresAt = new(at(time.Minute)) }, true},
		"AnotherScope":        {func(c *Caller) { c.Scopes = Scopes{"write"} }, false},
		"AWiderScope":         {func(c *Caller) { c.Scopes = Scopes{"*"} }, false},
		"AnotherResource":     {func(c *Caller) { c.Resources["app"] = []string{"b", "c"} }, false},
		"AKindWithoutLimit":   {func(c *Caller) { delete(c.Resources, "app") }, false},
		"OtherProjects":       {func(c *Caller) { delete(c.Resources, "project") }, false},
		"ALaterEnd":           {func(c *Caller) { c.ExpiresAt = new(at(2 * time.Hour)) }, false},
		"NoEnd":               {func(c *Caller) { c.ExpiresAt = nil }, false},
		"AnotherOrganization": {func(c *Caller) { c.OrganizationID = "org_other" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := full()
			c.other(&other)
			if got := full().Covers(other); got != c.want {
				t.Errorf("covers is %v", got)
			}
		})
	}
	t.Run("TheOperatorRight", func(t *testing.T) {
		t.Parallel()
		plain := full()
		plain.Operator = false
		if plain.Covers(full()) || !full().Covers(plain) {
			t.Error("the operator right is covered by its absence, or the other way round")
		}
	})
}
