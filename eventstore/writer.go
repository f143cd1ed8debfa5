package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// writer is one line on which commands are decided and committed. It is two steps that work at the same time: while one
// batch is on its way to the disk, the next is decided, on states kept in memory.
//
// What is kept may be out of date, because another process wrote or because the batch before failed. That is safe: the
// transaction first moves every head from the version the decision was made on, and fails if one is elsewhere. Then, and
// for every command that memory would refuse, the commands are decided again on locked heads (Store.settle). So memory
// makes the usual case fast, and the database alone decides.
type writer struct {
	store *Store
	kept  headCache
	jobs  chan *job
}

// job is one batch between the two steps.
type job struct {
	tx        *transaction
	decisions []decision
	batch     pgx.Batch
	position  int64 // not 0 once the append was answered
	// locked are the commands that need locked heads: those that memory would refuse or sees nothing to do for, or all of a
	// batch that it cannot take.
	locked []*pending
}

// write runs one writer until the queue is closed and empty.
func (s *Store) write() {
	w := &writer{store: s, jobs: make(chan *job)}
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		for j := range w.jobs {
			w.commit(j)
		}
	}()
	for first := range s.queue {
		w.jobs <- w.decide(s.join(first))
	}
	close(w.jobs)
	<-committed
}

// join takes what else waits.
func (s *Store) join(first *pending) []*pending {
	batch := []*pending{first}
	for len(batch) < s.cfg.MaxBatch {
		next, ok := s.tryNext()
		if !ok {
			break
		}
		batch = append(batch, next)
	}
	return batch
}

// decide is the first step. It never fails: what it cannot decide is left to locked heads.
func (w *writer) decide(batch []*pending) *job {
	j, err := w.tryDecide(batch)
	if err != nil {
		if j != nil && j.tx != nil {
			w.kept.forget(j.tx.heads)
		}
		return &job{locked: batch}
	}
	return j
}

func (w *writer) tryDecide(batch []*pending) (j *job, err error) {
	defer recovered(&err)
	j = &job{}
	if j.tx, err = w.begin(batch); err != nil {
		return j, err
	}
	for _, p := range batch {
		d := decision{pending: p, first: len(j.tx.records)}
		if err := w.store.decide(j.tx, p); isInternal(err) {
			return j, err // states may be half changed
		}
		d.last = len(j.tx.records)
		if d.first == d.last {
			j.locked = append(j.locked, p)
			continue
		}
		j.decisions = append(j.decisions, d)
	}
	if len(j.tx.records) == 0 {
		return j, nil
	}
	if needsLocks(j) {
		return j, errNeedsLocks
	}
	if err := j.tx.queue(&j.batch, j.decisions, &j.position); err != nil {
		return j, err
	}
	w.kept.keep(j.tx.heads)
	return j, nil
}

// errNeedsLocks leaves a batch to locked heads.
var errNeedsLocks = errors.New("the batch takes locks in an order of its own")

// needsLocks reports whether a batch would lock heads in another order than all do: lineages and endpoints that move, then
// organizations and projects that were read, then new ones. Such a batch is rare, and might deadlock.
func needsLocks(j *job) bool {
	for id := range usedBy(j.decisions) {
		if h := j.tx.heads[id]; h != nil && h.expected > 0 && h.dirty() == isParent(id) {
			return true
		}
	}
	return false
}

// loadTimeout bounds reading the heads that are not in memory.
const loadTimeout = 5 * time.Second

// begin makes a transaction on the heads that the commands name, from memory where they are there.
func (w *writer) begin(batch []*pending) (*transaction, error) {
	tx := w.store.newTransaction(map[string]*head{})
	var missing []string
	for _, p := range batch {
		for _, ids := range [][]string{p.command.Writes, p.command.Reads} {
			for _, id := range ids {
				if _, seen := tx.heads[id]; seen {
					continue
				}
				if tx.heads[id] = w.kept.get(id); tx.heads[id] == nil {
					missing = append(missing, id)
				}
			}
		}
	}
	for _, id := range missing {
		delete(tx.heads, id) // unless it is found
	}
	if len(missing) == 0 {
		return tx, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	conn, err := w.store.cfg.Pool.Acquire(ctx)
	if err != nil {
		return tx, fmt.Errorf("acquire a connection: %w", err)
	}
	defer conn.Release()
	return tx, readHeads(ctx, conn.Conn(), missing, tx.heads)
}

// commit is the second step: it commits what was decided, and settles the rest on locked heads.
func (w *writer) commit(j *job) {
	if len(j.decisions) > 0 {
		w.commitDirect(j)
	}
	if len(j.locked) > 0 {
		w.store.settle(j.locked)
		w.kept.drop(j.locked)
		finish(j.locked)
	}
}

func (w *writer) commitDirect(j *job) {
	batch := make([]*pending, len(j.decisions))
	for i, d := range j.decisions {
		batch[i] = d.pending
	}
	began := time.Now()
	err := w.send(j)
	w.store.observe(len(batch), len(j.tx.records), began, err)
	switch {
	case err == nil:
		w.store.committed(j.tx, j.position)
		for _, d := range j.decisions {
			d.pending.outcome = Outcome{Records: j.tx.records[d.first:d.last:d.last]}
		}
	case errors.Is(err, errOutcomeUnknown), isAway(err):
		w.kept.forget(j.tx.heads)
		w.store.refuse(batch, err)
	default: // nothing was done, for a reason that may be ours: decide again on locked heads
		w.kept.forget(j.tx.heads)
		w.store.settle(batch)
		w.kept.drop(batch)
	}
	finish(batch)
}

// send commits the batch as one implicit transaction, in one round trip.
func (w *writer) send(j *job) error {
	ctx, cancel := context.WithTimeout(context.Background(), transactTimeout)
	defer cancel()
	pooled, err := w.store.cfg.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire a connection: %w", err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	if err := conn.SendBatch(ctx, &j.batch).Close(); err != nil {
		return commitError(err, j.position != 0 && conn.IsClosed())
	}
	return nil
}

// finish lets those who wait have their outcomes.
func finish(batch []*pending) {
	for _, p := range batch {
		close(p.done)
	}
}

// readHeads reads heads without locking them and adds those that exist.
func readHeads(ctx context.Context, conn *pgx.Conn, ids []string, heads map[string]*head) error {
	rows, err := conn.Query(ctx, sqlReadHeads, ids)
	if err != nil {
		return fmt.Errorf("read stream heads: %w", err)
	}
	defer rows.Close()
	if err := collectHeads(rows, heads); err != nil {
		return fmt.Errorf("read stream heads: %w", err)
	}
	return refoldStale(ctx, conn, heads)
}

// isParent reports whether a stream is one that many commands read: an organization or a project.
func isParent(streamID string) bool {
	switch domain.StreamKind(streamID) {
	case domain.PrefixOrganization, domain.PrefixProject:
		return true
	}
	return false
}
