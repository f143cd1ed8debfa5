package embedded

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

const (
	// flushEvery and tallyEvery make a second together: so much a crash may lose.
	flushEvery = 900 * time.Millisecond
	tallyEvery = 100 * time.Millisecond
)

// counter counts uses as rekey does. What it counts goes through a tally, because rekey's counting takes an unpacked key.
type counter struct {
	tally tally
	own   atomic.Pointer[verifier.Record] // our own key, if it was used since the last look
	usage *projections.Usage
	grace *projections.GraceUses
}

func newCounter(pool *pgxpool.Pool, logger *slog.Logger) *counter {
	return &counter{
		usage: projections.NewUsage(projections.UsageConfig{Pool: pool, Logger: logger, Every: flushEvery}),
		grace: projections.NewGraceUses(pool, logger),
	}
}

// used counts a verify that said valid.
func (c *counter) used(r *verifier.Record, from netip.Addr, at time.Time) {
	from = from.Unmap().WithZone("")
	if !c.tally.add(r, from, at) {
		c.write(r, from, at, 1)
	}
}

// denied counts a verify that found the key and did not say valid.
func (c *counter) denied(r *verifier.Record, at time.Time) {
	of := r.Used()
	c.usage.Count(&of, netip.Addr{}, at, false)
}

// asked says that our own key was used. It counts once for all verifies between two looks: that it is in use is what
// matters of it.
func (c *counter) asked(r *verifier.Record) {
	if c.own.Load() != r {
		c.own.Store(r)
	}
}

// run hands over what is counted until ctx ends, and then all that is left.
func (c *counter) run(ctx context.Context) {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writers sync.WaitGroup
	writers.Go(func() { c.usage.Run(writing) })
	writers.Go(func() { c.grace.Run(writing) })
	ticker := time.NewTicker(tallyEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		c.handOver()
	}
	stop()
	writers.Wait()
}

func (c *counter) handOver() {
	if r := c.own.Swap(nil); r != nil {
		c.write(r, netip.Addr{}, time.Now(), 1)
	}
	c.tally.drain(c.write)
}

// write counts uses of one key.
func (c *counter) write(r *verifier.Record, from netip.Addr, at time.Time, times int64) {
	of := r.Used()
	for range times {
		c.usage.Count(&of, from, at, true)
	}
	if !r.InGrace() {
		return
	}
	key := r.Key()
	for range times {
		c.grace.Used(key, from, "", at)
	}
}
