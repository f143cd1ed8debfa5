package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
)

type claimInput struct {
	Token string `path:"token" maxLength:"128" doc:"From the webhook"`
}

// claimSecret hands a new secret to whoever holds the address that its receiver was sent.
func (s *server) claimSecret(ctx context.Context, in *claimInput) (*successorOutput, error) {
	claimed, err := s.Commands.ClaimSecret(ctx, surface.RequestID(ctx), in.Token)
	if err != nil {
		return nil, err
	}
	return shownClaimed(claimed), nil
}

// claimedOnce documents what an address for one use means.
func claimedOnce(operation *huma.Operation) {
	operation.Errors = append(operation.Errors, http.StatusNotFound)
	operation.Description = "Needs no key: the address is the right to fetch the secret, once. It stands in the signed webhook of an " +
		"endpoint with `secret_mode` claim. A second use finds nothing, raises an alarm, and is no retry: an `Idempotency-Key` has no effect " +
		"here, because the answer would have to be kept for whoever holds the address."
}
