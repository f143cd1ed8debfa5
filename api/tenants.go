package api

import (
	"cmp"
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// OrganizationBody is a tenant. It is exported for the same reason as KeyBody.
type OrganizationBody struct {
	ID        domain.OrganizationID `json:"id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name      string                `json:"name" example:"Example GmbH"`
	CreatedAt time.Time             `json:"created_at"`
}

type listOrganizationsInput struct{ surface.PageInput }

type organizationsOutput struct {
	Link string             `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body []OrganizationBody `nullable:"false"`
}

// listOrganizations shows an operator all organizations, and everybody else their own.
func (s *server) listOrganizations(ctx context.Context, in *listOrganizationsInput) (*organizationsOutput, error) {
	if err := in.Check(domain.PrefixOrganization); err != nil {
		return nil, err
	}
	page := in.Page()
	if !surface.Caller(ctx).Operator {
		page.ID = string(surface.Caller(ctx).OrganizationID)
	}
	found, err := s.Reader.Organizations(ctx, page)
	if err != nil {
		return nil, err
	}
	out := &organizationsOutput{Body: []OrganizationBody{}}
	found, out.Link = surface.Cut(in.PageInput, "/v1/organizations", found, func(o *projections.Organization) string { return string(o.ID) }, url.Values{})
	for _, o := range found {
		out.Body = append(out.Body, OrganizationBody{o.ID, o.Name, o.CreatedAt})
	}
	return out, nil
}

type organizationPath struct {
	ID domain.OrganizationID `path:"id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
}

type organizationOutput struct{ Body OrganizationBody }

func (s *server) getOrganization(ctx context.Context, in *organizationPath) (*organizationOutput, error) {
	if !domain.ValidID(domain.PrefixOrganization, string(in.ID)) || !surface.Caller(ctx).Operator && in.ID != surface.Caller(ctx).OrganizationID {
		return nil, domain.NotFound("organization")
	}
	found, err := s.Reader.Organizations(ctx, projections.Page{ID: string(in.ID), Limit: 1})
	if err != nil || len(found) == 0 {
		return nil, orNotFound(err, "organization")
	}
	return &organizationOutput{Body: OrganizationBody{found[0].ID, found[0].Name, found[0].CreatedAt}}, nil
}

func orNotFound(err error, what string) error {
	if err != nil {
		return err
	}
	return domain.NotFound(what)
}

type createOrganizationInput struct {
	Body struct {
		Name string `json:"name" example:"Example GmbH" doc:"1 to 200 printable characters"`
	}
}

type createdOrganizationOutput struct {
	Body struct {
		OrganizationBody
		ProjectID     domain.ProjectID     `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The project that was made with it"`
		EnvironmentID domain.EnvironmentID `json:"environment_id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The environment that was made with it"`
		KeyID         domain.KeyID         `json:"key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
		Key           string               `json:"key" example:"rk_live_..." doc:"The organization's first key, with every right in it. It is shown only here"`
	}
}

func (s *server) createOrganization(ctx context.Context, in *createOrganizationInput) (*createdOrganizationOutput, error) {
	tenant, err := s.Commands.CreateOrganization(ctx, surface.By(ctx), in.Body.Name)
	if err != nil {
		return nil, err
	}
	out := &createdOrganizationOutput{}
	out.Body.OrganizationBody = OrganizationBody{tenant.OrganizationID, tenant.Name, tenant.CreatedAt}
	out.Body.ProjectID, out.Body.EnvironmentID = tenant.Key.ProjectID, tenant.Key.EnvironmentID
	out.Body.KeyID, out.Body.Key = tenant.Key.ID, tenant.Secret.Reveal()
	return out, nil
}

type projectBody struct {
	ID             domain.ProjectID      `json:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name           string                `json:"name" example:"Billing"`
	Brand          string                `json:"brand" example:"rk" doc:"Begins the secrets of the project"`
	CreatedAt      time.Time             `json:"created_at"`
}

func bodyOfProject(p *projections.Project) projectBody {
	return projectBody{p.ID, p.OrganizationID, p.Name, p.Brand, p.CreatedAt}
}

type listProjectsInput struct{ surface.PageInput }

type projectsOutput struct {
	Link string        `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body []projectBody `nullable:"false"`
}

func (s *server) listProjects(ctx context.Context, in *listProjectsInput) (*projectsOutput, error) {
	if err := in.Check(domain.PrefixProject); err != nil {
		return nil, err
	}
	found, err := s.Reader.Projects(ctx, surface.Caller(ctx).OrganizationID, in.Page())
	if err != nil {
		return nil, err
	}
	out := &projectsOutput{Body: []projectBody{}}
	found, out.Link = surface.Cut(in.PageInput, "/v1/projects", found, func(p *projections.Project) string { return string(p.ID) }, url.Values{})
	for _, p := range found {
		out.Body = append(out.Body, bodyOfProject(p))
	}
	return out, nil
}

// project returns a project of an organization; a foreign one is not found, exactly like an unknown one.
func (s *server) project(ctx context.Context, organization domain.OrganizationID, id domain.ProjectID) (*projections.Project, error) {
	if !domain.ValidID(domain.PrefixProject, string(id)) {
		return nil, domain.NotFound("project")
	}
	found, err := s.Reader.Projects(ctx, organization, projections.Page{ID: string(id), Limit: 1})
	if err != nil || len(found) == 0 {
		return nil, orNotFound(err, "project")
	}
	return found[0], nil
}

type projectPath struct {
	ID domain.ProjectID `path:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
}

type projectOutput struct{ Body projectBody }

func (s *server) getProject(ctx context.Context, in *projectPath) (*projectOutput, error) {
	p, err := s.project(ctx, surface.Caller(ctx).OrganizationID, in.ID)
	if err != nil {
		return nil, err
	}
	return &projectOutput{Body: bodyOfProject(p)}, nil
}

type createProjectInput struct {
	Body struct {
		Name           string                `json:"name" example:"Billing" doc:"1 to 200 printable characters"`
		Brand          string                `json:"brand,omitempty" nullable:"true" example:"rk" doc:"Begins the secrets of the project: 1 to 24 of a-z, 0-9 and inner hyphens; default rk"`
		OrganizationID domain.OrganizationID `json:"organization_id,omitempty" nullable:"true" example:"org_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Default: the caller's. Only an operator may name another"`
	}
}

func (s *server) createProject(ctx context.Context, in *createProjectInput) (*projectOutput, error) {
	p, err := s.Commands.CreateProject(ctx, surface.By(ctx), in.Body.OrganizationID, in.Body.Name, in.Body.Brand)
	if err != nil {
		return nil, err
	}
	return &projectOutput{Body: bodyOfProject(p)}, nil
}

type environmentBody struct {
	ID             domain.EnvironmentID  `json:"id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name           string                `json:"name" example:"live" doc:"Stands in the secrets of the environment"`
	CreatedAt      time.Time             `json:"created_at"`
}

func bodyOfEnvironment(e *projections.Environment) environmentBody {
	return environmentBody{e.ID, e.OrganizationID, e.ProjectID, e.Name, e.CreatedAt}
}

type listEnvironmentsInput struct {
	surface.PageInput
	ProjectID domain.ProjectID `query:"project_id" doc:"Only of this project"`
}

type environmentsOutput struct {
	Link string            `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body []environmentBody `nullable:"false"`
}

func (s *server) listEnvironments(ctx context.Context, in *listEnvironmentsInput) (*environmentsOutput, error) {
	err := cmp.Or(in.Check(domain.PrefixEnvironment), surface.CheckFilter("project_id", domain.PrefixProject, string(in.ProjectID)))
	if err != nil {
		return nil, err
	}
	found, err := s.Reader.Environments(ctx, surface.Caller(ctx).OrganizationID, in.ProjectID, in.Page())
	if err != nil {
		return nil, err
	}
	out := &environmentsOutput{Body: []environmentBody{}}
	found, out.Link = surface.Cut(in.PageInput, "/v1/environments", found, func(e *projections.Environment) string { return string(e.ID) },
		url.Values{"project_id": {string(in.ProjectID)}})
	for _, e := range found {
		out.Body = append(out.Body, bodyOfEnvironment(e))
	}
	return out, nil
}

type environmentPath struct {
	ID domain.EnvironmentID `path:"id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a"`
}

type environmentOutput struct{ Body environmentBody }

func (s *server) getEnvironment(ctx context.Context, in *environmentPath) (*environmentOutput, error) {
	if !domain.ValidID(domain.PrefixEnvironment, string(in.ID)) {
		return nil, domain.NotFound("environment")
	}
	found, err := s.Reader.Environments(ctx, surface.Caller(ctx).OrganizationID, "", projections.Page{ID: string(in.ID), Limit: 1})
	if err != nil || len(found) == 0 {
		return nil, orNotFound(err, "environment")
	}
	return &environmentOutput{Body: bodyOfEnvironment(found[0])}, nil
}

type createEnvironmentInput struct {
	Body struct {
		ProjectID domain.ProjectID `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		Name      string           `json:"name" example:"test" doc:"1 to 24 of a-z, 0-9 and inner hyphens"`
	}
}

func (s *server) createEnvironment(ctx context.Context, in *createEnvironmentInput) (*environmentOutput, error) {
	e, err := s.Commands.CreateEnvironment(ctx, surface.By(ctx), in.Body.ProjectID, in.Body.Name)
	if err != nil {
		return nil, err
	}
	return &environmentOutput{Body: bodyOfEnvironment(e)}, nil
}
