package workers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// deliverArgs asks for the next attempt of a delivery. Attempts is how many there were when the job was made: a job that
// comes late, after another took its place, finds a higher number and does nothing.
type deliverArgs struct {
	DeliveryID string `json:"delivery_id"`
	Attempts   int    `json:"attempts"`
	EndpointID string `json:"endpoint_id,omitempty"` // jobs of the version before have none
}

// Kind names the job.
func (deliverArgs) Kind() string { return "deliver" }

// InsertOpts puts deliveries on their queue.
func (deliverArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueDeliver} }

type deliverWorker struct {
	river.WorkerDefaults[deliverArgs]
	w *Workers
}

// Work makes one attempt and records what came of it.
func (d *deliverWorker) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	w := d.w
	leave, wait := w.endpoints.enter(job.Args.EndpointID)
	if leave == nil { // the endpoint has as much as one may have at once
		return w.snooze(ctx, job.Args, wait)
	}
	defer leave()
	current, err := w.beginAttempt(ctx, job.Args)
	if errors.Is(err, pgx.ErrNoRows) {
		return w.notNow(ctx, job.Args)
	}
	if err != nil {
		return fmt.Errorf("begin attempt of %s: %w", job.Args.DeliveryID, err)
	}
	return w.attempt(ctx, current)
}

func (w *Workers) attempt(ctx context.Context, d *delivery) error {
	request, err := w.request(ctx, d)
	switch {
	case errors.Is(err, commands.ErrEpochEnded):
		return w.giveUp(ctx, d, webhook.Result{Outcome: outcomeExpired})
	case errors.Is(err, commands.ErrCertificateChanged): // nothing was sent, and the next attempt finds what is there now
		return w.putBack(ctx, d, 0)
	case errors.Is(err, webhook.ErrClientCertificate):
		w.cfg.Logger.Error("an endpoint's client certificate is broken; nothing is sent without it", "endpoint_id", d.endpoint, "delivery_id", d.id, "error", err)
		return w.failed(ctx, d, webhook.Result{Outcome: webhook.BadCertificate})
	case err != nil:
		return w.ourFault(ctx, d, err)
	case request == nil: // the rotation was settled meanwhile; nobody waits for this any more
		return w.finish(ctx, d, "cancelled", webhook.Result{Outcome: outcomeSuperseded})
	}
	host := hostOf(d.url)
	leave, wait := w.hosts.enter(host)
	if leave == nil {
		return w.putBack(ctx, d, wait)
	}
	result := w.cfg.Sender.Send(ctx, *request)
	leave()
	w.hosts.note(host, answers(result.Outcome))
	w.cfg.Logger.Info("webhook attempted", "delivery_id", d.id, "attempt", d.attempt,
		"outcome", result.Outcome, "status", result.Status, "duration_ms", result.Duration.Milliseconds(), "error", result.Err)
	switch result.Outcome {
	case webhook.Canceled:
		return w.interrupted(ctx, d, result)
	case webhook.ProxyFailed:
		return w.proxyFailed(ctx, d, result)
	}
	w.noteHealth(ctx, d, result)
	if result.Outcome.Delivered() {
		return w.delivered(ctx, d, result)
	}
	return w.failed(ctx, d, result)
}

// Outcomes that are not an attempt's own. Like those of the sender they never change their meaning.
const (
	outcomeSuperseded webhook.Outcome = "superseded"     // nobody waits for this message any more
	outcomeWorkerLost webhook.Outcome = "worker_lost"    // the last attempt died with its process
	outcomeExpired    webhook.Outcome = "secret_expired" // the secret waited until the key it is sealed with was destroyed
	outcomeInternal   webhook.Outcome = "internal_error" // the message could not be built on our side; not counted
	outcomeDeleted    webhook.Outcome = "endpoint_deleted"
)

// answers reports whether a receiver is there at all: it may have refused, but it did not let us wait.
func answers(o webhook.Outcome) bool { return o != webhook.TimedOut && o != webhook.ConnectError }

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// request builds the attempt, or nothing if nobody waits for it any more.
func (w *Workers) request(ctx context.Context, d *delivery) (*webhook.Request, error) {
	request := &webhook.Request{URL: d.url, Endpoint: string(d.endpoint), ID: d.messageID, Attempt: d.attempt, DeliveryID: d.id}
	if d.secret() {
		wanted, err := w.addSecret(ctx, d, request)
		if err != nil || !wanted {
			return nil, err
		}
	} else {
		body, err := w.storedBody(ctx, d.messageID)
		if err != nil || body == nil {
			return nil, err
		}
		request.Body = body
	}
	signing, err := w.cfg.Commands.SigningKeys(ctx, []domain.EndpointID{d.endpoint})
	if err != nil {
		return nil, err
	}
	request.Secrets = signing[d.endpoint]
	request.Certificate, err = w.cfg.Commands.ClientCertificate(ctx, d.endpoint, d.certificate)
	if err != nil {
		return nil, err
	}
	return request, nil
}

// addSecret makes the message one that brings a rotation's new secret. It reports whether that is still wanted: not once
// the secret has arrived, and not if the receiver has registered another key since, which gets a secret of its own.
func (w *Workers) addSecret(ctx context.Context, d *delivery, request *webhook.Request) (wanted bool, err error) {
	event, rotated, err := w.rotatedAt(ctx, d.position)
	if err != nil {
		return false, err
	}
	d.deadline = rotated.Deadline
	message, err := w.cfg.Commands.NewSecretMessage(ctx, event)
	if err != nil || message == nil {
		return false, err
	}
	if message.Mode != d.mode || message.Mode == domain.SecretSealed && message.Recipient != d.receiverKey {
		_, err := w.cfg.Commands.RedeliverRotation(ctx, w.onBehalfOf(event), d.rotation, true)
		return false, err
	}
	request.Body = message.Body
	if message.ProofHash != nil {
		request.Expect = webhook.ExpectProof(message.ProofHash)
		request.MustProve = rotated.Demand == domain.AckProof
	}
	return true, nil
}

// delivered acknowledges the rotation, if the answer is as good as demanded; the delivery is closed in the same
// transaction.
func (w *Workers) delivered(ctx context.Context, d *delivery, result webhook.Result) error {
	if !d.secret() {
		return w.finish(ctx, d, "delivered", result)
	}
	level := domain.AckAccepted
	if result.Proved {
		level = domain.AckProof
	}
	var counted bool
	err := w.persist(ctx, func() (err error) {
		counted, err = w.cfg.Commands.Acknowledge(ctx, commands.System(domain.ActorDeliver), d.lineage, d.rotation, level,
			func(batch *pgx.Batch, _ []domain.Event) error {
				w.queueFinish(batch, d, "delivered", result)
				return nil
			})
		return err
	})
	switch {
	case domain.CodeOf(err) == domain.CodeNoRotation && err != nil, err == nil && !counted:
		// Acknowledged by another sign, to be so by a stronger one, or ended meanwhile: the message did arrive all the same.
		return w.finish(ctx, d, "delivered", result)
	case err != nil:
		return fmt.Errorf("acknowledge rotation %s: %w", d.rotation, err)
	}
	return nil
}

// refusedTries is how often an address that webhooks may not reach is tried: names can change, policies do not.
const refusedTries = 3

// failed plans the next attempt, or gives up.
func (w *Workers) failed(ctx context.Context, d *delivery, result webhook.Result) error {
	if result.Outcome == webhook.Gone {
		if err := w.disable(ctx, d); err != nil {
			return err
		}
	}
	delay, more := w.cfg.Retry(d.used, w.withinDeadline(d, result.RetryAfter))
	if !more || result.Outcome.Permanent() || result.Outcome == webhook.AddressRefused && d.used >= refusedTries {
		return w.giveUp(ctx, d, result)
	}
	return w.persist(ctx, func() error { return w.retryAt(ctx, d, result, w.cfg.Now().Add(delay), false) })
}

// withinDeadline keeps a receiver from asking for a delay that would outlast its rotation.
func (w *Workers) withinDeadline(d *delivery, retryAfter time.Duration) time.Duration {
	if d.deadline == nil {
		return retryAfter
	}
	return min(retryAfter, max(0, d.deadline.Sub(w.cfg.Now())))
}

// disable takes a receiver at its word that says it is gone for good. What else is meant for it is held.
func (w *Workers) disable(ctx context.Context, d *delivery) error {
	err := w.persist(ctx, func() error {
		_, err := w.cfg.Commands.DisableGone(ctx, d.endpoint, string(webhook.Gone), nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("disable endpoint %s: %w", d.endpoint, err)
	}
	return nil
}

// giveUp stalls the rotation; the delivery is closed in the same transaction. The old key keeps working.
func (w *Workers) giveUp(ctx context.Context, d *delivery, result webhook.Result) error {
	if !d.secret() {
		return w.finish(ctx, d, "failed", result)
	}
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
		return w.write(ctx, d, func(batch *pgx.Batch) { w.queueFinish(batch, d, state, result) })
	})
}

// interrupted hands an attempt that our own stop has cut off out again at once, and does not count it.
func (w *Workers) interrupted(ctx context.Context, d *delivery, result webhook.Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return w.retryAt(ctx, d, result, w.cfg.Now(), true)
}

// ourFaultPause is how long a delivery waits whose message could not be built.
const ourFaultPause = 10 * time.Second

// ourFault puts off an attempt that failed before anything was sent. It is not counted: the receiver has no part in it.
func (w *Workers) ourFault(ctx context.Context, d *delivery, cause error) error {
	w.cfg.Logger.Error("a webhook could not be built", "delivery_id", d.id, "error", cause)
	return w.persist(ctx, func() error {
		return w.retryAt(ctx, d, webhook.Result{Outcome: outcomeInternal}, w.cfg.Now().Add(ourFaultPause), true)
	})
}

// proxyFailed puts off an attempt that did not get past our own proxy. It is not counted either, and an operator must look.
func (w *Workers) proxyFailed(ctx context.Context, d *delivery, result webhook.Result) error {
	w.cfg.Alarm(AlarmProxy)
	w.cfg.Logger.Error("the proxy for webhooks fails; nothing leaves until it works", "delivery_id", d.id, "error", result.Err)
	return w.persist(ctx, func() error { return w.retryAt(ctx, d, result, w.cfg.Now().Add(ourFaultPause), true) })
}

// putBack undoes the begin of an attempt for which there is no place now: nothing was sent.
func (w *Workers) putBack(ctx context.Context, d *delivery, wait time.Duration) error {
	return w.write(ctx, d, func(batch *pgx.Batch) { batch.Queue(sqlPutBack, d.id, d.attempt, w.cfg.Now().Add(wait)) })
}

// snooze puts off an attempt that has not begun. It costs none.
func (w *Workers) snooze(ctx context.Context, args deliverArgs, wait time.Duration) error {
	if _, err := w.cfg.Pool.Exec(ctx, sqlSnooze, args.DeliveryID, args.Attempts, w.cfg.Now().Add(wait)); err != nil {
		return fmt.Errorf("put off %s: %w", args.DeliveryID, err)
	}
	return nil
}

// notNow deals with an attempt that could not begin: the endpoint takes nothing, or is left alone, or the attempts are
// used up because the last one died with its process, which must not stay silent for ever.
func (w *Workers) notNow(ctx context.Context, args deliverArgs) error {
	d := delivery{id: args.DeliveryID, attempt: args.Attempts}
	var usedUp, deleted bool
	var state domain.EndpointState
	var probeAt *time.Time
	err := w.cfg.Pool.QueryRow(ctx, sqlWhyNot, args.DeliveryID, args.Attempts, webhook.MaxAttempts).
		Scan(&d.endpoint, &d.kind, &d.lineage, &d.rotation, &usedUp, &state, &deleted, &probeAt)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil // somebody else's attempt, or done
	case err != nil:
		return fmt.Errorf("look at %s: %w", args.DeliveryID, err)
	case usedUp:
		return w.giveUp(ctx, &d, webhook.Result{Outcome: outcomeWorkerLost})
	case deleted || state == "deleted":
		return w.giveUp(ctx, &d, webhook.Result{Outcome: outcomeDeleted})
	case state != domain.EndpointActive:
		_, err := w.cfg.Pool.Exec(ctx, sqlHold, args.DeliveryID, args.Attempts)
		return err
	}
	if probeAt == nil {
		return w.snooze(ctx, args, time.Second)
	}
	now := w.cfg.Now()
	wait := max(time.Second, probeAt.Sub(now)+rand.N(spreadOf(w.cfg.BreakerPause)+1))
	if _, err := w.cfg.Pool.Exec(ctx, sqlPutOffOne, args.DeliveryID, args.Attempts, now.Add(wait), now); err != nil {
		return fmt.Errorf("put off %s: %w", args.DeliveryID, err)
	}
	return nil
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
