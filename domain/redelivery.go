package domain

import "time"

// TypeRedeliveryRequested is the type of the event with which somebody asks for messages once more.
const TypeRedeliveryRequested Type = "RedeliveryRequested"

// RedeliveryRequested asks for messages of an endpoint to be delivered again, under the ids that they have: one, or those
// of a span of time. New secrets are not among them: of those their rotations tell.
type RedeliveryRequested struct {
	DeliveryID string     `json:"delivery_id,omitempty"`
	From       *time.Time `json:"from,omitempty"`      // when the messages were made
	To         *time.Time `json:"to,omitempty"`        // exclusive
	Delivered  bool       `json:"delivered,omitempty"` // also those that did arrive
}

// Type returns the stable name.
func (RedeliveryRequested) Type() Type { return TypeRedeliveryRequested }

// MaxRedeliverySpan bounds the span of one request.
const MaxRedeliverySpan = 30 * 24 * time.Hour

// Redeliver decides that messages are delivered again.
func (p *Endpoint) Redeliver(r RedeliveryRequested) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	if p.State != EndpointActive {
		return nil, p.notNow("sent to", "what is meant for it is held until it is active")
	}
	if r.DeliveryID == "" {
		if r.From == nil || r.To == nil || !r.From.Before(*r.To) || r.To.Sub(*r.From) > MaxRedeliverySpan {
			return nil, InvalidField("from", "and to are no span of time", "send a from before to, at most 30 days apart")
		}
	}
	return []Decided{p.decided(r)}, nil
}
