package projections

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// lastKeyID comes after the id of every key: where a list begins that goes back from a key, or a span of time that keys
// of its first instant are not in. With it the condition on the id has one form, which a plan can use whatever it is
// prepared for; one that allows for no id at all defeats the index.
const lastKeyID = domain.PrefixKey + "_~"

var (
	// sqlListAllKeys has no part for ended keys: nobody lists those of a whole organization.
	sqlListAllKeys = withUsage(`SELECT `+keyColumns+` FROM keys
		WHERE `+within+` AND id < $3 AND state IN ('pending', 'active', 'grace')
			AND (expires_at IS NULL OR expires_at > $4) AND (state <> 'grace' OR grace_expires_at > $4)
		ORDER BY id DESC LIMIT $5`, "id DESC")
	sqlExpiringKeys = withUsage(`SELECT `+keyColumns+` FROM keys
		WHERE `+within+` AND (expires_at, id) > ($3, $4) AND expires_at <= $5 AND ($6 = '' OR project_id = $6)
			AND state IN ('pending', 'active', 'grace') AND (state <> 'grace' OR grace_expires_at > $7)
		ORDER BY expires_at, id LIMIT $8`, "expires_at, id")
)

// ExpiringList selects live keys by the time at which they end, soonest first. Keys that end at the same instant are in
// the order of their ids.
type ExpiringList struct {
	Reach   Reach
	Project domain.ProjectID // empty: all
	Now     time.Time
	Until   time.Time // the last moment that counts
	After   Expiry    // continue after this; zero: from now
	Limit   int
}

// Expiry is a place in an ExpiringList.
type Expiry struct {
	At time.Time
	ID domain.KeyID
}

// Expiring lists keys that end soon.
func (r *Reader) Expiring(ctx context.Context, l ExpiringList) ([]*Key, error) {
	after := l.After
	if !after.At.After(l.Now) { // what ended since the page before is no longer live
		after = Expiry{l.Now, lastKeyID}
	}
	return collectWithin(ctx, r, l.Reach, scanUsedKey, sqlExpiringKeys, after.At, string(after.ID), l.Until, string(l.Project), l.Now, l.Limit)
}
