package projections

import (
	"cmp"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// ReadModel writes the read model with each append.
type ReadModel struct{}

var _ eventstore.Projection = ReadModel{}

// Collect begins to gather the rows of one transaction.
func (ReadModel) Collect() eventstore.Collector { return newRows() }

// Statements are built once.
var (
	sqlUpsertKeys          = keyTable.upsert()
	sqlUpsertRotations     = rotationTable.upsert()
	sqlUpsertOrganizations = organizationTable.upsert()
	sqlUpsertProjects      = projectTable.upsert()
	sqlUpsertEnvironments  = environmentTable.upsert()
	sqlUpsertEndpoints     = endpointTable.upsert()
)

const (
	sqlDeleteDue = `DELETE FROM due_work WHERE lineage_id = ANY($1)`
	// A secret that waited is shredded in the transaction that ends the waiting.
	sqlShredSecrets = `DELETE FROM pending_secrets WHERE rotation_id = ANY($1)`
	// What was to be told of a rotation that ended unacknowledged need not be told any more.
	sqlCancelDeliveries = `UPDATE webhook_deliveries SET state = 'cancelled', finished_at = now()
		WHERE rotation_id = ANY($1) AND state IN ('pending', 'held')`
)

// rows gathers what events change; of several changes to one row the last one counts.
type rows struct {
	keys          map[domain.KeyID]*Key
	rotations     map[domain.RotationID]*rotationRow
	due           map[domain.LineageID][]domain.Due
	began         map[domain.LineageID]bool // lineages whose first event is among these: they have no rows yet
	settled       map[domain.RotationID]bool
	abandoned     map[domain.RotationID]bool
	organizations map[domain.OrganizationID]*Organization
	projects      map[domain.ProjectID]*Project
	environments  map[domain.EnvironmentID]*Environment
	endpoints     map[domain.EndpointID]*endpointRow
}

func newRows() *rows {
	return &rows{
		keys: map[domain.KeyID]*Key{}, rotations: map[domain.RotationID]*rotationRow{},
		due: map[domain.LineageID][]domain.Due{}, began: map[domain.LineageID]bool{},
		settled: map[domain.RotationID]bool{}, abandoned: map[domain.RotationID]bool{},
		organizations: map[domain.OrganizationID]*Organization{}, projects: map[domain.ProjectID]*Project{},
		environments: map[domain.EnvironmentID]*Environment{}, endpoints: map[domain.EndpointID]*endpointRow{},
	}
}

// Event takes the state after an event over into the rows.
func (r *rows) Event(event domain.Event, state domain.State) error {
	switch s := state.(type) {
	case *domain.Lineage:
		r.lineage(event, s)
	case *domain.Organization:
		r.organizations[s.ID] = &Organization{ID: s.ID, Name: s.Name, CreatedAt: s.CreatedAt}
	case *domain.Project:
		r.projects[s.ID] = &Project{ID: s.ID, OrganizationID: s.OrganizationID, Name: s.Name, Brand: s.Brand, CreatedAt: s.CreatedAt}
		if d, ok := event.Data.(domain.EnvironmentCreated); ok {
			r.environments[d.EnvironmentID] = &Environment{
				ID: d.EnvironmentID, OrganizationID: s.OrganizationID, ProjectID: s.ID, Name: d.Name, CreatedAt: event.OccurredAt,
			}
		}
	case *domain.Endpoint:
		r.endpoints[s.ID] = &endpointRow{
			ID: s.ID, OrganizationID: s.OrganizationID, ProjectID: s.ProjectID, LineageID: s.LineageID, URL: s.URL, CreatedAt: s.CreatedAt,
		}
	}
	return nil
}

// lineage takes over every generation and rotation that the state still knows: the live ones, and those that this event
// ended.
func (r *rows) lineage(event domain.Event, l *domain.Lineage) {
	if event.Version == 1 {
		r.began[l.ID] = true
	}
	for i := range l.Generations {
		r.keys[l.Generations[i].KeyID] = keyOf(l, &l.Generations[i])
	}
	for _, rotation := range l.Rotations {
		r.rotations[rotation.ID] = &rotationRow{
			LineageID: l.ID, OrganizationID: l.OrganizationID, ProjectID: l.ProjectID, Rotation: rotation,
		}
		if !rotation.State.Waiting() {
			r.settled[rotation.ID] = true
			if rotation.AcknowledgedAt == nil {
				r.abandoned[rotation.ID] = true
			}
		}
	}
	r.due[l.ID] = l.Due()
}

// Queue adds the statements that write the rows.
func (r *rows) Queue(batch *pgx.Batch) error {
	organizationTable.queue(batch, sqlUpsertOrganizations, sorted(r.organizations))
	projectTable.queue(batch, sqlUpsertProjects, sorted(r.projects))
	environmentTable.queue(batch, sqlUpsertEnvironments, sorted(r.environments))
	endpointTable.queue(batch, sqlUpsertEndpoints, sorted(r.endpoints))
	keyTable.queue(batch, sqlUpsertKeys, sorted(r.keys))
	rotationTable.queue(batch, sqlUpsertRotations, sorted(r.rotations))
	r.queueDue(batch)
	r.queueSettled(batch)
	return nil
}

// queueDue replaces the due work of the lineages that moved.
func (r *rows) queueDue(batch *pgx.Batch) {
	var former []string
	for id := range r.due {
		if !r.began[id] {
			former = append(former, string(id))
		}
	}
	if slices.Sort(former); len(former) > 0 {
		batch.Queue(sqlDeleteDue, former)
	}
	dueTable.queue(batch, sqlInsertDue, r.dueRows())
}

func (r *rows) dueRows() []*dueRow {
	var out []*dueRow
	for _, id := range slices.Sorted(maps.Keys(r.due)) {
		for _, d := range r.due[id] {
			out = append(out, &dueRow{LineageID: id, Due: d})
		}
	}
	return out
}

// queueSettled shreds secrets that wait no more. Rotations acknowledged by their own answer never stored one.
func (r *rows) queueSettled(batch *pgx.Batch) {
	var settled, abandoned []string
	for _, id := range slices.Sorted(maps.Keys(r.settled)) {
		if r.rotations[id].AckLevel != domain.AckAnswer {
			settled = append(settled, string(id))
		}
		if r.abandoned[id] {
			abandoned = append(abandoned, string(id))
		}
	}
	if len(settled) > 0 {
		batch.Queue(sqlShredSecrets, settled)
	}
	if len(abandoned) > 0 {
		batch.Queue(sqlCancelDeliveries, abandoned)
	}
}

// sorted returns the rows in the order of their ids, so that two transactions take row locks in the same order.
func sorted[K cmp.Ordered, R any](rows map[K]*R) []*R {
	out := make([]*R, 0, len(rows))
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		out = append(out, rows[id])
	}
	return out
}

// merge takes the rows of another stream over.
func (r *rows) merge(other *rows) {
	maps.Copy(r.keys, other.keys)
	maps.Copy(r.rotations, other.rotations)
	maps.Copy(r.due, other.due)
	maps.Copy(r.settled, other.settled)
	maps.Copy(r.abandoned, other.abandoned)
	maps.Copy(r.organizations, other.organizations)
	maps.Copy(r.projects, other.projects)
	maps.Copy(r.environments, other.environments)
	maps.Copy(r.endpoints, other.endpoints)
}

// ids lists the ids of the rows of which a stream may have several.
func (r *rows) ids() []string {
	ids := []string{}
	for id := range r.keys {
		ids = append(ids, string(id))
	}
	for id := range r.rotations {
		ids = append(ids, string(id))
	}
	for id := range r.environments {
		ids = append(ids, string(id))
	}
	return ids
}
