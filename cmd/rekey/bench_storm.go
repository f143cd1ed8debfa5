package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

const (
	stormAim = 0.5
	// stormCallers is how many ask for rotations at once, for the limit: as many as one transaction joins.
	stormCallers = 256
)

// storm is a database in which many keys are due at the same moment, and as many others that callers rotate for the limit.
type storm struct {
	p      *benchProcess
	share  int // of one round
	manual []domain.KeyID

	sweeping, calling spent
}

func benchStorm(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	s := &storm{p: p, share: b.keys / b.rounds}
	began := time.Now()
	if _, err := p.importKeys(ctx, "storm", b.keys, nil); err != nil {
		return nil, err
	}
	p.moveClock(2*benchInterval + time.Hour)
	// Those of the limit are imported after the jump: they are not due.
	if s.manual, err = p.importKeys(ctx, "limit", s.share*b.rounds, nil); err != nil {
		return nil, err
	}
	imported := time.Since(began)
	due, err := p.count(ctx, sqlDueNow(p))
	if err != nil || due != b.keys {
		return nil, fmt.Errorf("%d of %d keys are due: %w", due, b.keys, err)
	}
	rounds, err := b.byTurns(func() (float64, error) { return s.callers(ctx) }, func() (float64, error) { return s.sweep(ctx) })
	if err != nil {
		return nil, err
	}
	if err := s.finish(ctx); err != nil {
		return nil, err
	}
	return []benchFigure{{
		name: "storm", unit: "rotations/s", aim: stormAim, rounds: rounds,
		note: fmt.Sprintf("%d keys due at once, each rotated once; %d keys imported in %s; cpu %d us each, limit %d us", b.keys, 2*b.keys,
			imported.Round(100*time.Millisecond), s.sweeping.each().Microseconds(), s.calling.each().Microseconds()),
	}}, nil
}

func sqlDueNow(p *benchProcess) string {
	return fmt.Sprintf(`SELECT count(*) FROM due_work WHERE kind = 'rotate' AND due_at <= '%s'`, p.cfg.Now().UTC().Format(time.RFC3339Nano))
}

// callers rotates keys of its own by commands that are joined, as many at once as fill a transaction.
func (s *storm) callers(ctx context.Context) (float64, error) {
	var next atomic.Int64
	var wait sync.WaitGroup
	failures := make(chan error, stormCallers)
	mine := s.manual[:s.share]
	s.manual = s.manual[s.share:]
	defer s.calling.count()()
	s.calling.times += len(mine)
	began := time.Now()
	for range stormCallers {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(mine); i = int(next.Add(1)) - 1 {
				if _, err := s.p.commands.RotateKey(ctx, s.p.by, commands.RotateKey{KeyID: mine[i]}); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	select {
	case err := <-failures:
		return 0, err
	default:
		return float64(len(mine)) / took.Seconds(), nil
	}
}

// sweep lets workers run until they have rotated one round's share. What is counted begins with their first commit and ends
// with the one that completes the share: how long a process takes to start is no part of it.
func (s *storm) sweep(ctx context.Context) (rate float64, err error) {
	before, err := s.p.store.Head(ctx, eventstore.Lifecycle)
	if err != nil {
		return 0, err
	}
	due, err := s.p.count(ctx, sqlDueNow(s.p))
	if err != nil {
		return 0, err
	}
	until := before + int64(min(s.share, due)) // a stop may come some batches late
	defer s.sweeping.count()()
	return rate, s.p.working(ctx, func(ctx context.Context) error {
		first, err := s.p.tail(ctx, before)
		if err != nil {
			return err
		}
		began, head := time.Now(), first
		for head < until && err == nil {
			head, err = s.p.tail(ctx, head)
		}
		rate = float64(head-first) / time.Since(began).Seconds()
		s.sweeping.times += int(head - before)
		return err
	})
}

// finish looks whether the storm has done what it should: each key has rotated exactly once, and nothing is due.
func (s *storm) finish(ctx context.Context) error {
	for {
		n, err := s.p.sweepOnce(ctx, stormCallers) // what the division into rounds has left
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	due, err := s.p.count(ctx, sqlDueNow(s.p))
	if err != nil || due > 0 {
		return fmt.Errorf("%d keys are still due: %w", due, err)
	}
	twice, err := s.p.count(ctx, `SELECT count(*) FROM (SELECT FROM rotations WHERE trigger = 'interval' GROUP BY lineage_id HAVING count(*) <> 1) odd`)
	if err != nil || twice > 0 {
		return fmt.Errorf("%d keys have not rotated exactly once: %w", twice, err)
	}
	return nil
}
