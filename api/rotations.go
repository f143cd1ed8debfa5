package api

import (
	"cmp"
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// rotationBody is a rotation as the native API shows it. Absent values are null.
type rotationBody struct {
	ID             domain.RotationID     `json:"id" example:"rot_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID      domain.LineageID      `json:"lineage_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	State          domain.RotationState  `json:"state" enum:"delivering,stalled,overlap,completed,cancelled,superseded,aborted,rolled_back" doc:"delivering and stalled wait for the new secret to arrive, with the old key valid and without a deadline; in overlap the old key is in grace; the others are final"`
	Trigger        domain.Trigger        `json:"trigger" enum:"interval,manual,compromise" doc:"Why it began"`
	PreviousKeyID  domain.KeyID          `json:"previous_key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The old key"`
	KeyID          domain.KeyID          `json:"key_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7b" doc:"The new key"`
	Generation     int                   `json:"generation" example:"2" doc:"Of the new key"`
	GraceSeconds   int64                 `json:"grace_seconds" example:"3600" doc:"How long the old key stays valid once the new secret has arrived"`
	EndpointID     *domain.EndpointID    `json:"endpoint_id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Who is sent the new secret; null: nobody, it is fetched or was the answer"`
	AckDemand      *domain.AckLevel      `json:"ack_demand" enum:"accepted,proof,first_use" doc:"What counts as arrived; a stronger sign does too. null: nothing is sent"`
	AckLevel       *domain.AckLevel      `json:"ack_level" enum:"accepted,proof,first_use,claim,answer,forced" doc:"How the new secret is known to have arrived; null: it is not"`
	StartedAt      time.Time             `json:"started_at"`
	AcknowledgedAt *time.Time            `json:"acknowledged_at"`
	DeadlineAt     *time.Time            `json:"deadline_at" doc:"When the waiting is too long, and the project's rotation_timeout says what happens"`
	Overdue        bool                  `json:"overdue" doc:"It has waited for too long and is held; redelivering it makes another secret"`
	GraceExpiresAt *time.Time            `json:"grace_expires_at" doc:"Until when the old key is, or was, valid"`
	EndedAt        *time.Time            `json:"ended_at"`
	Reason         *string               `json:"reason" doc:"Why it stalled or ended"`
}

func bodyOfRotation(r *projections.Rotation) rotationBody {
	b := rotationBody{
		ID: r.ID, LineageID: r.LineageID, OrganizationID: r.OrganizationID, ProjectID: r.ProjectID, State: r.State, Trigger: r.Trigger,
		PreviousKeyID: r.FromKeyID, KeyID: r.ToKeyID, Generation: r.Generation, GraceSeconds: r.GraceSeconds,
		EndpointID: orNull(r.EndpointID), AckLevel: orNull(r.AckLevel), StartedAt: r.StartedAt, AcknowledgedAt: r.AcknowledgedAt,
		DeadlineAt: r.Deadline, Overdue: r.Overdue, GraceExpiresAt: r.GraceExpiresAt, EndedAt: r.EndedAt, Reason: orNull(r.Reason),
	}
	if r.EndpointID != "" {
		b.AckDemand = orNull(cmp.Or(r.Demand, domain.AckAccepted))
	}
	return b
}

type rotationOutput struct {
	ETag string `header:"ETag" doc:"Of the key's lineage as it is here, for If-Match"`
	Body rotationBody
}

func shownRotation(r *projections.Rotation) *rotationOutput {
	return &rotationOutput{ETag: surface.ETag(r.Version), Body: bodyOfRotation(r)}
}

// RotationPath is the rotation that a path names. It is exported because huma fills embedded fields only then.
type RotationPath struct {
	ID domain.RotationID `path:"id" example:"rot_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The rotation"`
}

type listRotationsInput struct {
	surface.PageInput
	ProjectID domain.ProjectID     `query:"project_id" doc:"Only of this project"`
	LineageID domain.LineageID     `query:"lineage_id" doc:"Only of this lineage"`
	State     domain.RotationState `query:"state" enum:"delivering,stalled,overlap,completed,cancelled,superseded,aborted,rolled_back" doc:"Only in this state"`
}

func (s *server) listRotations(ctx context.Context, in *listRotationsInput) (*surface.List[rotationBody], error) {
	if err := cmp.Or(
		in.Check(domain.PrefixRotation),
		surface.CheckFilter("project_id", domain.PrefixProject, string(in.ProjectID)),
		surface.CheckFilter("lineage_id", domain.PrefixLineage, string(in.LineageID)),
	); err != nil {
		return nil, err
	}
	found, err := s.Reader.Rotations(ctx, projections.RotationList{
		Reach: surface.Reach(ctx), Project: in.ProjectID, Lineage: in.LineageID, State: in.State,
		Before: domain.RotationID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/rotations", found, func(r *projections.Rotation) string { return string(r.ID) }, url.Values{
		"project_id": {string(in.ProjectID)}, "lineage_id": {string(in.LineageID)}, "state": {string(in.State)},
	}, bodyOfRotation), nil
}

func (s *server) getRotation(ctx context.Context, in *RotationPath) (*rotationOutput, error) {
	r, err := s.Reader.Rotation(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return shownRotation(r), nil
}

// graceClientBody is who was seen using an old key in its grace.
type graceClientBody struct {
	Address     *string   `json:"address" example:"203.0.113.7" doc:"Where it was used from; null: not known, or one of too many"`
	UserAgent   *string   `json:"user_agent" example:"curl/8.5.0" doc:"What the client says it is; null: not known, or one of too many"`
	UseCount    int64     `json:"use_count" example:"12"`
	FirstSeenAt time.Time `json:"first_seen_at"`
	LastSeenAt  time.Time `json:"last_seen_at"`
}

type graceClientsOutput struct {
	Body []graceClientBody `nullable:"false"`
}

// listGraceClients shows all of them: there are at most a hundred of a key.
func (s *server) listGraceClients(ctx context.Context, in *RotationPath) (*graceClientsOutput, error) {
	r, err := s.Reader.Rotation(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	found, err := s.Reader.GraceClients(ctx, surface.Reach(ctx), r.ID)
	if err != nil {
		return nil, err
	}
	out := &graceClientsOutput{Body: []graceClientBody{}}
	for _, c := range found {
		out.Body = append(out.Body, graceClientBody{orNull(c.Address), orNull(c.Agent), c.Count, c.FirstSeenAt, c.LastSeenAt})
	}
	return out, nil
}

type updateRotationInput struct {
	RotationPath
	surface.IfMatch
	Body struct {
		GraceExpiresAt string `json:"grace_expires_at" format:"date-time" doc:"RFC 3339: until when the old key stays valid, later or earlier than now planned"`
	}
}

func (s *server) updateRotation(ctx context.Context, in *updateRotationInput) (*rotationOutput, error) {
	until, err := surface.Instant("grace_expires_at", &in.Body.GraceExpiresAt)
	if err != nil {
		return nil, err
	}
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	r, err := s.Commands.ChangeGrace(ctx, by, in.ID, *until)
	if err != nil {
		return nil, err
	}
	return shownRotation(r), nil
}

// RotationAction asks for something of a rotation that needs no more words. It is exported because huma fills embedded
// fields only then.
type RotationAction struct {
	RotationPath
	surface.IfMatch
}

type cancelRotationInput struct {
	RotationAction
	Body *struct {
		Reason *string `json:"reason,omitempty" nullable:"true" maxLength:"500" doc:"Why, for the history"`
	}
}

type redeliverRotationInput struct {
	RotationAction
	Body *struct {
		Fresh bool `json:"fresh,omitempty" nullable:"true" doc:"Send another secret, in a rotation that takes the place of this one"`
	}
}

func (s *server) cancelRotation(ctx context.Context, in *cancelRotationInput) (*rotationOutput, error) {
	var reason string
	if in.Body != nil {
		reason = surface.OrZero(in.Body.Reason)
	}
	return s.onRotation(ctx, in.RotationAction, func(by commands.By) (*projections.Rotation, error) {
		return s.Commands.CancelRotation(ctx, by, in.ID, reason)
	})
}

func (s *server) redeliverRotation(ctx context.Context, in *redeliverRotationInput) (*rotationOutput, error) {
	return s.onRotation(ctx, in.RotationAction, func(by commands.By) (*projections.Rotation, error) {
		return s.Commands.RedeliverRotation(ctx, by, in.ID, in.Body != nil && in.Body.Fresh)
	})
}

func (s *server) forceRotation(ctx context.Context, in *RotationAction) (*rotationOutput, error) {
	return s.onRotation(ctx, *in, func(by commands.By) (*projections.Rotation, error) {
		return s.Commands.ForceRotation(ctx, by, in.ID)
	})
}

func (s *server) rollBackRotation(ctx context.Context, in *RotationAction) (*rotationOutput, error) {
	return s.onRotation(ctx, *in, func(by commands.By) (*projections.Rotation, error) {
		return s.Commands.RollBackRotation(ctx, by, in.ID)
	})
}

func (s *server) endGrace(ctx context.Context, in *RotationAction) (*rotationOutput, error) {
	return s.onRotation(ctx, *in, func(by commands.By) (*projections.Rotation, error) {
		return s.Commands.EndGrace(ctx, by, in.ID)
	})
}

// onRotation carries out what is asked of a rotation, and shows it as it is then.
func (s *server) onRotation(ctx context.Context, in RotationAction, do func(commands.By) (*projections.Rotation, error)) (*rotationOutput, error) {
	by, err := in.Expecting(ctx, surface.Keeping(ctx, shownRotation))
	if err != nil {
		return nil, err
	}
	r, err := do(by)
	if err != nil {
		return nil, err
	}
	return shownRotation(r), nil
}
