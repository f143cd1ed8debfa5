package domain

import (
	"slices"
	"time"
)

// Lineage is the state of a key and its successors. It holds the live generations and rotations, and those that the last
// event ended (so that a projection sees how they ended); older ones are forgotten here and live on in the read model.
type Lineage struct {
	ID             LineageID      `json:"id"`
	Version        int64          `json:"version"`
	OrganizationID OrganizationID `json:"organization_id"`
	ProjectID      ProjectID      `json:"project_id"`
	EnvironmentID  EnvironmentID  `json:"environment_id"`
	Environment    string         `json:"environment"`
	Brand          string         `json:"brand"`
	Settings       Settings       `json:"settings"`
	Operator       bool           `json:"operator,omitempty"`
	CreatedBy      Actor          `json:"created_by"`
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"` // when the settings were chosen last
	// Anchor is where the slots of interval rotation are counted from.
	Anchor         time.Time  `json:"anchor"`
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
	// DeferredUntil is when the next rotation begins if it could not at NextRotationAt, and QuietUntil the slot before which
	// nothing more is recorded of one that is blocked.
	DeferredUntil  *time.Time   `json:"deferred_until,omitempty"`
	QuietUntil     *time.Time   `json:"quiet_until,omitempty"`
	WarnedAt       *time.Time   `json:"warned_at,omitempty"` // when it was last announced that the lineage ends soon
	LastGeneration int          `json:"last_generation"`
	Generations    []Generation `json:"generations"`
	Rotations      []Rotation   `json:"rotations,omitempty"`
}

// GenerationState is where a generation is in its life.
type GenerationState string

// States of a generation; doc.go has the diagram.
const (
	GenerationPending   GenerationState = "pending"
	GenerationActive    GenerationState = "active"
	GenerationGrace     GenerationState = "grace"
	GenerationRetired   GenerationState = "retired"
	GenerationRevoked   GenerationState = "revoked"
	GenerationExpired   GenerationState = "expired"
	GenerationDiscarded GenerationState = "discarded"
)

// Live reports whether a generation in this state may still authenticate, as far as events go.
func (s GenerationState) Live() bool {
	return s == GenerationPending || s == GenerationActive || s == GenerationGrace
}

// Generation is one key of the lineage.
type Generation struct {
	KeyID          KeyID           `json:"key_id"`
	Number         int             `json:"number"`
	Secret         SecretFacts     `json:"secret"`
	State          GenerationState `json:"state"`
	CreatedAt      time.Time       `json:"created_at"`
	CreatedBy      Actor           `json:"created_by"`
	ReplacedBy     KeyID           `json:"replaced_by,omitempty"`
	GraceExpiresAt *time.Time      `json:"grace_expires_at,omitempty"`
	RevokedAt      *time.Time      `json:"revoked_at,omitempty"`
	RevokedReason  string          `json:"revoked_reason,omitempty"`
	Leaks          []string        `json:"leaks,omitempty"` // marks of the places where the secret was found
}

// StreamVersion is the number of events applied.
func (l *Lineage) StreamVersion() int64 { return l.Version }

// Apply folds one event into the state.
func (l *Lineage) Apply(e Event) {
	l.Version = e.Version
	l.forgetEnded()
	planned := l.NextRotationAt
	switch d := e.Data.(type) {
	case Created:
		l.applyCreated(e, d)
	case Updated:
		l.applyUpdated(e, d)
	case GraceExpired:
		l.applyGraceExpired(e, d)
	case Expired:
		for _, id := range d.KeyIDs {
			l.end(id, GenerationExpired, e.OccurredAt, "expired")
		}
	case LeakReported:
		if g := l.Generation(d.KeyID); g != nil {
			g.Leaks = append(g.Leaks, leakMark(d.URL))
		}
	case KeyExpiring:
		l.WarnedAt = &e.OccurredAt
	case Revoked:
		l.applyRevoked(e, d)
	default:
		l.applyRotation(e)
	}
	if l.Active() == nil {
		l.NextRotationAt = nil
	}
	if !sameTime(l.NextRotationAt, planned) { // what was said of the former plan does not hold for another one
		l.DeferredUntil, l.QuietUntil = nil, nil
	}
}

func sameTime(a, b *time.Time) bool {
	return a == b || a != nil && b != nil && a.Equal(*b)
}

// forgetEnded drops what had ended before the event that is being applied.
func (l *Lineage) forgetEnded() {
	l.Generations = slices.DeleteFunc(l.Generations, func(g Generation) bool { return !g.State.Live() })
	l.Rotations = slices.DeleteFunc(l.Rotations, func(r Rotation) bool { return !r.State.Live() })
}

func (l *Lineage) applyCreated(e Event, d Created) {
	l.ID = LineageID(e.StreamID)
	l.OrganizationID, l.ProjectID, l.EnvironmentID = e.OrganizationID, e.ProjectID, d.EnvironmentID
	l.Environment, l.Brand = d.Environment, d.Brand
	l.Settings, l.Operator, l.CreatedBy = d.Settings, d.Operator, e.Actor
	l.CreatedAt, l.UpdatedAt = e.OccurredAt, e.OccurredAt
	l.Anchor, l.NextRotationAt = e.OccurredAt, d.NextRotationAt
	l.LastGeneration = 1
	l.Generations = []Generation{{
		KeyID: d.KeyID, Number: 1, Secret: d.SecretFacts, State: GenerationActive, CreatedAt: e.OccurredAt, CreatedBy: e.Actor,
	}}
}

func (l *Lineage) applyUpdated(e Event, d Updated) {
	if d.RotationIntervalSeconds != l.Settings.RotationIntervalSeconds {
		l.Anchor = e.OccurredAt
	}
	l.Settings, l.NextRotationAt, l.UpdatedAt = d.Settings, d.NextRotationAt, e.OccurredAt
	for i := range l.Generations { // a grace promised beyond a life that is now shorter ends with it
		g := &l.Generations[i]
		if g.GraceExpiresAt != nil && d.ExpiresAt != nil && d.ExpiresAt.Before(*g.GraceExpiresAt) {
			l.setGrace(g.KeyID, *d.ExpiresAt)
		}
	}
}

// applyGraceExpired ends an old key, and completes the rotation that gave the grace.
func (l *Lineage) applyGraceExpired(e Event, d GraceExpired) {
	if d.Early {
		l.setGrace(d.KeyID, e.OccurredAt)
	}
	l.end(d.KeyID, GenerationRetired, e.OccurredAt, "")
	for i := range l.Rotations {
		if r := &l.Rotations[i]; r.FromKeyID == d.KeyID && r.State == RotationCompleted {
			r.Reason = d.Reason
		}
	}
}

// applyRevoked ends keys. If the active one is among them the lineage is over, and no hand-over in it was completed.
func (l *Lineage) applyRevoked(e Event, d Revoked) {
	if active := l.Active(); active != nil && slices.Contains(d.KeyIDs, active.KeyID) {
		for _, r := range l.Rotations {
			if r.State.Live() {
				l.endRotation(r.ID, RotationAborted, e.OccurredAt, d.Reason)
			}
		}
	}
	for _, id := range d.KeyIDs {
		l.end(id, GenerationRevoked, e.OccurredAt, d.Reason)
	}
}

// end ends a generation, and the rotation whose outcome that decides.
func (l *Lineage) end(id KeyID, state GenerationState, at time.Time, reason string) {
	g := l.Generation(id)
	if g == nil || !g.State.Live() {
		return
	}
	g.State = state
	if state == GenerationRevoked || state == GenerationDiscarded {
		g.RevokedAt, g.RevokedReason = &at, reason
	}
	for i := range l.Rotations {
		r := &l.Rotations[i]
		switch {
		case !r.State.Live():
		case r.State == RotationOverlap && r.FromKeyID == id:
			l.endRotation(r.ID, RotationCompleted, at, "")
		case r.State.Waiting() && (r.FromKeyID == id || r.ToKeyID == id):
			l.endRotation(r.ID, RotationAborted, at, reason)
		}
	}
}

func (l *Lineage) endRotation(id RotationID, state RotationState, at time.Time, reason string) {
	if r := l.rotation(id); r != nil {
		r.State, r.EndedAt, r.Reason = state, &at, reason
	}
}

// Generation returns the generation with this key id, if the lineage still knows it.
func (l *Lineage) Generation(id KeyID) *Generation {
	for i := range l.Generations {
		if l.Generations[i].KeyID == id {
			return &l.Generations[i]
		}
	}
	return nil
}

// Active returns the active generation, or nil once the lineage has ended.
func (l *Lineage) Active() *Generation {
	for i := range l.Generations {
		if l.Generations[i].State == GenerationActive {
			return &l.Generations[i]
		}
	}
	return nil
}

// WaitingRotation returns the rotation whose secret has not been acknowledged yet, or nil.
func (l *Lineage) WaitingRotation() *Rotation {
	for i := range l.Rotations {
		if l.Rotations[i].State.Waiting() {
			return &l.Rotations[i]
		}
	}
	return nil
}

func (l *Lineage) rotation(id RotationID) *Rotation {
	for i := range l.Rotations {
		if l.Rotations[i].ID == id {
			return &l.Rotations[i]
		}
	}
	return nil
}
