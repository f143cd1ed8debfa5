package projections

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// stateUnique is the SQLSTATE of a value that another row holds.
const stateUnique = "23505"

const (
	// Whether there is any row of a range of streams.
	sqlAnyRow = `SELECT EXISTS (SELECT FROM keys WHERE lineage_id >= $1 AND lineage_id <= $2)
		OR EXISTS (SELECT FROM rotations WHERE lineage_id >= $1 AND lineage_id <= $2)
		OR EXISTS (SELECT FROM due_work WHERE lineage_id >= $1 AND lineage_id <= $2)
		OR EXISTS (SELECT FROM environments WHERE project_id >= $1 AND project_id <= $2)`
	sqlSetHeads = `UPDATE streams s SET version = h.version, state_revision = $4, state = h.state
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS h(stream_id, version, state)
		WHERE s.stream_id = h.stream_id`
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

// storedHead is the head of a stream as it is stored, right or wrong.
type storedHead struct {
	streamRow
	revision int
}

// rebuildBatch is some streams whose heads are locked, in the order of their ids.
type rebuildBatch struct {
	heads []storedHead
	right map[string]streamRow // the heads as the log has them; that of a stream without a single event is not among them
	rows  *rows                // what the log asks for
	// present says that the tables have rows of the streams, right or wrong.
	present bool
}

// fold reads and folds the streams, and looks whether the tables have any rows of them.
func (b *rebuildBatch) fold(ctx context.Context, tx pgx.Tx) error {
	first, last := b.heads[0].id, b.heads[len(b.heads)-1].id
	if err := tx.QueryRow(ctx, sqlAnyRow, first, last).Scan(&b.present); err != nil {
		return fmt.Errorf("look for rows: %w", err)
	}
	records, err := eventstore.Collect(ctx, tx, eventstore.SelectStreams, first, last)
	if err != nil {
		return fmt.Errorf("read streams: %w", err)
	}
	locked := make(map[string]bool, len(b.heads))
	for _, h := range b.heads {
		locked[h.id] = true
	}
	b.rows, b.right = newRows(), make(map[string]streamRow, len(b.heads))
	f := &folder{all: b.rows, done: b.add}
	for _, r := range records {
		if !locked[r.StreamID] { // made since the heads were locked: its own command has written its rows
			continue
		}
		if err := f.add(r); err != nil {
			return err
		}
	}
	return f.flush()
}

// add takes the head of a folded stream over.
func (b *rebuildBatch) add(s *folded) error {
	state, err := domain.EncodeState(s.state)
	if err != nil {
		return err
	}
	b.right[s.streamID] = streamRow{s.streamID, s.state.StreamVersion(), string(state)}
	return nil
}

// insert writes the rows of streams that the tables have no rows of.
func (b *rebuildBatch) insert(ctx context.Context, tx pgx.Tx) error {
	if err := keyTable.copyInto(ctx, tx, keyTable.name, sorted(b.rows.keys)); err != nil {
		return err
	}
	if err := rotationTable.copyInto(ctx, tx, rotationTable.name, sorted(b.rows.rotations)); err != nil {
		return err
	}
	if err := newDueTable.copyInto(ctx, tx, newDueTable.name, b.rows.dueRows()); err != nil {
		return err
	}
	var batch pgx.Batch
	b.queueHeads(&batch)
	b.rows.queueTenants(&batch)
	b.rows.queueSettled(&batch)
	return tx.SendBatch(ctx, &batch).Close()
}

// mend makes the rows right, whatever rows there are.
func (b *rebuildBatch) mend(ctx context.Context, tx pgx.Tx) error {
	var streams []string
	for _, h := range b.heads {
		streams = append(streams, h.id)
	}
	var batch pgx.Batch
	b.queueHeads(&batch)
	b.queueMisplaced(&batch, streams)
	b.rows.queueTenants(&batch)
	keyTable.queue(&batch, sqlMendKeys, sorted(b.rows.keys))
	rotationTable.queue(&batch, sqlMendRotations, sorted(b.rows.rotations))
	batch.Queue(sqlDeleteDue, streams)
	dueTable.queue(&batch, sqlInsertDue, b.rows.dueRows())
	b.rows.queueSettled(&batch)
	return tx.SendBatch(ctx, &batch).Close()
}

// queueHeads sets the heads that are not what the streams fold to; a head without a single event is no stream.
func (b *rebuildBatch) queueHeads(batch *pgx.Batch) {
	var (
		streams, states, empty []string
		versions               []int64
	)
	for _, h := range b.heads {
		right, ok := b.right[h.id]
		switch {
		case !ok:
			empty = append(empty, h.id)
		case h != storedHead{right, domain.SnapshotRevision}:
			streams, versions, states = append(streams, right.id), append(versions, right.version), append(states, right.state)
		}
	}
	if len(streams) > 0 {
		batch.Queue(sqlSetHeads, streams, versions, states, domain.SnapshotRevision)
	}
	if len(empty) > 0 {
		batch.Queue(sqlDropHeads, empty)
	}
}

// queueMisplaced removes the rows of the streams that are not in their place.
func (b *rebuildBatch) queueMisplaced(batch *pgx.Batch, streams []string) {
	var (
		ids, lineages []string
		generations   []int32
		digests       [][]byte
	)
	for _, k := range sorted(b.rows.keys) {
		ids, lineages = append(ids, string(k.ID)), append(lineages, string(k.LineageID))
		generations, digests = append(generations, int32(k.Generation)), append(digests, k.Secret.Digest[:])
	}
	batch.Queue(sqlMisplacedKeys, streams, ids, lineages, generations, digests)
	var rotations [3][]string
	for _, o := range sorted(b.rows.rotations) {
		for i, value := range [3]string{string(o.ID), string(o.LineageID), string(o.State)} {
			rotations[i] = append(rotations[i], value)
		}
	}
	batch.Queue(sqlMisplacedRotations, streams, rotations[0], rotations[1], rotations[2])
	var environments [3][]string
	for _, e := range sorted(b.rows.environments) {
		for i, value := range [3]string{string(e.ID), string(e.ProjectID), e.Name} {
			environments[i] = append(environments[i], value)
		}
	}
	batch.Queue(sqlMisplacedEnvironments, streams, environments[0], environments[1], environments[2])
}
