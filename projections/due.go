package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	// No lock: the claim is the stream's head, which the command takes, so the lock order stays the one of every command.
	// A row without its project is of a replica of the version before; its key knows the rest.
	sqlDue = `SELECT lineage_id, kind, key_id, due_at,
			coalesce(project_id, (SELECT k.project_id FROM keys k WHERE k.id = d.key_id), ''),
			coalesce(endpoint_id, CASE WHEN project_id IS NULL THEN (SELECT k.endpoint_id FROM keys k WHERE k.id = d.key_id) END, '')
		FROM due_work d WHERE scan_at <= $1 ORDER BY scan_at, lineage_id LIMIT $2`
	// A piece of work that fails, or that has nothing to do, is looked at again later and later, up to an hour. If it was
	// done meanwhile, the row of the same name is the next piece and has its own time.
	sqlPostponeDue = `UPDATE due_work SET attempts = attempts + 1, last_error = $4,
			scan_at = $5::timestamptz + least(interval '1 hour', interval '1 second' * power(2, least(attempts, 12)))
		WHERE lineage_id = $1 AND kind = $2 AND key_id = $3 AND due_at = $6`
)

// DueWork is a piece of work whose time has come.
type DueWork struct {
	LineageID domain.LineageID
	domain.Due
	ProjectID  domain.ProjectID
	EndpointID domain.EndpointID // of the receiver; empty: none
}

// Due returns up to limit pieces of work whose time has come.
func (r *Reader) Due(ctx context.Context, now time.Time, limit int) ([]DueWork, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (DueWork, error) {
		var d DueWork
		err := row.Scan(&d.LineageID, &d.Kind, &d.KeyID, &d.At, &d.ProjectID, &d.EndpointID)
		return d, err
	}, sqlDue, now, limit)
}

// Postpone moves a piece of work on that could not be done, so that it delays no other.
func (r *Reader) Postpone(ctx context.Context, d DueWork, now time.Time, reason string) error {
	if _, err := r.pool.Exec(ctx, sqlPostponeDue, d.LineageID, d.Kind, d.KeyID, reason, now, d.At); err != nil {
		return fmt.Errorf("postpone due work: %w", err)
	}
	return nil
}
