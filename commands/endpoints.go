package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// urlRefusal names the field and the remedy for an address that cannot be a receiver.
func urlRefusal(err error) error {
	if bad, ok := errors.AsType[*webhook.URLError](err); ok {
		refusal := domain.InvalidField("rotation_webhook_url", bad.Reason, bad.Remedy)
		refusal.Message = bad.Reason // already a sentence of its own
		return refusal
	}
	return domain.InvalidField("rotation_webhook_url", "cannot be used", "use an https URL of a public host").WithCause(err)
}

// SigningSecrets opens the signing secrets of endpoints. One that is gone is missing from the answer.
func (s *Service) SigningSecrets(ctx context.Context, ids []domain.EndpointID) (map[domain.EndpointID]webhook.Secret, error) {
	sealed, err := s.cfg.Reader.EndpointSecrets(ctx, ids)
	if err != nil {
		return nil, err
	}
	secrets := make(map[domain.EndpointID]webhook.Secret, len(sealed))
	for id, value := range sealed {
		plaintext, err := s.cfg.Sealer.Open(endpointContext(id), value)
		if err != nil {
			return nil, fmt.Errorf("open the signing secret of %s: %w", id, err)
		}
		if secrets[id], err = webhook.ParseSecret(string(plaintext)); err != nil {
			return nil, fmt.Errorf("read the signing secret of %s: %w", id, err)
		}
	}
	return secrets, nil
}
