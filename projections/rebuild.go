package projections

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// rebuildBatch is how many streams one transaction makes right. Commands on them wait meanwhile, so it is small.
const rebuildBatch = 200

const (
	// Heads follow from the log too. One that is missing is made here, so that it can be locked like every other.
	sqlMissingHeads = `INSERT INTO streams (stream_id, version, state_revision, state)
		SELECT e.stream_id, max(e.version), 0, '' FROM events e
		WHERE e.lane = $1 AND NOT EXISTS (SELECT FROM streams s WHERE s.stream_id = e.stream_id)
		GROUP BY e.stream_id ON CONFLICT (stream_id) DO NOTHING`
	sqlNextHeads = `SELECT stream_id FROM streams WHERE stream_id > $1 ORDER BY stream_id LIMIT $2`
	sqlLockHeads = `SELECT stream_id FROM streams WHERE stream_id = ANY($1) ORDER BY stream_id FOR UPDATE`
	sqlSetHeads  = `UPDATE streams s SET version = h.version, state_revision = $4, state = h.state
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS h(stream_id, version, state)
		WHERE s.stream_id = h.stream_id AND (s.version, s.state_revision, s.state) IS DISTINCT FROM (h.version, $4, h.state)`
	sqlDropHeads = `DELETE FROM streams WHERE stream_id = ANY($1)`
)

// Rows that are not in their place: a row that its stream does not ask for, and one that holds a unique value of another
// row, which would keep the right one out. They are removed before the right rows are written.
const (
	sqlMisplacedKeys = `DELETE FROM keys r WHERE (r.lineage_id = ANY($1) OR r.id = ANY($2) OR r.secret_digest = ANY($5))
		AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::int[], $5::bytea[]) AS w(id, lineage_id, generation, secret_digest)
			WHERE (w.id, w.lineage_id, w.generation, w.secret_digest) = (r.id, r.lineage_id, r.generation, r.secret_digest))`
	sqlMisplacedRotations = `DELETE FROM rotations r WHERE (r.lineage_id = ANY($1) OR r.id = ANY($2))
		AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS w(id, lineage_id, state)
			WHERE (w.id, w.lineage_id, w.state) = (r.id, r.lineage_id, r.state))`
	sqlMisplacedEnvironments = `DELETE FROM environments r WHERE (r.project_id = ANY($1) OR r.id = ANY($2))
		AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS w(id, project_id, name)
			WHERE (w.id, w.project_id, w.name) = (r.id, r.project_id, r.name))`
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
// rebuild that was interrupted can simply be started again. It needs the owner's rights. It returns how many streams it
// went through.
func Rebuild(ctx context.Context, conn *pgx.Conn) (streams int, err error) {
	// Plans are kept, and those made while the tables were empty must not scan them when they are full: as in the pools.
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off; SET jit = off"); err != nil {
		return 0, fmt.Errorf("prepare the connection: %w", err)
	}
	if _, err := conn.Exec(ctx, sqlMissingHeads, eventstore.Lifecycle); err != nil {
		return 0, fmt.Errorf("make missing heads: %w", err)
	}
	for after := ""; ; {
		ids, err := texts(ctx, conn, sqlNextHeads, after, rebuildBatch)
		if err != nil {
			return streams, fmt.Errorf("list streams: %w", err)
		}
		if len(ids) == 0 {
			break
		}
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return rebuildStreams(ctx, tx, ids) }); err != nil {
			return streams, fmt.Errorf("rebuild streams after %q: %w", after, err)
		}
		streams, after = streams+len(ids), ids[len(ids)-1]
	}
	for _, sql := range orphans {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return streams, fmt.Errorf("remove rows without a stream: %w", err)
		}
	}
	return streams, nil
}

// rebuildStreams makes the rows of some streams right, under the locks of their heads.
func rebuildStreams(ctx context.Context, tx pgx.Tx, ids []string) error {
	if _, err := texts(ctx, tx, sqlLockHeads, ids); err != nil {
		return fmt.Errorf("lock heads: %w", err)
	}
	all := newRows()
	all.whole = true
	heads := map[string]*folded{}
	f := &folder{done: func(s *folded) error {
		heads[s.streamID] = s
		all.merge(s.rows)
		return nil
	}}
	records, err := eventstore.Collect(ctx, tx, eventstore.SelectStreams, ids)
	if err != nil {
		return fmt.Errorf("read streams: %w", err)
	}
	for _, r := range records {
		if err := f.add(r); err != nil {
			return err
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	var batch pgx.Batch
	if err := queueHeads(&batch, ids, heads); err != nil {
		return err
	}
	all.queueMisplaced(&batch, ids)
	clear(all.began) // every lineage may have former due work
	if err := all.Queue(&batch); err != nil {
		return err
	}
	return tx.SendBatch(ctx, &batch).Close()
}

// queueMisplaced removes the rows of some streams that are not in their place.
func (r *rows) queueMisplaced(batch *pgx.Batch, streams []string) {
	var (
		ids, lineages []string
		generations   []int32
		digests       [][]byte
	)
	for _, k := range sorted(r.keys) {
		ids, lineages = append(ids, string(k.ID)), append(lineages, string(k.LineageID))
		generations, digests = append(generations, int32(k.Generation)), append(digests, k.Secret.Digest[:])
	}
	batch.Queue(sqlMisplacedKeys, streams, ids, lineages, generations, digests)
	var rotations [3][]string
	for _, o := range sorted(r.rotations) {
		for i, value := range [3]string{string(o.ID), string(o.LineageID), string(o.State)} {
			rotations[i] = append(rotations[i], value)
		}
	}
	batch.Queue(sqlMisplacedRotations, streams, rotations[0], rotations[1], rotations[2])
	var environments [3][]string
	for _, e := range sorted(r.environments) {
		for i, value := range [3]string{string(e.ID), string(e.ProjectID), e.Name} {
			environments[i] = append(environments[i], value)
		}
	}
	batch.Queue(sqlMisplacedEnvironments, streams, environments[0], environments[1], environments[2])
}

// queueHeads sets the heads to what the streams fold to; a head without a single event is no stream.
func queueHeads(batch *pgx.Batch, ids []string, heads map[string]*folded) error {
	var (
		streams, states, empty []string
		versions               []int64
	)
	for _, id := range ids {
		s, ok := heads[id]
		if !ok {
			empty = append(empty, id)
			continue
		}
		raw, err := domain.EncodeState(s.state)
		if err != nil {
			return err
		}
		streams, versions, states = append(streams, id), append(versions, s.state.StreamVersion()), append(states, string(raw))
	}
	batch.Queue(sqlSetHeads, streams, versions, states, domain.SnapshotRevision)
	if len(empty) > 0 {
		batch.Queue(sqlDropHeads, empty)
	}
	return nil
}

func texts(ctx context.Context, q eventstore.Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
