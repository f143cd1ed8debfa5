package commands

import (
	"context"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// Barrier waits until what was committed at a position holds; a verifier.Barrier is one.
type Barrier interface {
	// Wait waits for every verifier.
	Wait(ctx context.Context, position int64) error
	// Near waits for the verifier of this process, for a moment at most.
	Near(ctx context.Context, position int64)
}

// execute carries out a command. One that somebody asked for, and that takes a right away, is done once that holds at
// every verifier (guarantee G1).
func (s *Service) execute(ctx context.Context, by By, c eventstore.Command) ([]eventstore.Record, error) {
	outcome := s.executeAll(ctx, by, []eventstore.Command{c})[0]
	return outcome.Records, outcome.Err
}

// executeAll carries out commands, joined, each as execute does.
func (s *Service) executeAll(ctx context.Context, by By, all []eventstore.Command) []eventstore.Outcome {
	outcomes := s.cfg.Store.ExecuteAll(ctx, all)
	if s.cfg.Barrier == nil || by.RequestID == "" { // nobody is told that it is done
		return outcomes
	}
	var last, changed int64
	for i, outcome := range outcomes {
		position, err := s.narrowed(ctx, all[i], outcome)
		if err != nil {
			outcomes[i].Err = err
		}
		last, changed = max(last, position), max(changed, lastOf(outcome, verifier.Changes))
	}
	if last == 0 {
		if changed > 0 { // who asks here what became of it must see it
			s.cfg.Barrier.Near(ctx, changed)
		}
		return outcomes
	}
	if err := s.cfg.Barrier.Wait(ctx, last); err != nil {
		for i := range outcomes {
			if outcomes[i].Err == nil {
				outcomes[i].Err = notYet(err)
			}
		}
	}
	return outcomes
}

// lastOf returns the position of the last event of a command that is of a kind, or 0.
func lastOf(outcome eventstore.Outcome, is func(domain.Event) bool) (position int64) {
	for _, r := range outcome.Records {
		if is(r.Event) {
			position = r.Position
		}
	}
	return position
}

// notYet says that something was done, and that nobody waited until it held everywhere.
func notYet(cause error) error {
	return domain.Refuse(domain.CodeUnavailable, "it was done, but may not hold at every replica yet; ask again to be sure").WithCause(cause)
}

// narrowed returns the position of the last event of a command that takes a right away, or 0. Where a command had nothing
// left to do, somebody else may have done it a moment ago: then what was done must hold too before it is said to be.
func (s *Service) narrowed(ctx context.Context, c eventstore.Command, outcome eventstore.Outcome) (position int64, err error) {
	if outcome.Err != nil {
		return 0, nil
	}
	position = lastOf(outcome, verifier.Narrows)
	if len(outcome.Records) > 0 || len(c.Writes) != 1 || !strings.HasPrefix(c.Writes[0], domain.PrefixLineage+"_") {
		return position, nil
	}
	return s.cfg.Store.LastPosition(ctx, c.Writes[0])
}

// recently is how long an answer that was kept may be ahead of a verifier: beyond it time alone has made it hold.
const recently = 15 * time.Second

// holds waits until an answer that was given at a moment holds at every verifier: the request that it was first made for
// may be waiting for that still.
func (s *Service) holds(ctx context.Context, at time.Time) error {
	if s.cfg.Barrier == nil || s.cfg.Now().Sub(at) > recently {
		return nil
	}
	head, err := s.cfg.Store.Head(ctx, eventstore.Lifecycle)
	if err != nil {
		return eventstore.Unavailable(err)
	}
	if err := s.cfg.Barrier.Wait(ctx, head); err != nil {
		return notYet(err)
	}
	return nil
}
