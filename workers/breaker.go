package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

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
	sqlEndpointFailed = `INSERT INTO endpoint_health AS h (endpoint_id, state, consecutive_failures, first_failure_at, last_status, equal_failures)
		VALUES ($1, 'closed', 1, $2, $6, CASE WHEN $6::int IS NULL THEN 0 ELSE 1 END)
		ON CONFLICT (endpoint_id) DO UPDATE SET
			last_status = $6,
			equal_failures = CASE WHEN $6::int IS NULL THEN 0 WHEN h.last_status = $6 THEN h.equal_failures + 1 ELSE 1 END,
			alarmed_at = CASE WHEN h.last_status = $6 THEN h.alarmed_at END,
			consecutive_failures = h.consecutive_failures + 1,
			first_failure_at = coalesce(h.first_failure_at, $2),
			state = CASE WHEN h.state <> 'closed' OR h.consecutive_failures + 1 >= $3 THEN 'open' ELSE 'closed' END,
			opens = h.opens + CASE WHEN h.state = 'half_open' OR h.state = 'closed' AND h.consecutive_failures + 1 >= $3 THEN 1 ELSE 0 END,
			opened_at = CASE WHEN h.state = 'closed' AND h.consecutive_failures + 1 >= $3 THEN $2 ELSE h.opened_at END,
			next_probe_at = CASE WHEN h.state = 'half_open' OR h.state = 'closed' AND h.consecutive_failures + 1 >= $3
				THEN $2 + least($4::interval * power(2, least(h.opens, 20)), $5::interval) ELSE h.next_probe_at END
		RETURNING state, next_probe_at, equal_failures, alarmed_at`
	sqlEndpointWorks = `WITH was AS (SELECT endpoint_id, state FROM endpoint_health WHERE endpoint_id = $1 FOR UPDATE)
		UPDATE endpoint_health h SET state = 'closed', consecutive_failures = 0, opens = 0, first_failure_at = NULL, opened_at = NULL,
			next_probe_at = NULL, last_success_at = $2, last_status = NULL, equal_failures = 0, alarmed_at = NULL
		FROM was WHERE h.endpoint_id = was.endpoint_id RETURNING was.state <> 'closed'`
	sqlAlarmed = `UPDATE endpoint_health SET alarmed_at = $2 WHERE endpoint_id = $1`
	// What waits for an endpoint that is left alone waits at least until it is tried again, and not all for the same moment.
	// A delivery that is locked is being worked on: it finds the breaker open by itself.
	sqlPutOff = `UPDATE webhook_deliveries d SET put_off_from = coalesce(d.put_off_from, d.next_attempt_at),
			next_attempt_at = greatest(d.next_attempt_at, $2::timestamptz + random() * $3::interval)
		FROM (SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'pending' FOR UPDATE SKIP LOCKED) waiting
		WHERE d.id = waiting.id`
	// Once it works again, what waited for that goes on, not all at once, and nothing before its own time. What is being
	// worked on is locked, or does not wait any more.
	sqlPullForward = `UPDATE webhook_deliveries d SET next_attempt_at = greatest(d.put_off_from, $2::timestamptz + random() * $3::interval),
			put_off_from = NULL
		FROM (SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'pending' AND put_off_from IS NOT NULL FOR UPDATE SKIP LOCKED) waiting
		WHERE d.id = waiting.id`
)

// noteHealth records how an endpoint fares. It is no part of the transaction that records the attempt: rows that many
// deliveries share would make those wait for each other, and a lost note costs one more attempt.
func (w *Workers) noteHealth(ctx context.Context, d *delivery, result webhook.Result) {
	var err error
	switch result.Outcome {
	case webhook.Canceled, webhook.InvalidRequest, webhook.ProxyFailed, webhook.BadCertificate: // says nothing about the receiver
		return
	case webhook.Delivered:
		if !d.failedBefore {
			return
		}
		err = w.noteSuccess(ctx, d.endpoint)
	default:
		err = w.noteFailure(ctx, d.endpoint, refusal(result))
	}
	if err != nil {
		w.cfg.Logger.Warn("the health of an endpoint could not be recorded", "endpoint_id", d.endpoint, "error", err)
	}
}

// refusal is the status of an answer that more attempts will hardly change; nil: it was another failure.
func refusal(result webhook.Result) *int {
	if result.Outcome != webhook.ClientError {
		return nil
	}
	return optionalStatus(result)
}

// noteSuccess closes the breaker, and lets what waited for that go on.
func (w *Workers) noteSuccess(ctx context.Context, endpoint domain.EndpointID) error {
	now := w.cfg.Now()
	var opened bool
	err := w.cfg.Pool.QueryRow(ctx, sqlEndpointWorks, endpoint, now).Scan(&opened)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !opened {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record success: %w", err)
	}
	if _, err := w.cfg.Pool.Exec(ctx, sqlPullForward, endpoint, now, spreadOf(w.cfg.BreakerPause)); err != nil {
		return fmt.Errorf("pull deliveries forward: %w", err)
	}
	return nil
}

// tellFailing raises the early alarm of a receiver that refuses everything. One that is lost is made up for by the next
// failure.
func (w *Workers) tellFailing(ctx context.Context, endpoint domain.EndpointID, status, failures int) error {
	now := w.cfg.Now()
	told, err := w.cfg.Commands.NoteFailing(ctx, endpoint, status, failures, func(batch *pgx.Batch, _ []domain.Event) error {
		batch.Queue(sqlAlarmed, endpoint, now)
		return nil
	})
	if err == nil && !told { // it was told of the same within the day
		_, err = w.cfg.Pool.Exec(ctx, sqlAlarmed, endpoint, now)
	}
	if err != nil {
		return fmt.Errorf("tell of refusals: %w", err)
	}
	w.cfg.Logger.Warn("an endpoint refuses everything with the same status", "endpoint_id", endpoint, "status", status, "failures", failures)
	return nil
}

func (w *Workers) noteFailure(ctx context.Context, endpoint domain.EndpointID, status *int) error {
	var state string
	var probeAt, alarmedAt *time.Time
	var equal int
	err := w.cfg.Pool.QueryRow(ctx, sqlEndpointFailed, endpoint, w.cfg.Now(), breakerOpens, w.cfg.BreakerPause, maxBreakerPause, status).
		Scan(&state, &probeAt, &equal, &alarmedAt)
	if err != nil {
		return fmt.Errorf("record failure: %w", err)
	}
	if status != nil && equal >= domain.FailingAfter && (alarmedAt == nil || w.cfg.Now().Sub(*alarmedAt) >= domain.FailingEvery) {
		if err := w.tellFailing(ctx, endpoint, *status, equal); err != nil {
			return err
		}
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
