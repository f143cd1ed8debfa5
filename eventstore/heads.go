package eventstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Heads are locked in one order everywhere: lineages and endpoints first, then organizations and projects, by id within.
const (
	sqlLockHeads  = `SELECT stream_id, version, state_revision, state FROM streams WHERE stream_id = ANY($1) ORDER BY stream_id FOR UPDATE`
	sqlReadHeads  = `SELECT stream_id, version, state_revision, state FROM streams WHERE stream_id = ANY($1)`
	sqlShareHeads = `SELECT stream_id, version, state_revision, state FROM streams WHERE stream_id = ANY($1) ORDER BY stream_id FOR SHARE`
	sqlHoldHeads  = `SELECT FROM streams WHERE stream_id = ANY($1) ORDER BY stream_id FOR SHARE`
)

// head is a stream as one transaction sees it.
type head struct {
	streamID string
	expected int64 // version in the database; 0 for a stream that begins here
	state    domain.State
	stale    bool // the stored state is of another revision and must be folded again
	// untrue is set once a batch failed that had moved the state: it tells of what did not happen, and so does everything
	// decided on it since. The version alone would not tell, because another batch may have reached the same one.
	untrue atomic.Bool
}

func (h *head) dirty() bool { return h.state.StreamVersion() != h.expected }

// lockPlan sorts the streams that the commands name into those to lock alone and those to share.
func lockPlan(batch []*pending) (first, parents []string, share bool) {
	class := [2]map[string]bool{{}, {}}
	share = true
	add := func(id string, writes bool) {
		if !isParent(id) {
			class[0][id] = true
			return
		}
		class[1][id] = true
		// A mix of shared and exclusive locks on parents could deadlock, so one writer makes all of them exclusive.
		share = share && !writes
	}
	for _, p := range batch {
		for _, id := range p.command.Writes {
			add(id, true)
		}
		for _, id := range p.command.Reads {
			add(id, false)
		}
	}
	return slices.Sorted(maps.Keys(class[0])), slices.Sorted(maps.Keys(class[1])), share
}

// loadHeads begins the transaction, locks the heads that the batch names and returns their states, in one round trip.
func loadHeads(ctx context.Context, conn *pgx.Conn, batch []*pending) (map[string]*head, error) {
	first, parents, share := lockPlan(batch)
	heads := make(map[string]*head, len(first)+len(parents))
	collect := func(rows pgx.Rows) error { return collectHeads(rows, heads) }
	var b pgx.Batch
	b.Queue("begin isolation level read committed") // whatever the default is: append_events refuses others
	if len(first) > 0 {
		b.Queue(sqlLockHeads, first).Query(collect)
	}
	if len(parents) > 0 && share {
		b.Queue(sqlShareHeads, parents).Query(collect)
	} else if len(parents) > 0 {
		b.Queue(sqlLockHeads, parents).Query(collect)
	}
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("lock stream heads: %w", err)
	}
	return heads, refoldStale(ctx, conn, heads)
}

// refoldStale folds the streams again whose stored state is of another revision.
func refoldStale(ctx context.Context, conn *pgx.Conn, heads map[string]*head) error {
	for _, h := range heads {
		if h.stale && h.state == nil {
			if err := refold(ctx, conn, h); err != nil {
				return err
			}
		}
	}
	return nil
}

func collectHeads(rows pgx.Rows, heads map[string]*head) error {
	for rows.Next() {
		var (
			id       string
			version  int64
			revision int
			raw      []byte
		)
		if err := rows.Scan(&id, &version, &revision, &raw); err != nil {
			return err
		}
		h := &head{streamID: id, expected: version, stale: revision != domain.SnapshotRevision}
		if !h.stale {
			var err error
			if h.state, err = domain.DecodeState(id, raw); err != nil {
				return internalError{err}
			}
		}
		heads[id] = h
	}
	return rows.Err()
}

// refold reads the whole stream of a head whose stored state is of another revision.
func refold(ctx context.Context, conn *pgx.Conn, h *head) error {
	state, err := FoldStream(ctx, conn, h.streamID)
	if err != nil {
		return err
	}
	if state.StreamVersion() != h.expected {
		return internalError{fmt.Errorf("stream %s folds to version %d, its head says %d", h.streamID, state.StreamVersion(), h.expected)}
	}
	h.state = state
	return nil
}

// FoldStream reads one stream from its start and folds it.
func FoldStream(ctx context.Context, q Querier, streamID string) (domain.State, error) {
	state, err := domain.NewState(streamID)
	if err != nil {
		return nil, internalError{err}
	}
	const page = 1000
	for {
		records, err := ReadStream(ctx, q, streamID, state.StreamVersion(), page)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			state.Apply(r.Event)
		}
		if len(records) < page {
			return state, nil
		}
	}
}
