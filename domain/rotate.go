package domain

import (
	"slices"
	"time"
)

// RotateKey asks for the next generation.
type RotateKey struct {
	KeyID      KeyID // the generation that the caller takes for the active one
	NewKeyID   KeyID
	RotationID RotationID
	Trigger    Trigger
	// Grace is that of a rotation that is asked for. nil: by the policy, and none if the secret is compromised. Interval
	// rotations use the settings.
	Grace     *time.Duration
	Supersede bool     // replace a rotation that still waits for its receiver
	Receiver  Receiver // of an interval rotation
	Caller    Caller
	Policy    Policy // of the key's project
	Mint      func(brand, environment string) (Secret, error)
}

// Receiver is what a rotation needs to know of who is sent the new secret. The zero value can be sent it.
type Receiver struct {
	Problem string   // why it cannot be sent anything now, in one word: unverified, paused, disabled
	Demand  AckLevel // what counts as arrived; empty: AckAccepted
}

// Rotate decides a rotation. One that is asked for is acknowledged by its own answer; one by interval leaves the new
// generation pending until it is acknowledged. An interval rotation that is not due (any more) decides nothing.
func (l *Lineage) Rotate(c RotateKey, now time.Time) ([]Decided, error) {
	if c.Trigger == TriggerInterval && !l.rotationDue(now) {
		return nil, nil
	}
	grace, err := c.grace()
	if err != nil {
		return nil, err
	}
	if active := l.Active(); active == nil || active.KeyID != c.KeyID || !l.StatusAt(active, now).Valid() {
		return nil, l.notActive(c.KeyID)
	}
	if l.Settings.Disabled {
		return nil, l.disabled(c.KeyID)
	}
	if err := c.Caller.covers(l.Settings, l.Operator); err != nil {
		return nil, err
	}
	if c.Trigger == TriggerInterval {
		if held, reported := l.held(c, now); held {
			return reported, nil
		}
	}
	superseded, err := l.supersede(c, grace)
	if err != nil {
		return nil, err
	}
	if free := l.graceFreeAt(); grace > 0 && free.After(now) {
		return nil, Refuse(CodeTooManyInGrace, "%d older generations are still in grace; wait, end one of their graces, or rotate with a grace of 0", MaxInGrace).
			With("possible_at", free.Format(time.RFC3339Nano))
	}
	return l.mint(c, grace, superseded, now)
}

// mint makes the secret, once nothing can refuse the rotation any more.
func (l *Lineage) mint(c RotateKey, grace time.Duration, before []Decided, now time.Time) ([]Decided, error) {
	secret, err := c.Mint(l.Brand, l.Environment)
	if err != nil {
		return nil, err
	}
	return append(before, l.decided(l.rotated(c, grace, FactsOf(secret), now))), nil
}

// grace is the grace that begins with the rotation. That of an interval rotation begins later, when it is acknowledged.
func (c RotateKey) grace() (time.Duration, error) {
	if c.Trigger == TriggerInterval || c.Trigger == TriggerCompromise && c.Grace == nil {
		return 0, nil
	}
	return c.Policy.graceOf(c.Grace)
}

// rotationDue reports whether the sweep's idea of a due rotation still holds.
func (l *Lineage) rotationDue(now time.Time) bool {
	return slices.ContainsFunc(l.Due(), func(d Due) bool { return d.Kind == DueRotate && !d.At.After(now) }) &&
		l.StatusAt(l.Active(), now).Valid()
}

// held reports whether an interval rotation that is due cannot begin, and what is to be recorded of that: once per slot,
// however often it is looked at.
func (l *Lineage) held(c RotateKey, now time.Time) (bool, []Decided) {
	slot := *l.NextRotationAt
	if l.Settings.EndpointID != "" && c.Receiver.Problem != "" {
		if l.QuietUntil != nil && now.Before(*l.QuietUntil) {
			return true, nil
		}
		return true, []Decided{l.decided(RotationBlocked{
			KeyID: c.KeyID, EndpointID: l.Settings.EndpointID, SlotAt: slot, Reason: c.Receiver.Problem,
		})}
	}
	until, reason := now, DeferredByWindow
	if free := l.graceFreeAt(); free.After(now) {
		until, reason = free, DeferredByGraces
	}
	until = c.Policy.RotationWindow.move(l.ID, until)
	if !until.After(now) {
		return false, nil
	}
	return true, []Decided{l.decided(RotationDeferred{KeyID: c.KeyID, SlotAt: slot, Until: until, Reason: reason})}
}

// supersede refuses while a rotation waits for its receiver, or ends that one if the caller said so or wants the old key
// gone at once.
func (l *Lineage) supersede(c RotateKey, grace time.Duration) ([]Decided, error) {
	waiting := l.WaitingRotation()
	if waiting == nil {
		return nil, nil
	}
	if !c.Supersede && grace > 0 && c.Trigger != TriggerCompromise {
		return nil, Refuse(CodeRotationInProgress, "a rotation of this key waits for its receiver; send supersede=true to replace it").
			With("rotation_id", waiting.ID)
	}
	return []Decided{l.superseded(waiting, c.RotationID)}, nil
}

func (l *Lineage) superseded(r *Rotation, by RotationID) Decided {
	return l.decided(RotationCancelled{
		RotationID: r.ID, KeyID: r.ToKeyID, Reason: "superseded", SupersededBy: by, NextRotationAt: l.NextRotationAt,
	})
}

func (l *Lineage) rotated(c RotateKey, grace time.Duration, facts SecretFacts, now time.Time) Rotated {
	r := Rotated{
		RotationID: c.RotationID, Trigger: c.Trigger, PreviousKeyID: c.KeyID, KeyID: c.NewKeyID,
		Generation: l.LastGeneration + 1, SecretFacts: facts,
	}
	if c.Trigger == TriggerInterval {
		deadline := now.Add(c.Policy.MaxOverlap())
		r.GraceSeconds, r.EndpointID, r.Deadline = l.Settings.GraceSeconds, l.Settings.EndpointID, &deadline
		if r.EndpointID != "" {
			r.Demand = c.Receiver.Demand
		}
		r.NextRotationAt = l.slotAfter(c.Policy.RotationWindow, now)
		return r
	}
	end := l.graceEnd(now, grace)
	r.Acknowledged, r.GraceExpiresAt = AckAnswer, &end
	r.GraceSeconds = int64(grace / time.Second)
	r.NextRotationAt = firstSlot(l.ID, l.Settings, c.Policy.RotationWindow, now)
	if c.Trigger == TriggerCompromise && grace == 0 {
		r.RevokedKeyIDs = l.liveBut(GenerationPending) // a pending one goes with the rotation that is superseded
	}
	return r
}

// graceEnd is now plus the grace, never past the lineage's own expiry.
func (l *Lineage) graceEnd(now time.Time, grace time.Duration) time.Time {
	end := now.Add(grace)
	if l.Settings.ExpiresAt != nil && l.Settings.ExpiresAt.Before(end) {
		return *l.Settings.ExpiresAt
	}
	return end
}

// liveBut lists the key ids of the live generations that are not in a state.
func (l *Lineage) liveBut(state GenerationState) []KeyID {
	return slices.DeleteFunc(l.live(), func(id KeyID) bool { return l.Generation(id).State == state })
}
