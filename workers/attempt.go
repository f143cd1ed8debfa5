package workers

import (
	"context"
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
	certificate         string            // digest of the client certificate that is shown; empty: none
	lineage             domain.LineageID
	rotation            domain.RotationID // empty: it tells of none
	position            int64
	attempt             int        // the number of the attempt under way, from 1
	used                int        // attempts of this budget, with the one under way
	failedBefore        bool       // the endpoint has a history of failures
	deadline            *time.Time // when the rotation has waited for too long
}

const (
	// Attempts are recorded before they are made, in the statement that claims them: a worker that dies leaves its trace.
	// While an endpoint is left alone, one attempt at a time may try it: the one that moves next_probe_at on. Rows are locked
	// in an order that all have. The state is compared in a way that lets no index of all that is pending be read for it.
	sqlBeginAttempts = `WITH due AS (
			SELECT d.id, d.endpoint_id FROM unnest($1::text[], $2::int[]) AS asked(id, attempts)
			JOIN webhook_deliveries d ON d.id = asked.id JOIN webhook_endpoints e ON e.id = d.endpoint_id
			WHERE d.attempts = asked.attempts AND d.state IS NOT DISTINCT FROM 'pending' AND d.attempts - d.attempts_before < $5
				AND e.state = 'active' AND e.deleted_at IS NULL
			ORDER BY d.endpoint_id, d.id FOR UPDATE OF d
		), probe AS (
			UPDATE endpoint_health h SET state = 'half_open', next_probe_at = $3
			FROM (SELECT endpoint_id, min(id) AS id FROM due GROUP BY endpoint_id) first
			WHERE h.endpoint_id = first.endpoint_id AND h.state <> 'closed' AND h.next_probe_at <= $4 RETURNING first.id
		), claimed AS (
			UPDATE webhook_deliveries d SET attempts = d.attempts + 1, next_attempt_at = $3, put_off_from = NULL
			FROM due LEFT JOIN endpoint_health h ON h.endpoint_id = due.endpoint_id
			WHERE d.id = due.id AND (h.state IS NULL OR h.state = 'closed' OR d.id IN (SELECT id FROM probe))
			RETURNING d.*, h.endpoint_id IS NOT NULL AS failed_before
		), noted AS (
			INSERT INTO webhook_attempts (delivery_id, number, started_at, worker, trigger, actor)
			SELECT id, attempts, $4, $6, trigger, actor FROM claimed
		)
		SELECT c.id, c.message_id, c.type, c.endpoint_id, e.url, e.secret_mode, coalesce(e.receiver_key->>'id', ''), coalesce(e.client_certificate->>'digest', ''),
			coalesce(c.lineage_id, ''), coalesce(c.rotation_id, ''), c.position, c.attempts, c.attempts - c.attempts_before, c.failed_before
		FROM claimed c JOIN webhook_endpoints e ON e.id = c.endpoint_id`
	sqlEndAttempts = `UPDATE webhook_attempts a SET finished_at = r.finished_at, outcome = r.outcome, status = r.status, dns_ms = r.dns_ms,
			connect_ms = r.connect_ms, tls_ms = r.tls_ms, first_byte_ms = r.first_byte_ms, total_ms = r.total_ms,
			retry_after_seconds = r.retry_after_seconds, next_delay_seconds = r.next_delay_seconds
		FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::text[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[], $10::int[],
				$11::int[], $12::int[])
			AS r(delivery_id, number, finished_at, outcome, status, dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, retry_after_seconds,
				next_delay_seconds)
		WHERE a.delivery_id = r.delivery_id AND a.number = r.number AND a.finished_at IS NULL`
	// A message that arrived has arrived, whatever a later attempt does; that one was in vain says nothing of a later one, nor
	// of the new budget that a redelivery gave meanwhile: then no attempt of this budget is under way.
	sqlEndDeliveries = `UPDATE webhook_deliveries d SET state = r.state, last_outcome = r.outcome, last_status = r.status, finished_at = r.finished_at
		FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::int[]) AS r(id, state, outcome, status, finished_at, attempts)
		WHERE d.id = r.id AND d.state IN ('pending', 'held')
			AND (r.state <> 'failed' OR d.attempts = r.attempts AND (d.attempts > d.attempts_before OR r.outcome = 'endpoint_deleted'))`
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

// claim is an attempt that is asked for, and what came of that.
type claim struct {
	deliverArgs
	claimed *delivery // nil: it is not to be made
}

// beginAttempt claims the next attempt; without one to be made it returns pgx.ErrNoRows.
func (w *Workers) beginAttempt(ctx context.Context, args deliverArgs) (*delivery, error) {
	var asked *claim
	err := w.writes.do(ctx, lockOrder(args.EndpointID, args.DeliveryID), func(batch *pgx.Batch) {
		asked = &claim{deliverArgs: args}
		w.queueBegin(batch, asked)
	})
	if err == nil && asked.claimed == nil {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return nil, err
	}
	return asked.claimed, nil
}

func (w *Workers) queueBegin(batch *pgx.Batch, asked *claim) {
	first, all := queueTogether(batch, sqlBeginAttempts, asked, func(claims []*claim) []any {
		now := w.cfg.Now()
		return []any{
			column(claims, func(c *claim) string { return c.DeliveryID }), column(claims, func(c *claim) int { return c.Attempts }),
			now.Add(w.cfg.AttemptLease), now, webhook.MaxAttempts, w.cfg.Name,
		}
	})
	if first == nil {
		return
	}
	first.Query(func(rows pgx.Rows) error {
		var d delivery
		_, err := pgx.ForEachRow(rows, []any{&d.id, &d.messageID, &d.kind, &d.endpoint, &d.url, &d.mode, &d.receiverKey, &d.certificate, &d.lineage, &d.rotation,
			&d.position, &d.attempt, &d.used, &d.failedBefore}, func() error {
			taken := d
			for _, c := range all.rows { // of two that ask for the same, the first has it
				if c.DeliveryID == d.id && c.Attempts == d.attempt-1 {
					c.claimed = &taken
					break
				}
			}
			return nil
		})
		return err
	})
}

// lockOrder is the order in which attempts lock rows: those of an endpoint share the row of its health.
func lockOrder(endpoint, delivery string) string { return endpoint + " " + delivery }

// write carries out what an attempt writes by itself, joined with that of others.
func (w *Workers) write(ctx context.Context, d *delivery, queue func(*pgx.Batch)) error {
	return w.writes.do(ctx, lockOrder(string(d.endpoint), d.id), queue)
}

// secret reports whether the message brings a new secret, so that its fate is that of a rotation.
func (d *delivery) secret() bool { return d.kind == webhook.TypeRotationCreated }

// ending is how an attempt ended, and when the next one is due: zero for never.
type ending struct {
	*delivery
	webhook.Result
	at, next time.Time
	state    string // of the delivery; empty: it goes on
}

func (e ending) outcome() string { return string(e.Outcome) }
func (e ending) status() *int    { return optionalStatus(e.Result) }

// queueEnd closes the attempt under way. next is when the next one is due, zero for none.
func (w *Workers) queueEnd(batch *pgx.Batch, d *delivery, result webhook.Result, next time.Time) {
	queueTogether(batch, sqlEndAttempts, ending{delivery: d, Result: result, at: w.cfg.Now(), next: next}, func(all []ending) []any {
		return []any{
			column(all, func(e ending) string { return e.id }), column(all, func(e ending) int { return e.attempt }),
			column(all, func(e ending) time.Time { return e.at }), column(all, ending.outcome), column(all, ending.status),
			column(all, func(e ending) *int64 { return milliseconds(e.Timing.DNS) }),
			column(all, func(e ending) *int64 { return milliseconds(e.Timing.Connect) }),
			column(all, func(e ending) *int64 { return milliseconds(e.Timing.TLS) }),
			column(all, func(e ending) *int64 { return milliseconds(e.Timing.FirstByte) }),
			column(all, func(e ending) *int64 { return milliseconds(e.Duration) }),
			column(all, func(e ending) *int64 { return inSeconds(e.RetryAfter) }), column(all, ending.delay),
		}
	})
}

// delay is how long the next attempt waits, if there is one.
func (e ending) delay() *int64 {
	if e.next.IsZero() {
		return nil
	}
	seconds := int64(e.next.Sub(e.at) / time.Second)
	return &seconds
}

// queueFinish closes the attempt and the delivery.
func (w *Workers) queueFinish(batch *pgx.Batch, d *delivery, state string, result webhook.Result) {
	w.queueEnd(batch, d, result, time.Time{})
	queueTogether(batch, sqlEndDeliveries, ending{delivery: d, Result: result, at: w.cfg.Now(), state: state}, func(all []ending) []any {
		return []any{
			column(all, func(e ending) string { return e.id }), column(all, func(e ending) string { return e.state }),
			column(all, ending.outcome), column(all, ending.status), column(all, func(e ending) time.Time { return e.at }),
			column(all, func(e ending) int { return e.attempt }),
		}
	})
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
