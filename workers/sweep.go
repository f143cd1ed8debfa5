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
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// sweepArgs asks for one look at all due work. It is stateless: a missed sweep is made up for by the next.
type sweepArgs struct{}

// Kind names the job.
func (sweepArgs) Kind() string { return "sweep" }

type sweepWorker struct {
	river.WorkerDefaults[sweepArgs]
	w *Workers
}

// Timeout is longer than a job's usual one, for the hour after an outage.
func (s *sweepWorker) Timeout(*river.Job[sweepArgs]) time.Duration { return sweepTimeout }

const (
	sweepBatch = 256
	// sweepFor leaves time to finish a batch before the timeout.
	sweepFor = 40 * time.Second
)

// sqlSweepLock lets one sweep run at a time; the next one finds less to do, not the same. It is held by a transaction
// that does nothing else, so it ends with the sweep, however that ends.
const sqlSweepLock = `SELECT pg_try_advisory_xact_lock(hashtext('rekey.sweep'))`

// Work carries out what is due until nothing is or the time is up.
func (s *sweepWorker) Work(ctx context.Context, _ *river.Job[sweepArgs]) error {
	tx, err := s.w.cfg.Pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin sweep: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // releases the lock
	// The transaction idles while the batches are worked elsewhere; it holds no row and no snapshot.
	if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = '60s'"); err != nil {
		return fmt.Errorf("prepare sweep: %w", err)
	}
	var mine bool
	if err := tx.QueryRow(ctx, sqlSweepLock).Scan(&mine); err != nil || !mine {
		return err
	}
	if err := s.w.sweepDeliveries(ctx); err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < sweepFor && !s.w.stopping(); {
		done, err := s.w.sweepKeys(ctx)
		if err != nil || done < sweepBatch {
			return err
		}
	}
	return nil
}

// sweepKeys carries out one batch of due rotations, graces and expiries, joined. It returns how many were due.
func (w *Workers) sweepKeys(ctx context.Context) (int, error) {
	now := w.cfg.Now()
	due, err := w.cfg.Reader.Due(ctx, now, sweepBatch)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	outcomes := w.cfg.Commands.Sweep(ctx, due)
	w.noteEpochKey(due, outcomes)
	for i, outcome := range outcomes {
		reason := problem(outcome)
		if reason == "" {
			continue
		}
		if err := w.postpone(ctx, due[i], now, reason, outcome.Err); err != nil {
			return 0, err
		}
	}
	return len(due), nil
}

const (
	// epochKeyAlarm is after how many sweeps without a key of the day an operator is told, and epochKeyRepeat after how many
	// more again.
	epochKeyAlarm  = 3
	epochKeyRepeat = 60
)

// noteEpochKey raises the alarm when rotations cannot begin because no secret can be sealed (edge E6). The keys keep working.
func (w *Workers) noteEpochKey(due []projections.DueWork, outcomes []eventstore.Outcome) {
	for i, outcome := range outcomes {
		switch {
		case errors.Is(outcome.Err, commands.ErrEpochKey):
			if n := w.epochFailures.Add(1); n >= epochKeyAlarm {
				w.cfg.Alarm(AlarmEpochKey)
				if n%epochKeyRepeat == epochKeyAlarm {
					w.cfg.Logger.Error("rotations wait: new secrets cannot be sealed", "error", outcome.Err, "sweeps", n)
				}
			}
			return
		case due[i].Kind == domain.DueRotate && outcome.Err == nil && len(outcome.Records) > 0:
			defer w.epochFailures.Store(0)
		}
	}
}

// problem says why a piece of work is still due, or nothing if it was carried out.
func problem(outcome eventstore.Outcome) string {
	switch {
	case outcome.Err != nil:
		return outcome.Err.Error()
	case len(outcome.Records) == 0:
		return "nothing to do"
	}
	return ""
}

// postpone puts a piece of work aside, so that it delays no other. One that had become void has lost its row already.
func (w *Workers) postpone(ctx context.Context, d projections.DueWork, now time.Time, reason string, cause error) error {
	if cause != nil {
		w.cfg.Logger.Warn("due work could not be done", "lineage_id", d.LineageID, "kind", d.Kind, "error", cause)
	}
	return w.cfg.Reader.Postpone(ctx, d, now, reason)
}

const (
	// Claiming moves the next attempt behind the lease, so an attempt whose worker dies is handed out again. A delivery
	// whose attempts are used up is handed out too: its job ends it.
	sqlClaimDeliveries = `UPDATE webhook_deliveries d SET next_attempt_at = $2, put_off_from = NULL
		FROM (SELECT id FROM webhook_deliveries WHERE state = 'pending' AND next_attempt_at <= $1
		      ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED) due
		WHERE d.id = due.id RETURNING d.id, d.attempts, d.endpoint_id`
)

// sweepDeliveries hands out the attempts whose time has come; the claim and the jobs commit together.
func (w *Workers) sweepDeliveries(ctx context.Context) error {
	for {
		now := w.cfg.Now()
		claimed := 0
		err := pgx.BeginFunc(ctx, w.cfg.Pool, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, sqlClaimDeliveries, now, now.Add(handOutLease), sweepBatch)
			if err != nil {
				return err
			}
			jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (river.InsertManyParams, error) {
				var args deliverArgs
				err := row.Scan(&args.DeliveryID, &args.Attempts, &args.EndpointID)
				return river.InsertManyParams{Args: args}, err
			})
			if claimed = len(jobs); err != nil || claimed == 0 {
				return err
			}
			_, err = w.client.InsertManyFastTx(ctx, tx, jobs)
			return err
		})
		if err != nil {
			return fmt.Errorf("hand out deliveries: %w", err)
		}
		if claimed < sweepBatch {
			return nil
		}
	}
}
