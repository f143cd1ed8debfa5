package workers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// WebhooksStream is the JetStream stream of signed webhooks.
const WebhooksStream = "REKEY_WEBHOOKS"

// WebhooksFeed publishes every webhook a second time over NATS, under the same id and signed by the same endpoints. Many
// may read a stream, and it is kept: a new secret is in it only if it is sealed to its receiver, and then the bytes are
// those that the receiver gets over HTTP. Else it is left out, and the signature is over the body without it.
func WebhooksFeed(pool *pgxpool.Pool, service *commands.Service, now func() time.Time) Feed {
	stream := streamConfig(WebhooksStream, "rekey.webhooks.>")
	stream.Description = "every webhook of rekey, without readable secrets"
	feed := &webhooksFeed{pool, service, now}
	return Feed{Name: "relay.webhooks", Stream: stream, Messages: feed.messages}
}

type webhooksFeed struct {
	pool    *pgxpool.Pool
	service *commands.Service
	now     func() time.Time
}

func (f *webhooksFeed) messages(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
	messages := make([]*nats.Msg, len(records))
	to, err := readReceivers(ctx, f.pool, records)
	if err != nil {
		return nil, err
	}
	bodies, err := keepBodies(ctx, f.pool, to.told(records), f.now())
	if err != nil {
		return nil, err
	}
	told := make([][]domain.EndpointID, len(records))
	var endpoints []domain.EndpointID
	for i, r := range records {
		if _, told[i], err = to.of(r, bodies[domain.MessageID(r.ID)]); err != nil {
			return nil, err
		}
		endpoints = append(endpoints, told[i]...)
	}
	if len(endpoints) == 0 {
		return messages, nil
	}
	keys, err := f.service.SigningKeys(ctx, endpoints)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		var signing []webhook.Secret
		for _, endpoint := range told[i] {
			signing = append(signing, keys[endpoint]...)
		}
		if len(signing) == 0 { // endpoints that are gone can vouch for nothing
			continue
		}
		if messages[i], err = f.message(ctx, r, bodies, signing); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func (f *webhooksFeed) message(ctx context.Context, r eventstore.Record, bodies map[string][]byte, signing []webhook.Secret) (*nats.Msg, error) {
	id := domain.MessageID(r.ID)
	body, err := f.body(ctx, r, bodies[id])
	if err != nil || body == nil {
		return nil, err
	}
	message := nats.NewMsg(fmt.Sprintf("rekey.webhooks.%s.%s", r.OrganizationID, r.ProjectID))
	for name, values := range webhook.Headers(id, f.now(), body, signing...) {
		for _, value := range values {
			// Lower case, as Standard Webhooks writes them: NATS headers are not folded as those of HTTP are.
			message.Header.Add(strings.ToLower(name), value)
		}
	}
	message.Header.Set(nats.MsgIdHdr, id)
	message.Data = body
	return message, nil
}

// body is the kept one, and of a new secret the message as it was sealed, while that still waits, or one without it.
func (f *webhooksFeed) body(ctx context.Context, r eventstore.Record, kept []byte) ([]byte, error) {
	d, ok := announced(r)
	if !ok {
		return kept, nil
	}
	sealed, err := f.service.SealedMessage(ctx, d.RotationID)
	if err != nil || sealed != nil {
		return sealed, err
	}
	return webhook.RotationCreated(r.OccurredAt, commands.RotationFacts(r.Event, d), webhook.OmittedSecret())
}
