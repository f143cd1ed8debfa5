package domain

import (
	"fmt"
	"time"
)

// Caller is who asks: a verified key and what it may do. Decisions use it so that nobody hands out more than they hold.
type Caller struct {
	KeyID          KeyID
	LineageID      LineageID
	OrganizationID OrganizationID
	Scopes         Scopes
	Resources      Resources
	ExpiresAt      *time.Time
	Operator       bool
}

// System is the caller for rekey's own work: it holds everything.
func System() Caller { return Caller{Scopes: Scopes{ScopeAll}, Operator: true} }

// Require refuses a caller whose key lacks the scope.
func (c Caller) Require(scope string) error {
	if c.Scopes.Allow(scope) {
		return nil
	}
	return Refuse(CodeInsufficientScope, "this needs the scope %s, which your key does not hold", scope).
		With("required_scope", scope)
}

// ResourceProject is the kind of resource that limits a key, on rekey's own API, to named projects and their keys.
const ResourceProject = "project"

// MayUseProject reports whether the caller's key reaches a project, as far as its own limits go. Whose project it is must
// be asked beside it. System, and a key that is not limited to projects, reach all.
func (c Caller) MayUseProject(id ProjectID) bool {
	return c.Resources.Allow(ResourceProject, string(id))
}

// LimitedToProjects reports whether the caller's key reaches named projects only.
func (c Caller) LimitedToProjects() bool {
	_, limited := c.Resources[ResourceProject]
	return limited
}

// cutDown fills what a request left open with the caller's own rights: a key made without naming scopes gets all that
// its maker holds, and no more.
func (c Caller) cutDown(s *Settings) {
	if len(s.Scopes) == 0 {
		s.Scopes = c.Scopes
	}
	if len(s.Resources) == 0 {
		s.Resources = c.Resources
	}
	if s.ExpiresAt == nil {
		s.ExpiresAt = c.ExpiresAt
	}
}

// covers refuses to hand out what the caller does not hold (guarantee G8). A key with the operator right is handed out
// also by rotating it, or by naming another receiver for its rotations.
func (c Caller) covers(s Settings, operator bool) error {
	if operator && !c.Operator {
		return escalation("operator", "is a right that your key does not hold", "use a key with the operator right")
	}
	if scope, missing := c.Scopes.Missing(s.Scopes); missing {
		return escalation("scopes", fmt.Sprintf("include %s, which your key does not hold", shownScope(scope)), "name only scopes that your own key holds")
	}
	if !c.Resources.Covers(s.Resources) {
		return escalation("resources", "reach further than those of your key", "limit each kind to resources that your own key may use")
	}
	if c.ExpiresAt != nil && (s.ExpiresAt == nil || s.ExpiresAt.After(*c.ExpiresAt)) {
		return escalation("expires_at", "is later than your own key's", "choose a time up to "+c.ExpiresAt.Format(time.RFC3339))
	}
	return nil
}

// Covers reports whether the caller may do everything that another one may: then it gains nothing by acting as that one.
func (c Caller) Covers(other Caller) bool {
	held := Settings{Scopes: other.Scopes, Resources: other.Resources, ExpiresAt: other.ExpiresAt}
	return c.OrganizationID == other.OrganizationID && c.covers(held, other.Operator) == nil
}

func escalation(field, message, remedy string) *Error {
	e := InvalidField(field, message, remedy)
	e.Code = CodeEscalation
	return e
}
