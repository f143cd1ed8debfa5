package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// CancelRotation ends a rotation whose secret has not arrived: it is discarded, and the old key stays.
func (s *Service) CancelRotation(ctx context.Context, by By, id domain.RotationID, reason string) (*projections.Rotation, error) {
	return s.onRotation(ctx, by, id, func(l *domain.Lineage, p domain.Policy, now time.Time) ([]domain.Decided, error) {
		return l.CancelRotation(id, reason, p, now)
	})
}

// ForceRotation lets a rotation go on as if its secret had arrived. The event names who decided that.
func (s *Service) ForceRotation(ctx context.Context, by By, id domain.RotationID) (*projections.Rotation, error) {
	return s.onRotation(ctx, by, id, func(l *domain.Lineage, _ domain.Policy, now time.Time) ([]domain.Decided, error) {
		return l.Force(id, now)
	})
}

// RollBackRotation makes the old key, which is in grace, the active one again.
func (s *Service) RollBackRotation(ctx context.Context, by By, id domain.RotationID) (*projections.Rotation, error) {
	return s.onRotation(ctx, by, id, func(l *domain.Lineage, p domain.Policy, now time.Time) ([]domain.Decided, error) {
		return l.RollBack(id, p, now)
	})
}

// ChangeGrace moves the deadline of the old key.
func (s *Service) ChangeGrace(ctx context.Context, by By, id domain.RotationID, until time.Time) (*projections.Rotation, error) {
	return s.onRotation(ctx, by, id, func(l *domain.Lineage, p domain.Policy, now time.Time) ([]domain.Decided, error) {
		return l.ChangeGrace(id, until, p, now)
	})
}

// EndGrace ends the old key now.
func (s *Service) EndGrace(ctx context.Context, by By, id domain.RotationID) (*projections.Rotation, error) {
	return s.onRotation(ctx, by, id, func(l *domain.Lineage, _ domain.Policy, now time.Time) ([]domain.Decided, error) {
		return l.EndGrace(id, now)
	})
}

// RedeliverRotation asks for a secret that has not arrived to be delivered again: the same one with the same webhook-id,
// or, if fresh is wanted or needed, another rotation in the place of this one. It returns the rotation that waits then.
func (s *Service) RedeliverRotation(ctx context.Context, by By, id domain.RotationID, fresh bool) (*projections.Rotation, error) {
	h, err := s.handover(ctx, by, id)
	if err != nil {
		return nil, err
	}
	key, err := s.cfg.Reader.Key(ctx, by.reach(), h.found.FromKeyID)
	if err != nil {
		return nil, err
	}
	today, err := s.epoch(ctx)
	if err != nil {
		return nil, err
	}
	var endpoint domain.EndpointID
	if key.EndpointID != nil {
		endpoint = *key.EndpointID
	}
	p := s.pendingRotation(System(by.actor()), today) // its secret goes to the key's receiver, not to who asks
	command := h.command(func(l *domain.Lineage, policy domain.Policy, now time.Time) ([]domain.Decided, error) {
		if l.Settings.EndpointID != endpoint {
			return nil, domain.Refuse(domain.CodeVersionConflict, "the key got another receiver at the same time; read it again")
		}
		p.rotate.Policy = policy
		return l.Redeliver(domain.Redeliver{RotationID: id, Fresh: fresh, With: p.rotate}, now)
	}, p.attach)
	return h.execute(ctx, p.withReceiver(command, endpoint))
}

// onRotation carries a command on a rotation out, and returns the rotation after it.
func (s *Service) onRotation(ctx context.Context, by By, id domain.RotationID, decide decideOnRotation) (*projections.Rotation, error) {
	h, err := s.handover(ctx, by, id)
	if err != nil {
		return nil, err
	}
	return h.execute(ctx, h.command(decide, nil))
}

type decideOnRotation func(*domain.Lineage, domain.Policy, time.Time) ([]domain.Decided, error)

// handover is a command on a rotation in the caller's reach.
type handover struct {
	s      *Service
	by     By
	found  *projections.Rotation
	before []byte // the lineage as the decision saw it
}

func (s *Service) handover(ctx context.Context, by By, id domain.RotationID) (*handover, error) {
	found, err := s.cfg.Reader.Rotation(ctx, by.reach(), id)
	if err != nil {
		return nil, err
	}
	return &handover{s: s, by: by, found: found}, nil
}

func (h *handover) command(decide decideOnRotation, attach func(*pgx.Batch, []domain.Event) error) eventstore.Command {
	var policy domain.Policy
	return withPolicy(lineageCommand(h.by, h.found.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		decided, err := decide(l, policy, now)
		if err != nil || len(decided) == 0 {
			return nil, err
		}
		h.before, err = domain.EncodeState(l)
		return decided, err
	}, keeping(h.s, h.by, attach, h.outcome)), h.found.ProjectID, &policy)
}

// outcome is the rotation after the events, or the one that took its place.
func (h *handover) outcome(events []domain.Event) (*projections.Rotation, error) {
	state, err := domain.DecodeState(string(h.found.LineageID), h.before)
	if err != nil {
		return nil, err
	}
	id, lineage := h.found.ID, state.(*domain.Lineage)
	for _, e := range events {
		lineage.Apply(e)
		if d, ok := e.Data.(domain.Rotated); ok {
			id = d.RotationID
		}
	}
	after := projections.RotationOf(lineage, id)
	if after == nil {
		return nil, fmt.Errorf("a command lost the rotation %s", id)
	}
	return after, nil
}

func (h *handover) execute(ctx context.Context, c eventstore.Command) (*projections.Rotation, error) {
	records, err := h.s.execute(ctx, h.by, c)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 { // it is so already
		return h.found, nil
	}
	return h.outcome(eventstore.EventsOf(records))
}
