package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// UsageProjectionConfig says what a UsageProjection works with. Pool is required.
type UsageProjectionConfig struct {
	// Pool reads the lane and writes the tables, with the service's rights.
	Pool *pgxpool.Pool
	// Logger receives what stops it; nil means nothing is logged.
	Logger *slog.Logger
	// Poll is how often it looks for more; 0 means every 150 ms.
	Poll time.Duration
	// MaxEvents bounds one run; 0 means 1000.
	MaxEvents int
}

// UsageProjection adds what replicas counted to key_usage and to the series: it reads the lane for usage and joins what it
// finds, so that a key that is in many events costs one row. What it adds commits together with how far it has read, so
// each event counts once, whatever fails. Any number of processes may run one; they take turns.
//
// It rests nine times as long as it worked. So when little is used, each use is seen at once; when very much is used, the
// tables follow later, and the processor is left to verifies. The later they follow the more is joined in one run.
type UsageProjection struct {
	cfg     UsageProjectionConfig
	pending *usageMark
	failing bool
}

// usageMark says up to when the uses of replicas are in the tables, once all up to a position is.
type usageMark struct {
	head  int64
	boots []string
	until []time.Time
}

const (
	usagePoll = 150 * time.Millisecond
	// usageRunEvents and usageRunSubjects bound one run, and its memory to some tens of megabytes.
	usageRunEvents   = 1000
	usageRunSubjects = 1 << 17
	usagePage        = 32 // events, of up to 100 KB
	usageRunTimeout  = time.Minute
	usageRetry       = 2 * time.Second
)

const (
	// There is something to do if the lane has more, or if it is time to say up to when there was nothing.
	sqlUsageDue = `SELECT resumes_at <= clock_timestamp() AND (applied_at < clock_timestamp() - interval '1 second'
			OR position < coalesce((SELECT e.position FROM events e WHERE e.lane = 2 ORDER BY e.position DESC LIMIT 1), 0))
		FROM usage_projection`
	// One that another process holds is left to it.
	sqlLockUsage = `SELECT position FROM usage_projection FOR UPDATE SKIP LOCKED`
	sqlUnapplied = `SELECT boot_id, complete_until FROM usage_flushes WHERE applied_until < complete_until`
	// It rests nine times as long as the transaction took.
	sqlMoveUsage = `UPDATE usage_projection SET position = $1, applied_at = clock_timestamp(),
		resumes_at = clock_timestamp() + 9 * (clock_timestamp() - now())`
	sqlMarkApplied = `UPDATE usage_flushes f SET applied_until = greatest(f.applied_until, a.until)
		FROM unnest($1::text[], $2::timestamptz[]) AS a(boot, until) WHERE f.boot_id = a.boot`
)

// NewUsageProjection returns a UsageProjection, which works while it runs.
func NewUsageProjection(cfg UsageProjectionConfig) *UsageProjection {
	cfg.Poll = cmp.Or(cfg.Poll, usagePoll)
	cfg.MaxEvents = cmp.Or(cfg.MaxEvents, usageRunEvents)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &UsageProjection{cfg: cfg}
}

// Run works until ctx ends. Faults are retried. If the lane has a hole it stops for good: counts stand still, and the moment
// up to which they are complete with them, but keys are verified all the same.
func (p *UsageProjection) Run(ctx context.Context) {
	for wait := p.cfg.Poll; ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := p.applyIfDue(ctx)
		if ctx.Err() != nil {
			return
		}
		p.tell(err)
		if _, gap := errors.AsType[*eventstore.GapError](err); gap {
			return
		}
		if wait = p.cfg.Poll; err != nil {
			wait = max(wait, usageRetry)
		}
	}
}

// tell logs when it cannot go on, and when it can again.
func (p *UsageProjection) tell(err error) {
	switch {
	case err != nil && !p.failing:
		p.cfg.Logger.Error("counts of uses stand still: what was written cannot be added to them", "error", err)
	case err == nil && p.failing:
		p.cfg.Logger.Info("counts of uses go on")
	}
	p.failing = err != nil
}

func (p *UsageProjection) applyIfDue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, usageRunTimeout)
	defer cancel()
	var due bool
	if err := p.cfg.Pool.QueryRow(ctx, sqlUsageDue).Scan(&due); err != nil {
		return fmt.Errorf("look for uses: %w", err)
	}
	if !due {
		return nil
	}
	_, err := p.Apply(ctx)
	return err
}

// Apply adds what came, up to a bound, and reports whether there may be more. If another process is at it, it does nothing.
func (p *UsageProjection) Apply(ctx context.Context) (more bool, err error) {
	mark := p.pending
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		var position int64
		err := tx.QueryRow(ctx, sqlLockUsage).Scan(&position)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock the checkpoint of usage: %w", err)
		}
		// All of it can be made again from the lane, so the commit need not wait for the disk.
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = off`); err != nil {
			return fmt.Errorf("set up the transaction: %w", err)
		}
		if mark == nil {
			if mark, err = markUsage(ctx, tx); err != nil {
				return err
			}
		}
		position, more, err = p.addEvents(ctx, tx, position)
		if err != nil {
			return err
		}
		if position >= mark.head {
			if _, err := tx.Exec(ctx, sqlMarkApplied, mark.boots, mark.until); err != nil {
				return fmt.Errorf("say up to when uses are counted: %w", err)
			}
			mark = nil
		}
		_, err = tx.Exec(ctx, sqlMoveUsage, position)
		return err
	})
	if err != nil {
		return false, err
	}
	p.pending = mark
	return more, nil
}

// markUsage notes up to when replicas have written, and then the head: all that they have written is not behind it, because
// each says so in the transaction of its events. While the tables follow from afar, the mark stays until they have reached it.
func markUsage(ctx context.Context, tx pgx.Tx) (*usageMark, error) {
	m := &usageMark{}
	rows, err := tx.Query(ctx, sqlUnapplied)
	if err != nil {
		return nil, fmt.Errorf("ask up to when uses are written: %w", err)
	}
	var boot string
	var until time.Time
	if _, err := pgx.ForEachRow(rows, []any{&boot, &until}, func() error {
		m.boots, m.until = append(m.boots, boot), append(m.until, until)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("ask up to when uses are written: %w", err)
	}
	m.head, err = eventstore.Head(ctx, tx, eventstore.Usage)
	return m, err
}

// addEvents adds events after a position to the tables, and returns the last one's.
func (p *UsageProjection) addEvents(ctx context.Context, tx pgx.Tx, position int64) (last int64, more bool, err error) {
	fold := usageFold{}
	for read := 0; read < p.cfg.MaxEvents && len(fold) < usageRunSubjects; {
		page := min(usagePage, p.cfg.MaxEvents-read)
		records, err := eventstore.ReadLane(ctx, tx, eventstore.Usage, position, page)
		if err != nil {
			return 0, false, err
		}
		for i := range records {
			used, ok := records[i].Data.(domain.Used)
			if !ok {
				return 0, false, fmt.Errorf("position %d is %T in the lane for usage", records[i].Position, records[i].Data)
			}
			fold.add(&records[i].Event, &used)
		}
		read, position = read+len(records), position+int64(len(records))
		if len(records) < page {
			return position, false, fold.write(ctx, tx)
		}
	}
	return position, true, fold.write(ctx, tx)
}
