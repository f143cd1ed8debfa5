package eventstore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	sqlEnsureConsumer = `INSERT INTO consumers (name, lane, position, updated_at) VALUES ($1, $2, 0, now()) ON CONFLICT (name) DO NOTHING`
	// The row lock makes one process at a time apply this consumer's events.
	sqlLockConsumer = `SELECT position FROM consumers WHERE name = $1 FOR UPDATE`
	sqlMoveConsumer = `UPDATE consumers SET position = $2, updated_at = now() WHERE name = $1`
	sqlCheckpoint   = `SELECT position FROM consumers WHERE name = $1`
	sqlSetConsumer  = `INSERT INTO consumers (name, lane, position, updated_at) VALUES ($1, $2, $3, now())
		ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at`
)

// Consumer is a checkpointed reader of the lifecycle lane whose effect is in the same database.
type Consumer struct {
	Name string
	// Wants says whether a record has an effect; nil means that every one may have. Records without an effect cost no
	// transaction.
	Wants func(Record) bool
	// Apply has its effect on tx; it commits together with the checkpoint. It is called with consecutive records.
	Apply func(ctx context.Context, tx pgx.Tx, records []Record) error
}

const (
	consumerBatch = 500
	// consumerSave is how long the stored checkpoint may lag behind records without an effect.
	consumerSave = time.Second
)

// consumption is where one run of a consumer stands. Records up to position have had their effect, or have none.
type consumption struct {
	Consumer
	store    *Store
	position int64 // -1: not read yet
	saved    time.Time
}

// Consume applies the log to a consumer until ctx ends. Faults are retried for ever: a consumer never skips an event. A
// GapError is returned, because going on would be wrong.
func (s *Store) Consume(ctx context.Context, c Consumer) error {
	retry := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	at := &consumption{Consumer: c, store: s, position: -1}
	for ctx.Err() == nil {
		err := at.step(ctx)
		switch {
		case err == nil:
			retry.Reset()
		case ctx.Err() != nil:
		default:
			if _, gap := errors.AsType[*GapError](err); gap {
				return fmt.Errorf("consumer %s: %w", c.Name, err)
			}
			s.cfg.Logger.Error("a consumer could not go on", "consumer", c.Name, "error", err)
			at.position = -1 // the outcome of a commit may be unknown: the stored checkpoint tells
			sleep(ctx, retry.NextBackOff())
		}
	}
	return nil
}

// step reads once and deals with what there is.
func (c *consumption) step(ctx context.Context) error {
	if c.position < 0 {
		position, err := c.store.Checkpoint(ctx, c.Name)
		if err != nil {
			return err
		}
		c.position = position
	}
	records, err := c.store.Read(ctx, Lifecycle, c.position, consumerBatch)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		_ = c.store.Wait(ctx, Lifecycle, c.position) // ends early only with ctx, which the loop looks at
		return nil
	}
	if c.wantsAny(records) || time.Since(c.saved) >= consumerSave {
		err = c.apply(ctx)
	} else {
		c.position = records[len(records)-1].Position
	}
	if err == nil && len(records) < consumerBatch {
		sleep(ctx, c.store.cfg.Linger)
	}
	return err
}

func (c *consumption) wantsAny(records []Record) bool {
	return c.Wants == nil || slices.ContainsFunc(records, c.Wants)
}

// apply applies one batch and moves the checkpoint in one transaction. The row lock makes one process at a time do so; if
// another has gone further meanwhile, this one goes on from there.
func (c *consumption) apply(ctx context.Context) error {
	position := c.position
	err := c.store.inTx(ctx, func(tx pgx.Tx) error {
		var stored int64
		err := tx.QueryRow(ctx, sqlLockConsumer, c.Name).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) {
			_, err = tx.Exec(ctx, sqlEnsureConsumer, c.Name, Lifecycle)
			return err // the next step finds it
		}
		if err != nil {
			return fmt.Errorf("lock checkpoint: %w", err)
		}
		position = max(position, stored)
		records, err := c.store.readFrom(ctx, tx, Lifecycle, position, consumerBatch)
		if err != nil || len(records) == 0 {
			return err
		}
		if c.wantsAny(records) {
			if err := c.Apply(ctx, tx, records); err != nil {
				return fmt.Errorf("apply positions %d to %d: %w", records[0].Position, records[len(records)-1].Position, err)
			}
		}
		position = records[len(records)-1].Position
		_, err = tx.Exec(ctx, sqlMoveConsumer, c.Name, position)
		return err
	})
	if err != nil {
		return err
	}
	c.position, c.saved = position, time.Now()
	return nil
}

// Checkpoint returns where a consumer with an effect elsewhere has got to, 0 if it never began.
func (s *Store) Checkpoint(ctx context.Context, name string) (int64, error) {
	var position int64
	err := s.cfg.Readers.QueryRow(ctx, sqlCheckpoint, name).Scan(&position)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read checkpoint %s: %w", name, err)
	}
	return position, nil
}

// SaveCheckpoint stores where a consumer with an effect elsewhere has got to. Only the owner may call it.
func (s *Store) SaveCheckpoint(ctx context.Context, name string, lane Lane, position int64) error {
	if _, err := s.cfg.Readers.Exec(ctx, sqlSetConsumer, name, lane, position); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", name, err)
	}
	return nil
}

// Ownership is the right of one process to act for a name. It is a session lock on a connection of its own, so it ends
// with the process.
type Ownership struct {
	conn *pgxpool.Conn
	lost chan struct{}
	stop context.CancelFunc
	done chan struct{}
	once sync.Once
}

// ownershipProbe is how often the owner looks whether its connection still lives.
const ownershipProbe = time.Second

// Own waits until this process owns the name.
func (s *Store) Own(ctx context.Context, name string) (*Ownership, error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte("rekey.own." + name)) // a hash never fails to write
	key := int64(h.Sum64())
	for {
		conn, err := s.cfg.Readers.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("acquire a connection: %w", err)
		}
		var owned bool
		err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", key).Scan(&owned)
		if err == nil && owned {
			return watch(conn), nil
		}
		conn.Release()
		if err != nil {
			return nil, fmt.Errorf("take ownership of %s: %w", name, err)
		}
		if sleep(ctx, 10*s.cfg.Poll); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// watch probes the connection that holds the lock until the ownership is released.
func watch(conn *pgxpool.Conn) *Ownership {
	ctx, cancel := context.WithCancel(context.Background())
	o := &Ownership{conn: conn, lost: make(chan struct{}), stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		for sleep(ctx, ownershipProbe); ctx.Err() == nil; sleep(ctx, ownershipProbe) {
			probe, done := context.WithTimeout(context.Background(), 2*ownershipProbe)
			err := conn.Ping(probe)
			done()
			if err != nil {
				close(o.lost)
				return
			}
		}
	}()
	return o
}

// Lost is closed when the lock may be somebody else's.
func (o *Ownership) Lost() <-chan struct{} { return o.lost }

// Release gives the name up; it may be repeated. The connection is closed, which also drops the lock when the server is
// slow to answer.
func (o *Ownership) Release() {
	o.once.Do(func() {
		o.stop()
		<-o.done
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = o.conn.Hijack().Close(ctx)
	})
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
