package commands

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// RetireUnused ends old keys that nobody uses ahead of their grace, joined, and returns the outcome of each. What happened
// to one since it was found counts: then nothing does.
func (s *Service) RetireUnused(ctx context.Context, found []projections.UnusedKey) []eventstore.Outcome {
	all := make([]eventstore.Command, len(found))
	for i, k := range found {
		var policy domain.Policy
		all[i] = withPolicy(lineageCommand(System(domain.ActorSweep), k.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
			return l.RetireUnused(k.RotationID, k.Use, policy, now), nil
		}, nil), k.ProjectID, &policy)
	}
	return s.cfg.Store.ExecuteAll(ctx, all)
}
