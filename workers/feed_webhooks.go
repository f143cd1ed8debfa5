package workers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// WebhooksStream is the JetStream stream of signed webhooks.
const WebhooksStream = "REKEY_WEBHOOKS"

// WebhooksFeed publishes every webhook a second time over NATS, under the same id and signed with the same secret, but
// with the new key's secret left out: many may read a stream, and it is kept. The signature is over this body.
func WebhooksFeed(service *commands.Service, now func() time.Time) Feed {
	stream := streamConfig(WebhooksStream, "rekey.webhooks.>")
	stream.Description = "every webhook of rekey, without secrets"
	return Feed{
		Name:   "relay.webhooks",
		Stream: stream,
		Messages: func(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
			return webhookMessages(ctx, service, now(), records)
		},
	}
}

func webhookMessages(ctx context.Context, service *commands.Service, now time.Time, records []eventstore.Record) ([]*nats.Msg, error) {
	var endpoints []domain.EndpointID
	for _, r := range records {
		if d, ok := announced(r); ok {
			endpoints = append(endpoints, d.EndpointID)
		}
	}
	messages := make([]*nats.Msg, len(records))
	if len(endpoints) == 0 {
		return messages, nil
	}
	secrets, err := service.SigningSecrets(ctx, endpoints)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		d, ok := announced(r)
		secret := secrets[d.EndpointID]
		if !ok || secret.IsZero() { // an endpoint that is gone can vouch for nothing
			continue
		}
		if messages[i], err = webhookMessage(r, d, now, secret); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func webhookMessage(r eventstore.Record, d domain.Rotated, now time.Time, secret webhook.Secret) (*nats.Msg, error) {
	body, err := rotationMessage(r.StreamID, r.OccurredAt, d, webhook.OmittedSecret())
	if err != nil {
		return nil, err
	}
	id := messageID(r)
	message := nats.NewMsg(fmt.Sprintf("rekey.webhooks.%s.%s", r.OrganizationID, r.ProjectID))
	for name, values := range webhook.Headers(id, now, body, secret) {
		for _, value := range values {
			// Lower case, as Standard Webhooks writes them: NATS headers are not folded as those of HTTP are.
			message.Header.Add(strings.ToLower(name), value)
		}
	}
	message.Header.Set(nats.MsgIdHdr, id)
	message.Data = body
	return message, nil
}
