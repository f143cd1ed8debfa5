package projections

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

const (
	// Like the secret itself, only for a rotation that waits.
	sqlInsertClaim = `INSERT INTO claims (token_hash, rotation_id, lineage_id, expires_at)
		SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT FROM rotations WHERE id = $2 AND state IN ('delivering', 'stalled'))`
	sqlClaim        = `SELECT rotation_id, lineage_id, expires_at, claimed_at, reused_at FROM claims WHERE token_hash = $1`
	sqlClaimed      = `UPDATE claims SET claimed_at = $2 WHERE token_hash = $1`
	sqlClaimReused  = `UPDATE claims SET reused_at = $2 WHERE token_hash = $1 AND reused_at IS NULL`
	sqlForgetClaims = `DELETE FROM claims WHERE token_hash IN (SELECT token_hash FROM claims WHERE expires_at <= $1 LIMIT $2)`
)

// Claim is an address at which a new secret is fetched, once.
type Claim struct {
	TokenHash  []byte
	RotationID domain.RotationID
	LineageID  domain.LineageID
	ExpiresAt  time.Time
	ClaimedAt  *time.Time
	ReusedAt   *time.Time
}

// QueueClaim stores a claim together with the events of a batch.
func QueueClaim(batch *pgx.Batch, c Claim) {
	batch.Queue(sqlInsertClaim, c.TokenHash, c.RotationID, c.LineageID, c.ExpiresAt)
}

// QueueClaimed records the use of a claim, or a later one that raised the alarm.
func QueueClaimed(batch *pgx.Batch, tokenHash []byte, at time.Time, again bool) {
	if again {
		batch.Queue(sqlClaimReused, tokenHash, at)
		return
	}
	batch.Queue(sqlClaimed, tokenHash, at)
}

// Claim returns the claim with a token, or nil.
func (r *Reader) Claim(ctx context.Context, tokenHash []byte) (*Claim, error) {
	c := Claim{TokenHash: tokenHash}
	err := r.pool.QueryRow(ctx, sqlClaim, tokenHash).Scan(&c.RotationID, &c.LineageID, &c.ExpiresAt, &c.ClaimedAt, &c.ReusedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return &c, nil
}

// ForgetClaims removes claims that ended before a time, up to a number of them.
func (r *Reader) ForgetClaims(ctx context.Context, before time.Time, limit int) (removed int, err error) {
	tag, err := r.pool.Exec(ctx, sqlForgetClaims, before, limit)
	if err != nil {
		return 0, unavailable(err)
	}
	return int(tag.RowsAffected()), nil
}
