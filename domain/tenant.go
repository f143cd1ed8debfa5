package domain

import (
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

// Organization is the state of a tenant.
type Organization struct {
	ID        OrganizationID `json:"id"`
	Version   int64          `json:"version"`
	Name      string         `json:"name"`
	CreatedAt time.Time      `json:"created_at"`
}

// StreamVersion is the number of events applied.
func (o *Organization) StreamVersion() int64 { return o.Version }

// Apply folds one event into the state.
func (o *Organization) Apply(e Event) {
	o.Version = e.Version
	if d, ok := e.Data.(OrganizationCreated); ok {
		o.ID, o.Name, o.CreatedAt = OrganizationID(e.StreamID), d.Name, e.OccurredAt
	}
}

// Project is the state of a product of a tenant, with its environments.
type Project struct {
	ID             ProjectID      `json:"id"`
	Version        int64          `json:"version"`
	OrganizationID OrganizationID `json:"organization_id"`
	Name           string         `json:"name"`
	Brand          string         `json:"brand"`
	CreatedAt      time.Time      `json:"created_at"`
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
		p.Name, p.Brand, p.CreatedAt = d.Name, d.Brand, e.OccurredAt
	case EnvironmentCreated:
		p.Environments = append(p.Environments, Environment{ID: d.EnvironmentID, Name: d.Name, CreatedAt: e.OccurredAt})
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

// CreateOrganization decides the first event of a tenant.
func CreateOrganization(id OrganizationID, name string) ([]Decided, error) {
	name, err := validateName("name", name)
	if err != nil {
		return nil, err
	}
	return []Decided{{StreamID: string(id), OrganizationID: id, Data: OrganizationCreated{Name: name}}}, nil
}

// CreateProject decides the first events of a project: itself and its first environment.
func CreateProject(organization OrganizationID, id ProjectID, name, brand string, environment EnvironmentID) ([]Decided, error) {
	name, err := validateName("name", name)
	if err != nil {
		return nil, err
	}
	if brand == "" {
		brand = DefaultBrand
	}
	if err := validateSlug("brand", brand); err != nil {
		return nil, err
	}
	at := Decided{StreamID: string(id), OrganizationID: organization, ProjectID: id}
	created, first := at, at
	created.Data = ProjectCreated{Name: name, Brand: brand}
	first.Data = EnvironmentCreated{EnvironmentID: environment, Name: DefaultEnvironment}
	return []Decided{created, first}, nil
}

// CreateEnvironment decides a further environment. Names are unique in a project, because they stand in secrets.
func (p *Project) CreateEnvironment(id EnvironmentID, name string) ([]Decided, error) {
	if err := validateSlug("name", name); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(p.Environments, func(e Environment) bool { return e.Name == name }) {
		return nil, InvalidField("name", "is taken in this project", "choose another name")
	}
	if len(p.Environments) >= MaxEnvironments {
		return nil, InvalidField("project_id", fmt.Sprintf("already has %d environments", MaxEnvironments), "use another project")
	}
	return []Decided{{
		StreamID: string(p.ID), OrganizationID: p.OrganizationID, ProjectID: p.ID,
		Data: EnvironmentCreated{EnvironmentID: id, Name: name},
	}}, nil
}

// Endpoint is the state of a webhook receiver.
type Endpoint struct {
	ID             EndpointID     `json:"id"`
	Version        int64          `json:"version"`
	OrganizationID OrganizationID `json:"organization_id"`
	ProjectID      ProjectID      `json:"project_id"`
	URL            string         `json:"url"`
	LineageID      LineageID      `json:"lineage_id,omitempty"`
	CreatedAt      time.Time      `json:"created_at"`
}

// StreamVersion is the number of events applied.
func (p *Endpoint) StreamVersion() int64 { return p.Version }

// Apply folds one event into the state.
func (p *Endpoint) Apply(e Event) {
	p.Version = e.Version
	if d, ok := e.Data.(EndpointCreated); ok {
		p.ID, p.OrganizationID, p.ProjectID = EndpointID(e.StreamID), e.OrganizationID, e.ProjectID
		p.URL, p.LineageID, p.CreatedAt = d.URL, d.LineageID, e.OccurredAt
	}
}
