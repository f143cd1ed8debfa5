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

// What changes in the life of a key and of a rotation, edits of settings aside. No index holds any of it, so such a change
// is written in place.
var (
	keyProgress = keyTable.only("version", "state", "grace_expires_at", "revoked_at", "revoked_reason", "replaced_by_key_id",
		"rotation_id", "next_rotation_at")
	rotationProgress = rotationTable.only("state", "deadline_at", "overdue", "acknowledged_at", "ack_level", "grace_expires_at", "ended_at", "reason")
)

// Statements are built once.
var (
	sqlUpsertKeys          = keyTable.upsert()
	sqlMendKeys            = keyTable.mend()
	sqlInsertKeys          = keyTable.insert()
	sqlUpdateKeys          = keyProgress.update()
	sqlMendRotations       = rotationTable.mend()
	sqlInsertRotations     = rotationTable.insert()
	sqlUpdateRotations     = rotationProgress.update()
	sqlUpsertOrganizations = organizationTable.upsert()
	sqlUpsertProjects      = projectTable.upsert()
	sqlUpsertEnvironments  = environmentTable.upsert()
	sqlUpsertEndpoints     = endpointTable.upsert()
)

const (
	sqlDeleteDue = `DELETE FROM due_work WHERE lineage_id = ANY($1)`
	// A secret that waited is shredded in the transaction that ends the waiting.
	sqlShredSecrets = `DELETE FROM pending_secrets WHERE rotation_id = ANY($1)`
	// The new secret of a rotation that ended unacknowledged need not be told any more; that it ended is told all the same.
	sqlCancelDeliveries = `UPDATE webhook_deliveries SET state = 'cancelled', finished_at = now()
		WHERE rotation_id = ANY($1) AND type = 'key.rotation.created' AND state IN ('pending', 'held')`
)

// rows gathers what events change; of several changes to one row the last one counts.
type rows struct {
	keys          map[domain.KeyID]*Key
	rotations     map[domain.RotationID]*Rotation
	due           map[domain.LineageID][]*dueRow
	began         map[domain.LineageID]bool // lineages whose first event is among these: they have no rows yet
	edited        map[domain.LineageID]bool // lineages whose settings changed
	freshKeys     map[domain.KeyID]bool     // made by these events: the table has no such row
	freshTurns    map[domain.RotationID]bool
	settled       map[domain.RotationID]bool
	abandoned     map[domain.RotationID]bool
	organizations map[domain.OrganizationID]*Organization
	projects      map[domain.ProjectID]*Project
	environments  map[domain.EnvironmentID]*Environment
	endpoints     map[domain.EndpointID]*Endpoint
}

func newRows() *rows {
	return &rows{
		keys: map[domain.KeyID]*Key{}, rotations: map[domain.RotationID]*Rotation{},
		due: map[domain.LineageID][]*dueRow{}, began: map[domain.LineageID]bool{}, edited: map[domain.LineageID]bool{},
		freshKeys: map[domain.KeyID]bool{}, freshTurns: map[domain.RotationID]bool{},
		settled: map[domain.RotationID]bool{}, abandoned: map[domain.RotationID]bool{},
		organizations: map[domain.OrganizationID]*Organization{}, projects: map[domain.ProjectID]*Project{},
		environments: map[domain.EnvironmentID]*Environment{}, endpoints: map[domain.EndpointID]*Endpoint{},
	}
}

// Event takes the state after an event over into the rows.
func (r *rows) Event(event domain.Event, state domain.State) error {
	switch s := state.(type) {
	case *domain.Lineage:
		r.lineage(event, s)
	case *domain.Organization:
		r.organizations[s.ID] = organizationOf(s)
	case *domain.Project:
		r.projects[s.ID] = projectOf(s)
		if d, ok := event.Data.(domain.EnvironmentCreated); ok {
			r.environments[d.EnvironmentID] = &Environment{
				ID: d.EnvironmentID, OrganizationID: s.OrganizationID, ProjectID: s.ID, Name: d.Name, CreatedAt: event.OccurredAt,
			}
		}
	case *domain.Endpoint:
		r.endpoints[s.ID] = endpointOf(s)
	}
	return nil
}

// lineage takes over every generation and rotation that the state still knows: the live ones, and those that this event
// ended.
func (r *rows) lineage(event domain.Event, l *domain.Lineage) {
	switch d := event.Data.(type) {
	case domain.Created:
		r.began[l.ID], r.freshKeys[d.KeyID] = true, true
	case domain.Rotated:
		r.freshKeys[d.KeyID], r.freshTurns[d.RotationID] = true, true
	case domain.Updated:
		r.edited[l.ID] = true
	}
	for i := range l.Generations {
		r.keys[l.Generations[i].KeyID] = keyOf(l, &l.Generations[i])
	}
	for _, rotation := range l.Rotations {
		r.rotations[rotation.ID] = &Rotation{
			LineageID: l.ID, OrganizationID: l.OrganizationID, ProjectID: l.ProjectID, Rotation: rotation,
		}
		if !rotation.State.Waiting() {
			r.settled[rotation.ID] = true
			if rotation.AcknowledgedAt == nil {
				r.abandoned[rotation.ID] = true
			}
		}
	}
	r.due[l.ID] = dueOf(l)
}

// Queue adds the statements that write the rows.
func (r *rows) Queue(batch *pgx.Batch) error {
	r.queueTenants(batch)
	r.queueKeys(batch)
	r.queueRotations(batch)
	r.queueDue(batch)
	r.queueSettled(batch)
	return nil
}

// queueTenants writes what keys belong to and are delivered to.
func (r *rows) queueTenants(batch *pgx.Batch) {
	organizationTable.queue(batch, sqlUpsertOrganizations, sorted(r.organizations))
	projectTable.queue(batch, sqlUpsertProjects, sorted(r.projects))
	environmentTable.queue(batch, sqlUpsertEnvironments, sorted(r.environments))
	endpointTable.queue(batch, sqlUpsertEndpoints, sorted(r.endpoints))
}

// queueKeys writes new rows whole, of the others what moved on, and after an edit all.
func (r *rows) queueKeys(batch *pgx.Batch) {
	var fresh, moved, full []*Key
	for _, k := range sorted(r.keys) {
		switch {
		case r.edited[k.LineageID] && !r.freshKeys[k.ID]:
			full = append(full, k)
		case r.freshKeys[k.ID]:
			fresh = append(fresh, k)
		default:
			moved = append(moved, k)
		}
	}
	// What is there moves on before what is new comes: of a lineage one key at a time is active, after each statement.
	keyProgress.queue(batch, sqlUpdateKeys, moved)
	keyTable.queue(batch, sqlUpsertKeys, full)
	keyTable.queue(batch, sqlInsertKeys, fresh)
}

// queueRotations writes what moved on first: of a lineage one rotation at a time may wait, and a new one may take its turn.
func (r *rows) queueRotations(batch *pgx.Batch) {
	var fresh, moved []*Rotation
	for _, turn := range sorted(r.rotations) {
		if r.freshTurns[turn.ID] {
			fresh = append(fresh, turn)
		} else {
			moved = append(moved, turn)
		}
	}
	rotationProgress.queue(batch, sqlUpdateRotations, moved)
	rotationTable.queue(batch, sqlInsertRotations, fresh)
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
		out = append(out, r.due[id]...)
	}
	return out
}

func dueOf(l *domain.Lineage) []*dueRow {
	var out []*dueRow
	for _, d := range l.Due() {
		out = append(out, &dueRow{LineageID: l.ID, Due: d, ProjectID: l.ProjectID, EndpointID: l.Settings.EndpointID})
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
