package commands

import (
	"context"
	"errors"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// Sender makes one attempt to deliver a message.
type Sender interface {
	Send(ctx context.Context, r webhook.Request) webhook.Result
}

// Probe is how a receiver answered a message that was sent because its owner asked for it.
type Probe struct {
	Endpoint *projections.Endpoint // as it is now
	Outcome  webhook.Outcome
	Status   int // of HTTP; 0: there was no answer
}

// maxProbes bounds the probes that are under way at once; each may take as long as a receiver lets it.
const maxProbes = 32

// VerifyEndpoint sends the receiver a signed challenge. One that answers it gets keys' secrets from now on; the outcome
// says why another does not. An endpoint whose address or key was changed is asked for the new ones, and keeps the old ones
// until it has answered.
func (s *Service) VerifyEndpoint(ctx context.Context, by By, id domain.EndpointID) (Probe, error) {
	endpoint, err := s.cfg.Reader.Endpoint(ctx, by.reach(), id)
	if err != nil {
		return Probe{}, err
	}
	asked := &domain.Endpoint{Target: endpoint.Target, Proposed: endpoint.Proposed, State: endpoint.State}
	target, err := asked.Challenged()
	if err != nil {
		return Probe{}, err
	}
	rights, err := s.rightsOver(ctx, by, id)
	if err != nil {
		return Probe{}, err
	}
	if rights.needed = endpoint.Proposed != nil; rights.needed && rights.refusal != nil {
		return Probe{}, rights.refusal
	}
	result, err := s.probe(ctx, endpoint, target, func(at time.Time, messageID string, keys []webhook.Secret) (webhook.Request, error) {
		return s.challenge(endpoint, target, at, messageID, keys)
	})
	if err != nil || !result.Outcome.Delivered() {
		return Probe{endpoint, result.Outcome, result.Status}, err
	}
	_, err = s.onEndpoint(ctx, by, id, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		return p.Verify(target)
	}, rights.attach)
	if err != nil {
		return Probe{}, err
	}
	endpoint, err = s.changedEndpoint(ctx, by, id)
	return Probe{endpoint, result.Outcome, result.Status}, err
}

// challenge is a message that only the right receiver can answer: it holds the signing secret, and the private half of
// the key that secrets are sealed to.
func (s *Service) challenge(e *projections.Endpoint, target domain.Target, at time.Time, messageID string, keys []webhook.Secret) (webhook.Request, error) {
	challenge, err := webhook.NewChallenge(s.cfg.Random)
	if err != nil {
		return webhook.Request{}, err
	}
	verification := webhook.Verification{OrganizationID: string(e.OrganizationID), EndpointID: string(e.ID), Challenge: challenge}
	if target.ReceiverKey != nil {
		if verification.SealTo, err = webhook.ParseReceiverKey(target.ReceiverKey.PublicKey); err != nil {
			return webhook.Request{}, err
		}
	}
	body, err := webhook.EndpointVerification(at, verification, messageID)
	return webhook.Request{Body: body, Expect: webhook.ExpectChallenge(challenge, keys...), MustProve: true}, err
}

// TestEndpoint sends the receiver a message that means nothing, signed and guarded like all others.
func (s *Service) TestEndpoint(ctx context.Context, by By, id domain.EndpointID) (Probe, error) {
	endpoint, err := s.cfg.Reader.Endpoint(ctx, by.reach(), id)
	if err != nil {
		return Probe{}, err
	}
	result, err := s.probe(ctx, endpoint, endpoint.Target, func(at time.Time, _ string, _ []webhook.Secret) (webhook.Request, error) {
		body, err := webhook.EndpointTest(at, string(id))
		return webhook.Request{Body: body}, err
	})
	return Probe{endpoint, result.Outcome, result.Status}, err
}

// probe makes one attempt at once and tells how it ended.
func (s *Service) probe(ctx context.Context, e *projections.Endpoint, target domain.Target,
	build func(at time.Time, messageID string, keys []webhook.Secret) (webhook.Request, error),
) (webhook.Result, error) {
	select {
	case s.probes <- struct{}{}:
		defer func() { <-s.probes }()
	default:
		return webhook.Result{}, domain.Refuse(domain.CodeOverloaded, "too many receivers are being asked at this moment; nothing was sent")
	}
	keys, err := s.SigningKeys(ctx, []domain.EndpointID{e.ID})
	if err != nil {
		return webhook.Result{}, err
	}
	certificate, err := s.ClientCertificate(ctx, e.ID, shownBy(e))
	switch {
	case errors.Is(err, ErrCertificateChanged):
		return webhook.Result{}, domain.Refuse(domain.CodeVersionConflict, "the endpoint was changed meanwhile; nothing was sent")
	case errors.Is(err, webhook.ErrClientCertificate):
		return webhook.Result{Outcome: webhook.BadCertificate, Err: err}, nil
	case err != nil:
		return webhook.Result{}, err
	}
	messageID := s.ids.New(domain.PrefixMessage, s.cfg.Now())
	request, err := build(s.cfg.Now(), messageID, keys[e.ID])
	if err != nil {
		return webhook.Result{}, err
	}
	request.URL, request.ID, request.Secrets, request.Attempt = target.URL, messageID, keys[e.ID], 1
	request.Endpoint, request.Certificate = string(e.ID), certificate
	return s.cfg.Sender.Send(ctx, request), nil
}
