package projections

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// DeliveryID names one webhook on its way to one endpoint.
type DeliveryID string

// Delivery is one webhook on its way to one endpoint.
type Delivery struct {
	ID             DeliveryID
	MessageID      string
	Type           string
	EndpointID     domain.EndpointID
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	LineageID      domain.LineageID  // empty: it tells of no key
	RotationID     domain.RotationID // empty: it tells of none
	State          string
	Attempts       int
	Trigger        string
	Actor          domain.Actor // who asked for the attempts of now; empty: nobody had to
	LastOutcome    string
	LastStatus     *int
	NextAttemptAt  time.Time // only while it is pending
	CreatedAt      time.Time
	FinishedAt     *time.Time
}

// Attempt is one try to deliver a webhook. It holds nothing of the message and nothing of the answer but its status.
type Attempt struct {
	Number                                        int
	StartedAt                                     time.Time
	FinishedAt                                    *time.Time // nil: under way, or its process died
	Outcome                                       string
	Status                                        *int
	DNSms, ConnectMs, TLSms, FirstByteMs, TotalMs *int
	RetryAfterSeconds, NextDelaySeconds           *int
	Worker, Trigger                               string
	Actor                                         domain.Actor
}

// DeliveryStates are the states of a delivery.
func DeliveryStates() []string {
	return []string{"pending", "held", "delivered", "failed", "cancelled"}
}

const (
	deliveryColumns = `id, message_id, type, endpoint_id, organization_id, project_id, coalesce(lineage_id, ''), coalesce(rotation_id, ''), state, attempts,
		trigger, coalesce(actor, ''), coalesce(last_outcome, ''), last_status, next_attempt_at, created_at, finished_at`
	sqlDeliveries = `SELECT ` + deliveryColumns + ` FROM webhook_deliveries
		WHERE ` + within + ` AND ($3 = '' OR id = $3) AND ($4 = '' OR state = $4) AND ($5 = '' OR endpoint_id = $5)
			AND ($6 = '' OR project_id = $6) AND id < $7 ORDER BY id DESC LIMIT $8`
	sqlAttempts = `SELECT number, started_at, a.finished_at, coalesce(outcome, ''), status, dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms,
			retry_after_seconds, next_delay_seconds, coalesce(worker, ''), a.trigger, coalesce(a.actor, '')
		FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id
		WHERE ` + within + ` AND delivery_id = $3 ORDER BY number`
	// Rotations of a span whose secrets still wait and are not on their way, oldest first.
	sqlUndelivered = `SELECT rotation_id FROM webhook_deliveries d
		WHERE ` + within + ` AND endpoint_id = $3 AND id >= $4 AND id < $5 AND type = 'key.rotation.created' AND state IN ('failed', 'held')
			AND EXISTS (SELECT FROM rotations r WHERE r.id = d.rotation_id AND r.state IN ('delivering', 'stalled'))
		ORDER BY id LIMIT $6`
)

// lastDeliveryID comes after the id of every delivery; see lastKeyID.
const lastDeliveryID = domain.PrefixDelivery + "_~"

// DeliveryList selects deliveries, newest first.
type DeliveryList struct {
	Reach    Reach
	ID       DeliveryID        // only this one; empty: all
	State    string            // empty: all
	Endpoint domain.EndpointID // empty: all
	Project  domain.ProjectID  // empty: all in reach
	Before   DeliveryID        // continue after this one; empty: from the newest
	Limit    int
}

// Deliveries lists deliveries.
func (r *Reader) Deliveries(ctx context.Context, l DeliveryList) ([]*Delivery, error) {
	return collectWithin(ctx, r, l.Reach, scanDelivery, sqlDeliveries, string(l.ID), l.State, string(l.Endpoint), string(l.Project),
		cmp.Or(string(l.Before), lastDeliveryID), l.Limit)
}

// Delivery returns a delivery in a tenant's reach. A foreign one is not found, exactly like an unknown one.
func (r *Reader) Delivery(ctx context.Context, reach Reach, id DeliveryID) (*Delivery, error) {
	if !domain.ValidID(domain.PrefixDelivery, string(id)) {
		return nil, domain.NotFound("delivery")
	}
	found, err := r.Deliveries(ctx, DeliveryList{Reach: reach, ID: id, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, domain.NotFound("delivery")
	}
	return found[0], nil
}

func scanDelivery(row pgx.CollectableRow) (*Delivery, error) {
	var d Delivery
	err := row.Scan(&d.ID, &d.MessageID, &d.Type, &d.EndpointID, &d.OrganizationID, &d.ProjectID, &d.LineageID, &d.RotationID, &d.State,
		&d.Attempts, &d.Trigger, &d.Actor, &d.LastOutcome, &d.LastStatus, &d.NextAttemptAt, &d.CreatedAt, &d.FinishedAt)
	d.NextAttemptAt, d.CreatedAt, d.FinishedAt = d.NextAttemptAt.UTC(), d.CreatedAt.UTC(), inUTC(d.FinishedAt)
	return &d, err
}

// Attempts lists the attempts of a delivery in a tenant's reach, oldest first.
func (r *Reader) Attempts(ctx context.Context, reach Reach, id DeliveryID) ([]Attempt, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (a Attempt, err error) {
		err = row.Scan(&a.Number, &a.StartedAt, &a.FinishedAt, &a.Outcome, &a.Status, &a.DNSms, &a.ConnectMs, &a.TLSms, &a.FirstByteMs, &a.TotalMs,
			&a.RetryAfterSeconds, &a.NextDelaySeconds, &a.Worker, &a.Trigger, &a.Actor)
		a.StartedAt, a.FinishedAt = a.StartedAt.UTC(), inUTC(a.FinishedAt)
		return a, err
	}, sqlAttempts, id)
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	utc := t.UTC()
	return &utc
}

// UndeliveredRotations lists rotations whose secrets still wait for an endpoint and whose messages, made in a span of
// time, failed or are held; oldest first.
func (r *Reader) UndeliveredRotations(ctx context.Context, reach Reach, endpoint domain.EndpointID, from, to time.Time, limit int) ([]domain.RotationID, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (id domain.RotationID, err error) {
		return id, row.Scan(&id)
	}, sqlUndelivered, endpoint, domain.LowestID(domain.PrefixDelivery, from), domain.LowestID(domain.PrefixDelivery, to), limit)
}
