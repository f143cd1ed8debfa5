package projections

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Rotation is one hand-over of a lineage.
type Rotation struct {
	LineageID      domain.LineageID
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	domain.Rotation

	// Version is that of the lineage. It is no part of the row: the keys of the rotation have it.
	Version int64
}

var rotationTable = table[Rotation]{
	name: "rotations",
	key:  []string{"id"},
	columns: []column[Rotation]{
		col("id", "text", func(r *Rotation) string { return string(r.ID) }),
		col("lineage_id", "text", func(r *Rotation) string { return string(r.LineageID) }),
		col("organization_id", "text", func(r *Rotation) string { return string(r.OrganizationID) }),
		col("project_id", "text", func(r *Rotation) string { return string(r.ProjectID) }),
		col("trigger", "text", func(r *Rotation) string { return string(r.Trigger) }),
		col("state", "text", func(r *Rotation) string { return string(r.State) }),
		col("from_key_id", "text", func(r *Rotation) string { return string(r.FromKeyID) }),
		col("to_key_id", "text", func(r *Rotation) string { return string(r.ToKeyID) }),
		col("generation", "int4", func(r *Rotation) int32 { return int32(r.Generation) }),
		col("grace_seconds", "int8", func(r *Rotation) int64 { return r.GraceSeconds }),
		col("endpoint_id", "text", func(r *Rotation) *string { return optional(string(r.EndpointID)) }),
		col("ack_demand", "text", func(r *Rotation) *string { return optional(string(r.Demand)) }),
		col("started_at", "timestamptz", func(r *Rotation) time.Time { return r.StartedAt }),
		col("deadline_at", "timestamptz", func(r *Rotation) *time.Time { return r.Deadline }),
		col("overdue", "bool", func(r *Rotation) bool { return r.Overdue }),
		col("acknowledged_at", "timestamptz", func(r *Rotation) *time.Time { return r.AcknowledgedAt }),
		col("ack_level", "text", func(r *Rotation) *string { return optional(string(r.AckLevel)) }),
		col("grace_expires_at", "timestamptz", func(r *Rotation) *time.Time { return r.GraceExpiresAt }),
		col("ended_at", "timestamptz", func(r *Rotation) *time.Time { return r.EndedAt }),
		col("reason", "text", func(r *Rotation) *string { return optional(r.Reason) }),
	},
}

// RotationOf lays a rotation that a lineage knows out as a row, or returns nil.
func RotationOf(l *domain.Lineage, id domain.RotationID) *Rotation {
	for _, r := range l.Rotations {
		if r.ID == id {
			return &Rotation{
				LineageID: l.ID, OrganizationID: l.OrganizationID, ProjectID: l.ProjectID, Rotation: r, Version: l.Version,
			}
		}
	}
	return nil
}

// rotationColumns must match scanRotation. A live rotation has a live key, and each event writes the lineage's version
// into those.
const rotationColumns = `id, lineage_id, organization_id, project_id, trigger, state, from_key_id, to_key_id, generation,
	grace_seconds, coalesce(endpoint_id, ''), coalesce(ack_demand, ''), started_at, deadline_at, overdue, acknowledged_at,
	coalesce(ack_level, ''), grace_expires_at, ended_at, coalesce(reason, ''),
	(SELECT coalesce(max(k.version), 0) FROM keys k WHERE k.id IN (r.from_key_id, r.to_key_id))`

func scanRotation(row pgx.CollectableRow) (*Rotation, error) {
	var r Rotation
	err := row.Scan(&r.ID, &r.LineageID, &r.OrganizationID, &r.ProjectID, &r.Trigger, &r.State, &r.FromKeyID, &r.ToKeyID,
		&r.Generation, &r.GraceSeconds, &r.EndpointID, &r.Demand, &r.StartedAt, &r.Deadline, &r.Overdue, &r.AcknowledgedAt,
		&r.AckLevel, &r.GraceExpiresAt, &r.EndedAt, &r.Reason, &r.Version)
	r.StartedAt = r.StartedAt.UTC()
	for _, t := range []**time.Time{&r.Deadline, &r.AcknowledgedAt, &r.GraceExpiresAt, &r.EndedAt} {
		if *t != nil {
			utc := (*t).UTC()
			*t = &utc
		}
	}
	return &r, err
}

const (
	sqlRotation = `SELECT ` + rotationColumns + ` FROM rotations r WHERE ` + within + ` AND id = $3`
	// Each filter has one form that an index serves: newest first of an organization, a project or a lineage.
	sqlRotations = `SELECT ` + rotationColumns + ` FROM rotations r
		WHERE ` + within + ` AND ($3 = '' OR project_id = $3) AND ($4 = '' OR lineage_id = $4) AND ($5 = '' OR state = $5) AND id < $6
		ORDER BY id DESC LIMIT $7`
	// lastRotationID comes after the id of every rotation.
	lastRotationID = domain.PrefixRotation + "_~"
)

// Rotation returns a rotation in a tenant's reach. A foreign one is not found, exactly like an unknown one.
func (r *Reader) Rotation(ctx context.Context, reach Reach, id domain.RotationID) (*Rotation, error) {
	if !domain.ValidID(domain.PrefixRotation, string(id)) {
		return nil, domain.NotFound("rotation")
	}
	found, err := collectWithin(ctx, r, reach, scanRotation, sqlRotation, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, domain.NotFound("rotation")
	}
	return found[0], nil
}

// RotationList selects rotations, newest first.
type RotationList struct {
	Reach   Reach
	Project domain.ProjectID // empty: all in reach
	Lineage domain.LineageID // empty: all
	State   domain.RotationState
	Before  domain.RotationID // continue after this one; empty: from the newest
	Limit   int
}

// Rotations lists rotations.
func (r *Reader) Rotations(ctx context.Context, l RotationList) ([]*Rotation, error) {
	return collectWithin(ctx, r, l.Reach, scanRotation, sqlRotations, string(l.Project), string(l.Lineage), string(l.State),
		cmp.Or(string(l.Before), lastRotationID), l.Limit)
}
