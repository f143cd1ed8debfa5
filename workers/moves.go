package workers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// Deliveries that there are move when an event says so: they are held while their endpoint takes nothing, released when it
// does again, and made again when somebody asks for that. So do rotations that could not begin: they are due again at once.

const (
	// One that is locked is being worked on, and finds by itself that its endpoint takes nothing.
	sqlHoldAll = `UPDATE webhook_deliveries d SET state = 'held' FROM (
			SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'pending' FOR UPDATE SKIP LOCKED) waiting
		WHERE d.id = waiting.id`
	// In their order, with new budgets. The sweep hands them out.
	sqlReleaseAll = `UPDATE webhook_deliveries d SET state = 'pending', attempts_before = d.attempts,
			next_attempt_at = $2::timestamptz + held.n * interval '1 millisecond'
		FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'held') held
		WHERE d.id = held.id AND d.state = 'held'`
	// sqlUnblock ends the waits of work that was looked at in vain while the endpoint took nothing: they last up to an hour. A
	// row that is locked is being worked on, and finds by itself that the endpoint takes what comes.
	sqlUnblock = `UPDATE due_work d SET scan_at = $2 FROM (
			SELECT w.lineage_id, w.kind, w.key_id FROM keys k JOIN due_work w ON w.lineage_id = k.lineage_id AND w.key_id = k.id
			WHERE k.endpoint_id = $1 AND w.kind = 'rotate' AND w.due_at <= $2 AND w.scan_at > $2 FOR UPDATE OF w SKIP LOCKED) waiting
		WHERE (d.lineage_id, d.kind, d.key_id) = (waiting.lineage_id, waiting.kind, waiting.key_id)`
	// One that was acknowledged since it was asked for keeps its delivery as it ended.
	sqlRedeliverRotation = `UPDATE webhook_deliveries SET state = 'pending', attempts_before = attempts, next_attempt_at = $2,
			trigger = 'manual', actor = $3, finished_at = NULL
		WHERE rotation_id = $1 AND type = 'key.rotation.created' AND state <> 'cancelled'
			AND EXISTS (SELECT FROM rotations r WHERE r.id = $1 AND r.state IN ('delivering', 'stalled'))`
	sqlRedeliverOne = `UPDATE webhook_deliveries SET state = 'pending', attempts_before = attempts, next_attempt_at = $3,
			trigger = 'manual', actor = $4, finished_at = NULL
		WHERE endpoint_id = $1 AND id = $2 AND type <> 'key.rotation.created' AND state <> 'cancelled'`
	sqlRedeliverSpan = `UPDATE webhook_deliveries d SET state = 'pending', attempts_before = d.attempts, trigger = 'replay', actor = $6, finished_at = NULL,
			next_attempt_at = $5::timestamptz + again.n * interval '1 millisecond'
		FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM webhook_deliveries
		      WHERE endpoint_id = $1 AND id >= $2 AND id < $3 AND type <> 'key.rotation.created'
				AND (state IN ('failed', 'held') OR $4 AND state = 'delivered')) again
		WHERE d.id = again.id`
)

// moves reports whether an event moves deliveries that there are.
func moves(r eventstore.Record) bool {
	switch r.Data.(type) {
	case domain.EndpointStateChanged, domain.EndpointVerified, domain.RotationRedelivered, domain.RedeliveryRequested:
		return true
	}
	return false
}

// move carries out what an event says of deliveries that there are.
func (w *Workers) move(ctx context.Context, tx pgx.Tx, r eventstore.Record, now time.Time) error {
	var err error
	switch d := r.Data.(type) {
	case domain.EndpointStateChanged:
		if d.State == domain.EndpointActive {
			err = release(ctx, tx, r.StreamID, now)
		} else {
			_, err = tx.Exec(ctx, sqlHoldAll, r.StreamID)
		}
	case domain.EndpointVerified:
		err = release(ctx, tx, r.StreamID, now)
	case domain.RotationRedelivered:
		_, err = tx.Exec(ctx, sqlRedeliverRotation, d.RotationID, now, r.Actor)
	case domain.RedeliveryRequested:
		if d.DeliveryID != "" {
			_, err = tx.Exec(ctx, sqlRedeliverOne, r.StreamID, d.DeliveryID, now, r.Actor)
		} else {
			_, err = tx.Exec(ctx, sqlRedeliverSpan, r.StreamID, domain.LowestID(domain.PrefixDelivery, *d.From),
				domain.LowestID(domain.PrefixDelivery, *d.To), d.Delivered, now, r.Actor)
		}
	}
	if err != nil {
		return fmt.Errorf("move deliveries for event %s: %w", r.ID, err)
	}
	return nil
}

// release lets everything go that waits for an endpoint.
func release(ctx context.Context, tx pgx.Tx, endpoint string, now time.Time) error {
	if _, err := tx.Exec(ctx, sqlReleaseAll, endpoint, now); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, sqlUnblock, endpoint, now)
	return err
}

// onBehalfOf is the delivery's own work on something of the organization that an event is of.
func (w *Workers) onBehalfOf(e domain.Event) commands.By {
	return commands.By{Caller: domain.Caller{OrganizationID: e.OrganizationID}, Actor: domain.ActorDeliver}
}
