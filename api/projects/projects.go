package projects

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
	Name           string                `json:"name" example:"Billing"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	Brand          string                `json:"brand" example:"rk" doc:"Begins the secrets of the project's new keys"`
	CreatedAt      time.Time             `json:"created_at"`
	UpdatedAt      time.Time             `json:"updated_at" doc:"When it was made or changed last"`
}

func bodyOf(p *projections.Project) projectBody {
	return projectBody{p.ID, p.Name, p.OrganizationID, p.Brand, p.CreatedAt, p.UpdatedAt}
}

type projectsBody struct {
	Projects []projectBody `json:"projects" nullable:"false" doc:"Oldest first"`
}

type listProjectsInput struct{ surface.PageInput }

type projectsAnswer struct {
	Link string `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body struct {
		Success bool         `json:"success" example:"true"`
		Data    projectsBody `json:"data"`
	}
}

func (s *server) list(ctx context.Context, in *listProjectsInput) (*projectsAnswer, error) {
	if err := in.Check(domain.PrefixProject); err != nil {
		return nil, err
	}
	found, err := s.Reader.Projects(ctx, surface.Reach(ctx), in.Page())
	if err != nil {
		return nil, err
	}
	out := &projectsAnswer{}
	found, out.Link = surface.Cut(in.PageInput, path, found, func(p *projections.Project) string { return string(p.ID) }, url.Values{})
	out.Body.Success, out.Body.Data.Projects = true, make([]projectBody, len(found))
	for i, p := range found {
		out.Body.Data.Projects[i] = bodyOf(p)
	}
	return out, nil
}

// ProjectPath is exported because huma fills embedded fields only then.
type ProjectPath struct {
	ID domain.ProjectID `path:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The project"`
}

type projectAnswer struct {
	Body struct {
		Success bool        `json:"success" example:"true"`
		Data    projectBody `json:"data"`
	}
}

func show(p *projections.Project) *projectAnswer {
	out := &projectAnswer{}
	out.Body.Success, out.Body.Data = true, bodyOf(p)
	return out
}

func (s *server) get(ctx context.Context, in *ProjectPath) (*projectAnswer, error) {
	none := domain.NotFound("project")
	if !domain.ValidID(domain.PrefixProject, string(in.ID)) {
		return nil, none
	}
	found, err := s.Reader.Projects(ctx, surface.Reach(ctx), projections.Page{ID: string(in.ID), Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, none
	}
	return show(found[0]), nil
}

type createProjectInput struct {
	Body struct {
		Name  string `json:"name" example:"Billing" doc:"1 to 200 printable characters"`
		Brand string `json:"brand,omitempty" nullable:"true" example:"rk" doc:"Begins the secrets of the project: 1 to 24 of a-z, 0-9 and inner hyphens; default rk"`
	}
}

func (s *server) create(ctx context.Context, in *createProjectInput) (*projectAnswer, error) {
	p, err := s.Commands.CreateProject(ctx, surface.Keeping(ctx, show), commands.CreateProject{Name: in.Body.Name, Brand: in.Body.Brand})
	if err != nil {
		return nil, err
	}
	return show(p), nil
}

// updateProjectInput takes what may change; what is left out stays.
type updateProjectInput struct {
	ProjectPath
	Body struct {
		Name  surface.Optional[string] `json:"name,omitempty" nullable:"false" example:"Billing" doc:"1 to 200 printable characters"`
		Brand surface.Optional[string] `json:"brand,omitempty" nullable:"true" example:"rk" doc:"Of keys that are made from now on: 1 to 24 of a-z, 0-9 and inner hyphens; null: rk"`
	}
}

func (s *server) update(ctx context.Context, in *updateProjectInput) (*projectAnswer, error) {
	p, err := s.Commands.UpdateProject(ctx, surface.By(ctx), domain.UpdateProject{
		ID: in.ID, Name: in.Body.Name.Change(), Brand: in.Body.Brand.Change(),
	})
	if err != nil {
		return nil, err
	}
	return show(p), nil
}

type deletedBody struct {
	ID      domain.ProjectID `json:"id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	Deleted bool             `json:"deleted" example:"true"`
}

type deletedAnswer struct {
	Body struct {
		Success bool        `json:"success" example:"true"`
		Data    deletedBody `json:"data"`
	}
}

func (s *server) remove(ctx context.Context, in *ProjectPath) (*deletedAnswer, error) {
	if err := s.Commands.DeleteProject(ctx, surface.By(ctx), in.ID); err != nil {
		return nil, err
	}
	out := &deletedAnswer{}
	out.Body.Success, out.Body.Data = true, deletedBody{in.ID, true}
	return out, nil
}
