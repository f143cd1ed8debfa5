package projections

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// LimiterConfig says what a Limiter works with. Pool is required; the zero value of the rest is usable.
type LimiterConfig struct {
	// Pool reserves, with the service's rights.
	Pool *pgxpool.Pool
	// Logger is told when allowances cannot be given back; nil means nothing is logged.
	Logger *slog.Logger
	// Every is how often what is not used is given back; 0 means each second.
	Every time.Duration
	// IDs names each life of a replica.
	IDs domain.IDs
	// Now is the clock; nil means time.Now. Only spans are taken from it: which window it is, the database's clock says.
	Now func() time.Time
}

// Limiter spends the allowances of lineages: their rate limits and budgets of uses. What it spends was reserved in Postgres
// before, in chunks, so that all replicas together never spend more than a limit allows, and most spending touches memory
// only. Lineages share no lock, and a key without limits costs one comparison.
//
// It errs to one side: what another replica holds, and what was lost with one that crashed, counts as spent. What is held
// and not used for a second is given back.
type Limiter struct {
	cfg     LimiterConfig
	boot    string       // names this life of the replica
	numbers atomic.Int64 // of its requests
	asks    *lookup[reservation, reserved]
	down    atomic.Int64 // until when the database is taken to be away, in nanoseconds since start; 0: it is not
	start   time.Time
	shards  [limiterShards]limiterShard
}

const (
	limiterShards = 64
	limiterEvery  = time.Second
	// refusedFor is how long an allowance that was used up is not asked for again: a flood of refusals costs a few
	// requests a second.
	refusedFor = 200 * time.Millisecond
	// downFor is how long nobody waits for a database that did not answer, so that waiting requests do not pile up.
	downFor = 250 * time.Millisecond
	// takeTries bounds how often one use is tried to be taken: others may take what was reserved, and a window may be over
	// before it is known.
	takeTries = 32
)

// limiterShard holds some lineages' allowances.
type limiterShard struct {
	mu      sync.RWMutex
	budgets map[budgetKey]*budget
}

// budgetKey names an allowance. A limit that gets another window or period has another one.
type budgetKey struct {
	lineage domain.UUID
	kind    budgetKind
	window  int32 // in seconds, of a rate; else 0
}

type budgetKind uint8

const (
	rateBudget budgetKind = iota
	totalBudget
	dayBudget
	monthBudget
)

// budgetKinds are the kinds as the database writes them.
var budgetKinds = [...]string{rateBudget: "rate", totalBudget: "total", dayBudget: "day", monthBudget: "month"}

// Spending is what came of an attempt to use a key. Remaining values are as far as this replica knows: what others hold
// counts as spent. They are -1 where nothing is known.
type Spending struct {
	Code           Code          // CodeValid, CodeRateLimited or CodeUsageExceeded
	RetryAfter     time.Duration // of CodeRateLimited: until the window ends
	RateRemaining  int64
	UsageRemaining int64
}

// Unspent is the spending of a use that no limit was asked about.
var Unspent = Spending{Code: CodeValid, RateRemaining: -1, UsageRemaining: -1}

// NewLimiter returns a Limiter. It gives back what is not used while it runs.
func NewLimiter(cfg LimiterConfig) *Limiter {
	cfg.Every = cmp.Or(cfg.Every, limiterEvery)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Limiter{cfg: cfg, boot: cfg.IDs.New("boot", time.Now()), start: cfg.Now()}
	l.asks = &lookup[reservation, reserved]{gather: lookupGather, fetch: l.reserve}
	for i := range l.shards {
		l.shards[i].budgets = map[budgetKey]*budget{}
	}
	return l
}

// Spend takes one use from the allowances of a lineage, of all or of none. It is called last, once nothing else refuses the
// key, so that a refusal costs nothing. An error means that what may be spent is not known: nothing was spent.
func (l *Limiter) Spend(ctx context.Context, lineage domain.UUID, limits *KeyLimits) (Spending, error) {
	out := Unspent
	if limits == nil {
		return out, nil
	}
	var usage taken
	if limit := limits.Usage; limit.Uses > 0 { // first, because who has no uses left need not come back when the window ends
		var err error
		if usage, err = l.take(ctx, budgetKey{lineage: lineage, kind: kindOf(limit.Period)}, limit.Uses); err != nil {
			return Spending{}, err
		}
		out.UsageRemaining = usage.remaining
		if !usage.ok {
			out.Code = CodeUsageExceeded
			return out, nil
		}
	}
	if limit := limits.Rate; limit.Requests > 0 {
		rate, err := l.take(ctx, budgetKey{lineage, rateBudget, int32(limit.WindowSeconds)}, limit.Requests)
		if err != nil {
			usage.refund()
			return Spending{}, err
		}
		out.RateRemaining = rate.remaining
		if !rate.ok {
			usage.refund()
			out.Code, out.RetryAfter = CodeRateLimited, rate.retryAfter
			if out.UsageRemaining >= 0 {
				out.UsageRemaining++
			}
		}
	}
	return out, nil
}

func kindOf(period domain.UsagePeriod) budgetKind {
	switch period {
	case domain.UsageDay:
		return dayBudget
	case domain.UsageMonth:
		return monthBudget
	}
	return totalBudget
}

// take takes one use of an allowance, and asks for more as long as there may be more.
func (l *Limiter) take(ctx context.Context, key budgetKey, limit int64) (taken, error) {
	for range takeTries {
		b := l.budget(key)
		if out, done := b.take(limit, l.cfg.Now()); done {
			return out, nil
		}
		r := l.refill(b, limit)
		if r == nil {
			continue // it has been filled, or was forgotten
		}
		select {
		case <-ctx.Done():
			return taken{}, eventstore.Unavailable(ctx.Err())
		case <-r.done:
		}
		if r.err != nil {
			return taken{}, r.err
		}
	}
	return taken{}, eventstore.Unavailable(errors.New("an allowance is spent faster than it can be reserved"))
}

// budget returns the allowance of a name, which is made where there is none.
func (l *Limiter) budget(key budgetKey) *budget {
	s := l.shard(key)
	s.mu.RLock()
	b := s.budgets[key]
	s.mu.RUnlock()
	if b != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b = s.budgets[key]; b == nil {
		b = &budget{key: key, want: minWanted}
		s.budgets[key] = b
	}
	return b
}

// shard spreads lineages by the end of their ids, which is random.
func (l *Limiter) shard(key budgetKey) *limiterShard {
	return &l.shards[binary.BigEndian.Uint64(key.lineage[8:])%limiterShards]
}

// forget drops an allowance that nobody uses. One that is being filled again stays.
func (l *Limiter) forget(b *budget) {
	s := l.shard(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.empty() {
		b.gone = true
		delete(s.budgets, b.key)
	}
}
