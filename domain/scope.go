package domain

import (
	"fmt"
	"slices"
	"strings"
)

// Scopes of rekey's own API.
const (
	ScopeAll          = "*"
	ScopeKeysRead     = "keys:read"
	ScopeKeysWrite    = "keys:write"
	ScopeKeysDelete   = "keys:delete"
	ScopeKeysVerify   = "keys:verify"
	ScopeProjectsRead = "projects:read"
	ScopeProjectsEdit = "projects:write"
	ScopeWebhooksRead = "webhooks:read"
	ScopeWebhooksEdit = "webhooks:write"
	ScopeEventsRead   = "events:read"
)

// Limits on scopes.
const (
	MaxScopes      = 64
	MaxScopeLength = 100
)

// Scopes is a set of granted names. A name grants itself, "a:*" grants everything that begins with "a:", and "*" grants
// everything.
type Scopes []string

// Allow reports whether the set grants what is asked. What is asked may itself be a pattern: then all of it must be
// granted.
func (s Scopes) Allow(asked string) bool {
	for _, granted := range s {
		if granted == ScopeAll || granted == asked {
			return true
		}
		if prefix, ok := strings.CutSuffix(granted, "*"); ok && strings.HasPrefix(asked, prefix) {
			return true
		}
	}
	return false
}

// Missing returns the first asked scope that the set does not grant.
func (s Scopes) Missing(asked []string) (string, bool) {
	for _, a := range asked {
		if !s.Allow(a) {
			return a, true
		}
	}
	return "", false
}

// within returns what both sets grant.
func (s Scopes) within(other Scopes) Scopes {
	var both Scopes
	add := func(of, by Scopes) {
		for _, name := range of {
			if by.Allow(name) && !slices.Contains(both, name) {
				both = append(both, name)
			}
		}
	}
	add(s, other)
	add(other, s)
	return both
}

// shownScope is a scope as a refusal may show it: one that is long enough may be a secret that was put there by mistake.
func shownScope(scope string) string {
	if len(scope) >= MinSecretLength {
		return "one"
	}
	return scope
}

// validateScopes checks the names and returns them without repetition, in the order given.
func validateScopes(field string, names []string) (Scopes, error) {
	if len(names) > MaxScopes {
		return nil, InvalidField(field, fmt.Sprintf("has %d entries", len(names)), fmt.Sprintf("name at most %d scopes", MaxScopes))
	}
	out := make(Scopes, 0, len(names))
	for i, name := range names {
		if !validScope(name) {
			return nil, InvalidField(fmt.Sprintf("%s[%d]", field, i), "is not a scope",
				"use letters, digits and _ . : / - up to 100 characters; * alone or as the last part after a colon")
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// ValidScope reports whether a name is well-formed as a scope, or as a pattern of some.
func ValidScope(name string) bool { return validScope(name) }

func validScope(name string) bool {
	if name == ScopeAll {
		return true
	}
	body, wildcard := strings.CutSuffix(name, "*")
	if wildcard && !strings.HasSuffix(body, ":") || body == "" || body == ":" || len(name) > MaxScopeLength {
		return false
	}
	for _, r := range body {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_.:/-", r):
		default:
			return false
		}
	}
	return true
}

// Resources limits a key to named resources per kind. A kind that is not named is not limited.
type Resources map[string][]string

// Allow reports whether a use of the resource is within the limits.
func (r Resources) Allow(kind, name string) bool {
	names, limited := r[kind]
	return !limited || slices.Contains(names, name)
}

// Covers reports whether everything that other allows is allowed here too.
func (r Resources) Covers(other Resources) bool {
	for kind, names := range r {
		wanted, limited := other[kind]
		if !limited {
			return false
		}
		for _, name := range wanted {
			if !slices.Contains(names, name) {
				return false
			}
		}
	}
	return true
}
