package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// DeliveryBody is one webhook on its way to one endpoint. It is exported because huma and encoding/json show the fields
// of an embedded struct only then.
type DeliveryBody struct {
	ID             projections.DeliveryID `json:"id" example:"dlv_01jz8q0v6me5et8b3k2c9d4x7a"`
	WebhookID      string                 `json:"webhook_id" example:"msg_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Of the message, the same over all attempts"`
	Type           string                 `json:"type" example:"key.rotation.created"`
	EndpointID     domain.EndpointID      `json:"endpoint_id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID  `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      domain.ProjectID       `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID      *domain.LineageID      `json:"lineage_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"null: it tells of no key"`
	RotationID     *domain.RotationID     `json:"rotation_id" example:"rot_01jz8q0v6me5et8b3k2c9d4x7a" doc:"null: it tells of none"`
	State          string                 `json:"state" enum:"pending,held,delivered,failed,cancelled" doc:"pending: attempts go on. held: its endpoint takes nothing now. cancelled: nobody waits for it any more"`
	Attempts       int                    `json:"attempts" doc:"Made so far, the one under way included"`
	LastOutcome    *string                `json:"last_outcome" example:"timeout" doc:"Stable code of how the last attempt ended"`
	LastStatus     *int                   `json:"last_status" example:"503" doc:"HTTP status of the last answer; null: there was none"`
	NextAttemptAt  *time.Time             `json:"next_attempt_at" doc:"null: there is none"`
	CreatedAt      time.Time              `json:"created_at" doc:"When the message was addressed to the endpoint"`
	FinishedAt     *time.Time             `json:"finished_at" doc:"When it was delivered, given up or cancelled; null: it goes on"`
}

// AttemptBody is one attempt of a delivery.
type AttemptBody struct {
	Number            int        `json:"number" example:"1" doc:"Counts on over redeliveries"`
	StartedAt         time.Time  `json:"started_at" doc:"When it was claimed, a moment before it was made"`
	FinishedAt        *time.Time `json:"finished_at" doc:"null: under way, or its process died"`
	Outcome           *string    `json:"outcome" example:"delivered" doc:"Stable code; null while it is under way"`
	Status            *int       `json:"status" example:"204" doc:"HTTP status; null: there was no answer"`
	DNSms             *int       `json:"dns_ms" doc:"null, like all times: it did not happen, such as on a connection that was used before"`
	ConnectMs         *int       `json:"connect_ms" doc:"Of the TCP connection"`
	TLSms             *int       `json:"tls_ms" doc:"Of the TLS handshake"`
	FirstByteMs       *int       `json:"first_byte_ms" doc:"From the begin of the attempt"`
	TotalMs           *int       `json:"total_ms" doc:"Until the answer was read, or it was given up"`
	RetryAfterSeconds *int       `json:"retry_after_seconds" doc:"What the receiver asked for"`
	NextDelaySeconds  *int       `json:"next_delay_seconds" doc:"Until the next attempt; null: there is none"`
	Worker            *string    `json:"worker" doc:"The process that made it"`
	Trigger           string     `json:"trigger" enum:"auto,manual,replay" doc:"auto: by the schedule. manual: a redelivery. replay: one of a span"`
	Actor             *string    `json:"actor" doc:"Who asked for it; null: nobody had to"`
}

func bodyOfDelivery(d *projections.Delivery) DeliveryBody {
	b := DeliveryBody{
		ID: d.ID, WebhookID: d.MessageID, Type: d.Type, EndpointID: d.EndpointID, OrganizationID: d.OrganizationID, ProjectID: d.ProjectID,
		LineageID: orNull(d.LineageID), RotationID: orNull(d.RotationID), State: d.State, Attempts: d.Attempts, LastOutcome: orNull(d.LastOutcome),
		LastStatus: d.LastStatus, CreatedAt: d.CreatedAt, FinishedAt: d.FinishedAt,
	}
	if d.State == "pending" {
		b.NextAttemptAt = &d.NextAttemptAt
	}
	return b
}

func bodyOfAttempt(a projections.Attempt) AttemptBody {
	return AttemptBody{
		Number: a.Number, StartedAt: a.StartedAt, FinishedAt: a.FinishedAt, Outcome: orNull(a.Outcome), Status: a.Status,
		DNSms: a.DNSms, ConnectMs: a.ConnectMs, TLSms: a.TLSms, FirstByteMs: a.FirstByteMs, TotalMs: a.TotalMs,
		RetryAfterSeconds: a.RetryAfterSeconds, NextDelaySeconds: a.NextDelaySeconds, Worker: orNull(a.Worker), Trigger: a.Trigger,
		Actor: orNull(string(a.Actor)),
	}
}

type listDeliveriesInput struct {
	surface.PageInput
	State      string            `query:"state" doc:"Only in this state: pending, held, delivered, failed, cancelled"`
	EndpointID domain.EndpointID `query:"endpoint_id" doc:"Only to this endpoint"`
	ProjectID  domain.ProjectID  `query:"project_id" doc:"Only of this project"`
}

func (s *server) listDeliveries(ctx context.Context, in *listDeliveriesInput) (*surface.List[DeliveryBody], error) {
	if in.State != "" && !slices.Contains(projections.DeliveryStates(), in.State) {
		return nil, domain.InvalidField("state", "is not a state of a delivery", "choose from "+strings.Join(projections.DeliveryStates(), ", "))
	}
	for _, err := range []error{
		in.Check(domain.PrefixDelivery),
		surface.CheckFilter("endpoint_id", domain.PrefixEndpoint, string(in.EndpointID)),
		surface.CheckFilter("project_id", domain.PrefixProject, string(in.ProjectID)),
	} {
		if err != nil {
			return nil, err
		}
	}
	found, err := s.Reader.Deliveries(ctx, projections.DeliveryList{
		Reach: surface.Reach(ctx), State: in.State, Endpoint: in.EndpointID, Project: in.ProjectID,
		Before: projections.DeliveryID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/deliveries", found, func(d *projections.Delivery) string { return string(d.ID) },
		url.Values{"state": {in.State}, "endpoint_id": {string(in.EndpointID)}, "project_id": {string(in.ProjectID)}}, bodyOfDelivery), nil
}

// DeliveryPath is the delivery that a path names. It is exported because huma fills embedded fields only then.
type DeliveryPath struct {
	ID projections.DeliveryID `path:"id" example:"dlv_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The delivery"`
}

type attemptedDeliveryOutput struct {
	Body struct {
		DeliveryBody
		Log []AttemptBody `json:"attempt_log" nullable:"false" doc:"Every attempt, oldest first; kept for 30 days"`
	}
}

func (s *server) getDelivery(ctx context.Context, in *DeliveryPath) (*attemptedDeliveryOutput, error) {
	delivery, err := s.Reader.Delivery(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	attempts, err := s.Reader.Attempts(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	out := &attemptedDeliveryOutput{}
	out.Body.DeliveryBody, out.Body.Log = bodyOfDelivery(delivery), []AttemptBody{}
	for _, a := range attempts {
		out.Body.Log = append(out.Body.Log, bodyOfAttempt(a))
	}
	return out, nil
}

type deliveryOutput struct{ Body DeliveryBody }

// redeliver answers with the delivery as it was: the attempts follow.
func (s *server) redeliver(ctx context.Context, in *DeliveryPath) (*deliveryOutput, error) {
	found, err := s.Commands.Redeliver(ctx, surface.By(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &deliveryOutput{bodyOfDelivery(found)}, nil
}

type redeliverSpanInput struct {
	Body struct {
		EndpointID domain.EndpointID `json:"endpoint_id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a"`
		From       string            `json:"from" format:"date-time" example:"2026-03-01T00:00:00Z" doc:"Webhooks made at this time or later"`
		To         string            `json:"to" format:"date-time" example:"2026-03-02T00:00:00Z" doc:"and before this one; at most 30 days after it"`
		Delivered  bool              `json:"delivered,omitempty" doc:"Also those that did arrive"`
	}
}

type redeliverSpanOutput struct {
	Body struct {
		EndpointID domain.EndpointID `json:"endpoint_id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a"`
		Rotations  int               `json:"rotations" doc:"How many of them bring secrets that still wait; 500 at most, the rest with the next request"`
	}
}

func (s *server) redeliverSpan(ctx context.Context, in *redeliverSpanInput) (*redeliverSpanOutput, error) {
	var span [2]*time.Time
	for i, field := range []struct{ name, value string }{{"from", in.Body.From}, {"to", in.Body.To}} {
		at, err := surface.Instant(field.name, &field.value)
		if err != nil {
			return nil, err
		}
		if at == nil {
			return nil, domain.InvalidField(field.name, "is missing", "send a time in RFC 3339")
		}
		span[i] = at
	}
	rotations, err := s.Commands.RedeliverSpan(ctx, surface.By(ctx), commands.RedeliverSpan{
		EndpointID: in.Body.EndpointID, From: *span[0], To: *span[1], Delivered: in.Body.Delivered,
	})
	if err != nil {
		return nil, fmt.Errorf("redeliver: %w", err)
	}
	out := &redeliverSpanOutput{}
	out.Body.EndpointID, out.Body.Rotations = in.Body.EndpointID, rotations
	return out, nil
}

// accepts marks a route whose work is done after its answer.
func accepts(operation *huma.Operation) { operation.DefaultStatus = http.StatusAccepted }
