package workers

import (
	"context"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

const (
	// breakerOpens is after how many failures in a row an endpoint is left alone.
	breakerOpens = 5
	// breakerPause is the first pause; each further one is twice as long, up to maxBreakerPause.
	breakerPause    = 30 * time.Second
	maxBreakerPause = 15 * time.Minute
)

const (
	// Failures that come in after the breaker has opened, of attempts that were under way, do not make the pause longer.
	sqlEndpointFailed = `INSERT INTO endpoint_health AS h (endpoint_id, state, consecutive_failures, first_failure_at)
		VALUES ($1, 'closed', 1, $2)
		ON CONFLICT (endpoint_id) DO UPDATE SET
			consecutive_failures = h.consecutive_failures + 1,
			first_failure_at = coalesce(h.first_failure_at, $2),
			state = CASE WHEN h.state <> 'closed' OR h.consecutive_failures + 1 >= $3 THEN 'open' ELSE 'closed' END,
			opens = h.opens + CASE WHEN h.state = 'half_open' OR h.state = 'closed' AND h.consecutive_failures + 1 >= $3 THEN 1 ELSE 0 END,
			opened_at = CASE WHEN h.state = 'closed' AND h.consecutive_failures + 1 >= $3 THEN $2 ELSE h.opened_at END,
			next_probe_at = CASE WHEN h.state = 'half_open' OR h.state = 'closed' AND h.consecutive_failures + 1 >= $3
				THEN $2 + least($4::interval * power(2, least(h.opens, 20)), $5::interval) ELSE h.next_probe_at END
		RETURNING state, next_probe_at`
	sqlEndpointWorks = `UPDATE endpoint_health SET state = 'closed', consecutive_failures = 0, opens = 0, first_failure_at = NULL,
		opened_at = NULL, next_probe_at = NULL, last_success_at = $2 WHERE endpoint_id = $1`
	// What waits for an endpoint that is left alone waits at least until it is tried again, and not all for the same moment.
	// A delivery that is locked is being worked on: it finds the breaker open by itself.
	sqlPutOff = `UPDATE webhook_deliveries d SET next_attempt_at = greatest(d.next_attempt_at, $2::timestamptz + random() * $3::interval)
		FROM (SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'pending' FOR UPDATE SKIP LOCKED) waiting
		WHERE d.id = waiting.id`
)

// noteHealth records how an endpoint fares. It is no part of the transaction that records the attempt: rows that many
// deliveries share would make those wait for each other, and a lost note costs one more attempt.
func (w *Workers) noteHealth(ctx context.Context, d *delivery, result webhook.Result) {
	var err error
	switch result.Outcome {
	case webhook.Canceled, webhook.InvalidRequest: // says nothing about the receiver
		return
	case webhook.Delivered:
		if !d.failedBefore {
			return
		}
		_, err = w.cfg.Pool.Exec(ctx, sqlEndpointWorks, d.endpoint, w.cfg.Now())
	default:
		err = w.noteFailure(ctx, d.endpoint)
	}
	if err != nil {
		w.cfg.Logger.Warn("the health of an endpoint could not be recorded", "endpoint_id", d.endpoint, "error", err)
	}
}

func (w *Workers) noteFailure(ctx context.Context, endpoint domain.EndpointID) error {
	var state string
	var probeAt *time.Time
	err := w.cfg.Pool.QueryRow(ctx, sqlEndpointFailed, endpoint, w.cfg.Now(), breakerOpens, w.cfg.BreakerPause, maxBreakerPause).Scan(&state, &probeAt)
	if err != nil {
		return fmt.Errorf("record failure: %w", err)
	}
	if state != "open" {
		return nil
	}
	w.cfg.Logger.Warn("an endpoint is left alone for a while, because it fails again and again", "endpoint_id", endpoint, "next_probe_at", probeAt)
	if _, err := w.cfg.Pool.Exec(ctx, sqlPutOff, endpoint, probeAt, spreadOf(w.cfg.BreakerPause)); err != nil {
		return fmt.Errorf("put deliveries off: %w", err)
	}
	return nil
}

// spreadOf is over how long those that wait for the same moment come back.
func spreadOf(pause time.Duration) time.Duration { return pause / 2 }
