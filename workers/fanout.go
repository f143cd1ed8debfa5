package workers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// fanOutName is the checkpoint of the reader that turns events into deliveries.
const fanOutName = "webhooks"

const sqlInsertDeliveries = `INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id,
		lineage_id, rotation_id, position, type, state, next_attempt_at, created_at)
	SELECT d.id, d.message, d.endpoint, d.organization, d.project, d.lineage, d.rotation, d.position, $10, 'pending', $9, $11
	FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])
		AS d(id, message, endpoint, organization, project, lineage, rotation, position)
	ON CONFLICT (message_id, endpoint_id) DO NOTHING`

// fanOut turns events into deliveries. The rows, their first jobs and the checkpoint commit together, so each event has
// its deliveries exactly once: the log is the only outbox.
func (w *Workers) fanOut() eventstore.Consumer {
	return eventstore.Consumer{
		Name:  fanOutName,
		Wants: func(r eventstore.Record) bool { _, ok := announced(r); return ok },
		Apply: w.applyFanOut,
	}
}

func (w *Workers) applyFanOut(ctx context.Context, tx pgx.Tx, records []eventstore.Record) error {
	var (
		columns   [7][]string
		positions []int64
		jobs      []river.InsertManyParams
	)
	now := w.cfg.Now()
	for _, r := range records {
		d, ok := announced(r)
		if !ok {
			continue
		}
		id := ids.New(domain.PrefixDelivery, now)
		for i, value := range []string{id, messageID(r), string(d.EndpointID), string(r.OrganizationID), string(r.ProjectID),
			r.StreamID, string(d.RotationID)} {
			columns[i] = append(columns[i], value)
		}
		positions = append(positions, r.Position)
		jobs = append(jobs, river.InsertManyParams{Args: deliverArgs{DeliveryID: id}})
	}
	if len(jobs) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, sqlInsertDeliveries, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5],
		columns[6], positions, now.Add(attemptLease), webhook.TypeRotationCreated, now); err != nil {
		return fmt.Errorf("insert deliveries: %w", err)
	}
	if _, err := w.client.InsertManyFastTx(ctx, tx, jobs); err != nil {
		return fmt.Errorf("insert delivery jobs: %w", err)
	}
	return nil
}

// ids makes the ids of deliveries.
var ids domain.IDs

// announced returns the rotation that an event asks to tell a receiver of: one that waits for its acknowledgment.
func announced(r eventstore.Record) (domain.Rotated, bool) {
	d, ok := r.Data.(domain.Rotated)
	return d, ok && d.Acknowledged == "" && d.EndpointID != ""
}

// messageID is the webhook-id of an event's message. It follows from the event, so that every path that tells of it, now
// or after a rebuild, uses the same.
func messageID(r eventstore.Record) string {
	return domain.PrefixMessage + strings.TrimPrefix(string(r.ID), domain.PrefixEvent)
}

// rotationMessage is the body that tells of a rotation.
func rotationMessage(lineage string, at time.Time, d domain.Rotated, secret webhook.KeySecret) ([]byte, error) {
	return webhook.RotationCreated(at, webhook.Rotation{
		KeyID: string(d.KeyID), PreviousKeyID: string(d.PreviousKeyID), LineageID: lineage,
		Generation: int64(d.Generation), RotationID: string(d.RotationID), GraceSeconds: d.GraceSeconds,
	}, secret)
}
