package api

import (
	"cmp"
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// OrganizationBody is a tenant. It is exported for the same reason as KeyBody.
type OrganizationBody struct {
	ID               domain.OrganizationID `json:"id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name             string                `json:"name" example:"Example GmbH"`
	DisabledSurfaces []string              `json:"disabled_surfaces" nullable:"false" doc:"Surfaces that the organization switched off"`
	CreatedAt        time.Time             `json:"created_at"`
}

func bodyOfOrganization(o *projections.Organization) OrganizationBody {
	return OrganizationBody{o.ID, o.Name, append([]string{}, o.DisabledSurfaces...), o.CreatedAt}
}

type listOrganizationsInput struct{ surface.PageInput }

// listOrganizations shows an operator all organizations, and everybody else their own.
func (s *server) listOrganizations(ctx context.Context, in *listOrganizationsInput) (*surface.List[OrganizationBody], error) {
	if err := in.Check(domain.PrefixOrganization); err != nil {
		return nil, err
	}
	found, err := s.organizations(ctx, in.Page())
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/organizations", found, func(o *projections.Organization) string { return string(o.ID) }, url.Values{}, bodyOfOrganization), nil
}

func (s *server) organizations(ctx context.Context, page projections.Page) ([]*projections.Organization, error) {
	if surface.Caller(ctx).Operator {
		return s.Reader.Organizations(ctx, page)
	}
	own, err := s.Reader.Organization(ctx, surface.Caller(ctx).OrganizationID)
	if err != nil || string(own.ID) <= page.After {
		return nil, err
	}
	return []*projections.Organization{own}, nil
}

// OrganizationPath is the organization that a path names. It is exported because huma fills embedded fields only then.
type OrganizationPath struct {
	ID domain.OrganizationID `path:"id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The organization"`
}

type organizationOutput struct {
	ETag string `header:"ETag" doc:"Of the organization as it is here, for If-Match"`
	Body OrganizationBody
}

func shownOrganization(o *projections.Organization) *organizationOutput {
	return &organizationOutput{ETag: surface.ETag(o.Version), Body: bodyOfOrganization(o)}
}

func (s *server) getOrganization(ctx context.Context, in *OrganizationPath) (*organizationOutput, error) {
	if !domain.ValidID(domain.PrefixOrganization, string(in.ID)) || !surface.Caller(ctx).Operator && in.ID != surface.Caller(ctx).OrganizationID {
		return nil, domain.NotFound("organization")
	}
	found, err := s.Reader.Organization(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return shownOrganization(found), nil
}

type updateOrganizationInput struct {
	OrganizationPath
	surface.IfMatch
	Body struct {
		Name             surface.Optional[string]   `json:"name,omitempty" nullable:"false" doc:"1 to 200 printable characters"`
		DisabledSurfaces surface.Optional[[]string] `json:"disabled_surfaces,omitempty" doc:"Of account-keys, apikey and projects those that are to be off; null: none"`
	}
}

func (s *server) updateOrganization(ctx context.Context, in *updateOrganizationInput) (*organizationOutput, error) {
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	organization, err := s.Commands.UpdateOrganization(ctx, by, domain.UpdateOrganization{
		ID: in.ID, Name: in.Body.Name.Change(), DisabledSurfaces: in.Body.DisabledSurfaces.Change(),
	})
	if err != nil {
		return nil, err
	}
	return shownOrganization(organization), nil
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
	tenant, err := s.Commands.CreateOrganization(ctx, surface.Keeping(ctx, shownTenant), in.Body.Name)
	if err != nil {
		return nil, err
	}
	return shownTenant(tenant), nil
}

func shownTenant(tenant commands.NewTenant) *createdOrganizationOutput {
	out := &createdOrganizationOutput{}
	out.Body.OrganizationBody = OrganizationBody{tenant.OrganizationID, tenant.Name, []string{}, tenant.CreatedAt}
	out.Body.ProjectID, out.Body.EnvironmentID = tenant.Key.ProjectID, tenant.Key.EnvironmentID
	out.Body.KeyID, out.Body.Key = tenant.Key.ID, tenant.Secret.Reveal()
	return out
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

func (s *server) listEnvironments(ctx context.Context, in *listEnvironmentsInput) (*surface.List[environmentBody], error) {
	err := cmp.Or(in.Check(domain.PrefixEnvironment), surface.CheckFilter("project_id", domain.PrefixProject, string(in.ProjectID)))
	if err != nil {
		return nil, err
	}
	found, err := s.Reader.Environments(ctx, surface.Reach(ctx), in.ProjectID, in.Page())
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/environments", found, func(e *projections.Environment) string { return string(e.ID) },
		url.Values{"project_id": {string(in.ProjectID)}}, bodyOfEnvironment), nil
}

type environmentPath struct {
	ID domain.EnvironmentID `path:"id" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The environment"`
}

type environmentOutput struct{ Body environmentBody }

func (s *server) getEnvironment(ctx context.Context, in *environmentPath) (*environmentOutput, error) {
	if !domain.ValidID(domain.PrefixEnvironment, string(in.ID)) {
		return nil, domain.NotFound("environment")
	}
	found, err := s.Reader.Environments(ctx, surface.Reach(ctx), "", projections.Page{ID: string(in.ID), Limit: 1})
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
	e, err := s.Commands.CreateEnvironment(ctx, surface.Keeping(ctx, shownEnvironment), in.Body.ProjectID, in.Body.Name)
	if err != nil {
		return nil, err
	}
	return shownEnvironment(e), nil
}

func shownEnvironment(e *projections.Environment) *environmentOutput {
	return &environmentOutput{Body: bodyOfEnvironment(e)}
}
