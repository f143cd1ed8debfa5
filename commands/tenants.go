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
	outcome := func(events []domain.Event) (NewTenant, error) {
		organization, event, err := find[domain.OrganizationCreated](events)
		if err != nil {
			return NewTenant{}, err
		}
		out.Name, out.CreatedAt = organization.Name, event.OccurredAt
		_, event, err = find[domain.Created](events)
		out.Key = projections.CreatedKey(event)
		return out, err
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Actor: by.actor(), RequestID: by.RequestID, Attach: keeping(s, by, nil, outcome),
		Decide: func(_ eventstore.View, now time.Time) ([]domain.Decided, error) {
			tenant, err := domain.CreateOrganization(out.OrganizationID, name)
			if err != nil {
				return nil, err
			}
			first, err := domain.CreateProject(domain.NewProject{
				ID: projectID, OrganizationID: out.OrganizationID, EnvironmentID: environmentID, Name: project,
			})
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
	return outcome(eventstore.EventsOf(records))
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

// UpdateOrganization edits an organization: the caller's own, or for an operator any.
func (s *Service) UpdateOrganization(ctx context.Context, by By, c domain.UpdateOrganization) (*projections.Organization, error) {
	none := domain.NotFound("organization")
	if c.ID != by.Caller.OrganizationID && !by.Caller.Operator || !domain.ValidID(domain.PrefixOrganization, string(c.ID)) {
		return nil, none
	}
	c.Caller = by.Caller
	_, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Writes: []string{string(c.ID)}, Expected: by.Expected, Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			organization, err := view.Organization(c.ID)
			if err != nil {
				return nil, none
			}
			return organization.Update(c)
		},
	})
	if err != nil {
		return nil, err
	}
	organization, err := s.cfg.Reader.Organization(ctx, c.ID)
	if err != nil {
		return nil, unread("organization", err)
	}
	return organization, nil
}

// CreateEnvironment adds an environment to a project.
func (s *Service) CreateEnvironment(ctx context.Context, by By, project domain.ProjectID, name string) (*projections.Environment, error) {
	if !domain.ValidID(domain.PrefixProject, string(project)) {
		return nil, noProject()
	}
	id := newID[domain.EnvironmentID](s, domain.PrefixEnvironment)
	outcome := func(events []domain.Event) (*projections.Environment, error) {
		created, event, err := find[domain.EnvironmentCreated](events)
		return &projections.Environment{
			ID: id, OrganizationID: event.OrganizationID, ProjectID: project, Name: created.Name, CreatedAt: event.OccurredAt,
		}, err
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Writes: []string{string(project)}, Actor: by.actor(), RequestID: by.RequestID, Attach: keeping(s, by, nil, outcome),
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
	return outcome(eventstore.EventsOf(records))
}
