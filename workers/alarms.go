package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// tellEvery is how often the owner of a key in grace is told of the same client.
const tellEvery = time.Hour

const (
	sqlUntoldUses = `SELECT lineage_id, key_id, address, agent, use_count, first_seen_at, last_seen_at FROM grace_usage
		WHERE use_count > announced_count AND (announced_at IS NULL OR announced_at <= $1) ORDER BY announced_at NULLS FIRST LIMIT $2`
	sqlToldUse = `UPDATE grace_usage SET announced_count = greatest(announced_count, $3), announced_at = $4 WHERE key_id = $1 AND address = $2 AND agent = $5`
)

// tellGraceUses records who still uses keys in grace (edge E21): the first use of a client, then at most one an hour.
func (w *Workers) tellGraceUses(ctx context.Context) error {
	now := w.cfg.Now()
	rows, err := w.cfg.Pool.Query(ctx, sqlUntoldUses, now.Add(-tellEvery), sweepBatch)
	if err != nil {
		return fmt.Errorf("read uses of keys in grace: %w", err)
	}
	type untold struct {
		lineage domain.LineageID
		domain.GraceUse
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u untold, err error) {
		return u, row.Scan(&u.lineage, &u.KeyID, &u.Address, &u.Agent, &u.Count, &u.FirstSeenAt, &u.LastSeen)
	})
	if err != nil {
		return fmt.Errorf("read uses of keys in grace: %w", err)
	}
	for _, u := range found {
		told, tellErr := w.cfg.Commands.NoteGraceUse(ctx, u.lineage, u.GraceUse, func(batch *pgx.Batch, _ []domain.Event) error {
			batch.Queue(sqlToldUse, u.KeyID, u.Address, u.Count, now, u.Agent)
			return nil
		})
		if tellErr == nil && !told { // the grace is over
			_, tellErr = w.cfg.Pool.Exec(ctx, sqlToldUse, u.KeyID, u.Address, u.Count, now, u.Agent)
		}
		err = errors.Join(err, tellErr)
	}
	return err
}
