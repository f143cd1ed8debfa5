package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// ErrCertificateChanged says that an endpoint shows another client certificate by now, or none.
var ErrCertificateChanged = errors.New("the endpoint's client certificate was changed")

// certificateContext binds a sealed certificate to its endpoint and its place in the log.
func certificateContext(id domain.EndpointID, digest string) string {
	return "client certificate " + string(id) + " " + digest
}

// ReadCertificate reads a client certificate and its private key, for use from now on.
func (s *Service) ReadCertificate(chainPEM, keyPEM string) (webhook.ClientCertificate, error) {
	certificate, err := webhook.ParseClientCertificate(chainPEM, keyPEM, s.cfg.Now())
	if bad, ok := errors.AsType[*webhook.CertificateError](err); ok {
		return webhook.ClientCertificate{}, domain.InvalidField("client_certificate."+bad.Field, bad.Reason, bad.Remedy)
	}
	return certificate, err
}

// sealCertificate gives what the log may know of a certificate, and what is stored of it; nothing of none.
func (s *Service) sealCertificate(id domain.EndpointID, c webhook.ClientCertificate) (*domain.ClientCertificate, *projections.SealedCertificate) {
	if c.IsZero() {
		return nil, nil
	}
	facts := domain.ClientCertificate(c.Facts())
	sealed := s.cfg.Sealer.Seal(certificateContext(id, facts.Digest), []byte(c.Reveal()))
	return &facts, &projections.SealedCertificate{Digest: facts.Digest, Sealed: sealed}
}

// keepCertificate stores a certificate with the event that says so; nil shreds the one before.
func keepCertificate(batch *pgx.Batch, id domain.EndpointID, events []domain.Event, sealed *projections.SealedCertificate) {
	for _, e := range events {
		if updated, ok := e.Data.(domain.EndpointUpdated); ok && slices.Contains(updated.Changed, "client_certificate") {
			projections.QueueCertificate(batch, id, sealed, e.OccurredAt)
		}
	}
}

// ClientCertificate opens the certificate with a digest that an endpoint shows to its receiver; of no digest it is none.
// One that cannot be used is a webhook.ErrClientCertificate.
func (s *Service) ClientCertificate(ctx context.Context, id domain.EndpointID, digest string) (webhook.ClientCertificate, error) {
	if digest == "" {
		return webhook.ClientCertificate{}, nil
	}
	sealed, current, err := s.cfg.Reader.EndpointCertificate(ctx, id, digest)
	switch {
	case err != nil:
		return webhook.ClientCertificate{}, err
	case !current:
		return webhook.ClientCertificate{}, ErrCertificateChanged
	case sealed == nil:
		return webhook.ClientCertificate{}, fmt.Errorf("%w: that of %s is not stored", webhook.ErrClientCertificate, id)
	}
	plaintext, err := s.cfg.Sealer.Open(certificateContext(id, digest), sealed)
	if err != nil {
		return webhook.ClientCertificate{}, fmt.Errorf("%w: that of %s: %w", webhook.ErrClientCertificate, id, err)
	}
	certificate, err := webhook.OpenClientCertificate(string(plaintext))
	if err != nil {
		return webhook.ClientCertificate{}, fmt.Errorf("that of %s: %w", id, err)
	}
	if certificate.Facts().Digest != digest {
		return webhook.ClientCertificate{}, fmt.Errorf("%w: that of %s is another one than it should be", webhook.ErrClientCertificate, id)
	}
	return certificate, nil
}

// shownBy is the digest of the certificate that an endpoint shows; empty: none.
func shownBy(e *projections.Endpoint) string {
	if e.ClientCertificate == nil {
		return ""
	}
	return e.ClientCertificate.Digest
}
