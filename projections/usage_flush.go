package projections

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// flush is what was counted up to a moment, and is written next. It goes in pieces, one statement each: a large one would
// hold locks for long, and might never be done in time. Each piece has a number that is written with it: where its answer
// was lost it is sent again as it is, until it is answered, and was counted once all the same.
type flush struct {
	first  int64 // the number of the first piece
	uses   [usageShards]map[domain.KeyID]use
	number int64       // of the piece that is next
	rows   []*usageRow // what is not answered yet
}

// usageRow is one key's part of a flush.
type usageRow struct {
	id domain.KeyID
	use
}

var usageTable = table[usageRow]{
	name: "key_usage",
	key:  []string{"key_id"},
	columns: []column[usageRow]{
		col("key_id", "text", func(r *usageRow) string { return string(r.id) }),
		col("organization_id", "text", func(r *usageRow) string { return string(r.organization) }),
		col("last_used_at", "timestamptz", func(r *usageRow) time.Time { return r.at }),
		col("last_used_ip", "inet", func(r *usageRow) *netip.Addr { return optional(r.ip) }),
		col("use_count", "int8", func(r *usageRow) int64 { return r.count }),
	},
}

var sqlFlushUsage = flushUsage()

// flushUsage is the statement of a piece. One that is there already finds its number and adds nothing; one that may still
// be at work, on a connection that was given up, is waited for by the conflict.
func flushUsage() string {
	values, source := usageTable.unnest()
	boot, number := len(usageTable.columns)+1, len(usageTable.columns)+2
	return fmt.Sprintf(`WITH fresh AS (
		INSERT INTO usage_flushes AS f (boot_id, number, flushed_at) VALUES ($%[1]d, $%[2]d, now())
		ON CONFLICT (boot_id) DO UPDATE SET number = excluded.number, flushed_at = excluded.flushed_at
			WHERE f.number < excluded.number
		RETURNING f.number)
	INSERT INTO key_usage AS u (%[3]s, boot_id, flush_number) SELECT %[4]s, $%[1]d, $%[2]d FROM %[5]s WHERE EXISTS (SELECT FROM fresh)
	ON CONFLICT (key_id) DO UPDATE SET
		last_used_at = greatest(u.last_used_at, excluded.last_used_at),
		last_used_ip = CASE WHEN excluded.last_used_at >= u.last_used_at THEN excluded.last_used_ip ELSE u.last_used_ip END,
		use_count = u.use_count + excluded.use_count, boot_id = excluded.boot_id, flush_number = excluded.flush_number`,
		boot, number, strings.Join(usageTable.names(), ", "), values, source)
}

const (
	// sqlForgetFlushes removes numbers of replicas that ended. One that is alive and idle loses its number too, which
	// matters only if it has waited for an answer for all that time: that piece could then be counted twice.
	sqlForgetFlushes = `DELETE FROM usage_flushes WHERE flushed_at < now() - interval '7 days'`

	flushRows    = 5000             // a fraction of a second
	flushTimeout = 10 * time.Second // what is not written by then is left to the next flush
	stopTimeout  = 5 * time.Second
)

// Run writes uses until ctx ends, and then, within a bounded time, what is left. What counts uses should end before it.
func (u *Usage) Run(ctx context.Context) {
	u.forget(context.WithoutCancel(ctx))
	ticker := time.NewTicker(u.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			u.stop(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
			// It goes on when ctx ends: to break it off would only mean to send it again.
			_ = u.Flush(context.WithoutCancel(ctx)) // Flush has logged it, and the next one tries again
		}
	}
}

// forget is done once in a life, because each life adds one row.
func (u *Usage) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if _, err := u.cfg.Pool.Exec(ctx, sqlForgetFlushes); err != nil {
		u.cfg.Logger.Info("old numbers of usage flushes are not removed; the next start does it", "error", err)
	}
}

// stop writes what is left, or says what is lost.
func (u *Usage) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := u.Flush(ctx); err != nil {
		u.cfg.Logger.Error("uses are lost: they cannot be written, and this process ends", "uses", u.unwritten(), "error", err)
	}
}

// Flush writes all that was counted before, also what an earlier flush could not. It takes a bounded time.
func (u *Usage) Flush(ctx context.Context) error {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := u.settle(ctx)
	if err == nil {
		u.take()
		err = u.settle(ctx)
	}
	u.tell(err)
	return err
}

// take makes a flush of what waits.
func (u *Usage) take() {
	next := &flush{first: u.latest.number, number: u.latest.number}
	u.mu.Lock()
	for i := range u.shards {
		next.uses[i] = u.shards[i].take()
	}
	u.latest = next
	u.mu.Unlock()
	next.lay()
}

// lay makes rows of the uses, in the order of their keys: two replicas lock them in the same order.
func (f *flush) lay() {
	for _, shard := range f.uses {
		for id, use := range shard {
			f.rows = append(f.rows, &usageRow{id, use})
		}
	}
	slices.SortFunc(f.rows, func(a, b *usageRow) int { return strings.Compare(string(a.id), string(b.id)) })
}

// settle writes what is left of the latest flush.
func (u *Usage) settle(ctx context.Context) error {
	for f := u.latest; len(f.rows) > 0; {
		piece := f.rows[:min(flushRows, len(f.rows))]
		if err := u.write(ctx, piece, f.number); err != nil {
			return err
		}
		f.number++
		f.rows = f.rows[len(piece):]
	}
	u.latest.rows = nil
	return nil
}

func (u *Usage) write(ctx context.Context, piece []*usageRow, number int64) error {
	args := make([]any, 0, len(usageTable.columns)+2)
	for _, c := range usageTable.columns {
		args = append(args, c.array(piece))
	}
	if _, err := u.cfg.Pool.Exec(ctx, sqlFlushUsage, append(args, u.boot, number)...); err != nil {
		return fmt.Errorf("write usage: %w", err)
	}
	return nil
}

// tell logs what has changed: an outage when it begins and when it is over, and so with what it cost.
func (u *Usage) tell(err error) {
	switch {
	case err != nil && !u.failing:
		u.cfg.Logger.Warn("uses cannot be written; they wait in memory", "error", err)
	case err == nil && u.failing:
		u.cfg.Logger.Info("uses are written again")
	}
	u.failing = err != nil
	if u.failing && u.losing {
		return // how many it will be is known at its end
	}
	lost := u.dropped.Swap(0)
	u.losing = u.failing && lost > 0
	if lost > 0 {
		u.cfg.Logger.Warn("uses are lost: too many keys have uses that wait", "uses", lost, "outage", u.failing)
	}
}

// unwritten counts the uses that are in memory only.
func (u *Usage) unwritten() (uses int64) {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	for _, r := range u.latest.rows {
		uses += r.count
	}
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		for _, use := range s.uses {
			uses += use.count
		}
		s.mu.Unlock()
	}
	return uses + u.dropped.Load()
}
