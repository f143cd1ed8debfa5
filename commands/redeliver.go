package commands

import (
	"context"
	"errors"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// Redeliver asks for one webhook to be delivered again, under the same id and with new attempts. The event in the log
// names who asked. A new secret is delivered again as long as its rotation waits.
func (s *Service) Redeliver(ctx context.Context, by By, id projections.DeliveryID) (*projections.Delivery, error) {
	found, err := s.cfg.Reader.Delivery(ctx, by.reach(), id)
	if err != nil {
		return nil, err
	}
	if found.Type == webhook.TypeRotationCreated {
		_, err := s.RedeliverRotation(ctx, withoutAnswer(by), found.RotationID, false)
		return found, err
	}
	_, err = s.onEndpoint(ctx, withoutAnswer(by), found.EndpointID, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		return p.Redeliver(domain.RedeliveryRequested{DeliveryID: string(id)})
	}, nil)
	return found, err
}

// withoutAnswer lets whoever asked keep the answer by itself: there may be several commands behind it.
func withoutAnswer(by By) By {
	by.Answer = nil
	return by
}

// RedeliverSpan asks for webhooks of an endpoint.
type RedeliverSpan struct {
	EndpointID domain.EndpointID
	From, To   time.Time // when they were made; To is exclusive
	Delivered  bool      // also those that did arrive
}

// maxRotationsAgain bounds the rotations of one request; the next one goes on with those that are left.
const maxRotationsAgain = 500

// RedeliverSpan asks for the webhooks of an endpoint that were made in a span of time and did not arrive to be delivered
// again, in their order. Secrets are among them as long as their rotations wait. It returns how many of those there were.
func (s *Service) RedeliverSpan(ctx context.Context, by By, c RedeliverSpan) (rotations int, err error) {
	by = withoutAnswer(by)
	_, err = s.onEndpoint(ctx, by, c.EndpointID, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		return p.Redeliver(domain.RedeliveryRequested{From: &c.From, To: &c.To, Delivered: c.Delivered})
	}, nil)
	if err != nil {
		return 0, err
	}
	waiting, err := s.cfg.Reader.UndeliveredRotations(ctx, by.reach(), c.EndpointID, c.From, c.To, maxRotationsAgain)
	for _, id := range waiting {
		_, again := s.RedeliverRotation(ctx, by, id, false)
		if domain.CodeOf(again) == domain.CodeRotationState || domain.CodeOf(again) == domain.CodeNotFound {
			continue // it arrived or ended meanwhile
		}
		if again != nil {
			return rotations, errors.Join(err, again)
		}
		rotations++
	}
	return rotations, err
}
