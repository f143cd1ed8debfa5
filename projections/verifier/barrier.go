package verifier

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// sqlLaggard is how far every verifier has got that somebody may still be answered by. The one of this process may be
// further than it has said there.
const sqlLaggard = `SELECT coalesce(min(greatest(applied_position, CASE WHEN id = $3 THEN $4 ELSE 0 END)), $1)
	FROM verifier_leases WHERE expires_at + $2 > clock_timestamp()`

const (
	// barrierPoll is how often leases are looked at while somebody waits: a small part of what a commit costs.
	barrierPoll = 2 * time.Millisecond
	// barrierPatience bounds one look.
	barrierPatience = time.Second
)

// BarrierConfig says what a Barrier works with. Pool is required; the zero value of the rest is usable.
type BarrierConfig struct {
	// Pool has the service's rights.
	Pool *pgxpool.Pool
	// Hint, if not nil, tells other processes that the log has moved to a position, as fast as may be. It may be lost.
	Hint func(position int64)
	// Local is the verifier of this process; nil means that it has none.
	Local *Verifier
	// TTL is that of the leases; 0 means what is usual.
	TTL time.Duration
	// Now is the clock; nil means time.Now. Its monotonic reading counts.
	Now func() time.Time
}

// Barrier lets a command wait until what it has committed holds at every verifier: each lease has applied it, or has run
// out. Where Postgres cannot be asked, time alone tells: a verifier that does not apply the log for two lives of a lease
// answers from its memory no more.
type Barrier struct {
	cfg BarrierConfig

	mu      sync.Mutex
	waiting []*waiter
	looking bool // a goroutine looks at the leases
}

// waiter is a command that waits for a position.
type waiter struct {
	position int64
	until    time.Time // when it holds in any case
	done     chan struct{}
}

// NewBarrier returns a Barrier.
func NewBarrier(cfg BarrierConfig) *Barrier {
	cfg.TTL = cmp.Or(cfg.TTL, TTL)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Hint == nil {
		cfg.Hint = func(int64) {}
	}
	return &Barrier{cfg: cfg}
}

// Wait returns once what was committed at a position before the call holds everywhere. It fails only when ctx ends first.
func (b *Barrier) Wait(ctx context.Context, position int64) error {
	w := &waiter{position: position, until: b.cfg.Now().Add(2*b.cfg.TTL + allowance), done: make(chan struct{})}
	b.cfg.Hint(position)
	b.mu.Lock()
	b.waiting = append(b.waiting, w)
	if !b.looking {
		b.looking = true
		go b.look()
	}
	b.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until position %d holds everywhere: %w", position, ctx.Err())
	}
}

// nearPatience bounds a wait that is for convenience only.
const nearPatience = 500 * time.Millisecond

// Near waits until this process has applied a position, if it answers from memory: so that who has changed something sees
// it here at once. It gives up soon, because nothing depends on it.
func (b *Barrier) Near(ctx context.Context, position int64) {
	if b.cfg.Local == nil {
		return
	}
	if t := b.cfg.Local.trust.Load(); t.at(b.cfg.Now()) {
		b.cfg.Local.reaches(ctx, t.memory, position, b.cfg.Now().Add(nearPatience))
	}
}

// look looks at the leases until nobody waits. A look serves only those who waited before it began.
func (b *Barrier) look() {
	for {
		var highest int64
		b.mu.Lock()
		before := len(b.waiting)
		for _, w := range b.waiting {
			highest = max(highest, w.position)
		}
		b.mu.Unlock()
		laggard, err := b.laggard(highest)
		if err != nil {
			laggard = 0 // time will tell
		}
		if b.release(before, laggard) {
			return
		}
		time.Sleep(barrierPoll)
	}
}

// laggard is the position that every live lease has applied. It gives the verifier of this process a moment to apply what
// is waited for: until then to ask about the others is in vain, and they take as long.
func (b *Barrier) laggard(wanted int64) (position int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), barrierPatience)
	defer cancel()
	var local string
	var applied int64
	if v := b.cfg.Local; v != nil {
		local = v.id
		if m := v.memory.Load(); m != nil { // the only one that is ever answered from, but for those loaded after this
			v.reaches(ctx, m, wanted, b.cfg.Now().Add(barrierPoll))
			applied = m.applied.Load()
		}
	}
	err = b.cfg.Pool.QueryRow(ctx, sqlLaggard, int64(math.MaxInt64), allowance, local, applied).Scan(&position)
	return position, err
}

// release lets those go who waited before a look, and whose position is applied or whose time has come. It reports whether
// nobody waits any more.
func (b *Barrier) release(before int, laggard int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now()
	var left []*waiter
	for i, w := range b.waiting {
		if i < before && w.position <= laggard || !now.Before(w.until) {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	b.waiting = left
	b.looking = len(left) > 0
	return !b.looking
}
