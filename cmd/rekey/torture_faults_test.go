package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// fault goes wrong with a replica, and is well again when it returns.
type fault struct {
	name string
	make func(ctx context.Context, x *torture, r *replica)
}

// bad is bad weather on a replica's line to Postgres for a while.
func bad(w weather, longest time.Duration) func(context.Context, *torture, *replica) {
	return func(ctx context.Context, _ *torture, r *replica) {
		r.postgres.be(w)
		defer r.postgres.be(weather{})
		pauseFor(ctx, 100*time.Millisecond, longest)
	}
}

var faults = []fault{
	{"postgres is slow", bad(weather{least: 50 * time.Millisecond, most: 500 * time.Millisecond}, 5*time.Second)},
	{"postgres is a little slow", bad(weather{least: time.Millisecond, most: 80 * time.Millisecond}, 5*time.Second)},
	{"no answers of postgres", bad(weather{holdAnswers: true}, 6*time.Second)},
	{"no requests to postgres", bad(weather{holdsRequests: true}, 6*time.Second)},
	{"nothing passes to postgres", bad(weather{holdsRequests: true, holdAnswers: true}, 6*time.Second)},
	{"cut off from postgres", bad(weather{refuses: true}, 5*time.Second)},
	{"connections are reset", func(_ context.Context, _ *torture, r *replica) { r.postgres.reset(); r.nats.reset() }},
	{"connections are forgotten", func(_ context.Context, _ *torture, r *replica) { r.postgres.forget(); r.nats.forget() }},
	{"cut off from nats", func(ctx context.Context, _ *torture, r *replica) {
		r.nats.be(weather{refuses: true})
		defer r.nats.be(weather{})
		pauseFor(ctx, time.Second, 4*time.Second)
	}},
	{"no answers of anything", func(ctx context.Context, _ *torture, r *replica) {
		r.nats.be(weather{holdAnswers: true})
		defer r.nats.be(weather{})
		r.postgres.be(weather{holdAnswers: true})
		defer r.postgres.be(weather{})
		pauseFor(ctx, 100*time.Millisecond, 6*time.Second)
	}},
	{"frozen", func(ctx context.Context, _ *torture, r *replica) {
		r.freeze()
		defer r.thaw()
		pauseFor(ctx, 100*time.Millisecond, 6*time.Second)
	}},
	{"frozen a little", func(ctx context.Context, _ *torture, r *replica) {
		r.freeze()
		defer r.thaw()
		pauseFor(ctx, 50*time.Millisecond, 800*time.Millisecond)
	}},
	{"frozen while nothing passes", func(ctx context.Context, _ *torture, r *replica) {
		r.postgres.be(weather{holdsRequests: true, holdAnswers: true})
		defer r.postgres.be(weather{})
		pauseFor(ctx, 100*time.Millisecond, time.Second)
		r.freeze()
		defer r.thaw()
		pauseFor(ctx, 100*time.Millisecond, 4*time.Second)
	}},
	{"killed", func(ctx context.Context, x *torture, r *replica) { x.count(r); r.reboot(ctx) }},
}

// pauseFor waits any time between two, or until ctx ends.
func pauseFor(ctx context.Context, least, most time.Duration) {
	timer := time.NewTimer(least + rand.N(most-least))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// deal makes faults in every replica, each at its own pace, until ctx ends. No fault comes again before all others did.
func (x *torture) deal(ctx context.Context) {
	deck := make(chan fault)
	x.load.Go(func() {
		for ctx.Err() == nil {
			for _, i := range rand.Perm(len(faults)) {
				select {
				case deck <- faults[i]:
				case <-ctx.Done():
				}
			}
		}
		close(deck)
	})
	for _, r := range x.replicas {
		x.load.Go(func() {
			for ctx.Err() == nil {
				pauseFor(ctx, 500*time.Millisecond, 3*time.Second)
				if f, more := <-deck; more && ctx.Err() == nil {
					f.make(ctx, x, r)
					x.happened(f.name)
				}
			}
		})
	}
}

// dealAll makes faults for all at once.
func (x *torture) dealAll(ctx context.Context, t testing.TB) {
	x.load.Go(func() {
		for round := 0; ; round++ {
			pauseFor(ctx, 5*time.Second, 9*time.Second)
			if ctx.Err() != nil {
				return
			}
			if round%3 == 2 {
				for _, r := range x.replicas {
					r.nats.reset()
				}
				x.happened("nats forgets everybody")
				continue
			}
			x.stopPostgres(t, round%3 == 1)
			pauseFor(ctx, 10*time.Millisecond, 2*time.Second)
			x.startPostgres(t)
			x.happened([]string{"postgres is restarted", "postgres crashes"}[round%3])
		}
	})
}

func (x *torture) happened(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.faults[name]++
}

// kinds is how many kinds of faults happened.
func (x *torture) kinds() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.faults)
}
