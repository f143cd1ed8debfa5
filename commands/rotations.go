package commands

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// RotateKey asks for the next generation of a key.
type RotateKey struct {
	KeyID     domain.KeyID
	Grace     *time.Duration // nil: what the project's policy says, or an hour; none for a compromised key
	Supersede bool
	// Compromised says that somebody else may have the secret. Unless a grace is named, all older keys end at once.
	Compromised bool
}

// RotatedKey is the outcome of a rotation that was asked for, with the secret that is shown only once.
type RotatedKey struct {
	Rotated   domain.Rotated
	ProjectID domain.ProjectID
	Settings  domain.Settings
	CreatedAt time.Time
	Version   int64 // of the lineage
	Secret    domain.Secret
}

// RotateKey makes the next generation. Its answer acknowledges it: the old key has its grace from now.
func (s *Service) RotateKey(ctx context.Context, by By, c RotateKey) (RotatedKey, error) {
	var out RotatedKey
	lineage, project, err := s.cfg.Reader.LineageOf(ctx, by.reach(), c.KeyID)
	if err != nil {
		return out, err
	}
	rotate := domain.RotateKey{
		KeyID: c.KeyID, NewKeyID: newID[domain.KeyID](s, domain.PrefixKey),
		RotationID: newID[domain.RotationID](s, domain.PrefixRotation), Trigger: domain.TriggerManual,
		Grace: c.Grace, Supersede: c.Supersede, Caller: by.Caller, Mint: s.mint(&out.Secret),
	}
	if c.Compromised {
		rotate.Trigger = domain.TriggerCompromise
	}
	outcome := func(events []domain.Event) (RotatedKey, error) {
		rotated, event, err := find[domain.Rotated](events)
		out.Rotated, out.CreatedAt, out.Version = rotated, event.OccurredAt, event.Version
		return out, err
	}
	command := lineageCommand(by, lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		out.Settings, out.ProjectID = l.Settings, l.ProjectID
		return l.Rotate(rotate, now)
	}, keeping(s, by, nil, outcome))
	records, err := s.execute(ctx, by, withPolicy(command, project, &rotate.Policy))
	if err != nil {
		return RotatedKey{}, err
	}
	made, err := outcome(eventstore.EventsOf(records))
	if err != nil {
		return RotatedKey{}, err
	}
	s.cfg.Reader.Owned(made.Rotated.KeyID, by.Caller.OrganizationID, lineage, project)
	return made, nil
}

// Sweep carries out work whose time has come, joined, and returns the outcome of each piece. What is not due any more
// does nothing.
func (s *Service) Sweep(ctx context.Context, due []projections.DueWork) []eventstore.Outcome {
	by := System(domain.ActorSweep)
	var today epoch
	if slices.ContainsFunc(due, func(d projections.DueWork) bool { return d.Kind == domain.DueRotate }) {
		today = s.epochOrFault(ctx) // new secrets are sealed with the key of the day; nothing else waits for it
	}
	all := make([]eventstore.Command, len(due))
	for i, d := range due {
		switch d.Kind {
		case domain.DueRotate:
			all[i] = s.rotateDue(by, d, today)
		case domain.DueWarn:
			all[i] = lineageCommand(by, d.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				return l.Warn(now)
			}, nil)
		case domain.DueTimeout:
			all[i] = timeOut(by, d)
		case domain.DueGrace:
			all[i] = lineageCommand(by, d.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				return l.ExpireGrace(d.KeyID, now)
			}, nil)
		default:
			all[i] = lineageCommand(by, d.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				return l.Expire(now)
			}, nil)
		}
	}
	return s.cfg.Store.ExecuteAll(ctx, all)
}

// rotateDue is an interval rotation. Its secret is sealed in the transaction that makes it, to wait for delivery.
func (s *Service) rotateDue(by By, d projections.DueWork, today epoch) eventstore.Command {
	p := s.pendingRotation(by, today)
	p.rotate.KeyID = d.KeyID
	command := lineageCommand(by, d.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		if l.Settings.EndpointID != d.EndpointID { // another receiver was chosen since: its time comes at once
			return nil, nil
		}
		if err := p.sealable(); err != nil {
			return nil, err
		}
		return l.Rotate(p.rotate, now)
	}, p.attach)
	return withPolicy(p.withReceiver(command, d.EndpointID), d.ProjectID, &p.rotate.Policy)
}

// timeOut is what becomes of a rotation that waits for too long.
func timeOut(by By, d projections.DueWork) eventstore.Command {
	var policy domain.Policy
	return withPolicy(lineageCommand(by, d.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.TimeOut(d.KeyID, policy, now)
	}, nil), d.ProjectID, &policy)
}

// pendingRotation is a rotation whose secret waits to be delivered.
type pendingRotation struct {
	s        *Service
	today    epoch
	rotate   domain.RotateKey
	secret   domain.Secret
	receiver *domain.Endpoint // who is sent the secret; nil: the old key fetches it
}

func (s *Service) pendingRotation(by By, today epoch) *pendingRotation {
	p := &pendingRotation{s: s, today: today}
	p.rotate = domain.RotateKey{
		NewKeyID:   newID[domain.KeyID](s, domain.PrefixKey),
		RotationID: newID[domain.RotationID](s, domain.PrefixRotation), Trigger: domain.TriggerInterval,
		Caller: by.Caller, Mint: s.mint(&p.secret),
	}
	return p
}

// sealable refuses to make a secret that cannot be stored: a receiver with a key of its own needs none of ours.
func (p *pendingRotation) sealable() error {
	if p.receiver != nil && p.receiver.SecretMode == domain.SecretSealed {
		return nil
	}
	return p.today.fault
}

// withReceiver lets the decision see the receiver as it is when the decision is made.
func (p *pendingRotation) withReceiver(c eventstore.Command, id domain.EndpointID) eventstore.Command {
	if id == "" {
		return c
	}
	decide := c.Decide
	c.Reads = append(c.Reads, string(id))
	c.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		endpoint, err := view.Endpoint(id)
		if err != nil {
			return nil, err
		}
		p.receiver, p.rotate.Receiver = endpoint, domain.Receiver{Demand: endpoint.Demand()}
		switch {
		case endpoint.DeletedAt != nil:
			p.rotate.Receiver.Problem = "deleted"
		case !endpoint.Usable():
			p.rotate.Receiver.Problem = string(endpoint.State)
		}
		return decide(view, now)
	}
	return c
}

// attach stores the secret, if the decision made one.
func (p *pendingRotation) attach(batch *pgx.Batch, events []domain.Event) error {
	_, event, err := find[domain.Rotated](events)
	if err != nil { // it was put off, which makes no secret
		return nil
	}
	return p.s.queueNewSecret(batch, p.today, p.secret, p.receiver, event)
}

// Acknowledge records that the new secret of a rotation arrived; attach commits with it. It reports whether this was the
// sign that counted.
func (s *Service) Acknowledge(ctx context.Context, by By, lineage domain.LineageID, rotation domain.RotationID, level domain.AckLevel,
	attach func(*pgx.Batch, []domain.Event) error,
) (bool, error) {
	records, err := s.onLineage(ctx, by, lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Acknowledge(rotation, level, now)
	}, attach)
	return len(records) > 0, err
}

// Stall records that delivery is given up for now; attach commits with it. It reports whether the rotation did stall.
func (s *Service) Stall(ctx context.Context, by By, lineage domain.LineageID, rotation domain.RotationID, reason string,
	attach func(*pgx.Batch, []domain.Event) error,
) (bool, error) {
	records, err := s.onLineage(ctx, by, lineage, func(l *domain.Lineage, _ time.Time) ([]domain.Decided, error) {
		return l.Stall(rotation, reason)
	}, attach)
	return len(records) > 0, err
}

// FirstUse takes note that a key was used. The first use of a pending one proves that its secret arrived, which
// acknowledges its rotation. It does not wait: the use is answered meanwhile, and if this is lost the next use tells again.
func (s *Service) FirstUse(key *projections.Key) {
	if key.State != domain.GenerationPending || key.RotationID == nil {
		return
	}
	select {
	case s.firstUse <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-s.firstUse }()
		by := By{Caller: domain.System(), Actor: domain.Actor(key.ID)}
		// An error is the store's and is logged there; that the rotation has ended meanwhile is no fault.
		_, _ = s.Acknowledge(context.Background(), by, key.LineageID, *key.RotationID, domain.AckFirstUse, nil)
	}()
}

// ClaimedKey is the successor that an old key fetched.
type ClaimedKey struct {
	Acknowledged domain.RotationAcknowledged
	Secret       domain.Secret
}

// ClaimSuccessor hands the waiting secret of a lineage without a webhook to its active key, once: the claim acknowledges
// the rotation, and whoever comes second finds nothing.
func (s *Service) ClaimSuccessor(ctx context.Context, by By, presented *projections.Key) (ClaimedKey, error) {
	none := domain.Refuse(domain.CodeNoRotation, "no successor waits for this key")
	// A key fetches its own successor also if it is limited to other projects than its own.
	rotation, endpoint, err := s.cfg.Reader.WaitingRotation(ctx, projections.Reach{Organization: presented.OrganizationID}, presented.LineageID)
	if err != nil || rotation == "" || endpoint != "" || presented.State != domain.GenerationActive {
		return ClaimedKey{}, cmp.Or[error](err, none)
	}
	secret, err := s.OpenPending(ctx, rotation)
	if errors.Is(err, ErrEpochEnded) { // nobody can read it any more, so another one takes its place
		own := By{Caller: domain.Caller{OrganizationID: presented.OrganizationID}, Actor: domain.Actor(presented.ID), RequestID: by.RequestID}
		if _, err := s.RedeliverRotation(ctx, own, rotation, true); err != nil {
			return ClaimedKey{}, err
		}
		return s.ClaimSuccessor(ctx, by, presented)
	}
	if err != nil || secret.IsZero() {
		return ClaimedKey{}, cmp.Or[error](err, none)
	}
	outcome := func(events []domain.Event) (ClaimedKey, error) {
		acknowledged, _, err := find[domain.RotationAcknowledged](events)
		return ClaimedKey{Acknowledged: acknowledged, Secret: secret}, err
	}
	own := By{Caller: domain.System(), Actor: domain.Actor(presented.ID), RequestID: by.RequestID}
	records, err := s.onLineage(ctx, own, presented.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Acknowledge(rotation, domain.AckClaim, now)
	}, keeping(s, by, nil, outcome))
	if err != nil {
		return ClaimedKey{}, err
	}
	if len(records) == 0 { // somebody else was first
		return ClaimedKey{}, none
	}
	return outcome(eventstore.EventsOf(records))
}
