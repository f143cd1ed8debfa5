package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// reservation is a request for more of an allowance, or to end a share of it. It says all that the database needs to know, so that
// it may be carried out late, or never.
type reservation struct {
	key    budgetKey
	limit  int64
	period time.Time // what spent was counted in; zero: in none
	spent  int64
	wanted int64 // 0: the share ends
	number int64
}

// compare puts requests in the order in which rows are locked.
func (a reservation) compare(b reservation) int {
	return cmp.Or(slices.Compare(a.key.lineage[:], b.key.lineage[:]), cmp.Compare(budgetKinds[a.key.kind], budgetKinds[b.key.kind]),
		cmp.Compare(a.key.window, b.key.window))
}

// reserved is what the database says to it.
type reserved struct {
	period     time.Time
	granted    int64
	unreserved int64
	left       *int64    // how long the period lasts, in microseconds; nil: for ever
	sent       time.Time // before the request left
}

const (
	sqlReserveUses = `SELECT number, starts_at, granted, unreserved, left_micros
		FROM reserve_uses($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	// What ended long ago: allowances, and shares of replicas that ended. One that is alive asks, or gives back, each second.
	sqlForgetBudgets = `DELETE FROM limit_budgets WHERE ends_at < now() - interval '7 days'`
	sqlForgetShares  = `DELETE FROM limit_shares WHERE asked_at < now() - interval '7 days'`

	reserveAtOnce = 500 // requests in one transaction
)

// refill sees that somebody asks for more of an allowance, and returns what to wait for; nil if there is something again.
func (l *Limiter) refill(b *budget, limit int64) *refill {
	now := l.cfg.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil
	}
	if b.filling == nil {
		if g := b.grant.Load(); g != nil && g.limit == limit && g.left.Load() > 0 && (g.until.IsZero() || now.Before(g.until)) {
			return nil
		}
		if until := l.down.Load(); until != 0 && int64(now.Sub(l.start)) < until {
			r := &refill{done: make(chan struct{}), err: eventstore.Unavailable(errors.New("allowances could not be reserved a moment ago"))}
			close(r.done)
			return r
		}
		b.filling = &refill{done: make(chan struct{})}
		go l.run(b, limit, b.filling)
	}
	b.filling.waiting++
	return b.filling
}

// run carries a refill out. It does not end with the request that began it, because others wait too; each query is bounded.
func (l *Limiter) run(b *budget, limit int64, r *refill) {
	l.finish(b, r, l.fill(b, limit))
}

// finish tells those who wait.
func (l *Limiter) finish(b *budget, r *refill, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.err, b.crowd, b.filling = err, r.waiting, nil
	close(r.done)
}

// fill asks for another grant.
func (l *Limiter) fill(b *budget, limit int64) error {
	b.adapt(l.cfg.Now())
	b.settle()
	if b.ending {
		if err := l.tell(b, l.askOf(b, 0, 0)); err != nil {
			return err
		}
	}
	return l.tell(b, l.askOf(b, limit, b.want))
}

// askOf is the next request for a budget.
func (l *Limiter) askOf(b *budget, limit, wanted int64) reservation {
	b.shared, b.ending = true, b.ending || wanted == 0
	return reservation{b.key, limit, b.period, b.spent, wanted, l.numbers.Add(1)}
}

// tell sends one request together with others, and takes the answer over.
func (l *Limiter) tell(b *budget, a reservation) error {
	got, ok, err := l.asks.get(context.Background(), a)
	if err != nil {
		return asRefusal(err) // whether it was carried out is not known; the next request says all that this one did
	}
	if !ok { // rows were lost: what was counted is over, and the next share begins anew
		b.ending = true
		return eventstore.Unavailable(errors.New("a share of an allowance is not known any more"))
	}
	b.accept(a, got)
	return nil
}

// accept takes over what the database says of a request.
func (b *budget) accept(a reservation, got reserved) {
	if a.wanted == 0 {
		b.period, b.spent, b.ending, b.shared = time.Time{}, 0, false, false
		return
	}
	if !got.period.Equal(b.period) {
		b.period, b.spent = got.period, 0
	}
	g := &grant{limit: a.limit, size: got.granted, unreserved: got.unreserved, from: got.sent, seen: -1}
	if got.left != nil {
		// Counted from before the question, so it is over here before it is over there.
		g.windowEnds = got.sent.Add(time.Duration(*got.left) * time.Microsecond)
		g.until = g.windowEnds
	}
	if again := got.sent.Add(refusedFor); g.size == 0 && (g.until.IsZero() || again.Before(g.until)) {
		g.until = again
	}
	g.left.Store(g.size)
	b.grant.Store(g)
}

// reserve carries requests out.
func (l *Limiter) reserve(ctx context.Context, asks []reservation) (map[reservation]reserved, error) {
	found := make(map[reservation]reserved, len(asks))
	slices.SortFunc(asks, reservation.compare)
	for part := range slices.Chunk(asks, reserveAtOnce) {
		if err := l.reserveSome(ctx, part, found); err != nil {
			l.down.Store(int64(l.cfg.Now().Sub(l.start) + downFor))
			return nil, unavailable(err)
		}
	}
	l.down.Store(0)
	return found, nil
}

func (l *Limiter) reserveSome(ctx context.Context, asks []reservation, found map[reservation]reserved) error {
	n := len(asks)
	lineages, kinds, windows := make([]string, n), make([]string, n), make([]int32, n)
	limits, spent, wanted, numbers := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	periods := make([]pgtype.Timestamptz, n)
	byNumber := make(map[int64]reservation, n)
	for i, a := range asks {
		lineages[i], kinds[i], windows[i] = a.key.lineage.ID(domain.PrefixLineage), budgetKinds[a.key.kind], a.key.window
		limits[i], spent[i], wanted[i], numbers[i] = a.limit, a.spent, a.wanted, a.number
		periods[i] = pgtype.Timestamptz{Time: a.period, Valid: true}
		if a.period.IsZero() {
			periods[i] = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
		}
		byNumber[a.number] = a
	}
	sent := l.cfg.Now()
	rows, err := l.cfg.Pool.Query(ctx, sqlReserveUses, l.boot, lineages, kinds, windows, limits, periods, spent, wanted, numbers)
	if err != nil {
		return fmt.Errorf("reserve uses: %w", err)
	}
	var number int64
	got := reserved{sent: sent}
	_, err = pgx.ForEachRow(rows, []any{&number, &got.period, &got.granted, &got.unreserved, &got.left}, func() error {
		found[byNumber[number]] = got
		got.left = nil // each row has its own
		return nil
	})
	if err != nil {
		return fmt.Errorf("reserve uses: %w", err)
	}
	return nil
}

// Run gives back what is not used until ctx ends, and then all. What spends should end before it.
func (l *Limiter) Run(ctx context.Context) {
	l.clean(context.WithoutCancel(ctx))
	ticker := time.NewTicker(l.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			l.report(l.GiveBack(context.WithoutCancel(ctx), true))
			return
		case <-ticker.C:
			l.report(l.GiveBack(context.WithoutCancel(ctx), false))
		}
	}
}

func (l *Limiter) report(err error) {
	if err != nil {
		l.cfg.Logger.Info("allowances are not given back; it is tried again", "error", err)
	}
}

// clean is done once in a life: each adds a few rows.
func (l *Limiter) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for _, sql := range []string{sqlForgetBudgets, sqlForgetShares} {
		if _, err := l.cfg.Pool.Exec(ctx, sql); err != nil {
			l.cfg.Logger.Info("old allowances are not removed; the next start does it", "error", err)
			return
		}
	}
}

// GiveBack returns what has not been used since it was called the last time, or all there is. It takes a bounded time.
func (l *Limiter) GiveBack(ctx context.Context, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	ending := map[reservation]*budget{}
	for i := range l.shards {
		for _, b := range l.shards[i].all() {
			if a, ok := l.beginEnd(b, all); ok {
				ending[a] = b
			}
		}
	}
	var failed error
	for part := range slices.Chunk(slices.SortedFunc(maps.Keys(ending), reservation.compare), reserveAtOnce) {
		if failed == nil {
			var answers map[reservation]reserved
			answers, failed = l.reserve(ctx, part)
			for a, got := range answers {
				ending[a].accept(a, got)
			}
		}
		for _, a := range part {
			b := ending[a]
			l.finish(b, b.filling, nil)
			l.forget(b)
		}
	}
	return failed
}

// all lists the allowances of a shard.
func (s *limiterShard) all() []*budget {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.budgets))
}

// beginEnd closes a budget that is not used, and returns the request that ends its share. Until finish, who wants to spend
// from it waits.
func (l *Limiter) beginEnd(b *budget, all bool) (reservation, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.filling != nil || !b.unused() && !all {
		return reservation{}, false
	}
	if !b.shared && !b.ending { // it was never told of
		return reservation{}, false
	}
	b.filling = &refill{done: make(chan struct{})}
	b.settle()
	return l.askOf(b, 0, 0), true
}
