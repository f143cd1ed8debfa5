package projections

import (
	"context"

	"github.com/rekeyhq/rekey/domain"
)

var sqlKeyByNumber = withUsage(`SELECT `+keyColumns+` FROM keys WHERE `+within+` AND number = $3`, "id")

// KeyByNumber returns the key in a tenant's reach that has this number (domain.KeyNumber). A foreign key is not found,
// exactly like an unknown one.
func (r *Reader) KeyByNumber(ctx context.Context, reach Reach, number int64) (*Key, error) {
	found, err := collectWithin(ctx, r, reach, scanUsedKey, sqlKeyByNumber, number)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, domain.NotFound("key")
	}
	return found[0], nil
}
