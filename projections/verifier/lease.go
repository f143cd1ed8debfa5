package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Spans of a lease.
const (
	// TTL is how long a lease lasts. It bounds how long a revoke can take when a replica is cut off.
	TTL = 3 * time.Second
	// renewEvery leaves room for two renewals that fail.
	renewEvery = time.Second
	// margin is how long before its lease a verifier stops trusting its memory: two machines do not count seconds alike.
	margin = 300 * time.Millisecond
	// allowance is how much longer the barrier waits than a lease says: after a failover the new database's clock may be
	// ahead of the one that the lease was given by.
	allowance = 500 * time.Millisecond
	// within bounds one statement, so that a network that swallows everything does not swallow the next renewal too.
	within = 900 * time.Millisecond
)

const (
	// The head is what must be applied before the next renewal, and the event is the one that was applied last, if the log
	// is still the same.
	sqlAcquire = `WITH gone AS (DELETE FROM verifier_leases WHERE expires_at < clock_timestamp() - interval '1 hour' AND id <> $1)
		INSERT INTO verifier_leases (id, applied_position, expires_at, name, started_at)
		VALUES ($1, $2, clock_timestamp() + $3, $4, clock_timestamp())
		ON CONFLICT (id) DO UPDATE SET applied_position = excluded.applied_position, expires_at = excluded.expires_at`
	sqlRenew = `UPDATE verifier_leases SET applied_position = greatest(applied_position, $2), expires_at = clock_timestamp() + $3
		WHERE id = $1 AND expires_at > clock_timestamp()`
	sqlWhere = `SELECT coalesce((SELECT position FROM events WHERE lane = 1 ORDER BY position DESC LIMIT 1), 0),
		coalesce((SELECT event_id FROM events WHERE lane = 1 AND position = $1), '')`
	// A report that is lost makes somebody wait longer, and no more.
	sqlReport = `UPDATE verifier_leases SET applied_position = greatest(applied_position, $2) WHERE id = $1`
	sqlLeave  = `DELETE FROM verifier_leases WHERE id = $1`
)

// trust is the right to answer from a memory until a moment.
type trust struct {
	memory *memory
	// until is that moment. Its wall clock counts too.
	until time.Time
}

// at reports whether the trust holds.
func (t *trust) at(now time.Time) bool {
	return t != nil && now.Before(t.until) && now.UnixNano() < t.until.UnixNano()
}

// tenure is what the holder of a lease knows about it.
type tenure struct {
	memory *memory
	// need is what must be applied before the lease is renewed.
	need int64
	// until is when the trust in it ends; zero: there is no lease.
	until time.Time
}

// keep holds a lease while there is a memory to trust, until ctx ends.
func (v *Verifier) keep(ctx context.Context) {
	ticker := time.NewTicker(v.cfg.RenewEvery)
	defer ticker.Stop()
	var t tenure
	for ctx.Err() == nil {
		if err := v.renew(ctx, &t); err != nil && ctx.Err() == nil {
			v.failed("hold the lease", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-v.loaded:
		}
	}
	v.trust.Store(nil)
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	if _, err := v.cfg.Pool.Exec(leave, sqlLeave, v.id); err != nil {
		v.cfg.Logger.Info("the lease was left to run out", "error", err)
	}
}

// renew prolongs the lease, or begins one.
func (v *Verifier) renew(ctx context.Context, t *tenure) error {
	m := v.memory.Load()
	if m == nil {
		return nil // nothing is loaded yet
	}
	if m != t.memory {
		*t = tenure{memory: m} // what the former one promised does not hold for this one
	}
	if !t.until.IsZero() && m.applied.Load() < t.need {
		return fmt.Errorf("the log is at %d at least, and applied up to %d", t.need, m.applied.Load())
	}
	sent := v.cfg.Now()
	lasts, err := v.write(ctx, t)
	if err != nil {
		return err
	}
	until := sent.Add(v.cfg.TTL - v.cfg.Margin)
	where, err := v.where(ctx, m)
	if err != nil {
		return err
	}
	if where.rewound {
		v.cfg.Logger.Error("the log is not the one that was followed; memory is loaded again", "applied", m.applied.Load())
		*t = tenure{}
		v.reload(m)
		return nil
	}
	unbroken := lasts && v.cfg.Now().Before(t.until)
	t.need, t.until = where.head, until
	if !unbroken && !v.reaches(ctx, m, where.head, until) {
		return fmt.Errorf("the log's head %d was not applied in time", where.head)
	}
	v.believe(m, until)
	v.recovered()
	return nil
}

// write prolongs the row, or makes one where there is none or the former has run out. It reports whether it was prolonged.
func (v *Verifier) write(ctx context.Context, t *tenure) (lasts bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if !t.until.IsZero() {
		tag, err := v.cfg.Pool.Exec(ctx, sqlRenew, v.id, t.memory.applied.Load(), v.cfg.TTL)
		if err != nil {
			return false, fmt.Errorf("renew: %w", err)
		}
		if tag.RowsAffected() > 0 {
			return true, nil
		}
	}
	if _, err := v.cfg.Pool.Exec(ctx, sqlAcquire, v.id, t.memory.applied.Load(), v.cfg.TTL, v.cfg.Name); err != nil {
		return false, fmt.Errorf("acquire: %w", err)
	}
	return false, nil
}

// position is where the log stands, after the lease was committed.
type position struct {
	head    int64
	rewound bool // the event that was applied last is not there, or is another one
}

func (v *Verifier) where(ctx context.Context, m *memory) (position, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	last := m.last.Load()
	var (
		p     position
		event domain.EventID
	)
	if err := v.cfg.Pool.QueryRow(ctx, sqlWhere, last.position).Scan(&p.head, &event); err != nil {
		return p, fmt.Errorf("read the log's head: %w", err)
	}
	p.rewound = event != last.event
	return p, nil
}

// reaches waits until a position is applied, or a moment has come.
func (v *Verifier) reaches(ctx context.Context, m *memory, head int64, until time.Time) bool {
	for m.applied.Load() < head {
		moved := m.moved.Next()
		if m.applied.Load() >= head {
			break
		}
		timer := time.NewTimer(until.Sub(v.cfg.Now()))
		select {
		case <-moved:
			timer.Stop()
		case <-timer.C:
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
	return v.cfg.Now().Before(until)
}

// report says that more is applied, to those who wait for it.
func (v *Verifier) report(ctx context.Context, applied int64) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	batch := &pgx.Batch{}
	batch.Queue("SELECT set_config('synchronous_commit', 'off', true)") // one implicit transaction with the next
	batch.Queue(sqlReport, v.id, applied)
	if err := v.cfg.Pool.SendBatch(ctx, batch).Close(); err != nil {
		v.cfg.Logger.Debug("what is applied could not be reported; the next renewal does it", "error", err)
	}
}
