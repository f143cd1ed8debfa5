package projections_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// The number that Postgres makes of an id is the one that the domain makes, for any id.
func TestKeyNumber(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme, other := w.tenant(t), w.tenant(t)
	made := map[domain.KeyID]bool{}
	for range 100 {
		made[w.create(t, acme).key] = true
	}
	for id := range made {
		number := domain.KeyNumber(id)
		if stored := one[int64](t, w, "SELECT number FROM keys WHERE id = $1", id); stored != number {
			t.Fatalf("%s has the number %d, want %d", id, stored, number)
		}
		if k, err := w.reader.KeyByNumber(t.Context(), acme.reach(), number); err != nil || k.ID != id {
			t.Fatalf("number %d: %v, %v", number, k, err)
		}
	}
	number := domain.KeyNumber(w.create(t, acme).key)
	_, unknown := w.reader.KeyByNumber(t.Context(), acme.reach(), number+1)
	limited := projections.Reach{Organization: acme.organization, Projects: []string{"proj_x"}}
	for what, reach := range map[string]projections.Reach{"another organization": other.reach(), "a project out of reach": limited} {
		_, err := w.reader.KeyByNumber(t.Context(), reach, number)
		if domain.CodeOf(err) != domain.CodeNotFound || err.Error() != unknown.Error() {
			t.Errorf("G6: %s: %v, want %v", what, err, unknown)
		}
	}
}

// What a row says of an organization and a project is what was chosen, also after its way through the database.
func TestOrganizationAndProjectRoundTrip(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme, made := w.tenant(t), w.clock.Now()
	organization := &projections.Organization{ID: acme.organization, Version: 1, Name: "acme", CreatedAt: made}
	project := &projections.Project{
		ID: acme.project, Version: 2, OrganizationID: acme.organization, Name: "app", Brand: "rk", CreatedAt: made, UpdatedAt: made,
	}
	w.wantRows(t, acme, organization, project)
	w.edit(t, acme)
	organization.Version, organization.DisabledSurfaces = 2, []string{"apikey"}
	project.Version, project.Name, project.UpdatedAt = 3, "shop", w.clock.Now()
	project.Policy = domain.Policy{AllowedScopes: domain.Scopes{"*"}, MaxGraceSeconds: new(int64(864000)), OnLeak: domain.LeakNotify}
	w.wantRows(t, acme, organization, project) // and the project that was deleted is not there
	if organization.Serves(domain.SurfaceAPIKey) || !organization.Serves(domain.SurfaceProjects) {
		t.Errorf("%v are switched off", organization.DisabledSurfaces)
	}
	environments, err := w.reader.Environments(t.Context(), acme.reach(), "", projections.Page{Limit: 10})
	if err != nil || len(environments) != 1 || environments[0].ProjectID != acme.project {
		t.Errorf("got the environments %v, %v", environments, err)
	}
	for _, id := range []domain.OrganizationID{"", "org_\x00", "org_00000000000000000000000000"} {
		if _, err := w.reader.Organization(t.Context(), id); domain.CodeOf(err) != domain.CodeNotFound {
			t.Errorf("organization %q: %v", id, err)
		}
	}
}

// wantRows reads a tenant's organization and all of its projects.
func (w *world) wantRows(t *testing.T, n tenant, organization *projections.Organization, project *projections.Project) {
	t.Helper()
	got, err := w.reader.Organization(t.Context(), n.organization)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(organization, got); diff != "" {
		t.Errorf("the organization differs: %s", diff)
	}
	projects, err := w.reader.Projects(t.Context(), n.reach(), projections.Page{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*projections.Project{project}, projects); diff != "" {
		t.Errorf("the projects differ: %s", diff)
	}
}

// What 00004 fills in for rows that were there before it is what a rebuild gives them.
func TestG4MigrationFillsInWhatTheLogSays(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	w.clock.step(time.Second)
	plain, edited, rotated, ended := w.create(t, acme), w.create(t, acme), w.create(t, acme), w.create(t, acme)
	w.update(t, edited)
	w.update(t, rotated)
	next := w.rotate(t, rotated, time.Hour)
	w.clock.step(time.Second)
	w.update(t, w.rotate(t, next, 0)) // what has ended by then keeps its time
	w.update(t, ended)
	w.revoke(t, ended)
	w.revoke(t, plain)
	conn := w.connect(t)
	w.check(t, conn)
	w.exec(t, "UPDATE organizations SET version = 0")
	w.exec(t, "UPDATE projects SET version = 0, updated_at = now()")
	w.exec(t, "UPDATE keys SET updated_at = now()")
	if report, err := projections.Check(context.Background(), conn); err != nil || len(report.Differences) == 0 {
		t.Fatalf("the rows are not as an older version left them: %+v, %v", report, err)
	}
	raw, err := os.ReadFile("../migrations/00004_projects.sql")
	if err != nil {
		t.Fatal(err)
	}
	fills := 0
	for _, statement := range strings.Split(string(raw), ";\n") {
		if at := strings.Index(statement, "\nUPDATE "); at >= 0 {
			w.exec(t, statement[at:])
			fills++
		} else if strings.HasPrefix(statement, "UPDATE ") {
			w.exec(t, statement)
			fills++
		}
	}
	if fills != 3 {
		t.Errorf("the migration fills %d tables, want 3", fills)
	}
	w.check(t, conn)
}
