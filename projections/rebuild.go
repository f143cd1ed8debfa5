package projections

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/eventstore"
)

// rebuildStreams is how many streams one transaction makes right. Commands on them wait meanwhile, so it is small.
const rebuildStreams = 400

const (
	// Heads follow from the log too. One that is missing is made here, so that it can be locked like every other.
	sqlMissingHeads = `INSERT INTO streams (stream_id, version, state_revision, state)
		SELECT e.stream_id, max(e.version), 0, '' FROM events e
		WHERE e.lane = $1 AND NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = e.stream_id)
		GROUP BY e.stream_id ON CONFLICT (stream_id) DO NOTHING`
	sqlLockHeads = `SELECT stream_id, version, state_revision, state FROM streams WHERE stream_id > $1 ORDER BY stream_id LIMIT $2 FOR UPDATE`
	// A transaction with a number waits for the disk when it ends, and the log of those before it is written with its own.
	sqlFlush = `SELECT pg_current_xact_id()`
)

// orphans are rows of streams that the log does not know.
var orphans = []string{
	`DELETE FROM keys r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.lineage_id)`,
	`DELETE FROM rotations r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.lineage_id)`,
	`DELETE FROM due_work r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.lineage_id)`,
	`DELETE FROM organizations r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.id)`,
	`DELETE FROM projects r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.id)`,
	`DELETE FROM environments r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.project_id)`,
	`DELETE FROM webhook_endpoints r WHERE NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = r.id)`,
}

// Rebuild makes the read model what the log says, a batch of streams at a time. Each batch locks its heads as commands
// do, folds, and writes what the fold gives, so commands and verifies go on, nobody ever sees half of a lineage, and a
// rebuild that was interrupted can simply be started again. Two connections share the work: while Postgres writes for one,
// the other folds. It needs the owner's rights. It returns how many streams it went through.
func Rebuild(ctx context.Context, conn *pgx.Conn) (streams int, err error) {
	if _, err := conn.Exec(ctx, sqlMissingHeads, eventstore.Lifecycle); err != nil {
		return 0, fmt.Errorf("make missing heads: %w", err)
	}
	second, err := pgx.ConnectConfig(ctx, conn.Config())
	if err != nil {
		return 0, fmt.Errorf("connect once more: %w", err)
	}
	defer func() { _ = second.Close(context.WithoutCancel(ctx)) }()
	var r rebuild
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var workers sync.WaitGroup
	for _, c := range []*pgx.Conn{conn, second} {
		workers.Go(func() {
			if err := r.work(working, c); err != nil {
				stop(err) // the first one counts
			}
		})
	}
	workers.Wait()
	if err := context.Cause(working); err != nil {
		return int(r.streams.Load()), err
	}
	return int(r.streams.Load()), finish(ctx, conn)
}

// finish removes the rows of no stream, and waits until all that was done is on the disk.
func finish(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "RESET enable_seqscan; RESET synchronous_commit"); err != nil {
		return fmt.Errorf("prepare the connection: %w", err)
	}
	for _, sql := range orphans {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("remove rows without a stream: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, sqlFlush); err != nil {
		return fmt.Errorf("wait for the disk: %w", err)
	}
	return nil
}

// rebuild is what the workers share. A worker holds the heads that it has locked while it waits for its turn to write, and
// no worker ever waits for heads of another, because each takes the streams behind those that were taken before.
type rebuild struct {
	taking sync.Mutex
	after  string // the last stream that was taken
	// streams counts those whose rows are written.
	streams atomic.Int64
	// mending is held alone, to the commit, while misplaced rows are removed: they may belong to the streams of the other
	// worker, and two that remove each other's would be a deadlock. Right rows that are only inserted never meet.
	mending sync.RWMutex
}

// work makes batches of streams right until there are none left.
func (r *rebuild) work(ctx context.Context, conn *pgx.Conn) error {
	// Plans are kept, and those made while the tables were empty must not scan them when they are full: as in the pools.
	// No batch waits for the disk: what a crash takes back was no loss of the log's, and in the end all are waited for.
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off; SET jit = off; SET synchronous_commit = off"); err != nil {
		return fmt.Errorf("prepare the connection: %w", err)
	}
	for {
		n, err := r.next(ctx, conn)
		if err != nil || n == 0 {
			return err
		}
	}
}

// next makes the next batch of streams right, and returns how many streams it holds.
func (r *rebuild) next(ctx context.Context, conn *pgx.Conn) (int, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing after the commit
	heads, err := r.take(ctx, tx)
	if err != nil || len(heads) == 0 {
		return 0, err
	}
	first, last := heads[0].id, heads[len(heads)-1].id
	b := &rebuildBatch{heads: heads}
	if err := b.fold(ctx, tx); err != nil {
		return 0, fmt.Errorf("fold streams %s to %s: %w", first, last, err)
	}
	if err := r.write(ctx, tx, b); err != nil {
		return 0, fmt.Errorf("write the rows of streams %s to %s: %w", first, last, err)
	}
	r.streams.Add(int64(len(heads)))
	return len(heads), nil
}

// take locks the heads of the next streams, in the order in which commands lock theirs.
func (r *rebuild) take(ctx context.Context, tx pgx.Tx) ([]storedHead, error) {
	r.taking.Lock()
	defer r.taking.Unlock()
	rows, err := tx.Query(ctx, sqlLockHeads, r.after, rebuildStreams)
	if err != nil {
		return nil, fmt.Errorf("lock heads after %q: %w", r.after, err)
	}
	heads, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h storedHead, err error) {
		return h, row.Scan(&h.id, &h.version, &h.revision, &h.state)
	})
	if err != nil {
		return nil, fmt.Errorf("lock heads after %q: %w", r.after, err)
	}
	if len(heads) > 0 {
		r.after = heads[len(heads)-1].id
	}
	return heads, nil
}

// write makes the tables right and commits. Where they have no rows of the streams it only inserts, which costs a fraction;
// if a row elsewhere turns out to hold a value that must be unique, that is undone and the tables are mended instead.
func (r *rebuild) write(ctx context.Context, tx pgx.Tx, b *rebuildBatch) error {
	if !b.present {
		done, err := r.insert(ctx, tx, b)
		if done || err != nil {
			return err
		}
	}
	r.mending.Lock()
	defer r.mending.Unlock()
	if err := b.mend(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// insert reports whether the rows could be inserted.
func (r *rebuild) insert(ctx context.Context, tx pgx.Tx, b *rebuildBatch) (done bool, err error) {
	r.mending.RLock()
	defer r.mending.RUnlock()
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return b.insert(ctx, tx) }) // the locks of the heads outlive a savepoint
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == stateUnique {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, tx.Commit(ctx)
}
