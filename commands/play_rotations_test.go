package commands_test

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// live picks a rotation in one of some states, newest first, and by whom it may be changed.
func (p *play) live(r *replica, a action, states ...domain.RotationState) (commands.By, *projections.Rotation, error) {
	at, _ := pick(p, a, &p.places)
	if a.Flag { // most of the life is in the first project
		p.mu.Lock()
		at = p.places[0]
		p.mu.Unlock()
	}
	var found []*projections.Rotation
	for _, state := range states {
		some, err := r.reader.Rotations(context.Background(), projections.RotationList{Reach: projections.ReachOf(at.by.Caller), State: state, Limit: 50})
		if err != nil {
			return at.by, nil, err
		}
		found = append(found, some...)
	}
	if len(found) == 0 {
		return at.by, nil, nil
	}
	return at.by, found[a.Pick%len(found)], nil
}

// onRotation does something to a rotation, and checks that the answer is how the rotation is.
func (p *play) onRotation(r *replica, a action, do func(commands.By, domain.RotationID) (*projections.Rotation, error), states ...domain.RotationState) (bool, error) {
	by, found, err := p.live(r, a, states...)
	if err != nil || found == nil {
		return false, err
	}
	if a.Pick%3 == 0 {
		by.Expected = &found.Version
	}
	after, err := do(by, found.ID)
	if err != nil {
		return false, err
	}
	if p.alone {
		if read, err := r.reader.Rotation(context.Background(), projections.ReachOf(by.Caller), after.ID); err != nil || !sameRotation(read, after) {
			return true, domain.Refuse(domain.CodeInternal, "the answer is %+v, and the rotation is %+v (%v)", after, read, err)
		}
	}
	return true, nil
}

func sameRotation(a, b *projections.Rotation) bool {
	same := func(x, y *time.Time) bool { return x == y || x != nil && y != nil && x.Equal(*y) }
	return a.ID == b.ID && a.State == b.State && a.Version == b.Version && a.Reason == b.Reason && a.AckLevel == b.AckLevel &&
		a.Overdue == b.Overdue && same(a.Deadline, b.Deadline) && same(a.GraceExpiresAt, b.GraceExpiresAt) &&
		same(a.AcknowledgedAt, b.AcknowledgedAt) && same(a.EndedAt, b.EndedAt)
}

var (
	waits    = []domain.RotationState{domain.RotationDelivering, domain.RotationStuck}
	overlaps = []domain.RotationState{domain.RotationOverlap}
)

func (p *play) cancel(r *replica, a action) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		return r.CancelRotation(context.Background(), by, id, "not now")
	}, waits...)
}

func (p *play) force(r *replica, a action) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		return r.ForceRotation(context.Background(), by, id)
	}, waits...)
}

func (p *play) redeliver(r *replica, a action) (bool, error) { return p.redeliverRotation(r, a, false) }

func (p *play) redeliverAnew(r *replica, a action) (bool, error) {
	return p.redeliverRotation(r, a, true)
}

func (p *play) redeliverRotation(r *replica, a action, fresh bool) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		after, err := r.RedeliverRotation(context.Background(), by, id, fresh)
		if err == nil && after.ID != id {
			own := commands.By{Caller: domain.Caller{OrganizationID: after.OrganizationID, Scopes: domain.Scopes{"*"}, Operator: true}}
			w := waiting{own, after.LineageID, after.ID, after.FromKeyID}
			add(p, &p.rotations, w)
			if after.EndpointID == "" {
				add(p, &p.claimable, w)
			}
		}
		return after, err
	}, waits...)
}

func (p *play) rollBack(r *replica, a action) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		return r.RollBackRotation(context.Background(), by, id)
	}, overlaps...)
}

func (p *play) endGrace(r *replica, a action) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		return r.EndGrace(context.Background(), by, id)
	}, overlaps...)
}

func (p *play) changeGrace(r *replica, a action) (bool, error) {
	return p.onRotation(r, a, func(by commands.By, id domain.RotationID) (*projections.Rotation, error) {
		return r.ChangeGrace(context.Background(), by, id, p.w.clock.Now().Add(a.Grace+time.Minute))
	}, overlaps...)
}

// proof is a receiver that gives a stronger sign than most demands.
func (p *play) proof(r *replica, a action) (bool, error) {
	w, ok := pick(p, a, &p.rotations)
	if !ok {
		return false, nil
	}
	return r.Acknowledge(context.Background(), commands.System(domain.ActorDeliver), w.lineage, w.rotation, domain.AckProof, nil)
}

// timeOut lets a rotation wait for too long, and the sweep look at it.
func (p *play) timeOut(r *replica, a action) (bool, error) {
	_, found, err := p.live(r, a, waits...)
	if err != nil || found == nil {
		return false, err
	}
	if left := found.Deadline.Sub(p.w.clock.Now()); left > 0 {
		p.w.clock.step(left)
	}
	return p.sweep(r, action{Pick: 19})
}

// compromise rotates a key because somebody else may have its secret: afterwards only the new one is valid.
func (p *play) compromise(r *replica, a action) (bool, error) {
	k, _ := pick(p, a, &p.keys)
	rotated, err := r.RotateKey(context.Background(), k.by, commands.RotateKey{KeyID: k.id, Compromised: true})
	if err != nil {
		return false, err
	}
	for _, id := range rotated.Rotated.RevokedKeyIDs {
		add(p, &p.revoked, id)
	}
	add(p, &p.keys, known{k.by, rotated.Rotated.KeyID, rotated.Secret})
	return true, nil
}
