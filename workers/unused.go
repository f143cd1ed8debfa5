package workers

import (
	"context"
	"errors"
	"time"

	"github.com/rekeyhq/rekey/projections"
)

// retireUnusedFor bounds one run. What is left over is found again a minute later.
const retireUnusedFor = 20 * time.Second

// retireUnused ends old keys that nobody uses ahead of their grace, in projects that want it (edge E20).
func (w *Workers) retireUnused(ctx context.Context) error {
	var after projections.UnusedKey
	retired := 0
	defer func() {
		if retired > 0 {
			w.cfg.Logger.Info("old keys ended ahead of their grace: nobody used them", "count", retired)
		}
	}()
	var failed error // one that fails keeps no other from its turn
	for began := time.Now(); time.Since(began) < retireUnusedFor && !w.stopping(); {
		found, err := w.cfg.Reader.Unused(ctx, after, sweepBatch)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, outcome := range w.cfg.Commands.RetireUnused(ctx, found) {
			failed = errors.Join(failed, outcome.Err)
			if len(outcome.Records) > 0 {
				retired++
			}
		}
		if len(found) < sweepBatch {
			break
		}
		after = found[len(found)-1]
	}
	return failed
}
