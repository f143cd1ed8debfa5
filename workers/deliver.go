package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// deliverArgs asks for the next attempt of a delivery. Attempts is how many there were when the job was made: a job that
// comes late, after another took its place, finds a higher number and does nothing.
type deliverArgs struct {
	DeliveryID string `json:"delivery_id"`
	Attempts   int    `json:"attempts"`
}

// Kind names the job.
func (deliverArgs) Kind() string { return "deliver" }

// InsertOpts puts deliveries on their queue.
func (deliverArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueDeliver} }

type deliverWorker struct {
	river.WorkerDefaults[deliverArgs]
	w *Workers
}

// delivery is one webhook on its way to one endpoint.
type delivery struct {
	id, messageID string
	endpoint      domain.EndpointID
	url           string
	lineage       domain.LineageID
	rotation      domain.RotationID
	position      int64
	attempt       int // the number of the attempt under way, from 1
}

const (
	// The attempt is recorded before it is made, in the statement that claims it: a worker that dies leaves its trace.
	sqlBeginAttempt = `WITH claimed AS (
			UPDATE webhook_deliveries SET attempts = attempts + 1, next_attempt_at = $3
			WHERE id = $1 AND attempts = $2 AND state = 'pending' AND attempts < $5
			RETURNING id, message_id, endpoint_id, lineage_id, rotation_id, position, attempts
		), noted AS (
			INSERT INTO webhook_attempts (delivery_id, number, started_at) SELECT id, attempts, $4 FROM claimed
		)
		SELECT c.id, c.message_id, c.endpoint_id, e.url, c.lineage_id, c.rotation_id, c.position, c.attempts
		FROM claimed c JOIN webhook_endpoints e ON e.id = c.endpoint_id`
	sqlUsedUp      = `SELECT lineage_id, rotation_id FROM webhook_deliveries WHERE id = $1 AND state = 'pending' AND attempts >= $2`
	sqlEndAttempt  = `UPDATE webhook_attempts SET finished_at = $3, outcome = $4, status = $5 WHERE delivery_id = $1 AND number = $2`
	sqlEndDelivery = `UPDATE webhook_deliveries SET state = $2, last_outcome = $3, last_status = $4, finished_at = $5
		WHERE id = $1 AND state = 'pending'`
	sqlRetryDelivery = `UPDATE webhook_deliveries SET last_outcome = $2, last_status = $3, next_attempt_at = $4
		WHERE id = $1 AND state = 'pending'`
)

// Work makes one attempt and records what came of it.
func (d *deliverWorker) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	w := d.w
	current, err := w.beginAttempt(ctx, job.Args)
	if errors.Is(err, pgx.ErrNoRows) {
		return w.endUsedUp(ctx, job.Args.DeliveryID)
	}
	if err != nil {
		return fmt.Errorf("begin attempt of %s: %w", job.Args.DeliveryID, err)
	}
	request, err := w.request(ctx, current)
	if err != nil {
		return fmt.Errorf("build attempt of %s: %w", current.id, err)
	}
	if request == nil { // the rotation was settled meanwhile; nobody waits for this any more
		return w.finish(ctx, current, "cancelled", webhook.Result{Outcome: "superseded"})
	}
	result := w.cfg.Sender.Send(ctx, *request)
	w.cfg.Logger.Info("webhook attempted", "delivery_id", current.id, "attempt", current.attempt,
		"outcome", result.Outcome, "status", result.Status, "duration_ms", result.Duration.Milliseconds(), "error", result.Err)
	if result.Outcome == webhook.Canceled {
		return w.interrupted(ctx, current, result)
	}
	if result.Outcome.Delivered() {
		return w.delivered(ctx, current, result)
	}
	return w.failed(ctx, current, result)
}

func (w *Workers) beginAttempt(ctx context.Context, args deliverArgs) (*delivery, error) {
	now := w.cfg.Now()
	var d delivery
	err := w.cfg.Pool.QueryRow(ctx, sqlBeginAttempt, args.DeliveryID, args.Attempts, now.Add(attemptLease), now, webhook.MaxAttempts).
		Scan(&d.id, &d.messageID, &d.endpoint, &d.url, &d.lineage, &d.rotation, &d.position, &d.attempt)
	return &d, err
}

// endUsedUp ends a delivery whose last attempt died with its worker, so that it does not stay silent for ever.
func (w *Workers) endUsedUp(ctx context.Context, id string) error {
	d := delivery{id: id, attempt: webhook.MaxAttempts}
	err := w.cfg.Pool.QueryRow(ctx, sqlUsedUp, id, webhook.MaxAttempts).Scan(&d.lineage, &d.rotation)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // somebody else's attempt, or done
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", id, err)
	}
	return w.giveUp(ctx, &d, webhook.Result{Outcome: "worker_lost"})
}

// request builds the attempt, or nothing if no secret waits any more.
func (w *Workers) request(ctx context.Context, d *delivery) (*webhook.Request, error) {
	secret, err := w.cfg.Commands.OpenPending(ctx, d.rotation)
	if err != nil || secret.IsZero() {
		return nil, err
	}
	signing, err := w.cfg.Commands.SigningSecrets(ctx, []domain.EndpointID{d.endpoint})
	if err != nil {
		return nil, err
	}
	records, err := w.cfg.Store.Read(ctx, eventstore.Lifecycle, d.position-1, 1)
	if err != nil || len(records) == 0 {
		return nil, errors.Join(err, fmt.Errorf("event %d is not in the log", d.position))
	}
	rotated, ok := announced(records[0])
	if !ok {
		return nil, fmt.Errorf("event %d tells of no rotation", d.position)
	}
	body, err := rotationMessage(records[0].StreamID, records[0].OccurredAt, rotated, webhook.PlainSecret(secret.Reveal()))
	if err != nil {
		return nil, err
	}
	return &webhook.Request{
		URL: d.url, ID: d.messageID, Body: body, Secrets: []webhook.Secret{signing[d.endpoint]}, Attempt: d.attempt, DeliveryID: d.id,
	}, nil
}

// delivered acknowledges the rotation; the delivery is closed in the same transaction.
func (w *Workers) delivered(ctx context.Context, d *delivery, result webhook.Result) error {
	var counted bool
	err := w.persist(ctx, func() (err error) {
		counted, err = w.cfg.Commands.Acknowledge(ctx, commands.System(domain.ActorDeliver), d.lineage, d.rotation, domain.AckAccepted,
			func(batch *pgx.Batch, _ []domain.Event) error {
				w.queueFinish(batch, d, "delivered", result)
				return nil
			})
		return err
	})
	switch {
	case domain.CodeOf(err) == domain.CodeNoRotation && err != nil, err == nil && !counted:
		// Acknowledged by another sign, or ended meanwhile: the message did arrive all the same.
		return w.finish(ctx, d, "delivered", result)
	case err != nil:
		return fmt.Errorf("acknowledge rotation %s: %w", d.rotation, err)
	}
	return nil
}

// failed plans the next attempt, or gives up.
func (w *Workers) failed(ctx context.Context, d *delivery, result webhook.Result) error {
	delay, more := w.cfg.Retry(d.attempt, result.RetryAfter)
	if !more || result.Outcome.Permanent() {
		return w.giveUp(ctx, d, result)
	}
	return w.persist(ctx, func() error { return w.retryAt(ctx, d, result, w.cfg.Now().Add(delay)) })
}

// giveUp stalls the rotation; the delivery is closed in the same transaction. The old key keeps working.
func (w *Workers) giveUp(ctx context.Context, d *delivery, result webhook.Result) error {
	var stalled bool
	err := w.persist(ctx, func() (err error) {
		stalled, err = w.cfg.Commands.Stall(ctx, commands.System(domain.ActorDeliver), d.lineage, d.rotation, string(result.Outcome),
			func(batch *pgx.Batch, _ []domain.Event) error {
				w.queueFinish(batch, d, "failed", result)
				return nil
			})
		return err
	})
	if err != nil {
		return fmt.Errorf("stall rotation %s: %w", d.rotation, err)
	}
	if !stalled {
		return w.finish(ctx, d, "failed", result)
	}
	w.cfg.Logger.Error("a rotation stalled: its receiver did not take the new secret; the old key keeps working",
		"rotation_id", d.rotation, "lineage_id", d.lineage, "delivery_id", d.id, "outcome", result.Outcome)
	return nil
}

// finish closes a delivery that moves no rotation.
func (w *Workers) finish(ctx context.Context, d *delivery, state string, result webhook.Result) error {
	return w.persist(ctx, func() error {
		var batch pgx.Batch
		w.queueFinish(&batch, d, state, result)
		return w.cfg.Pool.SendBatch(ctx, &batch).Close()
	})
}

// interrupted hands an attempt that our own stop has cut off out again at once.
func (w *Workers) interrupted(ctx context.Context, d *delivery, result webhook.Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return w.retryAt(ctx, d, result, w.cfg.Now())
}

// retryAt closes an attempt and plans the next one.
func (w *Workers) retryAt(ctx context.Context, d *delivery, result webhook.Result, at time.Time) error {
	var batch pgx.Batch
	batch.Queue(sqlEndAttempt, d.id, d.attempt, w.cfg.Now(), string(result.Outcome), optionalStatus(result))
	batch.Queue(sqlRetryDelivery, d.id, string(result.Outcome), optionalStatus(result), at)
	return w.cfg.Pool.SendBatch(ctx, &batch).Close()
}

func (w *Workers) queueFinish(batch *pgx.Batch, d *delivery, state string, result webhook.Result) {
	now := w.cfg.Now()
	batch.Queue(sqlEndAttempt, d.id, d.attempt, now, string(result.Outcome), optionalStatus(result))
	batch.Queue(sqlEndDelivery, d.id, state, string(result.Outcome), optionalStatus(result), now)
}

func optionalStatus(result webhook.Result) *int {
	if result.Status == 0 {
		return nil
	}
	return &result.Status
}

// persist repeats a write for a moment, because the answer of a receiver is worth more than a broken connection. If it
// cannot be written, the lease hands the attempt out again: the receiver sees the same webhook-id twice.
func (w *Workers) persist(ctx context.Context, write func() error) error {
	var last error
	policy := backoff.WithContext(backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxElapsedTime(3*time.Second)), ctx)
	err := backoff.Retry(func() error {
		last = write()
		if code := domain.CodeOf(last); last != nil && code == domain.CodeNoRotation {
			return backoff.Permanent(last)
		}
		return last
	}, policy)
	if err != nil {
		return last
	}
	return nil
}
