package projections

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// sqlOldestKeys leaves out what has run out, whether the sweep has recorded that yet or not.
var sqlOldestKeys = withUsage(`SELECT `+keyColumns+` FROM keys
	WHERE `+within+` AND id > $3 AND state IN ('pending', 'active', 'grace')
		AND (expires_at IS NULL OR expires_at > $4) AND (state <> 'grace' OR grace_expires_at > $4)
	ORDER BY id LIMIT $5`, "id")

// OldestKeys lists the live keys in a tenant's reach, oldest first, after a key.
func (r *Reader) OldestKeys(ctx context.Context, reach Reach, after domain.KeyID, now time.Time, limit int) ([]*Key, error) {
	return collectWithin(ctx, r, reach, scanUsedKey, sqlOldestKeys, string(after), now, limit)
}
