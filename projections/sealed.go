package projections

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	sqlInsertEndpointSecret = `INSERT INTO endpoint_secrets (endpoint_id, sealed, created_at) VALUES ($1, $2, $3)`
	sqlEndpointSecrets      = `SELECT endpoint_id, sealed FROM endpoint_secrets WHERE endpoint_id = ANY($1)`
	// The rotation's row was written before, in the same transaction. If that also ended the rotation, as a joined revoke
	// does, nothing would ever shred the secret, so it is not stored.
	sqlInsertPendingSecret = `INSERT INTO pending_secrets (rotation_id, key_id, sealed, created_at)
		SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT FROM rotations WHERE id = $1 AND state IN ('delivering', 'stalled'))`
	sqlPendingSecret   = `SELECT sealed FROM pending_secrets WHERE rotation_id = $1`
	sqlWaitingRotation = `SELECT id, coalesce(endpoint_id, '') FROM rotations
		WHERE ` + within + ` AND lineage_id = $3 AND state IN ('delivering', 'stalled')`
)

// QueueEndpointSecret stores an endpoint's sealed signing secret together with the events of a batch.
func QueueEndpointSecret(batch *pgx.Batch, id domain.EndpointID, sealed []byte, now time.Time) {
	batch.Queue(sqlInsertEndpointSecret, id, sealed, now)
}

// QueuePendingSecret stores a new sealed secret until its rotation is acknowledged, together with the events of a batch.
func QueuePendingSecret(batch *pgx.Batch, id domain.RotationID, key domain.KeyID, sealed []byte, now time.Time) {
	batch.Queue(sqlInsertPendingSecret, id, key, sealed, now)
}

// EndpointSecrets returns the sealed signing secrets of endpoints.
func (r *Reader) EndpointSecrets(ctx context.Context, ids []domain.EndpointID) (map[domain.EndpointID][]byte, error) {
	type pair struct {
		id     domain.EndpointID
		sealed []byte
	}
	pairs, err := collect(ctx, r.pool, func(row pgx.CollectableRow) (p pair, err error) {
		return p, row.Scan(&p.id, &p.sealed)
	}, sqlEndpointSecrets, ids)
	found := make(map[domain.EndpointID][]byte, len(pairs))
	for _, p := range pairs {
		found[p.id] = p.sealed
	}
	return found, err
}

// PendingSecret returns the sealed secret that waits for a rotation, or nil once nothing waits any more.
func (r *Reader) PendingSecret(ctx context.Context, id domain.RotationID) ([]byte, error) {
	var sealed []byte
	err := r.pool.QueryRow(ctx, sqlPendingSecret, id).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return sealed, nil
}

// WaitingRotation returns the rotation of a lineage that has not been acknowledged, if there is one in the tenant's reach.
// An empty endpoint means that the old key fetches its successor itself.
func (r *Reader) WaitingRotation(ctx context.Context, reach Reach, id domain.LineageID) (domain.RotationID, domain.EndpointID, error) {
	type waiting struct {
		rotation domain.RotationID
		endpoint domain.EndpointID
	}
	found, err := collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (w waiting, err error) {
		return w, row.Scan(&w.rotation, &w.endpoint)
	}, sqlWaitingRotation, id)
	if err != nil || len(found) == 0 {
		return "", "", err
	}
	return found[0].rotation, found[0].endpoint, nil
}
