package domain

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// DefaultBrand begins the secrets of projects that name no brand of their own.
const DefaultBrand = "rk"

// DefaultEnvironment is made with every project.
const DefaultEnvironment = "live"

// MaxEnvironments bounds the environments of one project.
const MaxEnvironments = 50

// Project is the state of a product of a tenant, with its environments.
type Project struct {
	ID             ProjectID      `json:"id"`
	Version        int64          `json:"version"`
	OrganizationID OrganizationID `json:"organization_id"`
	Name           string         `json:"name"`
	Brand          string         `json:"brand"` // of the keys that are made from now on
	Policy         Policy         `json:"policy,omitzero"`
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"` // when it was made or edited last
	DeletedAt      *time.Time     `json:"deleted_at,omitempty"`
	Environments   []Environment  `json:"environments"`
}

// Environment is a part of a project.
type Environment struct {
	ID        EnvironmentID `json:"id"`
	Name      string        `json:"name"`
	CreatedAt time.Time     `json:"created_at"`
}

// StreamVersion is the number of events applied.
func (p *Project) StreamVersion() int64 { return p.Version }

// Apply folds one event into the state.
func (p *Project) Apply(e Event) {
	p.Version = e.Version
	switch d := e.Data.(type) {
	case ProjectCreated:
		p.ID, p.OrganizationID = ProjectID(e.StreamID), e.OrganizationID
		p.Name, p.Brand, p.Policy = d.Name, d.Brand, d.Policy
		p.CreatedAt, p.UpdatedAt = e.OccurredAt, e.OccurredAt
	case ProjectUpdated:
		p.Name, p.Brand, p.Policy, p.UpdatedAt = d.Name, d.Brand, d.Policy, e.OccurredAt
	case EnvironmentCreated:
		p.Environments = append(p.Environments, Environment{ID: d.EnvironmentID, Name: d.Name, CreatedAt: e.OccurredAt})
	case ProjectDeleted:
		p.DeletedAt = &e.OccurredAt
	}
}

// environment returns the environment with this id; no id means the project's first one.
func (p *Project) environment(id EnvironmentID) (Environment, bool) {
	for _, e := range p.Environments {
		if id == "" || e.ID == id {
			return e, true
		}
	}
	return Environment{}, false
}

// NewProject asks for a project.
type NewProject struct {
	ID             ProjectID
	OrganizationID OrganizationID
	EnvironmentID  EnvironmentID // of its first environment
	Name           string
	Brand          string // empty: DefaultBrand
	Policy         Policy
	Caller         Caller
}

// CreateProject decides the first events of a project: itself and its first environment.
func CreateProject(c NewProject) ([]Decided, error) {
	if c.Caller.LimitedToProjects() { // it could not use what it makes
		return nil, escalation("resources", "of your key name the projects that it reaches, and a new one is none of them",
			"use a key that is not limited to projects")
	}
	name, err := validateName("name", c.Name)
	if err != nil {
		return nil, err
	}
	brand := cmp.Or(c.Brand, DefaultBrand)
	if err := validateSlug("brand", brand); err != nil {
		return nil, err
	}
	policy, err := c.Policy.validate()
	if err != nil {
		return nil, err
	}
	at := Decided{StreamID: string(c.ID), OrganizationID: c.OrganizationID, ProjectID: c.ID}
	created, first := at, at
	created.Data = ProjectCreated{Name: name, Brand: brand, Policy: policy}
	first.Data = EnvironmentCreated{EnvironmentID: c.EnvironmentID, Name: DefaultEnvironment}
	return []Decided{created, first}, nil
}

// UpdateProject asks for another name, brand or policy.
type UpdateProject struct {
	ID     ProjectID
	Name   Change[string]
	Brand  Change[string]
	Policy PolicyChange
}

// Update decides an edit of the project. An edit that changes nothing decides nothing. Keys that exist keep what they
// have: another brand stands in the secrets of keys that are made later.
func (p *Project) Update(c UpdateProject) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	name, err := validateName("name", c.Name.over(p.Name))
	if err != nil {
		return nil, err
	}
	brand := cmp.Or(c.Brand.over(p.Brand), DefaultBrand)
	if err := validateSlug("brand", brand); err != nil {
		return nil, err
	}
	policy, err := c.Policy.Over(p.Policy).validate()
	if err != nil {
		return nil, err
	}
	var changed []string
	if name != p.Name {
		changed = append(changed, "name")
	}
	if brand != p.Brand {
		changed = append(changed, "brand")
	}
	if changed = append(changed, changedTerms(p.Policy, policy)...); len(changed) == 0 {
		return nil, nil
	}
	return []Decided{p.decided(ProjectUpdated{Changed: changed, Name: name, Brand: brand, Policy: policy})}, nil
}

// Delete decides the end of the project. That no key of it lives is not the project's own state: whoever decides this
// must see to it, in the same transaction, and refuse with NotEmpty.
func (p *Project) Delete() ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	return []Decided{p.decided(ProjectDeleted{})}, nil
}

// NotEmpty is the refusal to delete a project that has live keys.
func NotEmpty() *Error {
	return Refuse(CodeProjectNotEmpty, "the project has live keys; revoke them first")
}

// gone refuses whatever is asked of a project that was deleted, like of one that never was.
func (p *Project) gone() error {
	if p.DeletedAt != nil {
		return NotFound("project")
	}
	return nil
}

// CreateEnvironment decides a further environment. Names are unique in a project, because they stand in secrets.
func (p *Project) CreateEnvironment(id EnvironmentID, name string) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	if err := validateSlug("name", name); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.Environments, func(e Environment) bool { return e.Name == name }) {
		return nil, InvalidField("name", "is taken in this project", "choose another name")
	}
	if len(p.Environments) >= MaxEnvironments {
		return nil, InvalidField("project_id", fmt.Sprintf("already has %d environments", MaxEnvironments), "use another project")
	}
	return []Decided{p.decided(EnvironmentCreated{EnvironmentID: id, Name: name})}, nil
}

func (p *Project) decided(data Payload) Decided {
	return Decided{StreamID: string(p.ID), OrganizationID: p.OrganizationID, ProjectID: p.ID, Data: data}
}
