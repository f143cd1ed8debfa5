package domain

import (
	"cmp"
	"time"
)

// RotationState is where a hand-over is.
type RotationState string

// States of a rotation.
const (
	RotationDelivering RotationState = "delivering"
	RotationOverlap    RotationState = "overlap"
	RotationStuck      RotationState = "stalled"
	RotationCompleted  RotationState = "completed"
	RotationAbandoned  RotationState = "cancelled"
	RotationSuperseded RotationState = "superseded" // another rotation took its place
	RotationAborted    RotationState = "aborted"    // the lineage was revoked or expired meanwhile
	RotationUndone     RotationState = "rolled_back"
)

// RotationStates lists all states of a rotation, in the order of its life.
func RotationStates() []RotationState {
	return []RotationState{
		RotationDelivering, RotationStuck, RotationOverlap, RotationCompleted, RotationAbandoned, RotationSuperseded,
		RotationAborted, RotationUndone,
	}
}

// Waiting reports whether the new secret has not been acknowledged yet.
func (s RotationState) Waiting() bool { return s == RotationDelivering || s == RotationStuck }

// Live reports whether the rotation can still change.
func (s RotationState) Live() bool { return s.Waiting() || s == RotationOverlap }

// Rotation is one hand-over.
type Rotation struct {
	ID             RotationID    `json:"id"`
	Trigger        Trigger       `json:"trigger"`
	State          RotationState `json:"state"`
	FromKeyID      KeyID         `json:"from_key_id"`
	ToKeyID        KeyID         `json:"to_key_id"`
	Generation     int           `json:"generation"`
	GraceSeconds   int64         `json:"grace_seconds"`
	EndpointID     EndpointID    `json:"endpoint_id,omitempty"`
	Demand         AckLevel      `json:"ack_demand,omitempty"` // what counts as arrived; none: AckAccepted
	StartedAt      time.Time     `json:"started_at"`
	Deadline       *time.Time    `json:"deadline,omitempty"` // when the waiting is (again) too long
	Overdue        bool          `json:"overdue,omitempty"`  // it was too long, and the rotation is held
	AcknowledgedAt *time.Time    `json:"acknowledged_at,omitempty"`
	AckLevel       AckLevel      `json:"ack_level,omitempty"`
	GraceExpiresAt *time.Time    `json:"grace_expires_at,omitempty"` // of the old key
	EndedAt        *time.Time    `json:"ended_at,omitempty"`
	Reason         string        `json:"reason,omitempty"`
}

func (l *Lineage) applyRotated(e Event, d Rotated) {
	if d.Trigger != TriggerInterval {
		l.Anchor = e.OccurredAt
	}
	l.NextRotationAt = d.NextRotationAt
	l.LastGeneration = d.Generation
	l.Generations = append(l.Generations, Generation{
		KeyID: d.KeyID, Number: d.Generation, Secret: d.SecretFacts, State: GenerationPending,
		CreatedAt: e.OccurredAt, CreatedBy: e.Actor,
	})
	l.Rotations = append(l.Rotations, Rotation{
		ID: d.RotationID, Trigger: d.Trigger, State: RotationDelivering, FromKeyID: d.PreviousKeyID, ToKeyID: d.KeyID,
		Generation: d.Generation, GraceSeconds: d.GraceSeconds, EndpointID: d.EndpointID, Demand: d.Demand,
		StartedAt: e.OccurredAt, Deadline: d.Deadline,
	})
	if d.Acknowledged != "" && d.GraceExpiresAt != nil {
		l.acknowledge(d.RotationID, d.Acknowledged, e.OccurredAt, *d.GraceExpiresAt, d.RevokedKeyIDs)
	}
}

// acknowledge makes the new generation active and starts the old one's grace; a grace of nothing retires it at once. Keys
// that are revoked with it end as such.
func (l *Lineage) acknowledge(id RotationID, level AckLevel, at, graceExpiresAt time.Time, revoked []KeyID) {
	r := l.rotation(id)
	if r == nil {
		return
	}
	r.State, r.AcknowledgedAt, r.AckLevel, r.Reason = RotationOverlap, &at, level, ""
	r.GraceExpiresAt, r.Deadline = &graceExpiresAt, nil
	if g := l.Generation(r.ToKeyID); g != nil {
		g.State = GenerationActive
	}
	if old := l.Generation(r.FromKeyID); old != nil {
		old.State, old.ReplacedBy, old.GraceExpiresAt = GenerationGrace, r.ToKeyID, &graceExpiresAt
		for _, id := range revoked {
			l.end(id, GenerationRevoked, at, "compromised")
		}
		if !graceExpiresAt.After(at) {
			l.end(old.KeyID, GenerationRetired, at, "")
		}
	}
}

// applyRolledBack swaps the two keys of a rotation.
func (l *Lineage) applyRolledBack(e Event, d RotationRolledBack) {
	l.NextRotationAt = d.NextRotationAt
	if old := l.Generation(d.KeyID); old != nil {
		old.State, old.ReplacedBy, old.GraceExpiresAt = GenerationActive, "", nil
	}
	l.endRotation(d.RotationID, RotationUndone, e.OccurredAt, "")
	if r := l.rotation(d.RotationID); r != nil {
		r.GraceExpiresAt = nil // its old key has none any more
	}
	if newer := l.Generation(d.ReplacedKeyID); newer != nil {
		newer.State, newer.ReplacedBy, newer.GraceExpiresAt = GenerationGrace, d.KeyID, &d.GraceExpiresAt
	}
	if !d.GraceExpiresAt.After(e.OccurredAt) {
		l.end(d.ReplacedKeyID, GenerationRetired, e.OccurredAt, "")
	}
}

// setGrace sets the deadline of a key in grace, and of the rotation that gave it.
func (l *Lineage) setGrace(id KeyID, until time.Time) {
	if g := l.Generation(id); g != nil {
		g.GraceExpiresAt = &until
	}
	for i := range l.Rotations {
		if r := &l.Rotations[i]; r.State == RotationOverlap && r.FromKeyID == id {
			r.GraceExpiresAt = &until
		}
	}
}

// applyRotation folds what happens to hand-overs.
func (l *Lineage) applyRotation(e Event) {
	switch d := e.Data.(type) {
	case Rotated:
		l.applyRotated(e, d)
	case RotationAcknowledged:
		l.NextRotationAt = d.NextRotationAt
		l.acknowledge(d.RotationID, d.Level, e.OccurredAt, d.GraceExpiresAt, nil)
	case RotationCancelled:
		l.NextRotationAt = d.NextRotationAt
		ended := RotationAbandoned
		if d.SupersededBy != "" {
			ended = RotationSuperseded
		}
		l.endRotation(d.RotationID, ended, e.OccurredAt, d.Reason)
		l.end(d.KeyID, GenerationDiscarded, e.OccurredAt, d.Reason)
	case RotationStalled:
		if r := l.rotation(d.RotationID); r != nil {
			r.State, r.Reason = RotationStuck, d.Reason
		}
	case RotationRedelivered:
		if r := l.rotation(d.RotationID); r != nil {
			r.State, r.Reason = RotationDelivering, ""
		}
	case RotationTimedOut:
		if r := l.rotation(d.RotationID); r != nil {
			r.State, r.Reason, r.Overdue, r.Deadline = RotationStuck, cmp.Or(r.Reason, "timed_out"), true, &d.NextAt
		}
	case RotationRolledBack:
		l.applyRolledBack(e, d)
	case RotationDeferred:
		l.DeferredUntil = &d.Until
	case RotationBlocked:
		l.QuietUntil = l.slotAfter(nil, e.OccurredAt)
	case GraceChanged:
		l.setGrace(d.KeyID, d.GraceExpiresAt)
	}
}
