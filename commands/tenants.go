package commands

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// NewTenant is an organization with what it needs to begin: a project, an environment and a first key.
type NewTenant struct {
	OrganizationID domain.OrganizationID
	Name           string
	CreatedAt      time.Time
	Key            *projections.Key
	Secret         domain.Secret
}

// CreateOrganization makes a tenant. Only an operator may; the key it gets back holds every right in the new organization
// and none beyond it.
func (s *Service) CreateOrganization(ctx context.Context, by By, name string) (NewTenant, error) {
	if !by.Caller.Operator {
		return NewTenant{}, domain.Refuse(domain.CodeInsufficientScope, "only a key with the operator right may create organizations").
			With("required_scope", "operator")
	}
	return s.createTenant(ctx, by, name, "default", "first key", false, nil)
}

// Setup makes the organization, project, environment and root key of an installation that has none. A zero secret means
// that one is made.
func (s *Service) Setup(ctx context.Context, root domain.Secret) (NewTenant, error) {
	var given *domain.Secret
	if !root.IsZero() {
		given = &root
	}
	return s.createTenant(ctx, System(domain.ActorSetup), "default", "default", "root key", true, given)
}

// createTenant decides the three new streams of a tenant in one command, so that there is never half of one.
func (s *Service) createTenant(ctx context.Context, by By, name, project, keyName string, operator bool, given *domain.Secret) (NewTenant, error) {
	out := NewTenant{OrganizationID: newID[domain.OrganizationID](s, domain.PrefixOrganization)}
	projectID := newID[domain.ProjectID](s, domain.PrefixProject)
	environmentID := newID[domain.EnvironmentID](s, domain.PrefixEnvironment)
	create := domain.CreateKey{
		LineageID: newID[domain.LineageID](s, domain.PrefixLineage), KeyID: newID[domain.KeyID](s, domain.PrefixKey),
		Settings: domain.Settings{Name: keyName, Scopes: domain.Scopes{domain.ScopeAll}},
		Operator: operator, Caller: domain.System(), Mint: s.mint(&out.Secret),
	}
	if given != nil {
		out.Secret = *given
		create.Mint = func(string, string) (domain.Secret, error) { return *given, nil }
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(_ eventstore.View, now time.Time) ([]domain.Decided, error) {
			tenant, err := domain.CreateOrganization(out.OrganizationID, name)
			if err != nil {
				return nil, err
			}
			first, err := domain.CreateProject(out.OrganizationID, projectID, project, "", environmentID)
			if err != nil {
				return nil, err
			}
			key, err := folded(first).CreateKeyIn(create, s.cfg.Limits, now)
			return append(append(tenant, first...), key...), err
		},
	})
	if err != nil {
		return NewTenant{}, err
	}
	organization, event, err := find[domain.OrganizationCreated](eventstore.EventsOf(records))
	if err != nil {
		return NewTenant{}, err
	}
	out.Name, out.CreatedAt = organization.Name, event.OccurredAt
	_, event, err = find[domain.Created](eventstore.EventsOf(records))
	out.Key = projections.CreatedKey(event)
	return out, err
}

// folded is the project that decided events will make, for decisions within the same command.
func folded(decided []domain.Decided) *domain.Project {
	var p domain.Project
	for i, d := range decided {
		p.Apply(domain.Event{
			StreamID: d.StreamID, Version: int64(i + 1), OrganizationID: d.OrganizationID, ProjectID: d.ProjectID, Data: d.Data,
		})
	}
	return &p
}

// CreateProject makes a project with the environment live. An operator may name another organization, to set it up.
func (s *Service) CreateProject(ctx context.Context, by By, organization domain.OrganizationID, name, brand string) (*projections.Project, error) {
	if organization == "" {
		organization = by.Caller.OrganizationID
	}
	none := domain.NotFound("organization")
	if !domain.ValidID(domain.PrefixOrganization, string(organization)) {
		return nil, none
	}
	id := newID[domain.ProjectID](s, domain.PrefixProject)
	environment := newID[domain.EnvironmentID](s, domain.PrefixEnvironment)
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Reads: []string{string(organization)}, Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			_, err := view.Organization(organization)
			if err != nil || organization != by.Caller.OrganizationID && !by.Caller.Operator {
				return nil, none
			}
			return domain.CreateProject(organization, id, name, brand, environment)
		},
	})
	if err != nil {
		return nil, err
	}
	created, event, err := find[domain.ProjectCreated](eventstore.EventsOf(records))
	return &projections.Project{
		ID: id, OrganizationID: organization, Name: created.Name, Brand: created.Brand, CreatedAt: event.OccurredAt,
	}, err
}

// CreateEnvironment adds an environment to a project.
func (s *Service) CreateEnvironment(ctx context.Context, by By, project domain.ProjectID, name string) (*projections.Environment, error) {
	if !domain.ValidID(domain.PrefixProject, string(project)) {
		return nil, noProject()
	}
	id := newID[domain.EnvironmentID](s, domain.PrefixEnvironment)
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Writes: []string{string(project)}, Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			p, err := projectOf(view, by.Caller, project)
			if err != nil {
				return nil, err
			}
			return p.CreateEnvironment(id, name)
		},
	})
	if err != nil {
		return nil, err
	}
	created, event, err := find[domain.EnvironmentCreated](eventstore.EventsOf(records))
	return &projections.Environment{
		ID: id, OrganizationID: event.OrganizationID, ProjectID: project, Name: created.Name, CreatedAt: event.OccurredAt,
	}, err
}
