package workers

import (
	"sync"
	"time"
)

// gate bounds what one receiver gets of this process at once and per second, so that one that is slow or dead has few of
// the places that all receivers share. It is not a lock between processes: each has its own.
type gate struct {
	limit int           // at once
	every time.Duration // between two, on average; 0: no bound
	now   func() time.Time

	mu    sync.Mutex
	lanes map[string]*lane
}

// lane is what one receiver has.
type lane struct {
	inFlight int
	next     time.Time // when the rate would be kept without any burst
	turn     time.Time // the last time that somebody was told to come back at
	troubled bool      // its last attempt ended without an answer
}

const (
	// burst is how far a receiver may be ahead of its rate.
	burst = time.Second
	// turnAfter is the least that somebody waits who found no place, and turnEvery how far the turns are apart: a queue of
	// a thousand must not come back as one.
	turnAfter = 250 * time.Millisecond
	turnEvery = 50 * time.Millisecond
	// troubledLimit is for a host that does not answer, however many endpoints it has.
	troubledLimit = 4
	// manyLanes is when lanes that nobody uses are looked for.
	manyLanes = 4096
)

func newGate(limit int, every time.Duration, now func() time.Time) *gate {
	return &gate{limit: limit, every: every, now: now, lanes: map[string]*lane{}}
}

// enter takes a place, which leave gives back. Without one it says how long to stay away.
func (g *gate) enter(name string) (leave func(), wait time.Duration) {
	if name == "" {
		return func() {}, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	l := g.lane(name, now)
	if l.next.Sub(now) > burst+g.every { // no lane is that far ahead: the clock was set back
		l.next, l.turn = now, now
	}
	limit := g.limit
	if l.troubled {
		limit = min(limit, troubledLimit)
	}
	if ahead := l.next.Sub(now); l.inFlight >= limit || g.every > 0 && ahead > burst {
		l.turn = latest(l.turn, now.Add(turnAfter)).Add(turnEvery)
		return nil, l.turn.Sub(now)
	}
	l.inFlight++
	l.next = latest(l.next, now).Add(g.every)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		l.inFlight--
	}, 0
}

// note records whether a receiver answers at all.
func (g *gate) note(name string, answers bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l, ok := g.lanes[name]; ok {
		l.troubled = !answers
	}
}

func (g *gate) lane(name string, now time.Time) *lane {
	if l, ok := g.lanes[name]; ok {
		return l
	}
	if len(g.lanes) >= manyLanes {
		for other, l := range g.lanes {
			if l.inFlight == 0 && !l.troubled && !l.next.After(now) && !l.turn.After(now) {
				delete(g.lanes, other)
			}
		}
	}
	l := &lane{}
	g.lanes[name] = l
	return l
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
