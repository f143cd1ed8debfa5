package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	// The rotation's row was written before, in the same transaction. If that also ended the rotation, as a joined revoke
	// does, nothing would ever shred the secret, so it is not stored.
	sqlInsertPendingSecret = `INSERT INTO pending_secrets (rotation_id, key_id, mode, recipient, sealed, epoch_id, data_key, proof_hash, created_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE EXISTS (SELECT FROM rotations WHERE id = $1 AND state IN ('delivering', 'stalled'))`
	sqlPendingSecrets = `SELECT p.rotation_id, p.key_id, p.mode, coalesce(p.recipient, ''), p.sealed, coalesce(p.epoch_id, ''), p.data_key, e.sealed, p.proof_hash, p.created_at
		FROM pending_secrets p LEFT JOIN epoch_keys e ON e.id = p.epoch_id WHERE p.rotation_id = ANY($1)`
	sqlWaitingRotation = `SELECT id, coalesce(endpoint_id, '') FROM rotations
		WHERE ` + within + ` AND lineage_id = $3 AND state IN ('delivering', 'stalled')`

	// Whoever is first makes the key of the day; all replicas then read the same one.
	sqlMakeEpoch = `INSERT INTO epoch_keys (id, sealed, created_at, destroy_after) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`
	sqlReadEpoch = `SELECT sealed FROM epoch_keys WHERE id = $1`
	// Also those that something waits for and that are not there.
	sqlSealedEpochs = `SELECT id, sealed FROM epoch_keys
		UNION ALL SELECT DISTINCT p.epoch_id, NULL::bytea FROM pending_secrets p
			WHERE p.epoch_id IS NOT NULL AND NOT EXISTS (SELECT FROM epoch_keys e WHERE e.id = p.epoch_id)
		ORDER BY 1`
	sqlEndEpochs = `DELETE FROM epoch_keys WHERE destroy_after <= $1`
)

// PendingSecret is a new secret that waits for its rotation to be acknowledged. None of it can be read without the master
// key, or, if it was sealed to its receiver, without the receiver's.
type PendingSecret struct {
	RotationID domain.RotationID
	KeyID      domain.KeyID
	Mode       domain.SecretMode
	Recipient  string // id of the receiver's key; only if sealed to it
	Sealed     []byte // the secret; if sealed to its receiver, the whole message
	EpochID    string // empty: not sealed with a data key
	DataKey    []byte // sealed with the epoch's key
	EpochKey   []byte // sealed with the master key; only when read, and nil once it was destroyed
	ProofHash  []byte // nil: no proof can be asked for
	CreatedAt  time.Time
}

// QueuePendingSecret stores a new secret until its rotation is acknowledged, together with the events of a batch.
func QueuePendingSecret(batch *pgx.Batch, p PendingSecret) {
	batch.Queue(sqlInsertPendingSecret, p.RotationID, p.KeyID, p.Mode, optional(p.Recipient), p.Sealed, optional(p.EpochID), p.DataKey,
		p.ProofHash, p.CreatedAt)
}

// PendingSecret returns the secret that waits for a rotation, or nil once nothing waits any more.
func (r *Reader) PendingSecret(ctx context.Context, id domain.RotationID) (*PendingSecret, error) {
	p, _, err := r.pending.get(ctx, id)
	if err != nil {
		return nil, asRefusal(err)
	}
	return p, nil
}

func (r *Reader) fetchPending(ctx context.Context, ids []domain.RotationID) (map[domain.RotationID]*PendingSecret, error) {
	found := make(map[domain.RotationID]*PendingSecret, len(ids))
	_, err := collect(ctx, r.pool, func(row pgx.CollectableRow) (domain.RotationID, error) {
		var p PendingSecret
		err := row.Scan(&p.RotationID, &p.KeyID, &p.Mode, &p.Recipient, &p.Sealed, &p.EpochID, &p.DataKey, &p.EpochKey, &p.ProofHash, &p.CreatedAt)
		found[p.RotationID] = &p
		return p.RotationID, err
	}, sqlPendingSecrets, ids)
	return found, err
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

// EpochKey returns the sealed key of an epoch. If there is none yet, the offered one becomes it.
func (r *Reader) EpochKey(ctx context.Context, id string, offered []byte, now, destroyAfter time.Time) ([]byte, error) {
	var sealed []byte
	err := r.pool.QueryRow(ctx, sqlReadEpoch, id).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		if _, err := r.pool.Exec(ctx, sqlMakeEpoch, id, offered, now, destroyAfter); err != nil {
			return nil, fmt.Errorf("make epoch key: %w", unavailable(err))
		}
		err = r.pool.QueryRow(ctx, sqlReadEpoch, id).Scan(&sealed)
	}
	if err != nil {
		return nil, fmt.Errorf("read epoch key: %w", unavailable(err))
	}
	return sealed, nil
}

// SealedEpoch is the key of an epoch as it is stored.
type SealedEpoch struct {
	ID     string
	Sealed []byte // nil: it is missing
}

// SealedEpochs lists the keys of epochs, also those that are missing while something that waits is sealed with them.
func (r *Reader) SealedEpochs(ctx context.Context) ([]SealedEpoch, error) {
	return collect(ctx, r.pool, pgx.RowToStructByPos[SealedEpoch], sqlSealedEpochs)
}

// EndEpochs destroys the keys of epochs whose time is over, and returns how many there were.
func (r *Reader) EndEpochs(ctx context.Context, now time.Time) (int64, error) {
	tag, err := r.pool.Exec(ctx, sqlEndEpochs, now)
	if err != nil {
		return 0, fmt.Errorf("destroy epoch keys: %w", unavailable(err))
	}
	return tag.RowsAffected(), nil
}
