package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/signal"
)

// Config says what a Store works with. Pool is required; the zero value of the rest is usable.
type Config struct {
	// Pool serves the commands. It is of its own, so that readers cannot starve them.
	Pool *pgxpool.Pool
	// Readers serves reads, consumers and ownership; nil means Pool.
	Readers *pgxpool.Pool
	// Projection writes the read model with each append; nil writes none.
	Projection Projection
	// IDs makes the ids of events.
	IDs domain.IDs
	// Now is the clock of decisions; nil means time.Now.
	Now func() time.Time
	// Logger receives faults; nil means none are logged.
	Logger *slog.Logger
	// Writers is how many writers work side by side; 0 means 1. A second one mostly takes commands of which the first could
	// have made one larger transaction.
	Writers int
	// MaxBatch is how many commands one transaction may join; 0 means 256.
	MaxBatch int
	// MaxQueue is how many commands may wait; 0 means 4096. More are refused.
	MaxQueue int
	// Poll is how often readers look for events of other processes; 0 means 50 ms.
	Poll time.Duration
	// Linger is how long a consumer that found little waits before it reads again, so that one transaction of its own
	// covers many commits under load; 0 means 10 ms.
	Linger time.Duration
	// Observe, if not nil, is told of every joined transaction.
	Observe func(commands, events int, took time.Duration, err error)
}

// Store is the event log of one process.
type Store struct {
	cfg    Config
	queue  chan *pending
	commit signal.Signal
	recent recent

	mu     sync.RWMutex // guards closed against a concurrent enqueue
	closed bool
}

// pending is a command that waits for its outcome.
type pending struct {
	ctx     context.Context
	command Command
	outcome Outcome
	done    chan struct{}
}

// Outcome is what became of one command.
type Outcome struct {
	Records []Record // empty if the command decided that there is nothing to do
	Err     error
}

// New returns a Store. Commands wait until Run is started.
func New(cfg Config) *Store {
	cfg.Writers = cmp.Or(cfg.Writers, 1)
	cfg.MaxBatch = cmp.Or(cfg.MaxBatch, 256)
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, 4096)
	cfg.Poll = cmp.Or(cfg.Poll, 50*time.Millisecond)
	cfg.Linger = cmp.Or(cfg.Linger, 10*time.Millisecond)
	if cfg.Readers == nil {
		cfg.Readers = cfg.Pool
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{cfg: cfg, queue: make(chan *pending, cfg.MaxQueue)}
}

// Run decides and commits commands until ctx ends; then it finishes the waiting ones and refuses new ones. If it cannot
// start it refuses all of them, so that nobody waits for ever. A Store runs once.
func (s *Store) Run(ctx context.Context) error {
	if _, err := s.cfg.Pool.Exec(ctx, "SELECT ensure_partitions()"); err != nil {
		s.refuseAll(err)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("make partitions ahead: %w", err)
	}
	if s.isClosed() {
		return errors.New("run the event store: it was stopped before")
	}
	var writers sync.WaitGroup
	for range s.cfg.Writers {
		writers.Go(s.write)
	}
	<-ctx.Done()
	s.close()
	writers.Wait()
	return nil
}

// close refuses new commands and lets the writers end once the queue is empty.
func (s *Store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// refuseAll answers the waiting commands of a store that could not start.
func (s *Store) refuseAll(cause error) {
	s.close()
	for p := range s.queue {
		p.outcome = Outcome{Err: Unavailable(cause)}
		close(p.done)
	}
}

// tryNext takes another waiting command, if there is one.
func (s *Store) tryNext() (*pending, bool) {
	select {
	case p, ok := <-s.queue:
		return p, ok
	default:
		return nil, false
	}
}

// Execute decides one command and returns its events once they are committed. The error is a *domain.Error.
func (s *Store) Execute(ctx context.Context, command Command) ([]Record, error) {
	outcome := s.ExecuteAll(ctx, []Command{command})[0]
	return outcome.Records, outcome.Err
}

// ExecuteAll gives all commands to the writers at once and waits for each outcome, in the order of the commands. It waits
// for the true outcome also when ctx ends meanwhile, because a committed command must not be reported as failed; commands
// that no writer has taken by then are refused.
func (s *Store) ExecuteAll(ctx context.Context, commands []Command) []Outcome {
	waiting := make([]*pending, len(commands))
	outcomes := make([]Outcome, len(commands))
	for i, c := range commands {
		p := &pending{ctx: ctx, command: c, done: make(chan struct{})}
		if err := s.enqueue(p); err != nil {
			outcomes[i].Err = err
			continue
		}
		waiting[i] = p
	}
	for i, p := range waiting {
		if p != nil {
			<-p.done
			outcomes[i] = p.outcome
		}
	}
	return outcomes
}

func (s *Store) enqueue(p *pending) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return domain.Refuse(domain.CodeUnavailable, "this replica is stopping; nothing was done")
	}
	select {
	case s.queue <- p:
		return nil
	default:
		return domain.Refuse(domain.CodeOverloaded, "too many commands are waiting; nothing was done")
	}
}

// settle decides the commands of a batch on locked heads and gives each its outcome. If the joined transaction fails for a reason that may lie in one
// command, the batch is halved until the culprit is alone.
func (s *Store) settle(batch []*pending) {
	const attempts = 4 // of a transaction that lost a race against another process
	var err error
	for range attempts {
		began := time.Now()
		var events int
		events, err = s.transact(batch)
		s.observe(len(batch), events, began, err)
		if err == nil || !isRetryable(err) {
			break
		}
	}
	switch {
	case err == nil:
	case len(batch) > 1 && isCommandFault(err):
		s.settle(batch[:len(batch)/2])
		s.settle(batch[len(batch)/2:])
	default:
		s.refuse(batch, err)
	}
}

// refuse gives all commands the refusal that a failed transaction means.
func (s *Store) refuse(batch []*pending, err error) {
	refusal := translate(err)
	if state := sqlState(err); state != stateNotEmpty && state != stateInUse { // which are refusals like those of a decision, no failures
		s.cfg.Logger.Error("commands failed", "commands", len(batch), "error", err)
	}
	for _, p := range batch {
		p.outcome = Outcome{Err: refusal}
	}
}

func (s *Store) observe(commands, events int, began time.Time, err error) {
	if s.cfg.Observe != nil {
		s.cfg.Observe(commands, events, time.Since(began), err)
	}
}

// Read returns up to limit records of a lane after a position; they are consecutive, or it fails with a GapError.
func (s *Store) Read(ctx context.Context, lane Lane, after int64, limit int) ([]Record, error) {
	return s.readFrom(ctx, s.cfg.Readers, lane, after, limit)
}

// readFrom reads from memory where that reaches, else from the database.
func (s *Store) readFrom(ctx context.Context, q Querier, lane Lane, after int64, limit int) ([]Record, error) {
	if lane == Lifecycle {
		if records, ok := s.recent.after(after, limit); ok {
			return records, nil
		}
	}
	return ReadLane(ctx, q, lane, after, limit)
}

// Head returns the last position of a lane.
func (s *Store) Head(ctx context.Context, lane Lane) (int64, error) {
	return Head(ctx, s.cfg.Readers, lane)
}

// LastPosition returns where the newest event of a stream is in its lane, 0 if there is none.
func (s *Store) LastPosition(ctx context.Context, streamID string) (int64, error) {
	var position int64
	err := s.cfg.Readers.QueryRow(ctx, sqlLastPosition, streamID).Scan(&position)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, Unavailable(fmt.Errorf("read the end of stream %s: %w", streamID, err))
	}
	return position, nil
}

// Wake lets readers look for new events at once. It is a hint that another process has committed some.
func (s *Store) Wake() { s.commit.Fire() }

// Wait returns when the lane may have moved past a position: at once after a commit of this process, else after the poll
// interval. It is a hint, so that readers are fast; they are right without it.
func (s *Store) Wait(ctx context.Context, lane Lane, after int64) error {
	committed := s.commit.Next()
	if head, err := s.Head(ctx, lane); err == nil && head > after {
		return nil
	}
	timer := time.NewTimer(s.cfg.Poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-committed:
	case <-timer.C:
	}
	return nil
}

// inTx runs f in a transaction of the readers' pool and commits.
func (s *Store) inTx(ctx context.Context, f func(tx pgx.Tx) error) error {
	tx, err := s.cfg.Readers.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := f(tx); err != nil {
		rollback := tx.Rollback(context.WithoutCancel(ctx))
		if errors.Is(rollback, pgx.ErrTxClosed) {
			rollback = nil
		}
		return errors.Join(err, rollback)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}
