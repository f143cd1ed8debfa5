package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// maintainArgs asks for the upkeep of the tables.
type maintainArgs struct{}

// Kind names the job.
func (maintainArgs) Kind() string { return "maintain" }

type maintainWorker struct {
	river.WorkerDefaults[maintainArgs]
	w *Workers
}

// Timeout is longer than a job's usual one, for the hour after an outage.
func (m *maintainWorker) Timeout(*river.Job[maintainArgs]) time.Duration { return sweepTimeout }

const (
	// maintainEvery is how often partitions are looked after; three are always ahead, so that is soon enough.
	maintainEvery = time.Minute
	// attemptsKept is how long attempts, and what they were made for, can be looked at.
	attemptsKept = 30 * 24 * time.Hour
	// removePage is how many rows are removed in one statement, and removeFor how long in one run.
	removePage = 1000
	removeFor  = 20 * time.Second
)

// Work makes partitions ahead of the log, removes what has run out or is too old, looks for rotations that nothing will move
// any more, and for old keys that nobody uses any more. One part that fails does not keep the others from their work.
func (m *maintainWorker) Work(ctx context.Context, _ *river.Job[maintainArgs]) error {
	w := m.w
	return errors.Join(
		w.makePartitions(ctx),
		w.cfg.Commands.ForgetAnswers(ctx, w.cfg.Now()),
		w.cfg.Commands.ForgetSigningKeys(ctx),
		w.cfg.Commands.ForgetClaims(ctx),
		w.endEpochs(ctx),
		w.stallStuck(ctx),
		w.tellGraceUses(ctx),
		w.retireUnused(ctx),
		w.removeOld(ctx),
		w.dropOldUsage(ctx),
	)
}

func (w *Workers) makePartitions(ctx context.Context) error {
	var made int
	if err := w.cfg.Pool.QueryRow(ctx, "SELECT ensure_partitions()").Scan(&made); err != nil {
		return fmt.Errorf("make partitions ahead: %w", err)
	}
	if made > 0 {
		w.cfg.Logger.Info("partitions made ahead", "count", made)
	}
	return nil
}

// daysKept is how long the series by the day is kept at least.
const daysKept = 2 * 366 * 24 * time.Hour

// dropOldUsage drops partitions of use that are too old, one at a time: each must wait for who reads its table.
func (w *Workers) dropOldUsage(ctx context.Context) error {
	keep := w.cfg.UsageRetention
	for began := time.Now(); time.Since(began) < removeFor; {
		var dropped int
		if err := w.cfg.Pool.QueryRow(ctx, "SELECT drop_old_usage($1, $1, $2)", keep, max(keep, daysKept)).Scan(&dropped); err != nil {
			return fmt.Errorf("drop old usage: %w", err)
		}
		if dropped == 0 {
			return nil
		}
		w.cfg.Logger.Info("a partition of usage was dropped")
	}
	return nil
}

func (w *Workers) endEpochs(ctx context.Context) error {
	ended, err := w.cfg.Commands.EndEpochs(ctx)
	if ended > 0 {
		w.cfg.Logger.Info("keys of past days destroyed", "count", ended)
	}
	return err
}

const (
	// A rotation that is said to be on its way, while its message is not: its endpoint was disabled, or the message failed
	// and the word of it was lost. A held message of a paused endpoint is no such case: its owner has the say.
	sqlStuck = `SELECT r.lineage_id, r.id, CASE WHEN d.state = 'held' THEN 'endpoint_' || e.state ELSE coalesce(d.last_outcome, d.state) END
		FROM rotations r JOIN webhook_deliveries d ON d.rotation_id = r.id AND d.type = 'key.rotation.created'
		JOIN webhook_endpoints e ON e.id = d.endpoint_id
		WHERE r.state = 'delivering' AND (d.state = 'failed' OR d.state = 'held' AND e.state IN ('disabled', 'unverified'))
		LIMIT $1`
	// Ids begin with the time that they were made at, so that what is old is found without an index on time.
	sqlRemoveAttempts = `DELETE FROM webhook_attempts WHERE (delivery_id, number) IN (
		SELECT delivery_id, number FROM webhook_attempts WHERE delivery_id < $1 AND started_at < $2 LIMIT $3)`
	sqlRemoveDeliveries = `DELETE FROM webhook_deliveries WHERE id IN (
		SELECT id FROM webhook_deliveries d WHERE id < $1 AND created_at < $2 AND (state <> 'pending' OR rotation_id IS NULL)
			AND NOT EXISTS (SELECT FROM rotations r WHERE r.id = d.rotation_id AND r.state IN ('delivering', 'stalled'))
			AND NOT EXISTS (SELECT FROM webhook_attempts a WHERE a.delivery_id = d.id) LIMIT $3)`
	sqlRemoveMessages = `DELETE FROM webhook_messages WHERE id IN (
		SELECT id FROM webhook_messages WHERE id < $1 AND created_at < $2 LIMIT $3)`
	sqlRemoveUses = `DELETE FROM grace_usage WHERE (key_id, address, agent) IN (
		SELECT key_id, address, agent FROM grace_usage WHERE last_seen_at < $1 LIMIT $2)`
)

// stallStuck says of rotations that nothing delivers that they are stalled, so that somebody looks (edge E26).
func (w *Workers) stallStuck(ctx context.Context) error {
	rows, err := w.cfg.Pool.Query(ctx, sqlStuck, sweepBatch)
	if err != nil {
		return fmt.Errorf("look for stuck rotations: %w", err)
	}
	type stuck struct {
		lineage  domain.LineageID
		rotation domain.RotationID
		reason   string
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s stuck, err error) {
		return s, row.Scan(&s.lineage, &s.rotation, &s.reason)
	})
	if err != nil {
		return fmt.Errorf("look for stuck rotations: %w", err)
	}
	for _, s := range found {
		_, stallErr := w.cfg.Commands.Stall(ctx, commands.System(domain.ActorSweep), s.lineage, s.rotation, s.reason, nil)
		err = errors.Join(err, stallErr)
	}
	return err
}

// removeOld removes what is too old to be looked at, page by page, so that no statement holds many rows for long.
func (w *Workers) removeOld(ctx context.Context) error {
	before := w.cfg.Now().Add(-attemptsKept)
	began := time.Now()
	oldestDelivery, oldestMessage := domain.LowestID(domain.PrefixDelivery, before), domain.LowestID(domain.PrefixMessage, before)
	for _, page := range []struct {
		sql  string
		args []any
	}{
		{sqlRemoveAttempts, []any{oldestDelivery, before, removePage}},
		{sqlRemoveDeliveries, []any{oldestDelivery, before, removePage}},
		{sqlRemoveMessages, []any{oldestMessage, before, removePage}},
		{sqlRemoveUses, []any{before, removePage}},
	} {
		for time.Since(began) < removeFor {
			tag, err := w.cfg.Pool.Exec(ctx, page.sql, page.args...)
			if err != nil {
				return fmt.Errorf("remove what is old: %w", err)
			}
			if tag.RowsAffected() < removePage {
				break
			}
		}
	}
	return nil
}
