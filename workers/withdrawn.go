package workers

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// sqlSentTo are the endpoints that may have got a rotation's new secret: an attempt was begun.
const sqlSentTo = `SELECT d.rotation_id, d.endpoint_id, e.state FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
	WHERE d.rotation_id = ANY($1) AND d.type = 'key.rotation.created' AND d.attempts > 0 AND e.deleted_at IS NULL`

// withdrawn is the rotation whose new secret an event takes back. Who may have got that secret is told so, also at a key's
// own address and whatever an endpoint chose: a receiver that has changed over to it would be locked out otherwise.
func withdrawn(e domain.Event) domain.RotationID {
	switch d := e.Data.(type) {
	case domain.RotationCancelled:
		return d.RotationID
	case domain.RotationRolledBack:
		return d.RotationID
	}
	return ""
}

// readSent adds those who may have got secrets that are taken back.
func (to *receivers) readSent(ctx context.Context, q querier, records []eventstore.Record) error {
	var ids []domain.RotationID
	for _, r := range records {
		if id := withdrawn(r.Event); id != "" {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := q.Query(ctx, sqlSentTo, ids)
	if err != nil {
		return fmt.Errorf("read who was sent a secret: %w", err)
	}
	var rotation domain.RotationID
	var endpoint domain.EndpointID
	var state domain.EndpointState
	to.sent = map[domain.RotationID][]domain.EndpointID{}
	if _, err := pgx.ForEachRow(rows, []any{&rotation, &endpoint, &state}, func() error {
		to.state[endpoint] = state
		to.sent[rotation] = append(to.sent[rotation], endpoint)
		return nil
	}); err != nil {
		return fmt.Errorf("read who was sent a secret: %w", err)
	}
	return nil
}

// withSent adds those who may have got what an event takes back to who is told of it.
func (to receivers) withSent(e domain.Event, told []domain.EndpointID) []domain.EndpointID {
	for _, endpoint := range to.sent[withdrawn(e)] {
		if !slices.Contains(told, endpoint) {
			told = append(told, endpoint)
		}
	}
	return told
}
