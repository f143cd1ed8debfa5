package projections

import (
	"reflect"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// dueRow is one piece of work that falls due by time, with what is needed to decide it.
type dueRow = DueWork

var dueTable = table[dueRow]{
	name: "due_work",
	key:  []string{"lineage_id", "kind", "key_id"},
	columns: []column[dueRow]{
		col("lineage_id", "text", func(r *dueRow) string { return string(r.LineageID) }),
		col("kind", "text", func(r *dueRow) string { return string(r.Kind) }),
		col("key_id", "text", func(r *dueRow) string { return string(r.KeyID) }),
		col("due_at", "timestamptz", func(r *dueRow) time.Time { return r.At }),
		col("project_id", "text", func(r *dueRow) string { return string(r.ProjectID) }),
		col("endpoint_id", "text", func(r *dueRow) *string { return optional(string(r.EndpointID)) }),
	},
}

// sqlInsertDue also starts the sweep's own columns; the lineage's former rows are deleted before.
const sqlInsertDue = `INSERT INTO due_work (lineage_id, kind, key_id, due_at, scan_at, project_id, endpoint_id)
	SELECT r.lineage_id, r.kind, r.key_id, r.due_at, r.due_at, r.project_id, r.endpoint_id
	FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[])
		AS r(lineage_id, kind, key_id, due_at, project_id, endpoint_id)`

// newDueTable are the rows that sqlInsertDue makes.
var newDueTable = table[dueRow]{
	name:    dueTable.name,
	key:     dueTable.key,
	columns: append(slices.Clone(dueTable.columns), col("scan_at", "timestamptz", func(r *dueRow) time.Time { return r.At })),
}

// Organization is a tenant.
type Organization struct {
	ID               domain.OrganizationID
	Version          int64
	Name             string
	DisabledSurfaces []string
	CreatedAt        time.Time
}

// Serves reports whether the organization has left a surface on.
func (o *Organization) Serves(surface string) bool {
	return !slices.Contains(o.DisabledSurfaces, surface)
}

var organizationTable = table[Organization]{
	name: "organizations",
	key:  []string{"id"},
	columns: []column[Organization]{
		col("id", "text", func(o *Organization) string { return string(o.ID) }),
		col("version", "int8", func(o *Organization) int64 { return o.Version }),
		col("name", "text", func(o *Organization) string { return o.Name }),
		col("disabled_surfaces", "jsonb", func(o *Organization) *string { return document(o.DisabledSurfaces, len(o.DisabledSurfaces) == 0) }),
		col("created_at", "timestamptz", func(o *Organization) time.Time { return o.CreatedAt }),
	},
}

// organizationOf lays an organization out as a row.
func organizationOf(s *domain.Organization) *Organization {
	return &Organization{ID: s.ID, Version: s.Version, Name: s.Name, DisabledSurfaces: s.DisabledSurfaces, CreatedAt: s.CreatedAt}
}

// Project is a product of a tenant.
type Project struct {
	ID             domain.ProjectID
	Version        int64
	OrganizationID domain.OrganizationID
	Name           string
	Brand          string
	Policy         domain.Policy
	CreatedAt      time.Time
	UpdatedAt      time.Time
	DeletedAt      *time.Time // never set in what is read: a deleted project shows nowhere
}

var projectTable = table[Project]{
	name: "projects",
	key:  []string{"id"},
	columns: []column[Project]{
		col("id", "text", func(p *Project) string { return string(p.ID) }),
		col("version", "int8", func(p *Project) int64 { return p.Version }),
		col("organization_id", "text", func(p *Project) string { return string(p.OrganizationID) }),
		col("name", "text", func(p *Project) string { return p.Name }),
		col("brand", "text", func(p *Project) string { return p.Brand }),
		col("policy", "jsonb", func(p *Project) *string { return document(p.Policy, reflect.ValueOf(p.Policy).IsZero()) }),
		col("created_at", "timestamptz", func(p *Project) time.Time { return p.CreatedAt }),
		col("updated_at", "timestamptz", func(p *Project) time.Time { return p.UpdatedAt }),
		col("deleted_at", "timestamptz", func(p *Project) *time.Time { return p.DeletedAt }),
	},
}

// projectOf lays a project out as a row.
func projectOf(s *domain.Project) *Project {
	return &Project{
		ID: s.ID, Version: s.Version, OrganizationID: s.OrganizationID, Name: s.Name, Brand: s.Brand, Policy: s.Policy,
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, DeletedAt: s.DeletedAt,
	}
}

// CreatedProject is the project that the first events of its stream made.
func CreatedProject(events []domain.Event) *Project {
	var p domain.Project
	for _, e := range events {
		p.Apply(e)
	}
	return projectOf(&p)
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
		col("id", "text", func(e *Environment) string { return string(e.ID) }),
		col("organization_id", "text", func(e *Environment) string { return string(e.OrganizationID) }),
		col("project_id", "text", func(e *Environment) string { return string(e.ProjectID) }),
		col("name", "text", func(e *Environment) string { return e.Name }),
		col("created_at", "timestamptz", func(e *Environment) time.Time { return e.CreatedAt }),
	},
}
