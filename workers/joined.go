package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// joined makes one transaction of small writes that wait at the same time: the disk is waited for once, not once for each.
// A write that comes alone goes alone, at once. Each is answered when it is committed, and fails alone.
type joined struct {
	pool *pgxpool.Pool

	mu      sync.Mutex
	waiting []*write
	runners int
}

// write is a few statements of one caller.
type write struct {
	order string
	queue func(*pgx.Batch)
	err   error
	done  chan struct{}
}

const (
	// joinedRunners is how many transactions are under way at once; meanwhile others gather.
	joinedRunners = 2
	joinedMost    = 64 // in one transaction
	joinedTimeout = 5 * time.Second
)

// do carries a write out. Those of one transaction are made in their order, so that two transactions lock the rows that they
// share in the same one. queue may run twice, the first time in vain. do waits for the outcome also if ctx ends meanwhile:
// what was begun must not be taken for what was not.
func (j *joined) do(ctx context.Context, order string, queue func(*pgx.Batch)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &write{order: order, queue: queue, done: make(chan struct{})}
	j.mu.Lock()
	j.waiting = append(j.waiting, w)
	if j.runners < joinedRunners {
		j.runners++
		go j.run()
	}
	j.mu.Unlock()
	<-w.done
	return w.err
}

// run makes one transaction after the other until nobody waits.
func (j *joined) run() {
	for {
		batch := j.take()
		if len(batch) == 0 {
			return
		}
		j.settle(batch)
		for _, w := range batch {
			close(w.done)
		}
	}
}

// take takes what waits; with nothing left the runner has ended.
func (j *joined) take() []*write {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := min(len(j.waiting), joinedMost)
	batch := slices.Clone(j.waiting[:n])
	j.waiting = slices.Delete(j.waiting, 0, n)
	if n == 0 {
		j.runners--
	}
	slices.SortStableFunc(batch, func(a, b *write) int { return cmp.Compare(a.order, b.order) })
	return batch
}

// settle sets the outcomes of a batch. If Postgres refuses it, nothing was done, and each is tried by itself: the fault of
// one, or a deadlock, is no fault of the others.
func (j *joined) settle(batch []*write) {
	err := j.transact(batch)
	if _, refused := errors.AsType[*pgconn.PgError](err); !refused || len(batch) == 1 {
		for _, w := range batch {
			w.err = err
		}
		return
	}
	for _, w := range batch {
		w.err = j.transact([]*write{w})
	}
}

// transact sends a batch as one implicit transaction, in one round trip.
func (j *joined) transact(batch []*write) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("queue a write: panic: %v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), joinedTimeout)
	defer cancel()
	var b pgx.Batch
	for _, w := range batch {
		w.queue(&b)
	}
	return j.pool.SendBatch(ctx, &b).Close()
}
