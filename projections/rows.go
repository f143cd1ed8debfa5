package projections

import (
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// dueRow is one piece of work that falls due by time.
type dueRow struct {
	LineageID domain.LineageID
	domain.Due
}

var dueTable = table[dueRow]{
	name: "due_work",
	key:  []string{"lineage_id", "kind", "key_id"},
	columns: []column[dueRow]{
		{"lineage_id", "text", func(r *dueRow) any { return string(r.LineageID) }},
		{"kind", "text", func(r *dueRow) any { return string(r.Kind) }},
		{"key_id", "text", func(r *dueRow) any { return string(r.KeyID) }},
		{"due_at", "timestamptz", func(r *dueRow) any { return r.At }},
	},
}

// sqlInsertDue also starts the sweep's own columns; the lineage's former rows are deleted before.
const sqlInsertDue = `INSERT INTO due_work (lineage_id, kind, key_id, due_at, scan_at)
	SELECT r.lineage_id, r.kind, r.key_id, r.due_at, r.due_at
	FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS r(lineage_id, kind, key_id, due_at)`

// rotationRow is one hand-over of a lineage.
type rotationRow struct {
	LineageID      domain.LineageID
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	domain.Rotation
}

var rotationTable = table[rotationRow]{
	name: "rotations",
	key:  []string{"id"},
	columns: []column[rotationRow]{
		{"id", "text", func(r *rotationRow) any { return string(r.ID) }},
		{"lineage_id", "text", func(r *rotationRow) any { return string(r.LineageID) }},
		{"organization_id", "text", func(r *rotationRow) any { return string(r.OrganizationID) }},
		{"project_id", "text", func(r *rotationRow) any { return string(r.ProjectID) }},
		{"trigger", "text", func(r *rotationRow) any { return string(r.Trigger) }},
		{"state", "text", func(r *rotationRow) any { return string(r.State) }},
		{"from_key_id", "text", func(r *rotationRow) any { return string(r.FromKeyID) }},
		{"to_key_id", "text", func(r *rotationRow) any { return string(r.ToKeyID) }},
		{"generation", "int4", func(r *rotationRow) any { return int32(r.Generation) }},
		{"grace_seconds", "int8", func(r *rotationRow) any { return r.GraceSeconds }},
		{"endpoint_id", "text", func(r *rotationRow) any { return optional(string(r.EndpointID)) }},
		{"started_at", "timestamptz", func(r *rotationRow) any { return r.StartedAt }},
		{"acknowledged_at", "timestamptz", func(r *rotationRow) any { return r.AcknowledgedAt }},
		{"ack_level", "text", func(r *rotationRow) any { return optional(string(r.AckLevel)) }},
		{"ended_at", "timestamptz", func(r *rotationRow) any { return r.EndedAt }},
		{"reason", "text", func(r *rotationRow) any { return optional(r.Reason) }},
	},
}

// Organization is a tenant.
type Organization struct {
	ID        domain.OrganizationID
	Name      string
	CreatedAt time.Time
}

var organizationTable = table[Organization]{
	name: "organizations",
	key:  []string{"id"},
	columns: []column[Organization]{
		{"id", "text", func(o *Organization) any { return string(o.ID) }},
		{"name", "text", func(o *Organization) any { return o.Name }},
		{"created_at", "timestamptz", func(o *Organization) any { return o.CreatedAt }},
	},
}

// Project is a product of a tenant.
type Project struct {
	ID             domain.ProjectID
	OrganizationID domain.OrganizationID
	Name           string
	Brand          string
	CreatedAt      time.Time
}

var projectTable = table[Project]{
	name: "projects",
	key:  []string{"id"},
	columns: []column[Project]{
		{"id", "text", func(p *Project) any { return string(p.ID) }},
		{"organization_id", "text", func(p *Project) any { return string(p.OrganizationID) }},
		{"name", "text", func(p *Project) any { return p.Name }},
		{"brand", "text", func(p *Project) any { return p.Brand }},
		{"created_at", "timestamptz", func(p *Project) any { return p.CreatedAt }},
	},
}

// Environment is a part of a project.
type Environment struct {
	ID             domain.EnvironmentID
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	Name           string
	CreatedAt      time.Time
}

var environmentTable = table[Environment]{
	name: "environments",
	key:  []string{"id"},
	columns: []column[Environment]{
		{"id", "text", func(e *Environment) any { return string(e.ID) }},
		{"organization_id", "text", func(e *Environment) any { return string(e.OrganizationID) }},
		{"project_id", "text", func(e *Environment) any { return string(e.ProjectID) }},
		{"name", "text", func(e *Environment) any { return e.Name }},
		{"created_at", "timestamptz", func(e *Environment) any { return e.CreatedAt }},
	},
}

// endpointRow is a webhook receiver.
type endpointRow struct {
	ID             domain.EndpointID
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	LineageID      domain.LineageID
	URL            string
	CreatedAt      time.Time
}

var endpointTable = table[endpointRow]{
	name: "webhook_endpoints",
	key:  []string{"id"},
	columns: []column[endpointRow]{
		{"id", "text", func(e *endpointRow) any { return string(e.ID) }},
		{"organization_id", "text", func(e *endpointRow) any { return string(e.OrganizationID) }},
		{"project_id", "text", func(e *endpointRow) any { return string(e.ProjectID) }},
		{"lineage_id", "text", func(e *endpointRow) any { return optional(string(e.LineageID)) }},
		{"url", "text", func(e *endpointRow) any { return e.URL }},
		{"created_at", "timestamptz", func(e *endpointRow) any { return e.CreatedAt }},
	},
}
