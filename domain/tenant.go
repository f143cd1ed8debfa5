package domain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Surfaces that an organization can switch off. The native one is not among them: it is what switches the others on.
const (
	SurfaceAccountKeys = "account-keys" // /api/v1/keys and /v1/keys
	SurfaceAPIKey      = "apikey"       // /apikey/
	SurfaceProjects    = "projects"     // /api/v1/projects
)

// Surfaces lists the surfaces that can be switched off.
func Surfaces() []string { return []string{SurfaceAccountKeys, SurfaceAPIKey, SurfaceProjects} }

// Organization is the state of a tenant.
type Organization struct {
	ID               OrganizationID `json:"id"`
	Version          int64          `json:"version"`
	Name             string         `json:"name"`
	DisabledSurfaces []string       `json:"disabled_surfaces,omitempty"` // sorted
	CreatedAt        time.Time      `json:"created_at"`
}

// StreamVersion is the number of events applied.
func (o *Organization) StreamVersion() int64 { return o.Version }

// Apply folds one event into the state.
func (o *Organization) Apply(e Event) {
	o.Version = e.Version
	switch d := e.Data.(type) {
	case OrganizationCreated:
		o.ID, o.Name, o.CreatedAt = OrganizationID(e.StreamID), d.Name, e.OccurredAt
	case OrganizationUpdated:
		o.Name, o.DisabledSurfaces = d.Name, d.DisabledSurfaces
	}
}

// CreateOrganization decides the first event of a tenant.
func CreateOrganization(id OrganizationID, name string) ([]Decided, error) {
	name, err := validateName("name", name)
	if err != nil {
		return nil, err
	}
	return []Decided{{StreamID: string(id), OrganizationID: id, Data: OrganizationCreated{Name: name}}}, nil
}

// UpdateOrganization asks for another name, or other surfaces to be switched off.
type UpdateOrganization struct {
	ID               OrganizationID
	Name             Change[string]
	DisabledSurfaces Change[[]string]
	Caller           Caller
}

// Update decides an edit of the organization. An edit that changes nothing decides nothing.
func (o *Organization) Update(c UpdateOrganization) ([]Decided, error) {
	if c.Caller.LimitedToProjects() {
		return nil, escalation("resources", "of your key limit it to projects, and this concerns the whole organization",
			"use a key that is not limited to projects")
	}
	name, err := validateName("name", c.Name.over(o.Name))
	if err != nil {
		return nil, err
	}
	disabled, err := validateSurfaces("disabled_surfaces", c.DisabledSurfaces.over(o.DisabledSurfaces))
	if err != nil {
		return nil, err
	}
	var changed []string
	if name != o.Name {
		changed = append(changed, "name")
	}
	if !slices.Equal(disabled, o.DisabledSurfaces) {
		changed = append(changed, "disabled_surfaces")
	}
	if len(changed) == 0 {
		return nil, nil
	}
	return []Decided{{
		StreamID: string(o.ID), OrganizationID: o.ID,
		Data: OrganizationUpdated{Changed: changed, Name: name, DisabledSurfaces: disabled},
	}}, nil
}

// validateSurfaces accepts known names and returns them sorted, each once.
func validateSurfaces(field string, names []string) ([]string, error) {
	for i, name := range names {
		if !slices.Contains(Surfaces(), name) {
			return nil, InvalidField(fmt.Sprintf("%s[%d]", field, i), "is not a surface that can be switched off",
				"choose from "+strings.Join(Surfaces(), ", "))
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), nil
}
