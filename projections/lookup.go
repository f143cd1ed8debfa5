package projections

import (
	"context"
	"sync"
	"time"
)

// lookup joins point reads that wait at the same time into one query, which costs Postgres a fraction of one query each.
// A read is only ever answered by a query that began after the read was asked for, so joining keeps it as fresh as a
// query of its own: what was committed before is seen.
type lookup[K comparable, V any] struct {
	fetch func(ctx context.Context, keys []K) (map[K]V, error)
	// gather is how long a query waits for more reads to join it. It only waits while reads do come in company: a lonely
	// read is never delayed.
	gather time.Duration

	mu      sync.Mutex
	next    *round[K, V] // the round that reads join now; nil if none waits
	running bool         // a goroutine is at work on rounds
	crowded bool         // the last round had company
	// away is why the last round was given up on after all its time; nil: it was not. Then one round at a time finds out
	// whether it still is so, and who comes meanwhile is refused at once: waiting would only pile them up.
	away error
}

// round is one query and those who wait for it.
type round[K comparable, V any] struct {
	keys  []K
	seen  map[K]struct{}
	reads int
	done  chan struct{}
	found map[K]V
	err   error
}

const (
	// lookupTimeout bounds one query; a caller with a shorter patience leaves earlier.
	lookupTimeout = 3 * time.Second
	lookupGather  = 400 * time.Microsecond
)

// get returns the value of a key, and whether there is one.
func (l *lookup[K, V]) get(ctx context.Context, key K) (value V, ok bool, err error) {
	r, err := l.join(key)
	if err != nil {
		return value, false, err
	}
	select {
	case <-ctx.Done():
		return value, false, ctx.Err()
	case <-r.done:
	}
	value, ok = r.found[key]
	return value, ok, r.err
}

// getAll returns the values of those keys that have one.
func (l *lookup[K, V]) getAll(ctx context.Context, keys []K) (map[K]V, error) {
	rounds := make([]*round[K, V], len(keys))
	for i, key := range keys {
		var err error
		if rounds[i], err = l.join(key); err != nil {
			return nil, err
		}
	}
	found := make(map[K]V, len(keys))
	for i, r := range rounds {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.done:
		}
		if r.err != nil {
			return nil, r.err
		}
		if value, ok := r.found[keys[i]]; ok {
			found[keys[i]] = value
		}
	}
	return found, nil
}

// join adds the key to the round that has not begun yet, and sees that somebody works on it.
func (l *lookup[K, V]) join(key K) (*round[K, V], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil && l.running {
		return nil, l.away
	}
	if l.next == nil {
		l.next = &round[K, V]{seen: map[K]struct{}{}, done: make(chan struct{})}
	}
	r := l.next
	r.reads++
	if _, again := r.seen[key]; !again {
		r.seen[key] = struct{}{}
		r.keys = append(r.keys, key)
	}
	if !l.running {
		l.running = true
		go l.run(l.crowded)
	}
	return r, nil
}

// run asks for one round after the other until nobody waits.
func (l *lookup[K, V]) run(crowded bool) {
	for {
		if crowded {
			time.Sleep(l.gather)
		}
		r := l.begin()
		if r == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		r.found, r.err = l.fetch(ctx, r.keys)
		l.judge(r.err, ctx.Err() != nil)
		cancel()
		close(r.done)
		crowded = r.reads > 1
	}
}

// judge keeps in mind whether a round took all its time in vain; those who wait for the next one then need not wait as long.
func (l *lookup[K, V]) judge(err error, late bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = nil
	if err == nil || !late {
		return
	}
	l.away = err
	if l.next != nil {
		l.next.err = err
		close(l.next.done)
		l.next = nil
	}
}

// begin closes the round to further reads. Without one the work is done.
func (l *lookup[K, V]) begin() *round[K, V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.next
	l.next = nil
	if r == nil {
		l.running = false
		return nil
	}
	l.crowded = r.reads > 1
	return r
}
