package projections

import (
	"context"

	"github.com/rekeyhq/rekey/domain"
)

// KeysByDigest returns those keys, of whichever organization, whose secrets have one of the digests. It is for work that
// begins with the secrets: a report of leaks, whose sender belongs to no organization, and an import.
func (r *Reader) KeysByDigest(ctx context.Context, digests []domain.Digest) (map[domain.Digest]*Key, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	found, err := r.fetchByDigest(ctx, digests)
	if err != nil {
		return nil, asRefusal(err)
	}
	return found, nil
}
