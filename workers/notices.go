package workers

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// typeClaimedAgain is the alarm that the address of a secret was used twice.
const typeClaimedAgain = "key.rotation.claimed_again"

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// noticeOf is the type of the message that tells the registered endpoints of a project of an event; empty if none does.
func noticeOf(e domain.Event) string {
	switch d := e.Data.(type) {
	case domain.RotationAcknowledged:
		return webhook.TypeRotationAcknowledged
	case domain.RotationStalled, domain.RotationTimedOut:
		return webhook.TypeRotationStalled
	case domain.RotationCancelled, domain.RotationRolledBack:
		return webhook.TypeRotationCancelled
	case domain.GraceExpired:
		return webhook.TypeRotationCompleted
	case domain.RotationBlocked:
		return webhook.TypeRotationBlocked
	case domain.RotationClaimedAgain:
		return typeClaimedAgain
	case domain.KeyExpiring:
		return webhook.TypeKeyExpiring
	case domain.UsedInGrace:
		if d.RotationID != "" {
			return webhook.TypeUsedInGrace
		}
	}
	return ""
}

// about says which rotation and which key a message needs to know more of. A key without a rotation stands for the
// rotation that it was replaced in.
func about(e domain.Event) (domain.RotationID, domain.KeyID) {
	switch d := e.Data.(type) {
	case domain.RotationAcknowledged:
		return d.RotationID, ""
	case domain.RotationStalled:
		return d.RotationID, ""
	case domain.RotationTimedOut:
		return d.RotationID, ""
	case domain.RotationCancelled:
		return d.RotationID, ""
	case domain.RotationRolledBack:
		return d.RotationID, ""
	case domain.RotationClaimedAgain:
		return d.RotationID, ""
	case domain.GraceExpired:
		return "", d.KeyID
	case domain.RotationBlocked:
		return "", d.KeyID
	case domain.KeyExpiring:
		return "", d.KeyID
	case domain.UsedInGrace:
		return d.RotationID, d.KeyID
	}
	return "", ""
}

const (
	sqlRotationFacts = `SELECT id, organization_id, lineage_id, from_key_id, to_key_id, generation, grace_seconds, trigger, coalesce(ack_demand, 'accepted'), state
		FROM rotations WHERE id = ANY($1)
		UNION ALL
		SELECT id, organization_id, lineage_id, from_key_id, to_key_id, generation, grace_seconds, trigger, coalesce(ack_demand, 'accepted'), state
		FROM rotations WHERE lineage_id = ANY($2) AND from_key_id = ANY($3) AND NOT id = ANY($1)`
	sqlKeyFacts = `SELECT id, organization_id, project_id, lineage_id, generation, name FROM keys WHERE id = ANY($1)`
	// Whoever is first keeps the body that all then use.
	sqlKeepBodies = `INSERT INTO webhook_messages (id, body, created_at) SELECT m.id, m.body, $3 FROM unnest($1::text[], $2::bytea[]) AS m(id, body)
		ON CONFLICT (id) DO NOTHING`
	sqlBodies = `SELECT id, body FROM webhook_messages WHERE id = ANY($1)`
)

// facts are what messages say of rotations and keys beyond what is in the events. None of it but a key's name changes.
type facts struct {
	rotations map[domain.RotationID]webhook.Rotation
	turned    map[domain.KeyID]webhook.Rotation // by the key that was replaced, if the rotation was completed
	keys      map[domain.KeyID]webhook.Key
}

func readFacts(ctx context.Context, q querier, records []eventstore.Record) (facts, error) {
	f := facts{map[domain.RotationID]webhook.Rotation{}, map[domain.KeyID]webhook.Rotation{}, map[domain.KeyID]webhook.Key{}}
	var rotations []domain.RotationID
	var lineages []string
	var keys []domain.KeyID
	for _, r := range records {
		rotation, key := about(r.Event)
		if rotation != "" {
			rotations = append(rotations, rotation)
		}
		if key != "" {
			keys, lineages = append(keys, key), append(lineages, r.StreamID)
		}
	}
	rows, err := q.Query(ctx, sqlRotationFacts, rotations, lineages, keys)
	if err != nil {
		return f, fmt.Errorf("read rotations: %w", err)
	}
	var r webhook.Rotation
	var state domain.RotationState
	if _, err = pgx.ForEachRow(rows, []any{&r.RotationID, &r.OrganizationID, &r.LineageID, &r.PreviousKeyID, &r.KeyID, &r.Generation, &r.GraceSeconds,
		&r.Trigger, &r.AckLevel, &state}, func() error {
		f.rotations[domain.RotationID(r.RotationID)] = r
		if state == domain.RotationCompleted {
			f.turned[domain.KeyID(r.PreviousKeyID)] = r
		}
		return nil
	}); err != nil {
		return f, fmt.Errorf("read rotations: %w", err)
	}
	if rows, err = q.Query(ctx, sqlKeyFacts, keys); err != nil {
		return f, fmt.Errorf("read keys: %w", err)
	}
	var k webhook.Key
	if _, err = pgx.ForEachRow(rows, []any{&k.KeyID, &k.OrganizationID, &k.ProjectID, &k.LineageID, &k.Generation, &k.Name}, func() error {
		f.keys[domain.KeyID(k.KeyID)] = k
		return nil
	}); err != nil {
		return f, fmt.Errorf("read keys: %w", err)
	}
	return f, nil
}

// body builds the message that tells of an event, or nothing if there is nothing to tell: a grace may end that no
// completed rotation gave.
func (f facts) body(e domain.Event) ([]byte, error) {
	rotation, key := about(e)
	r, known := f.rotations[rotation]
	at := e.OccurredAt
	if rotation != "" && !known {
		return nil, nil
	}
	switch d := e.Data.(type) {
	case domain.RotationAcknowledged:
		return webhook.RotationAcknowledged(at, r, string(d.Level), d.GraceExpiresAt)
	case domain.RotationStalled:
		return webhook.RotationStalled(at, r, d.Reason)
	case domain.RotationTimedOut:
		return webhook.RotationStalled(at, r, "timed_out")
	case domain.RotationCancelled:
		if d.SupersededBy != "" {
			return webhook.RotationCancelled(at, r, string(domain.RotationSuperseded))
		}
		return webhook.RotationCancelled(at, r, string(domain.RotationAbandoned))
	case domain.RotationRolledBack:
		return webhook.RotationCancelled(at, r, string(domain.RotationUndone))
	case domain.RotationClaimedAgain:
		return webhook.Message{Type: typeClaimedAgain, At: at, Data: r}.Encode()
	case domain.GraceExpired:
		if r, known = f.turned[d.KeyID]; known {
			return webhook.RotationCompleted(at, r)
		}
		return nil, nil
	}
	k, known := f.keys[key]
	if !known {
		return nil, nil
	}
	switch d := e.Data.(type) {
	case domain.RotationBlocked:
		return webhook.RotationBlocked(at, k, d.Reason, d.SlotAt)
	case domain.KeyExpiring:
		return webhook.KeyExpiring(at, k, d.ExpiresAt)
	case domain.UsedInGrace:
		return webhook.UsedInGrace(at, k, webhook.GraceUse{
			RotationID: string(d.RotationID), ReplacedByKeyID: string(d.ReplacedByKeyID), GraceExpiresAt: d.GraceExpiresAt,
			Address: d.Address, Count: d.Count, FirstSeen: d.FirstSeenAt, LastSeen: d.LastSeenAt,
		})
	}
	return nil, fmt.Errorf("event %s of type %s has no message", e.ID, e.Data.Type())
}

// keepBodies builds the messages of events and returns what is kept of them by webhook-id: the same bytes to everybody.
func keepBodies(ctx context.Context, q querier, records []eventstore.Record, now time.Time) (map[string][]byte, error) {
	kept := map[string][]byte{}
	if len(records) == 0 {
		return kept, nil
	}
	f, err := readFacts(ctx, q, records)
	if err != nil {
		return nil, err
	}
	var ids []string
	var bodies [][]byte
	for _, r := range records {
		body, err := f.body(r.Event)
		if err != nil {
			return nil, err
		}
		if body != nil {
			ids, bodies = append(ids, domain.MessageID(r.ID)), append(bodies, body)
		}
	}
	if _, err := q.Exec(ctx, sqlKeepBodies, ids, bodies, now); err != nil {
		return nil, fmt.Errorf("keep messages: %w", err)
	}
	return kept, readBodies(ctx, q, ids, kept)
}

func readBodies(ctx context.Context, q querier, ids []string, into map[string][]byte) error {
	rows, err := q.Query(ctx, sqlBodies, ids)
	if err != nil {
		return fmt.Errorf("read messages: %w", err)
	}
	var id string
	var body []byte
	if _, err = pgx.ForEachRow(rows, []any{&id, &body}, func() error {
		into[id] = append([]byte(nil), body...)
		return nil
	}); err != nil {
		return fmt.Errorf("read messages: %w", err)
	}
	return nil
}

// storedBody returns the body of a message without a secret; nil once it is too old to be kept.
func (w *Workers) storedBody(ctx context.Context, id string) ([]byte, error) {
	found := map[string][]byte{}
	err := readBodies(ctx, w.cfg.Pool, []string{id}, found)
	return found[id], err
}
