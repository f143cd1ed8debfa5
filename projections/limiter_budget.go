package projections

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// budget is what this replica holds of one allowance. Spending takes from the grant without a lock; the rest is for those
// who fill it and give it back, one at a time.
type budget struct {
	key   budgetKey
	grant atomic.Pointer[grant]

	mu      sync.Mutex
	filling *refill // under way; nil: none
	crowd   int64   // how many waited for the last one
	gone    bool    // forgotten: who still has it must look it up again

	// What this replica has told the database, or is about to. Only who fills it reads and writes this.
	period time.Time // the start of the period that the count is of
	spent  int64     // uses counted in it, without those of the grant
	want   int64     // how much to ask for
	ending bool      // the share is to end, and whether it did is not known: nothing else may be asked before
	shared bool      // the database may know of a share
}

// refill is one request for more, and those who wait for it.
type refill struct {
	done    chan struct{}
	err     error // once it is done
	waiting int64
}

const (
	minWanted = 8
	maxWanted = 1 << 16 // what a crash can lose, of a key that is used as often each second
	// A chunk that lasts for less than the first is followed by one of twice its size, one that lasts for longer than the
	// second by one of half of it: a key is asked about once in a second or so, and as much is lost by a crash.
	chunkTooSmall = time.Second
	chunkTooLarge = 4 * time.Second
)

// grant is a chunk that may be spent without asking, until a time.
type grant struct {
	limit      int64     // under which it was given
	size       int64     // 0: there was nothing left
	unreserved int64     // what was left to all when it was given
	from       time.Time // when it was asked for
	until      time.Time // when the period ends, or when to ask again after nothing was left; zero: never
	windowEnds time.Time // when the period ends; zero: never
	left       atomic.Int64
	seen       int64 // what was left when it was last looked at whether it is used; only giving back reads and writes it
}

// closed makes what is left of a grant so little that nobody can take from it, however many still try.
const closed = math.MinInt64 / 2

// close ends a grant and returns what was left.
func (g *grant) close() int64 { return max(0, g.left.Swap(closed)) }

// taken is what came of taking one use.
type taken struct {
	ok         bool
	remaining  int64
	retryAfter time.Duration
	from       *grant
}

// refund gives the use back, if there was one. One of a grant that was closed meanwhile counts as spent.
func (t taken) refund() {
	if t.ok {
		t.from.left.Add(1)
	}
}

// take takes from the grant, or finds out that there is nothing to be had. Otherwise it is not done: there is no grant, it
// is used up, or it was given under another limit or in a period that is over.
func (b *budget) take(limit int64, now time.Time) (out taken, done bool) {
	g := b.grant.Load()
	if g == nil || g.limit != limit || !g.until.IsZero() && !now.Before(g.until) {
		return out, false
	}
	if g.size == 0 {
		if !g.windowEnds.IsZero() {
			out.retryAfter = max(0, g.windowEnds.Sub(now))
		}
		return out, true
	}
	for left := g.left.Load(); left > 0; left = g.left.Load() {
		if g.left.CompareAndSwap(left, left-1) {
			return taken{ok: true, remaining: left - 1 + g.unreserved, from: g}, true
		}
	}
	return out, false
}

// settle closes the grant and adds what was spent of it. Only who fills the budget may.
func (b *budget) settle() {
	if g := b.grant.Swap(nil); g != nil {
		b.spent += g.size - g.close()
	}
}

// empty reports whether the database knows of nothing that this replica holds, and nobody changes that.
func (b *budget) empty() bool { return b.filling == nil && !b.shared && b.grant.Load() == nil }

// unused reports whether nothing was spent since it was asked the last time.
func (b *budget) unused() bool {
	g := b.grant.Load()
	if g == nil {
		return true
	}
	left := g.left.Load()
	again := left == g.seen
	g.seen = left
	return again
}

// adapt chooses how much to ask for, by how long the last chunk lasted and how many waited.
func (b *budget) adapt(now time.Time) {
	if g := b.grant.Load(); g != nil && g.size > 0 && g.left.Load() <= 0 {
		switch lasted := now.Sub(g.from); {
		case lasted < chunkTooSmall:
			b.want = 2 * b.want
		case lasted > chunkTooLarge:
			b.want = b.want / 2
		}
	}
	b.want = min(max(b.want, b.crowd, minWanted), maxWanted)
}
