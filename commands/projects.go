package commands

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// CreateProject asks for a new project.
type CreateProject struct {
	OrganizationID domain.OrganizationID // empty: the caller's; an operator may name another, to set it up
	Name           string
	Brand          string // empty: domain.DefaultBrand
	Policy         domain.Policy
}

// CreateProject makes a project with the environment live.
func (s *Service) CreateProject(ctx context.Context, by By, c CreateProject) (*projections.Project, error) {
	organization := cmp.Or(c.OrganizationID, by.Caller.OrganizationID)
	none := domain.NotFound("organization")
	if !domain.ValidID(domain.PrefixOrganization, string(organization)) {
		return nil, none
	}
	project := domain.NewProject{
		ID: newID[domain.ProjectID](s, domain.PrefixProject), OrganizationID: organization,
		EnvironmentID: newID[domain.EnvironmentID](s, domain.PrefixEnvironment), Name: c.Name, Brand: c.Brand, Policy: c.Policy,
		Caller: by.Caller,
	}
	outcome := func(events []domain.Event) (*projections.Project, error) {
		return projections.CreatedProject(events), nil
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Reads: []string{string(organization)}, Actor: by.actor(), RequestID: by.RequestID, Attach: keeping(s, by, nil, outcome),
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			_, err := view.Organization(organization)
			if err != nil || organization != by.Caller.OrganizationID && !by.Caller.Operator {
				return nil, none
			}
			return domain.CreateProject(project)
		},
	})
	if err != nil {
		return nil, err
	}
	return outcome(eventstore.EventsOf(records))
}

// UpdateProject edits a project of the caller's organization. Keys that exist keep what they have.
func (s *Service) UpdateProject(ctx context.Context, by By, c domain.UpdateProject) (*projections.Project, error) {
	err := s.onProject(ctx, by, c.ID, func(p *domain.Project) ([]domain.Decided, error) { return p.Update(c) }, nil)
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Reader.Projects(ctx, by.reach(), projections.Page{ID: string(c.ID), Limit: 1})
	if err != nil {
		return nil, unread("project", err)
	}
	if len(found) == 0 { // deleted since
		return nil, noProject()
	}
	return found[0], nil
}

// DeleteProject ends a project of the caller's organization that has no live keys. The history of its keys stays.
func (s *Service) DeleteProject(ctx context.Context, by By, id domain.ProjectID) error {
	return s.onProject(ctx, by, id, (*domain.Project).Delete, func(batch *pgx.Batch, _ []domain.Event) error {
		projections.QueueAssertEmpty(batch, id)
		return nil
	})
}

// onProject executes a command on one project of the caller's own organization: an operator sets others up, and what is in
// them stays theirs.
func (s *Service) onProject(ctx context.Context, by By, id domain.ProjectID,
	decide func(*domain.Project) ([]domain.Decided, error), attach func(*pgx.Batch, []domain.Event) error,
) error {
	if !domain.ValidID(domain.PrefixProject, string(id)) {
		return noProject()
	}
	_, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Writes: []string{string(id)}, Expected: by.Expected, Actor: by.actor(), RequestID: by.RequestID, Attach: attach,
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			p, err := projectOf(view, by.Caller, id)
			if err != nil || p.OrganizationID != by.Caller.OrganizationID {
				return nil, noProject()
			}
			return decide(p)
		},
	})
	return err
}

// unread is the refusal after an edit that was carried out: it must not look as if it was not.
func unread(what string, cause error) error {
	return domain.Refuse(domain.CodeOutcomeUnknown, "the %s was changed, but it cannot be read now; look before you try again", what).
		WithCause(cause)
}
