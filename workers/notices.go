package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// noticed reports whether the registered endpoints of a project may be told of an event.
func noticed(e domain.Event) bool {
	switch d := e.Data.(type) {
	case domain.RotationAcknowledged, domain.RotationStalled, domain.RotationTimedOut, domain.RotationCancelled, domain.RotationRolledBack,
		domain.RotationBlocked, domain.RotationDeferred, domain.RotationClaimedAgain, domain.GraceExpired, domain.KeyExpiring,
		domain.Revoked, domain.EndpointFailing:
		return true
	case domain.Expired:
		return len(d.KeyIDs) > 0
	case domain.Rotated:
		return cutOver(e, d)
	case domain.UsedInGrace:
		return d.RotationID != ""
	case domain.EndpointStateChanged:
		return d.State == domain.EndpointDisabled
	}
	return false
}

// cutOver reports whether a rotation ended the old key at once.
func cutOver(e domain.Event, d domain.Rotated) bool {
	return d.Acknowledged != "" && d.GraceExpiresAt != nil && !d.GraceExpiresAt.After(e.OccurredAt)
}

// about says which rotation and which key a message needs to know more of. A key without a rotation stands for the
// rotation that it was replaced in.
func about(e domain.Event) (domain.RotationID, domain.KeyID) {
	switch d := e.Data.(type) {
	case domain.Rotated:
		return d.RotationID, d.PreviousKeyID
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
	case domain.RotationDeferred:
		return "", d.KeyID
	case domain.KeyExpiring:
		return "", d.KeyID
	case domain.Expired:
		return "", d.KeyIDs[len(d.KeyIDs)-1] // the newest
	case domain.Revoked:
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
	rotations := []domain.RotationID{} // not nil, which is NULL in SQL: nothing is outside of that
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
	endpoint := webhook.Endpoint{OrganizationID: string(e.OrganizationID), ProjectID: string(e.ProjectID), EndpointID: e.StreamID}
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
		return webhook.Message{Type: string(domain.MessageRotationClaimedAgain), At: at, Data: r}.Encode()
	case domain.Rotated:
		if len(d.RevokedKeyIDs) == 0 {
			return webhook.RotationCompleted(at, r)
		}
	case domain.GraceExpired:
		if r, known = f.turned[d.KeyID]; known {
			return webhook.RotationCompleted(at, r)
		}
	case domain.EndpointStateChanged:
		return webhook.EndpointDisabled(at, endpoint, d.Reason)
	case domain.EndpointFailing:
		return webhook.EndpointFailing(at, endpoint, d.Status, d.Failures)
	}
	k, known := f.keys[key]
	if !known {
		return nil, nil
	}
	switch d := e.Data.(type) {
	case domain.RotationBlocked:
		return webhook.RotationBlocked(at, k, d.Reason, d.SlotAt)
	case domain.RotationDeferred:
		return webhook.RotationDeferred(at, k, string(d.Reason), d.SlotAt, d.Until)
	case domain.GraceExpired: // of the newer key of a rotation that was rolled back
		return webhook.VersionRetired(at, k, []string{string(d.KeyID)}, string(domain.RotationUndone))
	case domain.Expired:
		return webhook.VersionRetired(at, k, texts(d.KeyIDs), string(domain.StatusExpired))
	case domain.Revoked:
		return webhook.KeyRevoked(at, k, texts(d.KeyIDs), d.Reason)
	case domain.Rotated:
		return webhook.KeyRevoked(at, k, texts(d.RevokedKeyIDs), reasonCompromised)
	case domain.KeyExpiring:
		return webhook.KeyExpiring(at, k, d.ExpiresAt)
	case domain.UsedInGrace:
		return webhook.UsedInGrace(at, k, webhook.GraceUse{
			RotationID: string(d.RotationID), ReplacedByKeyID: string(d.ReplacedByKeyID), GraceExpiresAt: d.GraceExpiresAt,
			Address: d.Address, UserAgent: d.Agent, Count: d.Count, FirstSeen: d.FirstSeenAt, LastSeen: d.LastSeenAt,
		})
	}
	return nil, fmt.Errorf("event %s of type %s has no message", e.ID, e.Data.Type())
}

// reasonCompromised is why keys are revoked by a rotation.
const reasonCompromised = "compromised"

func texts(ids []domain.KeyID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// typeOf reads the type out of a message, which is what counts: what an event is told as may depend on more than it.
func typeOf(body []byte) (domain.MessageType, error) {
	var head struct {
		Type domain.MessageType `json:"type"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return "", fmt.Errorf("read a kept message: %w", err)
	}
	return head.Type, nil
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
