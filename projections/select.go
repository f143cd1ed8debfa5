package projections

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Selection are criteria for live keys; all that are given must hold.
type Selection struct {
	Project     domain.ProjectID     `json:"project_id,omitempty"`
	Environment domain.EnvironmentID `json:"environment_id,omitempty"`
	// CreatedBy is a key that made the key, or the first of its lineage: rotation by interval hides nobody.
	CreatedBy domain.KeyID `json:"created_by,omitempty"`
	// Scope stands in the key's own list as it is written here. A wider one, such as *, is not meant.
	Scope     string `json:"scope,omitempty"`
	KeyPrefix string `json:"key_prefix,omitempty"` // key_prefix begins with it
	// UnusedSince is a time since which no key of the lineage was used; the lineage is older than that.
	UnusedSince *time.Time `json:"unused_since,omitempty"`
}

// IsZero reports whether nothing is asked for.
func (s Selection) IsZero() bool { return s == Selection{} }

// live is what keys must be to be selected: neither ended nor, at a time, past their deadline.
const live = `k.state IN ('pending', 'active', 'grace') AND (k.expires_at IS NULL OR k.expires_at > $4)
	AND (k.state <> 'grace' OR k.grace_expires_at > $4)`

// An active key takes all live ones of its lineage with it, so those are selected too. The first limit is for a selection
// that is too large anyway: it need not be found whole.
var sqlSelectKeys = withUsage(`WITH matching AS (
		SELECT k.id, k.lineage_id, k.state FROM keys k
		WHERE `+within+` AND k.lineage_id <> $3 AND `+live+`
			AND ($5 = '' OR k.project_id = $5) AND ($6 = '' OR k.environment_id = $6)
			AND ($7 = '' OR k.created_by = $7
				OR EXISTS (SELECT FROM keys f WHERE f.lineage_id = k.lineage_id AND f.generation = 1 AND f.created_by = $7))
			AND ($8 = '' OR k.scopes ? $8) AND starts_with(k.key_prefix, $9)
			AND ($10::timestamptz IS NULL
				OR EXISTS (SELECT FROM keys f WHERE f.lineage_id = k.lineage_id AND f.generation = 1 AND f.created_at < $10)
					AND NOT EXISTS (SELECT FROM keys f JOIN key_usage u ON u.key_id = f.id
						WHERE f.lineage_id = k.lineage_id AND u.last_used_at >= $10))
		LIMIT $11),
	chosen AS (
		SELECT id FROM matching
		UNION SELECT k.id FROM matching m JOIN keys k ON k.lineage_id = m.lineage_id WHERE m.state = 'active' AND `+live+`)
	SELECT `+keyColumns+` FROM keys k WHERE `+within+` AND k.id IN (SELECT id FROM chosen)
	ORDER BY k.id LIMIT $11`, "id")

const sqlLiveKeys = `SELECT k.id FROM keys k
		WHERE ` + within + ` AND k.id = ANY($3) AND ` + live

// Select returns the live keys that match, oldest first, beside those of one lineage, the caller's own.
func (r *Reader) Select(ctx context.Context, reach Reach, own domain.LineageID, s Selection, now time.Time, limit int) ([]*Key, error) {
	return collectWithin(ctx, r, reach, scanUsedKey, sqlSelectKeys, own, now, s.Project, s.Environment, s.CreatedBy, s.Scope, s.KeyPrefix,
		s.UnusedSince, limit)
}

// Live returns those of the keys that are live.
func (r *Reader) Live(ctx context.Context, reach Reach, ids []domain.KeyID, now time.Time) ([]domain.KeyID, error) {
	return collectWithin(ctx, r, reach, pgx.RowTo[domain.KeyID], sqlLiveKeys, ids, now)
}
