package commands

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// signing is what an endpoint's messages are signed with: a secret that it shares with its receiver, and a key pair whose
// private half never leaves rekey.
type signing struct {
	secret webhook.Secret
	public string
	sealed []projections.SealedSecret
}

// newSigning makes and seals both for an endpoint.
func (s *Service) newSigning(id domain.EndpointID) (signing, error) {
	var out signing
	for _, kind := range []struct {
		name string
		make func(io.Reader) (webhook.Secret, error)
	}{{"v1", webhook.NewSecret}, {"v1a", webhook.NewSigningKey}} {
		made, err := kind.make(s.cfg.Random)
		if err != nil {
			return signing{}, err
		}
		if public, ok := made.PublicKey(); ok {
			out.public = public.String()
		} else {
			out.secret = made
		}
		sealed := s.cfg.Sealer.Seal(endpointContext(id), []byte(made.Reveal()))
		out.sealed = append(out.sealed, projections.SealedSecret{Kind: kind.name, Sealed: sealed})
	}
	return out, nil
}

// newEndpoint is a webhook receiver that a command makes, with what its messages are signed with.
type newEndpoint struct {
	id domain.EndpointID
	signing
	certificate *projections.SealedCertificate // nil: none
}

// newEndpoint checks a key's own address and makes its signing secrets; without an address there is no endpoint.
func (s *Service) newEndpoint(url string) (newEndpoint, error) {
	if url == "" {
		return newEndpoint{}, nil
	}
	if err := s.cfg.CheckURL(url); err != nil {
		return newEndpoint{}, urlRefusal("rotation_webhook_url", err)
	}
	id := newID[domain.EndpointID](s, domain.PrefixEndpoint)
	made, err := s.newSigning(id)
	return newEndpoint{id: id, signing: made}, err
}

// attach stores the sealed signing secrets if the command did make the endpoint.
func (n newEndpoint) attach(batch *pgx.Batch, events []domain.Event) error {
	for _, e := range events {
		if _, ok := e.Data.(domain.EndpointCreated); ok && e.StreamID == string(n.id) {
			projections.QueueEndpointSecrets(batch, n.id, e.Version, n.sealed, e.OccurredAt)
			if n.certificate != nil {
				projections.QueueCertificate(batch, n.id, n.certificate, e.OccurredAt)
			}
		}
	}
	return nil
}

// SigningKeys opens what endpoints sign with now, newest first: the current shared secret and key pair, then replaced ones
// that have not run out. An endpoint that is gone is missing from the answer.
func (s *Service) SigningKeys(ctx context.Context, ids []domain.EndpointID) (map[domain.EndpointID][]webhook.Secret, error) {
	sealed, err := s.cfg.Reader.EndpointSecrets(ctx, ids, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	keys := make(map[domain.EndpointID][]webhook.Secret, len(sealed))
	for id, values := range sealed {
		for _, value := range values {
			plaintext, err := s.cfg.Sealer.Open(endpointContext(id), value.Sealed)
			if err != nil {
				return nil, fmt.Errorf("open a signing secret of %s: %w", id, err)
			}
			secret, err := webhook.ParseSecret(string(plaintext))
			if err != nil {
				return nil, fmt.Errorf("read a signing secret of %s: %w", id, err)
			}
			keys[id] = append(keys[id], secret)
		}
	}
	return keys, nil
}

// ForgetSigningKeys shreds signing secrets that have run out.
func (s *Service) ForgetSigningKeys(ctx context.Context) error {
	const page = 1000
	for {
		removed, err := s.cfg.Reader.ShredExpiredSecrets(ctx, s.cfg.Now(), page)
		if err != nil || removed < page {
			return err
		}
	}
}
