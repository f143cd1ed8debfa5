package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// fanOutName is the checkpoint of the reader that turns events into deliveries.
const fanOutName = "webhooks"

const (
	sqlInsertDeliveries = `INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id,
			lineage_id, rotation_id, type, state, position, next_attempt_at, created_at)
		SELECT d.id, d.message, d.endpoint, d.organization, d.project, nullif(d.lineage, ''), nullif(d.rotation, ''), d.type, d.state, d.position, $11, $12
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[])
			AS d(id, message, endpoint, organization, project, lineage, rotation, type, state, position)
		ON CONFLICT (message_id, endpoint_id) DO NOTHING`
	// Who is sent what: a rotation's own receiver its secret, and the registered endpoints of a project what happens in it.
	// Those that never proved to be the right ones are sent nothing, and those that take nothing now get it later.
	sqlReceivers = `SELECT id, '', state, NULL FROM webhook_endpoints WHERE id = ANY($1)
		UNION ALL
		SELECT id, project_id, state, event_types FROM webhook_endpoints WHERE organization_id = ANY($2) AND project_id = ANY($3)
			AND lineage_id IS NULL AND deleted_at IS NULL AND state <> 'unverified'
		ORDER BY 2, 1`
)

// fanOut turns events into deliveries. The rows, their first jobs and the checkpoint commit together, so each event has
// its deliveries exactly once: the log is the only outbox. It also carries out what events ask for with deliveries that
// there are.
func (w *Workers) fanOut() eventstore.Consumer {
	return eventstore.Consumer{
		Name: fanOutName,
		Wants: func(r eventstore.Record) bool {
			_, ok := announced(r)
			return ok || noticed(r.Event) || moves(r)
		},
		Apply: w.applyFanOut,
	}
}

func (w *Workers) applyFanOut(ctx context.Context, tx pgx.Tx, records []eventstore.Record) error {
	to, err := readReceivers(ctx, tx, records)
	if err != nil {
		return err
	}
	now := w.cfg.Now()
	bodies, err := keepBodies(ctx, tx, to.told(records), now)
	if err != nil {
		return err
	}
	var rows deliveryRows
	for _, r := range records {
		if moves(r) { // of deliveries that may be among the new ones
			if err := w.insertDeliveries(ctx, tx, &rows, now); err != nil {
				return err
			}
			if err := w.move(ctx, tx, r, now); err != nil {
				return err
			}
		}
		if err := rows.add(r, to, bodies[domain.MessageID(r.ID)], now); err != nil {
			return err
		}
	}
	return w.insertDeliveries(ctx, tx, &rows, now)
}

// receivers are the endpoints that events are told to.
type receivers struct {
	state     map[domain.EndpointID]domain.EndpointState
	ofProject map[domain.ProjectID][]receiver
	sent      map[domain.RotationID][]domain.EndpointID // who may have got a secret that is taken back
}

// receiver is an endpoint that is told of what happens in its project.
type receiver struct {
	id    domain.EndpointID
	types []domain.MessageType // nil: all
}

func (r receiver) wants(kind domain.MessageType) bool {
	return r.types == nil || slices.Contains(r.types, kind)
}

func readReceivers(ctx context.Context, q querier, records []eventstore.Record) (receivers, error) {
	to := receivers{state: map[domain.EndpointID]domain.EndpointState{}, ofProject: map[domain.ProjectID][]receiver{}}
	var own []domain.EndpointID
	var organizations []domain.OrganizationID
	var projects []domain.ProjectID
	for _, r := range records {
		if d, ok := announced(r); ok {
			own = append(own, d.EndpointID)
		}
		if noticed(r.Event) {
			organizations, projects = append(organizations, r.OrganizationID), append(projects, r.ProjectID)
		}
	}
	if len(own)+len(projects) == 0 {
		return to, nil
	}
	rows, err := q.Query(ctx, sqlReceivers, own, organizations, projects)
	if err != nil {
		return to, fmt.Errorf("read endpoints: %w", err)
	}
	var found receiver
	var project domain.ProjectID
	var state domain.EndpointState
	var types []byte
	if _, err := pgx.ForEachRow(rows, []any{&found.id, &project, &state, &types}, func() error {
		found.types = nil
		if types != nil {
			if err := json.Unmarshal(types, &found.types); err != nil {
				return fmt.Errorf("read the choice of %s: %w", found.id, err)
			}
		}
		to.state[found.id] = state
		if project != "" {
			to.ofProject[project] = append(to.ofProject[project], found)
		}
		return nil
	}); err != nil {
		return to, fmt.Errorf("read endpoints: %w", err)
	}
	return to, to.readSent(ctx, q, records)
}

// told are the records that somebody is told of with a message that has no secret.
func (to receivers) told(records []eventstore.Record) []eventstore.Record {
	var out []eventstore.Record
	for _, r := range records {
		if noticed(r.Event) && len(to.ofProject[r.ProjectID])+len(to.sent[withdrawn(r.Event)]) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// of lists who is told of an event, with which type of message. notice is the message without a secret, if there is one;
// a new secret goes to the receiver of its key whatever that one chose.
func (to receivers) of(r eventstore.Record, notice []byte) (domain.MessageType, []domain.EndpointID, error) {
	if d, ok := announced(r); ok {
		return domain.MessageRotationCreated, []domain.EndpointID{d.EndpointID}, nil
	}
	if notice == nil {
		return "", nil, nil
	}
	kind, err := typeOf(notice)
	if err != nil {
		return "", nil, err
	}
	var out []domain.EndpointID
	for _, receiver := range to.ofProject[r.ProjectID] {
		if receiver.wants(kind) {
			out = append(out, receiver.id)
		}
	}
	return kind, to.withSent(r.Event, out), nil
}

// deliveryRows are deliveries to be made, column by column, and their first jobs.
type deliveryRows struct {
	columns   [9][]string
	positions []int64
	jobs      []river.InsertManyParams
}

func (rows *deliveryRows) add(r eventstore.Record, to receivers, notice []byte, now time.Time) error {
	kind, endpoints, err := to.of(r, notice)
	if err != nil {
		return err
	}
	rotation, _ := about(r.Event)
	lineage := r.StreamID
	if domain.StreamKind(lineage) != domain.PrefixLineage { // it tells of an endpoint
		lineage = ""
	}
	for _, endpoint := range endpoints {
		id, state := ids.New(domain.PrefixDelivery, now), "held"
		if to.state[endpoint] == domain.EndpointActive {
			state = "pending"
			rows.jobs = append(rows.jobs, river.InsertManyParams{Args: deliverArgs{DeliveryID: id, EndpointID: string(endpoint)}})
		}
		for i, value := range []string{id, domain.MessageID(r.ID), string(endpoint), string(r.OrganizationID), string(r.ProjectID),
			lineage, string(rotation), string(kind), state} {
			rows.columns[i] = append(rows.columns[i], value)
		}
		rows.positions = append(rows.positions, r.Position)
	}
	return nil
}

func (w *Workers) insertDeliveries(ctx context.Context, tx pgx.Tx, rows *deliveryRows, now time.Time) error {
	if len(rows.positions) == 0 {
		return nil
	}
	args := make([]any, 0, 12)
	for _, column := range rows.columns {
		args = append(args, column)
	}
	if _, err := tx.Exec(ctx, sqlInsertDeliveries, append(args, rows.positions, now.Add(handOutLease), now)...); err != nil {
		return fmt.Errorf("insert deliveries: %w", err)
	}
	if len(rows.jobs) > 0 {
		if _, err := w.client.InsertManyFastTx(ctx, tx, rows.jobs); err != nil {
			return fmt.Errorf("insert delivery jobs: %w", err)
		}
	}
	*rows = deliveryRows{}
	return nil
}

// ids makes the ids of deliveries.
var ids domain.IDs

// announced returns the rotation that an event asks to tell a receiver of: one that waits for its acknowledgment.
func announced(r eventstore.Record) (domain.Rotated, bool) {
	d, ok := r.Data.(domain.Rotated)
	return d, ok && d.Acknowledged == "" && d.EndpointID != ""
}

// rotatedAt returns the event at a position, which began a rotation.
func (w *Workers) rotatedAt(ctx context.Context, position int64) (domain.Event, domain.Rotated, error) {
	records, err := w.cfg.Store.Read(ctx, eventstore.Lifecycle, position-1, 1)
	if err != nil {
		return domain.Event{}, domain.Rotated{}, err
	}
	if len(records) == 0 {
		return domain.Event{}, domain.Rotated{}, fmt.Errorf("event %d is not in the log", position)
	}
	rotated, ok := announced(records[0])
	if !ok {
		return domain.Event{}, domain.Rotated{}, fmt.Errorf("event %d tells of no rotation", position)
	}
	return records[0].Event, rotated, nil
}
