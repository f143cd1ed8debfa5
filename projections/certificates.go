package projections

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	sqlKeepCertificate = `INSERT INTO endpoint_certificates (endpoint_id, digest, sealed, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (endpoint_id) DO UPDATE SET digest = excluded.digest, sealed = excluded.sealed, created_at = excluded.created_at`
	sqlShredCertificate = `DELETE FROM endpoint_certificates WHERE endpoint_id = $1`
	// The endpoint is asked too: whether a certificate that is not there was replaced, or is lost.
	sqlCertificate = `SELECT coalesce(e.client_certificate->>'digest' = $2, false), c.sealed FROM webhook_endpoints e
		LEFT JOIN endpoint_certificates c ON c.endpoint_id = e.id AND c.digest = $2 WHERE e.id = $1`
)

// SealedCertificate is the client certificate of an endpoint, with its private key, as it is stored.
type SealedCertificate struct {
	Digest string // of the chain
	Sealed []byte
}

// QueueCertificate stores an endpoint's sealed client certificate together with the events of a batch, in the place of the
// one before; nil shreds that.
func QueueCertificate(batch *pgx.Batch, id domain.EndpointID, certificate *SealedCertificate, now time.Time) {
	if certificate == nil {
		batch.Queue(sqlShredCertificate, id)
		return
	}
	batch.Queue(sqlKeepCertificate, id, certificate.Digest, certificate.Sealed, now)
}

// EndpointCertificate returns an endpoint's sealed client certificate; nil: it is lost. current says whether the endpoint
// still shows the one with this digest.
func (r *Reader) EndpointCertificate(ctx context.Context, id domain.EndpointID, digest string) (sealed []byte, current bool, err error) {
	err = r.pool.QueryRow(ctx, sqlCertificate, id, digest).Scan(&current, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, unavailable(err)
	}
	return sealed, current, nil
}
