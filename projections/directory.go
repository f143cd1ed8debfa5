package projections

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	sqlOrganizations = `SELECT id, name, created_at FROM organizations
		WHERE ($1 = '' OR id = $1) AND id > $2 ORDER BY id LIMIT $3`
	sqlProjects = `SELECT id, organization_id, name, brand, created_at FROM projects
		WHERE organization_id = $1 AND ($2 = '' OR id = $2) AND id > $3 ORDER BY id LIMIT $4`
	sqlEnvironments = `SELECT id, organization_id, project_id, name, created_at FROM environments
		WHERE organization_id = $1 AND ($2 = '' OR id = $2) AND ($3 = '' OR project_id = $3) AND id > $4 ORDER BY id LIMIT $5`
)

// Page selects a part of a list that is ordered by id.
type Page struct {
	ID    string // only this one; empty: all
	After string // continue after this id
	Limit int
}

// Organizations lists tenants, oldest first.
func (r *Reader) Organizations(ctx context.Context, p Page) ([]*Organization, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (*Organization, error) {
		var o Organization
		err := row.Scan(&o.ID, &o.Name, &o.CreatedAt)
		o.CreatedAt = o.CreatedAt.UTC()
		return &o, err
	}, sqlOrganizations, p.ID, p.After, p.Limit)
}

// Projects lists projects of an organization, oldest first.
func (r *Reader) Projects(ctx context.Context, organization domain.OrganizationID, p Page) ([]*Project, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (*Project, error) {
		var o Project
		err := row.Scan(&o.ID, &o.OrganizationID, &o.Name, &o.Brand, &o.CreatedAt)
		o.CreatedAt = o.CreatedAt.UTC()
		return &o, err
	}, sqlProjects, organization, p.ID, p.After, p.Limit)
}

// Environments lists environments of an organization, oldest first; project may be empty for all.
func (r *Reader) Environments(ctx context.Context, organization domain.OrganizationID, project domain.ProjectID, p Page) ([]*Environment, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (*Environment, error) {
		var o Environment
		err := row.Scan(&o.ID, &o.OrganizationID, &o.ProjectID, &o.Name, &o.CreatedAt)
		o.CreatedAt = o.CreatedAt.UTC()
		return &o, err
	}, sqlEnvironments, organization, p.ID, project, p.After, p.Limit)
}
