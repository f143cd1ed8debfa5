package api

import (
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type projectBody struct {
	ID             domain.ProjectID      `json:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name           string                `json:"name" example:"Billing"`
	Brand          string                `json:"brand" example:"rk" doc:"Begins the secrets of keys that are made from now on"`
	Policy         policyBody            `json:"policy"`
	CreatedAt      time.Time             `json:"created_at"`
	UpdatedAt      time.Time             `json:"updated_at" doc:"When it was made or edited last"`
}

func bodyOfProject(p *projections.Project) projectBody {
	return projectBody{p.ID, p.OrganizationID, p.Name, p.Brand, bodyOfPolicy(p.Policy), p.CreatedAt, p.UpdatedAt}
}

type listProjectsInput struct{ surface.PageInput }

func (s *server) listProjects(ctx context.Context, in *listProjectsInput) (*surface.List[projectBody], error) {
	if err := in.Check(domain.PrefixProject); err != nil {
		return nil, err
	}
	found, err := s.Reader.Projects(ctx, surface.Reach(ctx), in.Page())
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/projects", found, func(p *projections.Project) string { return string(p.ID) }, url.Values{}, bodyOfProject), nil
}

// project returns a project in the caller's reach; a foreign one is not found, exactly like an unknown one.
func (s *server) project(ctx context.Context, id domain.ProjectID) (*projections.Project, error) {
	if !domain.ValidID(domain.PrefixProject, string(id)) {
		return nil, domain.NotFound("project")
	}
	found, err := s.Reader.Projects(ctx, surface.Reach(ctx), projections.Page{ID: string(id), Limit: 1})
	if err != nil || len(found) == 0 {
		return nil, orNotFound(err, "project")
	}
	return found[0], nil
}

// ProjectPath is the project that a path names. It is exported because huma fills embedded fields only then.
type ProjectPath struct {
	ID domain.ProjectID `path:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The project"`
}

type projectOutput struct {
	ETag string `header:"ETag" doc:"Of the project as it is here, for If-Match"`
	Body projectBody
}

func (s *server) getProject(ctx context.Context, in *ProjectPath) (*projectOutput, error) {
	p, err := s.project(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return shownProject(p), nil
}

type createProjectInput struct {
	Body struct {
		Name           string                        `json:"name" example:"Billing" doc:"1 to 200 printable characters"`
		Brand          string                        `json:"brand,omitempty" nullable:"true" example:"rk" doc:"Begins the secrets of the project: 1 to 24 of a-z, 0-9 and inner hyphens; default rk"`
		OrganizationID domain.OrganizationID         `json:"organization_id,omitempty" nullable:"true" example:"org_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Default: the caller's. Only an operator may name another"`
		Policy         surface.Optional[policyInput] `json:"policy,omitempty" doc:"What the project asks of its keys; default: nothing"`
	}
}

func (s *server) createProject(ctx context.Context, in *createProjectInput) (*projectOutput, error) {
	p, err := s.Commands.CreateProject(ctx, surface.Keeping(ctx, shownProject), commands.CreateProject{
		OrganizationID: in.Body.OrganizationID, Name: in.Body.Name, Brand: in.Body.Brand,
		Policy: in.Body.Policy.Value.change().Over(domain.Policy{}),
	})
	if err != nil {
		return nil, err
	}
	return shownProject(p), nil
}

func shownProject(p *projections.Project) *projectOutput {
	return &projectOutput{ETag: surface.ETag(p.Version), Body: bodyOfProject(p)}
}

type updateProjectInput struct {
	ProjectPath
	surface.IfMatch
	Body struct {
		Name   surface.Optional[string]      `json:"name,omitempty" nullable:"false" doc:"1 to 200 printable characters"`
		Brand  surface.Optional[string]      `json:"brand,omitempty" doc:"Of keys that are made from now on: 1 to 24 of a-z, 0-9 and inner hyphens; null: rk"`
		Policy surface.Optional[policyInput] `json:"policy,omitempty" doc:"Changes the terms that it names; null: the project asks nothing"`
	}
}

func (s *server) updateProject(ctx context.Context, in *updateProjectInput) (*projectOutput, error) {
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	update := domain.UpdateProject{
		ID: in.ID, Name: in.Body.Name.Change(), Brand: in.Body.Brand.Change(), Policy: in.Body.Policy.Value.change(),
	}
	if in.Body.Policy.Null {
		update.Policy = domain.ChangePolicyTo(domain.Policy{})
	}
	p, err := s.Commands.UpdateProject(ctx, by, update)
	if err != nil {
		return nil, err
	}
	return shownProject(p), nil
}

type deleteProjectInput struct {
	ProjectPath
	surface.IfMatch
}

func (s *server) deleteProject(ctx context.Context, in *deleteProjectInput) (*struct{}, error) {
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	return nil, s.Commands.DeleteProject(ctx, by, in.ID)
}
