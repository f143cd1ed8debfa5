package domain

import (
	"fmt"
	"slices"
	"time"
)

// What can happen to a rotation once it has begun. Each decision says with which states it begins; of a rotation in
// another state it is refused with CodeRotationState, or decides nothing where it is a sign that may come twice.

// Acknowledge decides that the new secret of a waiting rotation arrived, if the sign is as strong as the one demanded. Any
// later sign for the same rotation decides nothing: the first one counts.
func (l *Lineage) Acknowledge(id RotationID, level AckLevel, now time.Time) ([]Decided, error) {
	r := l.rotation(id)
	if r == nil || !r.State.Live() {
		return nil, Refuse(CodeNoRotation, "this rotation has ended")
	}
	if !r.State.Waiting() || !level.Meets(r.Demand) {
		return nil, nil
	}
	return []Decided{l.acknowledged(r, level, now)}, nil
}

// acknowledged begins the grace of the old key. It runs from now, however long the secret took to arrive.
func (l *Lineage) acknowledged(r *Rotation, level AckLevel, now time.Time) Decided {
	next := l.NextRotationAt
	if next != nil && !next.After(now) { // slots that passed while the receiver was away collapse into the next one
		next = l.slotAfter(nil, now)
	}
	return l.decided(RotationAcknowledged{
		RotationID: r.ID, PreviousKeyID: r.FromKeyID, KeyID: r.ToKeyID, Level: level,
		GraceExpiresAt: l.graceEnd(now, seconds(r.GraceSeconds)), NextRotationAt: next,
	})
}

// Force decides that a waiting rotation goes on as if its secret had arrived.
func (l *Lineage) Force(id RotationID, now time.Time) ([]Decided, error) {
	r, err := l.rotationIn(id, "be forced", RotationDelivering, RotationStuck)
	if err != nil {
		return nil, err
	}
	return []Decided{l.acknowledged(r, AckForced, now)}, nil
}

// Stall decides that delivery is given up for now. The old key keeps working without a deadline.
func (l *Lineage) Stall(id RotationID, reason string) ([]Decided, error) {
	r := l.rotation(id)
	if r == nil || r.State != RotationDelivering {
		return nil, nil
	}
	return []Decided{l.decided(RotationStalled{RotationID: id, KeyID: r.ToKeyID, Reason: reason})}, nil
}

// CancelRotation decides that a waiting rotation does not take place: its secret is discarded, and the old key stays.
func (l *Lineage) CancelRotation(id RotationID, reason string, p Policy, now time.Time) ([]Decided, error) {
	if err := validateReason(reason); err != nil {
		return nil, err
	}
	r, err := l.rotationIn(id, "be cancelled", RotationDelivering, RotationStuck)
	if err != nil {
		return nil, err
	}
	return []Decided{l.cancelled(r, reason, p, now)}, nil
}

func (l *Lineage) cancelled(r *Rotation, reason string, p Policy, now time.Time) Decided {
	return l.decided(RotationCancelled{
		RotationID: r.ID, KeyID: r.ToKeyID, Reason: reason, NextRotationAt: l.slotAfter(p.RotationWindow, now),
	})
}

// Redeliver asks for the new secret of a waiting rotation to be delivered again.
type Redeliver struct {
	RotationID RotationID
	// Fresh wants another secret instead of the same one. A rotation that has timed out always gets one, because what was
	// stored to be sent may not be readable any more, and so does one whose key has another receiver by now.
	Fresh bool
	With  RotateKey // the rotation that takes its place then: ids, receiver, policy and Mint
}

// Redeliver decides that delivery begins anew, with the same secret or with another rotation in the place of this one.
func (l *Lineage) Redeliver(c Redeliver, now time.Time) ([]Decided, error) {
	r, err := l.rotationIn(c.RotationID, "be delivered again", RotationDelivering, RotationStuck)
	if err != nil {
		return nil, err
	}
	endpoint := l.Settings.EndpointID
	if active := l.Active(); active == nil || !l.StatusAt(active, now).Valid() {
		return nil, l.notActive(r.FromKeyID)
	}
	if l.Settings.Disabled {
		return nil, l.disabled(r.FromKeyID)
	}
	if problem := c.With.Receiver.Problem; problem != "" && endpoint != "" {
		return nil, l.wrongState(r, "its receiver is "+problem+"; make that work first")
	}
	fresh := c.Fresh || r.Overdue || r.EndpointID != endpoint
	if !fresh && endpoint == "" {
		return nil, l.wrongState(r, "the old key fetches this successor itself; nothing is sent")
	}
	if !fresh {
		return []Decided{l.decided(RotationRedelivered{RotationID: r.ID, KeyID: r.ToKeyID})}, nil
	}
	with := c.With
	with.KeyID, with.Trigger = r.FromKeyID, TriggerInterval
	return l.mint(with, 0, []Decided{l.superseded(r, with.RotationID)}, now)
}

// TimeOut decides what becomes of a rotation whose secret did not arrive by its deadline, as the project's policy says. It
// names the generation that is still pending.
func (l *Lineage) TimeOut(pending KeyID, p Policy, now time.Time) ([]Decided, error) {
	r := l.WaitingRotation()
	if r == nil || r.ToKeyID != pending || r.Deadline == nil || now.Before(*r.Deadline) {
		return nil, nil
	}
	switch p.TimeoutAction() {
	case TimeoutRollback:
		return []Decided{l.cancelled(r, "timed_out", p, now)}, nil
	case TimeoutExpireOld:
		return []Decided{l.acknowledged(r, AckForced, now)}, nil
	}
	return []Decided{l.decided(RotationTimedOut{RotationID: r.ID, KeyID: r.ToKeyID, NextAt: now.Add(remindEvery)})}, nil
}

// remindEvery is how often a rotation that is held past its deadline is recorded again.
const remindEvery = 24 * time.Hour

// RollBack decides that the old key of a rotation, still in grace, is the active one again. The newer one gets the grace.
func (l *Lineage) RollBack(id RotationID, p Policy, now time.Time) ([]Decided, error) {
	r, old, err := l.overlapping(id, "be rolled back", now)
	if err != nil {
		return nil, err
	}
	if active := l.Active(); active == nil || active.KeyID != r.ToKeyID {
		return nil, l.wrongState(r, "its new key was replaced in turn; roll the latest rotation back first")
	}
	if waiting := l.WaitingRotation(); waiting != nil {
		return nil, Refuse(CodeRotationInProgress, "the next rotation of this key waits for its receiver; cancel that one first").
			With("rotation_id", waiting.ID)
	}
	return []Decided{l.decided(RotationRolledBack{
		RotationID: id, KeyID: old.KeyID, ReplacedKeyID: r.ToKeyID,
		GraceExpiresAt: l.graceEnd(now, seconds(r.GraceSeconds)), NextRotationAt: l.slotAfter(p.RotationWindow, now),
	})}, nil
}

// ChangeGrace decides another deadline for the old key of a rotation. It may move later up to the longest overlap after
// the acknowledgment, and never past the key's own end.
func (l *Lineage) ChangeGrace(id RotationID, until time.Time, p Policy, now time.Time) ([]Decided, error) {
	r, old, err := l.overlapping(id, "get another grace", now)
	if err != nil {
		return nil, err
	}
	const field = "grace_expires_at"
	until = until.UTC().Truncate(time.Microsecond)
	if !until.After(now) {
		return nil, InvalidField(field, "is not in the future", "choose a later time, or end the grace")
	}
	if latest := l.latestGrace(r, old, p); until.After(latest) {
		return nil, InvalidField(field, "is later than this rotation may overlap", "choose a time up to "+latest.Format(time.RFC3339Nano))
	}
	if until.Equal(*old.GraceExpiresAt) {
		return nil, nil
	}
	return []Decided{l.decided(GraceChanged{RotationID: id, KeyID: old.KeyID, GraceExpiresAt: until})}, nil
}

// latestGrace is how far a grace may be extended. What it already is stays allowed.
func (l *Lineage) latestGrace(r *Rotation, old *Generation, p Policy) time.Time {
	longest := p.MaxOverlap()
	if p.MaxGraceSeconds != nil {
		longest = min(longest, seconds(*p.MaxGraceSeconds))
	}
	latest := l.graceEnd(*r.AcknowledgedAt, longest)
	if old.GraceExpiresAt.After(latest) {
		return *old.GraceExpiresAt
	}
	return latest
}

// EndGrace decides that the old key of a rotation ends now.
func (l *Lineage) EndGrace(id RotationID, now time.Time) ([]Decided, error) {
	_, old, err := l.overlapping(id, "end its grace", now)
	if err != nil {
		return nil, err
	}
	return []Decided{l.decided(GraceExpired{KeyID: old.KeyID, Early: true})}, nil
}

// overlapping returns a rotation whose old key is in grace, and that key.
func (l *Lineage) overlapping(id RotationID, what string, now time.Time) (*Rotation, *Generation, error) {
	r, err := l.rotationIn(id, what, RotationOverlap)
	if err != nil {
		return nil, nil, err
	}
	old := l.Generation(r.FromKeyID)
	if old == nil || l.StatusAt(old, now) != StatusGrace {
		return nil, nil, l.wrongState(r, "the grace of its old key has run out")
	}
	return r, old, nil
}

// rotationIn returns a rotation in one of the states, or refuses what was asked of it.
func (l *Lineage) rotationIn(id RotationID, what string, states ...RotationState) (*Rotation, error) {
	r := l.rotation(id)
	if r == nil {
		return nil, Refuse(CodeRotationState, "this rotation has ended and cannot %s", what)
	}
	if !slices.Contains(states, r.State) {
		return nil, l.wrongState(r, fmt.Sprintf("a rotation that is %s cannot %s", r.State, what)).With("possible_in", states)
	}
	return r, nil
}

func (l *Lineage) wrongState(r *Rotation, why string) *Error {
	return Refuse(CodeRotationState, "%s", why).With("state", r.State)
}
