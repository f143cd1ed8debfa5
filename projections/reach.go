package projections

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Reach is how far a caller can see: one organization, and in it all projects or the named ones. What lies beyond it is
// not found, exactly like what does not exist (guarantee G6).
//
// It is kept by two walls. The first is the condition that each statement for a tenant has (within), with the reach as its
// first two arguments. The second is the database's row security: these statements run as a role that sees the rows of
// one organization only, so one that had lost its condition would still give away nothing of another tenant.
//
// Without a tenant, and on the service's pool, are only: finding a secret, whoever's it is; what an operator lists of all
// organizations; and rekey's own work.
type Reach struct {
	Organization domain.OrganizationID
	Projects     []string // nil: all
}

// ReachOf returns how far a caller can see.
func ReachOf(c domain.Caller) Reach {
	r := Reach{Organization: c.OrganizationID}
	if c.LimitedToProjects() {
		r.Projects = append([]string{}, c.Resources[domain.ResourceProject]...) // an empty list is a limit too
	}
	return r
}

// Covers is the first wall for what was not looked up by tenant.
func (r Reach) Covers(organization domain.OrganizationID, project domain.ProjectID) bool {
	return organization == r.Organization && (r.Projects == nil || slices.Contains(r.Projects, string(project)))
}

const (
	// within is the first wall: what tenants may read of rows that belong to a project. Events of the organization itself
	// have no project, so a caller who is limited to projects does not see them.
	within = `organization_id = $1 AND ($2::text[] IS NULL OR project_id = ANY($2))`
	// sqlEnter opens the second wall for one organization, until the transaction ends.
	sqlEnter = `SELECT set_config('rekey.organization', $1, true)`
)

// visit is a round trip of reads, each in the reach of one tenant. All of it is one implicit transaction, so the
// connection goes back to its pool without the setting, whatever happens meanwhile.
type visit struct{ batch pgx.Batch }

// queue adds a statement, whose first two arguments are the reach. It hands over the rows one by one.
func queue[T any](v *visit, reach Reach, scan pgx.RowToFunc[T], take func(T), sql string, args ...any) {
	v.batch.Queue(sqlEnter, reach.Organization)
	v.batch.Queue(sql, append([]any{reach.Organization, reach.Projects}, args...)...).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, scan)
		for _, row := range found {
			take(row)
		}
		return err
	})
}

// send carries the reads out.
func (r *Reader) send(ctx context.Context, v *visit) error {
	results := r.tenants.SendBatch(ctx, &v.batch)
	defer func() { _ = results.Close() }() // a scan that panics must not cost the pool its connection
	return results.Close()
}

// collectWithin runs one statement in the reach of a tenant.
func collectWithin[T any](ctx context.Context, r *Reader, reach Reach, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var v visit
	var out []T
	queue(&v, reach, scan, func(row T) { out = append(out, row) }, sql, args...)
	if err := r.send(ctx, &v); err != nil {
		return nil, readError(err)
	}
	return out, nil
}
