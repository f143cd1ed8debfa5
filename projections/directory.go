package projections

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	organizationColumns = `id, version, name, disabled_surfaces, created_at`
	sqlOrganizations    = `SELECT ` + organizationColumns + ` FROM organizations WHERE ($1 = '' OR id = $1) AND id > $2 ORDER BY id LIMIT $3`
	// A caller's own organization is in its reach also if its key is limited to projects.
	sqlOwnOrganization = `SELECT ` + organizationColumns + ` FROM organizations WHERE id = $1 AND $2::text[] IS NULL`
	sqlProjects        = `SELECT id, version, organization_id, name, brand, policy, created_at, updated_at FROM projects
		WHERE organization_id = $1 AND ($2::text[] IS NULL OR id = ANY($2)) AND deleted_at IS NULL
			AND ($3 = '' OR id = $3) AND id > $4 ORDER BY id LIMIT $5`
	sqlAssertEmpty  = `SELECT assert_project_empty($1)`
	sqlEnvironments = `SELECT id, organization_id, project_id, name, created_at FROM environments e
		WHERE ` + within + ` AND ($3 = '' OR id = $3) AND ($4 = '' OR project_id = $4) AND id > $5
			AND NOT EXISTS (SELECT FROM projects p WHERE p.id = e.project_id AND p.deleted_at IS NOT NULL)
		ORDER BY id LIMIT $6`
)

// Page selects a part of a list that is ordered by id.
type Page struct {
	ID    string // only this one; empty: all
	After string // continue after this id
	Limit int
}

// Organizations lists tenants, oldest first. It is for operators: nobody's reach limits it.
func (r *Reader) Organizations(ctx context.Context, p Page) ([]*Organization, error) {
	return collect(ctx, r.pool, scanOrganization, sqlOrganizations, p.ID, p.After, p.Limit)
}

func scanOrganization(row pgx.CollectableRow) (*Organization, error) {
	var o Organization
	var disabled []byte
	if err := row.Scan(&o.ID, &o.Version, &o.Name, &disabled, &o.CreatedAt); err != nil {
		return nil, err
	}
	o.CreatedAt = o.CreatedAt.UTC()
	return &o, readDocument(disabled, &o.DisabledSurfaces)
}

// Organization returns a tenant. It is asked on every request of a surface that can be switched off, so reads that wait at
// the same time are joined.
func (r *Reader) Organization(ctx context.Context, id domain.OrganizationID) (*Organization, error) {
	if !domain.ValidID(domain.PrefixOrganization, string(id)) {
		return nil, domain.NotFound("organization")
	}
	o, ok, err := r.byOrganization.get(ctx, id)
	if err != nil {
		return nil, asRefusal(err)
	}
	if !ok {
		return nil, domain.NotFound("organization")
	}
	return o, nil
}

func (r *Reader) fetchOrganizations(ctx context.Context, ids []domain.OrganizationID) (map[domain.OrganizationID]*Organization, error) {
	var v visit
	found := make(map[domain.OrganizationID]*Organization, len(ids))
	for _, id := range ids {
		queue(&v, Reach{Organization: id}, scanOrganization, func(o *Organization) { found[o.ID] = o }, sqlOwnOrganization)
	}
	if err := r.send(ctx, &v); err != nil {
		return nil, unavailable(err)
	}
	return found, nil
}

// Projects lists projects in a tenant's reach, oldest first.
func (r *Reader) Projects(ctx context.Context, reach Reach, p Page) ([]*Project, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (*Project, error) {
		var o Project
		var policy []byte
		if err := row.Scan(&o.ID, &o.Version, &o.OrganizationID, &o.Name, &o.Brand, &policy, &o.CreatedAt, &o.UpdatedAt); err != nil {
			return nil, err
		}
		o.CreatedAt, o.UpdatedAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC()
		return &o, readDocument(policy, &o.Policy)
	}, sqlProjects, p.ID, p.After, p.Limit)
}

// Environments lists environments in a tenant's reach, oldest first; project may be empty for all.
func (r *Reader) Environments(ctx context.Context, reach Reach, project domain.ProjectID, p Page) ([]*Environment, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (*Environment, error) {
		var o Environment
		err := row.Scan(&o.ID, &o.OrganizationID, &o.ProjectID, &o.Name, &o.CreatedAt)
		o.CreatedAt = o.CreatedAt.UTC()
		return &o, err
	}, sqlEnvironments, p.ID, project, p.After, p.Limit)
}

// QueueAssertEmpty fails a transaction that deletes a project while keys of it live.
func QueueAssertEmpty(batch *pgx.Batch, id domain.ProjectID) {
	batch.Queue(sqlAssertEmpty, id)
}
