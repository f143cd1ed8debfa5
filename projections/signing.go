package projections

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	sqlInsertEndpointSecret = `INSERT INTO endpoint_secrets (endpoint_id, version, kind, sealed, created_at) VALUES ($1, $2, $3, $4, $5)`
	// Newest first, which is the order of signatures.
	sqlEndpointSecrets = `SELECT endpoint_id, kind, sealed, expires_at FROM endpoint_secrets
		WHERE endpoint_id = ANY($1) ORDER BY endpoint_id, version DESC, kind`
	// Those that were replaced before keep the end that they have.
	sqlReplaceSecrets = `UPDATE endpoint_secrets SET expires_at = $2 WHERE endpoint_id = $1 AND expires_at IS NULL`
	sqlAnySigning     = `SELECT endpoint_id, sealed FROM endpoint_secrets ORDER BY created_at DESC LIMIT 1`
	sqlShredSigning   = `DELETE FROM endpoint_secrets WHERE endpoint_id = $1`
	sqlShredExpired   = `DELETE FROM endpoint_secrets WHERE (endpoint_id, version, kind) IN (
		SELECT endpoint_id, version, kind FROM endpoint_secrets WHERE expires_at <= $1 LIMIT $2)`
)

// SealedSecret is a signing secret of an endpoint as it is stored.
type SealedSecret struct {
	Kind   string // the version of its signatures: v1 or v1a
	Sealed []byte
}

// storedSecret is one as it is read. end is when it runs out; nil: it is the current one.
type storedSecret struct {
	SealedSecret
	end *time.Time
}

// QueueEndpointSecrets stores the sealed signing secrets of one version of an endpoint together with the events of a batch.
func QueueEndpointSecrets(batch *pgx.Batch, id domain.EndpointID, version int64, secrets []SealedSecret, now time.Time) {
	for _, s := range secrets {
		batch.Queue(sqlInsertEndpointSecret, id, version, s.Kind, s.Sealed, now)
	}
}

// QueueReplaceSecrets ends the signing secrets that are in use, at a time: now or in the past, all are shredded, also those
// that were replaced before.
func QueueReplaceSecrets(batch *pgx.Batch, id domain.EndpointID, end, now time.Time) {
	if !end.After(now) {
		QueueShredSecrets(batch, id)
		return
	}
	batch.Queue(sqlReplaceSecrets, id, end)
}

// QueueShredSecrets removes all signing secrets of an endpoint.
func QueueShredSecrets(batch *pgx.Batch, id domain.EndpointID) {
	batch.Queue(sqlShredSigning, id)
}

// AnySigningSecret returns the latest sealed secret that an endpoint signs with; nil: there is none.
func (r *Reader) AnySigningSecret(ctx context.Context) (id domain.EndpointID, sealed []byte, err error) {
	err = r.pool.QueryRow(ctx, sqlAnySigning).Scan(&id, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, unavailable(err)
	}
	return id, sealed, nil
}

// EndpointSecrets returns the sealed secrets that endpoints sign with at a time, newest first.
func (r *Reader) EndpointSecrets(ctx context.Context, ids []domain.EndpointID, now time.Time) (map[domain.EndpointID][]SealedSecret, error) {
	all, err := r.signing.getAll(ctx, ids)
	if err != nil {
		return nil, asRefusal(err)
	}
	found := make(map[domain.EndpointID][]SealedSecret, len(all))
	for id, secrets := range all {
		for _, s := range secrets {
			if s.end == nil || s.end.After(now) {
				found[id] = append(found[id], s.SealedSecret)
			}
		}
	}
	return found, nil
}

func (r *Reader) fetchSigning(ctx context.Context, ids []domain.EndpointID) (map[domain.EndpointID][]storedSecret, error) {
	found := make(map[domain.EndpointID][]storedSecret, len(ids))
	_, err := collect(ctx, r.pool, func(row pgx.CollectableRow) (id domain.EndpointID, err error) {
		var s storedSecret
		if err = row.Scan(&id, &s.Kind, &s.Sealed, &s.end); err == nil {
			found[id] = append(found[id], s)
		}
		return id, err
	}, sqlEndpointSecrets, ids)
	return found, err
}

// ShredExpiredSecrets removes signing secrets that have run out, up to a number of them.
func (r *Reader) ShredExpiredSecrets(ctx context.Context, now time.Time, limit int) (removed int, err error) {
	tag, err := r.pool.Exec(ctx, sqlShredExpired, now, limit)
	if err != nil {
		return 0, unavailable(err)
	}
	return int(tag.RowsAffected()), nil
}
