package projections

import (
	"context"
	"fmt"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// Statements for verifiers, which keep the live keys of all tenants in memory. They are rekey's own work.
const (
	sqlKeysAfter    = `SELECT ` + keyColumns + ` FROM keys WHERE id > $1 ORDER BY id LIMIT $2`
	sqlLiveLineages = `SELECT ` + keyColumns + ` FROM keys WHERE lineage_id = ANY($1) AND state IN ('pending', 'active', 'grace')`
)

// liveKeysPage is how many rows are read at a time: a second's work at most, on a slow disk.
const liveKeysPage = 5000

// EachLiveKey hands over all keys that have not ended, as the primary has them now.
func EachLiveKey(ctx context.Context, q eventstore.Querier, take func(*Key)) error {
	for last := ""; ; {
		page, err := collect(ctx, q, scanKey, sqlKeysAfter, last, liveKeysPage)
		if err != nil {
			return fmt.Errorf("read live keys after %q: %w", last, err)
		}
		for _, k := range page {
			if k.State.Live() {
				take(k)
			}
		}
		if len(page) < liveKeysPage {
			return nil
		}
		last = string(page[len(page)-1].ID)
	}
}

// LiveKeys returns the keys of lineages that have not ended, as the primary has them now.
func LiveKeys(ctx context.Context, q eventstore.Querier, lineages []domain.LineageID) ([]*Key, error) {
	keys, err := collect(ctx, q, scanKey, sqlLiveLineages, lineages)
	if err != nil {
		return nil, fmt.Errorf("read the live keys of %d lineages: %w", len(lineages), err)
	}
	return keys, nil
}
