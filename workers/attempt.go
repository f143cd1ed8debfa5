package workers

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// delivery is one webhook on its way to one endpoint.
type delivery struct {
	id, messageID, kind string
	endpoint            domain.EndpointID
	url                 string
	mode                domain.SecretMode // how the endpoint takes secrets now
	receiverKey         string            // id of the key that secrets are sealed to now; empty: none
	lineage             domain.LineageID
	rotation            domain.RotationID // empty: it tells of none
	position            int64
	attempt             int        // the number of the attempt under way, from 1
	used                int        // attempts of this budget, with the one under way
	failedBefore        bool       // the endpoint has a history of failures
	deadline            *time.Time // when the rotation has waited for too long
}

const (
	// The attempt is recorded before it is made, in the statement that claims it: a worker that dies leaves its trace. While
	// the endpoint is left alone, one attempt at a time may try it: the one that moves next_probe_at on.
	sqlBeginAttempt = `WITH due AS (
			SELECT d.id, d.endpoint_id FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
			WHERE d.id = $1 AND d.attempts = $2 AND d.state = 'pending' AND d.attempts - d.attempts_before < $5
				AND e.state = 'active' AND e.deleted_at IS NULL
			FOR UPDATE OF d
		), probe AS (
			UPDATE endpoint_health h SET state = 'half_open', next_probe_at = $3 FROM due
			WHERE h.endpoint_id = due.endpoint_id AND h.state <> 'closed' AND h.next_probe_at <= $4 RETURNING h.endpoint_id
		), claimed AS (
			UPDATE webhook_deliveries d SET attempts = d.attempts + 1, next_attempt_at = $3, put_off_from = NULL
			FROM due LEFT JOIN endpoint_health h ON h.endpoint_id = due.endpoint_id
			WHERE d.id = due.id AND (h.state IS NULL OR h.state = 'closed' OR EXISTS (SELECT FROM probe))
			RETURNING d.*, h.endpoint_id IS NOT NULL AS failed_before
		), noted AS (
			INSERT INTO webhook_attempts (delivery_id, number, started_at, worker, trigger, actor)
			SELECT id, attempts, $4, $6, trigger, actor FROM claimed
		)
		SELECT c.id, c.message_id, c.type, c.endpoint_id, e.url, e.secret_mode, coalesce(e.receiver_key->>'id', ''), coalesce(c.lineage_id, ''),
			coalesce(c.rotation_id, ''), c.position, c.attempts, c.attempts - c.attempts_before, c.failed_before
		FROM claimed c JOIN webhook_endpoints e ON e.id = c.endpoint_id`
	sqlEndAttempt = `UPDATE webhook_attempts SET finished_at = $3, outcome = $4, status = $5, dns_ms = $6, connect_ms = $7, tls_ms = $8,
			first_byte_ms = $9, total_ms = $10, retry_after_seconds = $11, next_delay_seconds = $12
		WHERE delivery_id = $1 AND number = $2 AND finished_at IS NULL`
	// A message that arrived has arrived, whatever a later attempt does; that one was in vain says nothing of a later one, nor
	// of the new budget that a redelivery gave meanwhile: then no attempt of this budget is under way.
	sqlEndDelivery = `UPDATE webhook_deliveries SET state = $2, last_outcome = $3, last_status = $4, finished_at = $5
		WHERE id = $1 AND state IN ('pending', 'held') AND ($2 <> 'failed' OR attempts = $6 AND (attempts > attempts_before OR $3 = 'endpoint_deleted'))`
	// An attempt that is not the receiver's failure is not counted: the budget begins one later. Once a redelivery has given
	// a new budget, that has its own plan.
	sqlRetryDelivery = `UPDATE webhook_deliveries SET last_outcome = $2, last_status = $3, next_attempt_at = $4,
			attempts_before = attempts_before + CASE WHEN $5 THEN 1 ELSE 0 END
		WHERE id = $1 AND state = 'pending' AND attempts = $6 AND attempts > attempts_before`
	// Nothing was sent, so there was no attempt.
	sqlPutBack = `WITH never AS (DELETE FROM webhook_attempts WHERE delivery_id = $1 AND number = $2)
		UPDATE webhook_deliveries SET attempts = attempts - 1, next_attempt_at = $3
		WHERE id = $1 AND state = 'pending' AND attempts = $2 AND attempts > attempts_before`
	sqlSnooze = `UPDATE webhook_deliveries SET next_attempt_at = $3 WHERE id = $1 AND attempts = $2 AND state = 'pending'`
	// While its endpoint is left alone, it is known since when it waits for that.
	sqlPutOffOne = `UPDATE webhook_deliveries SET put_off_from = coalesce(put_off_from, $4), next_attempt_at = $3
		WHERE id = $1 AND attempts = $2 AND state = 'pending'`
	// The endpoint is looked at again, under a lock: one that takes messages by now has had what was held released, and this
	// one would be held for ever.
	sqlHold = `WITH closed AS (
			SELECT e.id FROM webhook_endpoints e WHERE e.id = (SELECT endpoint_id FROM webhook_deliveries WHERE id = $1) AND e.state <> 'active' FOR SHARE)
		UPDATE webhook_deliveries d SET state = 'held' FROM closed
		WHERE d.id = $1 AND d.endpoint_id = closed.id AND d.attempts = $2 AND d.state = 'pending'`
	sqlWhyNot = `SELECT d.endpoint_id, d.type, coalesce(d.lineage_id, ''), coalesce(d.rotation_id, ''), d.attempts - d.attempts_before >= $3,
			coalesce(e.state, 'deleted'), e.deleted_at IS NOT NULL, h.next_probe_at
		FROM webhook_deliveries d LEFT JOIN webhook_endpoints e ON e.id = d.endpoint_id
		LEFT JOIN endpoint_health h ON h.endpoint_id = d.endpoint_id AND h.state <> 'closed'
		WHERE d.id = $1 AND d.attempts = $2 AND d.state = 'pending'`
)

// beginAttempt claims the next attempt; without one to be made it returns pgx.ErrNoRows.
func (w *Workers) beginAttempt(ctx context.Context, args deliverArgs) (*delivery, error) {
	now := w.cfg.Now()
	var claimed *delivery
	err := w.writes.do(ctx, lockOrder(args.EndpointID, args.DeliveryID), func(batch *pgx.Batch) {
		claimed = nil
		batch.Queue(sqlBeginAttempt, args.DeliveryID, args.Attempts, now.Add(w.cfg.AttemptLease), now, webhook.MaxAttempts, w.cfg.Name).
			QueryRow(func(row pgx.Row) error {
				var d delivery
				err := row.Scan(&d.id, &d.messageID, &d.kind, &d.endpoint, &d.url, &d.mode, &d.receiverKey, &d.lineage, &d.rotation, &d.position,
					&d.attempt, &d.used, &d.failedBefore)
				if errors.Is(err, pgx.ErrNoRows) { // which is no fault of those that are joined with it
					return nil
				}
				claimed = &d
				return err
			})
	})
	if err == nil && claimed == nil {
		err = pgx.ErrNoRows
	}
	return claimed, err
}

// lockOrder is the order in which attempts lock rows: those of an endpoint share the row of its health.
func lockOrder(endpoint, delivery string) string { return endpoint + " " + delivery }

// write carries out what an attempt writes by itself, joined with that of others.
func (w *Workers) write(ctx context.Context, d *delivery, queue func(*pgx.Batch)) error {
	return w.writes.do(ctx, lockOrder(string(d.endpoint), d.id), queue)
}

// secret reports whether the message brings a new secret, so that its fate is that of a rotation.
func (d *delivery) secret() bool { return d.kind == webhook.TypeRotationCreated }

// queueEnd closes the attempt under way. next is when the next one is due, zero for none.
func (w *Workers) queueEnd(batch *pgx.Batch, d *delivery, result webhook.Result, next time.Time) {
	now := w.cfg.Now()
	var delay *int64
	if !next.IsZero() {
		seconds := int64(next.Sub(now) / time.Second)
		delay = &seconds
	}
	t := result.Timing
	batch.Queue(sqlEndAttempt, d.id, d.attempt, now, string(result.Outcome), optionalStatus(result), milliseconds(t.DNS), milliseconds(t.Connect),
		milliseconds(t.TLS), milliseconds(t.FirstByte), milliseconds(result.Duration), inSeconds(result.RetryAfter), delay)
}

// queueFinish closes the attempt and the delivery.
func (w *Workers) queueFinish(batch *pgx.Batch, d *delivery, state string, result webhook.Result) {
	w.queueEnd(batch, d, result, time.Time{})
	batch.Queue(sqlEndDelivery, d.id, state, string(result.Outcome), optionalStatus(result), w.cfg.Now(), d.attempt)
}

// retryAt closes an attempt and plans the next one. A free one is not counted.
func (w *Workers) retryAt(ctx context.Context, d *delivery, result webhook.Result, at time.Time, free bool) error {
	return w.write(ctx, d, func(batch *pgx.Batch) {
		w.queueEnd(batch, d, result, at)
		batch.Queue(sqlRetryDelivery, d.id, string(result.Outcome), optionalStatus(result), at, free, d.attempt)
	})
}

func optionalStatus(result webhook.Result) *int {
	if result.Status == 0 {
		return nil
	}
	return &result.Status
}

// milliseconds is nothing for what did not happen.
func milliseconds(d time.Duration) *int64 {
	if d <= 0 {
		return nil
	}
	n := d.Milliseconds()
	return &n
}

func inSeconds(d time.Duration) *int64 {
	if d <= 0 {
		return nil
	}
	n := int64(d / time.Second)
	return &n
}
