package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// writer is one line on which commands are decided and committed. It is two steps that work at the same time: while one
// batch is on its way to the disk, commands that come are decided and gathered for the next, on states kept in memory.
//
// What is kept may be out of date, because another process wrote or because the batch before failed. That is safe: the
// transaction first moves every head from the version the decision was made on, and fails if one is elsewhere. Then, and
// for every command that memory would refuse, the commands are decided again on locked heads (Store.settle). So memory
// makes the usual case fast, and the database alone decides.
type writer struct {
	store *Store
	kept  headCache
	jobs  chan *job
	idle  chan struct{} // holds a token while the second step has nothing to do
}

// job is one batch between the two steps.
type job struct {
	tx        *transaction
	taken     []*pending // all its commands
	decisions []decision
	batch     pgx.Batch
	position  int64 // not 0 once the append was answered
	// locked are the commands that need locked heads: those that memory would refuse or sees nothing to do for, or all of a
	// batch that it cannot take.
	locked []*pending
	failed error // why the whole batch needs locked heads
}

// write runs one writer until the queue is closed and empty.
func (s *Store) write() {
	w := &writer{store: s, jobs: make(chan *job), idle: make(chan struct{}, 1)}
	w.kept.heads.Size = headCacheSize
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		w.idle <- struct{}{}
		for j := range w.jobs {
			w.commit(j)
			w.idle <- struct{}{}
		}
	}()
	for first := range s.queue {
		w.jobs <- w.gather(first)
	}
	close(w.jobs)
	<-committed
}

// gather decides what comes until the second step can take a batch.
func (w *writer) gather(first *pending) *job {
	j := &job{tx: w.store.newTransaction(map[string]*head{})}
	w.add(j, w.store.join(first, w.store.cfg.MaxBatch))
	for ready, open := false, true; !ready; {
		room := w.store.cfg.MaxBatch - len(j.taken)
		queue := w.store.queue
		if room == 0 || !open {
			queue = nil // wait for the second step alone
		}
		select {
		case <-w.idle:
			ready = true
		case p, ok := <-queue:
			if open = ok; ok {
				w.add(j, w.store.join(p, room))
			}
		}
	}
	return w.finish(j)
}

// join takes what else waits.
func (s *Store) join(first *pending, room int) []*pending {
	batch := []*pending{first}
	for len(batch) < room {
		next, ok := s.tryNext()
		if !ok {
			break
		}
		batch = append(batch, next)
	}
	return batch
}

// add decides more commands for a batch. A fault leaves the whole batch to locked heads.
func (w *writer) add(j *job, more []*pending) {
	j.taken = append(j.taken, more...)
	if j.failed == nil {
		j.failed = w.tryAdd(j, more)
	}
}

func (w *writer) tryAdd(j *job, more []*pending) (err error) {
	defer recovered(&err)
	if err := w.load(j.tx, more); err != nil {
		return err
	}
	j.tx.now = microseconds(w.store.cfg.Now()) // gathering may take as long as the batch before does
	for _, p := range more {
		d := decision{pending: p, first: len(j.tx.records)}
		if err := w.store.decide(j.tx, p); isInternal(err) {
			return err // states may be half changed
		}
		d.last = len(j.tx.records)
		if d.first == d.last {
			j.locked = append(j.locked, p)
			continue
		}
		j.decisions = append(j.decisions, d)
	}
	return nil
}

// finish makes a batch ready to be sent, or leaves all of it to locked heads.
func (w *writer) finish(j *job) *job {
	if j.failed == nil && len(j.decisions) > 0 {
		j.failed = w.tryFinish(j)
	}
	if j.failed == nil {
		return j
	}
	w.kept.forget(j.tx.heads)
	return &job{locked: j.taken}
}

func (w *writer) tryFinish(j *job) (err error) {
	defer recovered(&err)
	looked, inOrder := j.lookedAt()
	if !inOrder {
		return errNeedsLocks
	}
	if len(looked) > 0 { // that they are still as they were is for move_heads to see
		j.batch.Queue(sqlHoldHeads, looked)
	}
	if err := j.tx.queue(&j.batch, j.decisions, &j.position); err != nil {
		return err
	}
	w.kept.keep(j.tx.heads)
	return nil
}

// untrue reports whether a decision was made on what did not happen.
func (tx *transaction) untrue() bool {
	for _, h := range tx.heads {
		if h.untrue.Load() {
			return true
		}
	}
	return false
}

// errNeedsLocks leaves a batch to locked heads.
var errNeedsLocks = errors.New("the batch takes locks in an order of its own")

// lookedAt lists the lineages and endpoints that the decisions only looked at. inOrder reports whether the batch can lock
// heads in the order that all do, without reading them again: first these, then lineages and endpoints that move, then
// organizations and projects that were read, then new ones. That fits if these come before those that move, by id, as the
// receivers of keys that rotate do. Another batch is rare, and might deadlock.
func (j *job) lookedAt() (ids []string, inOrder bool) {
	firstMoved := ""
	for id := range usedBy(j.decisions) {
		h := j.tx.heads[id]
		switch {
		case h == nil || h.expected == 0: // new, or not there
		case isParent(id):
			if h.dirty() {
				return nil, false
			}
		case !h.dirty():
			ids = append(ids, id)
		case firstMoved == "" || id < firstMoved:
			firstMoved = id
		}
	}
	slices.Sort(ids)
	return ids, len(ids) == 0 || firstMoved == "" || ids[len(ids)-1] < firstMoved
}

// loadTimeout bounds reading the heads that are not in memory.
const loadTimeout = 5 * time.Second

// load adds the heads that commands name, from memory where they are there.
func (w *writer) load(tx *transaction, batch []*pending) error {
	var missing []string
	for _, p := range batch {
		for _, ids := range [][]string{p.command.Writes, p.command.Reads} {
			for _, id := range ids {
				if tx.heads[id] != nil || slices.Contains(missing, id) {
					continue
				}
				if h := w.kept.get(id); h != nil {
					tx.heads[id] = h
				} else {
					missing = append(missing, id)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	conn, err := w.store.cfg.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire a connection: %w", err)
	}
	defer conn.Release()
	return readHeads(ctx, conn.Conn(), missing, tx.heads)
}

// commit is the second step: it commits what was decided, and settles the rest on locked heads.
func (w *writer) commit(j *job) {
	if len(j.decisions) > 0 && j.tx.untrue() { // a batch before failed after this one was decided
		w.kept.forget(j.tx.heads)
		j = &job{locked: j.taken}
	}
	if len(j.decisions) > 0 {
		w.commitDirect(j)
	}
	if len(j.locked) > 0 {
		w.store.settle(j.locked)
		w.kept.drop(j.locked)
		answer(j.locked)
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
	answer(batch)
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

// answer lets those who wait have their outcomes.
func answer(batch []*pending) {
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
