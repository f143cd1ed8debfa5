package commands_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

func TestUpdateProject(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	id := tenant.Key.ProjectID
	w.clock.step(time.Second)
	got, err := w.UpdateProject(t.Context(), by, domain.UpdateProject{
		ID: id, Name: domain.ChangeTo("Shop"), Brand: domain.ChangeTo("shop"),
		Policy: domain.PolicyChange{RequireExpiry: domain.ChangeTo(true), DefaultGraceSeconds: domain.ChangeTo(new(int64(60)))},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := domain.Policy{RequireExpiry: true, DefaultGraceSeconds: new(int64(60))}
	if diff := cmp.Diff(want, got.Policy); diff != "" || got.Name != "Shop" || got.Brand != "shop" || !got.UpdatedAt.Equal(w.clock.Now()) || got.Version != 3 {
		t.Errorf("got %+v: %s", got, diff)
	}
	// Another brand is for keys that are made later; those that exist keep theirs, also when they are rotated.
	later := w.create(t, by, commands.CreateKey{ProjectID: id, ExpiresAt: w.clock.in(time.Hour)})
	rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: tenant.Key.ID})
	if err != nil {
		t.Fatal(err)
	}
	if prefix := later.Key.Secret.Prefix; prefix[:10] != "shop_live_" {
		t.Errorf("the later key begins with %s", prefix)
	}
	if prefix := rotated.Rotated.Prefix; prefix[:8] != "rk_live_" || !rotated.Rotated.GraceExpiresAt.Equal(w.clock.Now().Add(time.Minute)) {
		t.Errorf("the rotated key begins with %s, its grace ends %v", prefix, rotated.Rotated.GraceExpiresAt)
	}
	again, err := w.UpdateProject(t.Context(), by, domain.UpdateProject{ID: id, Name: domain.ChangeTo("Shop")})
	if err != nil || again.Version != got.Version {
		t.Errorf("an edit without a change: %+v, %v", again, err)
	}
	stale := by
	stale.Expected = new(int64(2))
	_, err = w.UpdateProject(t.Context(), stale, domain.UpdateProject{ID: id, Name: domain.ChangeTo("x")})
	wantCode(t, "at a version that is past", err, domain.CodeVersionConflict)
	w.check(t)
}

// The policy holds for whoever chooses, and not for the work of time.
func TestProjectPolicy(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, _ := w.root(t)
	project, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	settled := w.create(t, by, commands.CreateKey{ProjectID: project.ID, RotationIntervalSeconds: 3600}).Key
	project, err = w.UpdateProject(t.Context(), by, domain.UpdateProject{ID: project.ID, Policy: domain.ChangePolicyTo(domain.Policy{
		MaxLifetimeSeconds: 7200, MaxGraceSeconds: new(int64(30)), AllowedScopes: domain.Scopes{"orders:*"},
	})})
	if err != nil {
		t.Fatal(err)
	}

	made := w.create(t, by, commands.CreateKey{ProjectID: project.ID}).Key
	if diff := cmp.Diff(domain.Scopes{"orders:*"}, made.Scopes); diff != "" || made.GraceSeconds != 30 || !made.ExpiresAt.Equal(w.clock.Now().Add(2*time.Hour)) {
		t.Errorf("what was left open is %+v %s", made, diff)
	}
	create := func(c commands.CreateKey) error {
		c.ProjectID, c.Name = project.ID, "x"
		return ignore(w.CreateKey(t.Context(), by, c))
	}
	update := func(c domain.UpdateKey) error {
		c.KeyID = settled.ID
		_, _, err := w.UpdateKey(t.Context(), by, c)
		return err
	}
	for what, c := range map[string]struct {
		err   error
		field string
	}{
		"another scope":       {create(commands.CreateKey{Scopes: domain.Scopes{"a"}}), "scopes"},
		"a longer life":       {create(commands.CreateKey{ExpiresAt: w.clock.in(3 * time.Hour)}), "expires_at"},
		"a longer grace":      {create(commands.CreateKey{GraceSeconds: new(int64(31))}), "grace_period_seconds"},
		"an edit of scopes":   {update(domain.UpdateKey{Scopes: domain.ChangeTo(domain.Scopes{"a"})}), "scopes"},
		"an edit of the life": {update(domain.UpdateKey{ExpiresAt: domain.ChangeTo(w.clock.in(3 * time.Hour))}), "expires_at"},
		"a rotation":          {ignore(w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: settled.ID, Grace: new(time.Minute)})), "grace_period_seconds"},
	} {
		refusal, ok := c.err.(*domain.Error)
		if !ok || refusal.Code != domain.CodeValidation || refusal.Fields[0].Field != c.field {
			t.Errorf("%s: got %v, want a refusal of %s", what, c.err, c.field)
		}
	}
	if err := update(domain.UpdateKey{Name: domain.ChangeTo("renamed")}); err != nil {
		t.Errorf("an edit of what no term is about: %v", err)
	}
	rotation := w.rotateDue(t, settled) // with the grace that it had
	if n := one[int64](t, w, "SELECT grace_seconds FROM rotations WHERE id = $1", rotation); n != settled.GraceSeconds {
		t.Errorf("the interval rotation has a grace of %d s, want %d", n, settled.GraceSeconds)
	}
	w.check(t)
}

func TestDeleteProject(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	key := w.create(t, by, commands.CreateKey{ProjectID: project.ID})
	wantCode(t, "with a live key", w.DeleteProject(t.Context(), by, project.ID), domain.CodeProjectNotEmpty)
	rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeKey(t.Context(), by, rotated.Rotated.KeyID, "done"); err != nil {
		t.Fatal(err)
	}
	before := one[int](t, w, "SELECT count(*) FROM events")
	if err := w.DeleteProject(t.Context(), by, project.ID); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, w, "SELECT count(*) FROM events") - before; n != 1 {
		t.Errorf("%d events were made", n)
	}
	unknown := domain.NotFound("project")
	for what, err := range map[string]error{
		"delete":      w.DeleteProject(t.Context(), by, project.ID),
		"update":      ignore(w.UpdateProject(t.Context(), by, domain.UpdateProject{ID: project.ID, Name: domain.ChangeTo("x")})),
		"create":      ignore(w.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: project.ID, Name: "x"})),
		"environment": ignore(w.CreateEnvironment(t.Context(), by, project.ID, "test")),
	} {
		sameRefusal(t, what, err, unknown)
	}
	_, err = w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID})
	wantCode(t, "rotate a key of it", err, domain.CodeKeyNotActive)
	rows, err := w.reader.Projects(t.Context(), projections.ReachOf(by.Caller), projections.Page{Limit: 10})
	if err != nil || len(rows) != 1 || rows[0].ID != tenant.Key.ProjectID {
		t.Errorf("the projects are %v, %v", rows, err)
	}
	// What was is still known.
	if k := w.key(t, by, key.Key.ID); k.ProjectID != project.ID || k.StatusAt(w.clock.Now()) != domain.StatusRevoked {
		t.Errorf("its key is %+v", k)
	}
	if history, err := w.reader.History(t.Context(), projections.ReachOf(by.Caller), key.Key.LineageID, 0, 10); err != nil || len(history) != 3 {
		t.Errorf("its key's history has %d events, %v", len(history), err)
	}
	w.check(t)
}

// A deleted project never has a live key, however creating and deleting race, in one process and in two.
func TestDeleteProjectAgainstCreates(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := []*replica{w.replica, w.another(t)}
	by, _ := w.root(t)
	const rounds, callers = 40, 6
	var made, deleted, refused atomic.Int64
	for round := range rounds {
		project, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "app"})
		if err != nil {
			t.Fatal(err)
		}
		together(callers, func(i int) {
			r := replicas[(i+round)%2]
			if i < 2 { // both replicas delete
				switch err := r.DeleteProject(context.Background(), by, project.ID); domain.CodeOf(err) {
				case domain.CodeProjectNotEmpty:
					refused.Add(1)
				case domain.CodeNotFound, domain.CodeVersionConflict: // the other one was first, or lost too many races
				default:
					if err != nil {
						t.Errorf("delete: %v", err)
					}
					deleted.Add(1)
				}
				return
			}
			_, err := r.CreateKey(context.Background(), by, commands.CreateKey{ProjectID: project.ID, Name: fmt.Sprint(i)})
			switch domain.CodeOf(err) {
			case domain.CodeNotFound, domain.CodeVersionConflict:
			default:
				if err != nil {
					t.Errorf("create: %v", err)
				}
				made.Add(1)
			}
		})
	}
	if n := one[int](t, w, none[liveInDeleted]); n != 0 {
		t.Errorf("%d %s", n, liveInDeleted)
	}
	t.Logf("%d keys made, %d projects deleted, %d deletions refused", made.Load(), deleted.Load(), refused.Load())
	if made.Load() == 0 || deleted.Load() == 0 || refused.Load() == 0 {
		t.Error("one side always won: the race was none")
	}
	if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("R5: %d deadlocks", n)
	}
	w.check(t)
}

// A deletion that is refused fails alone: what it was joined with is carried out, in either order.
func TestDeleteProjectIsRefusedAlone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	full, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "full"})
	if err != nil {
		t.Fatal(err)
	}
	w.create(t, by, commands.CreateKey{ProjectID: full.ID})
	before := w.joins.Load()
	together(24, func(i int) {
		if i%4 == 0 {
			wantCode(t, "delete", w.DeleteProject(context.Background(), by, full.ID), domain.CodeProjectNotEmpty)
			return
		}
		if _, err := w.CreateKey(context.Background(), by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, Name: fmt.Sprint(i)}); err != nil {
			t.Errorf("create: %v", err)
		}
	})
	if w.joins.Load() == before {
		t.Error("no two commands were joined")
	}
	w.check(t)
}

// G6: a key that is limited to projects finds nothing else: no key, no project, and no more than that.
func TestG6LimitedToProjects(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	mine, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	only := domain.Resources{domain.ResourceProject: {string(mine.ID)}}
	limited := w.create(t, by, commands.CreateKey{ProjectID: mine.ID, Resources: only}).Key
	weak := commands.By{Caller: limited.Caller()}
	strange := tenant.Key.ProjectID
	other := w.create(t, by, commands.CreateKey{ProjectID: strange, RotationIntervalSeconds: 3600}).Key

	for what, c := range map[string]struct{ got, want error }{
		"create":      {ignore(w.CreateKey(t.Context(), weak, commands.CreateKey{ProjectID: strange, Name: "x"})), domain.NotFound("project")},
		"environment": {ignore(w.CreateEnvironment(t.Context(), weak, strange, "test")), domain.NotFound("project")},
		"edit it":     {ignore(w.UpdateProject(t.Context(), weak, domain.UpdateProject{ID: strange, Name: domain.ChangeTo("x")})), domain.NotFound("project")},
		"delete it":   {w.DeleteProject(t.Context(), weak, strange), domain.NotFound("project")},
		"rotate":      {ignore(w.RotateKey(t.Context(), weak, commands.RotateKey{KeyID: other.ID})), domain.NotFound("key")},
		"revoke":      {w.RevokeKey(t.Context(), weak, other.ID, ""), domain.NotFound("key")},
		"update":      {updateErr(w, weak, other.ID), domain.NotFound("key")},
	} {
		sameRefusal(t, what, c.got, c.want)
	}
	// Also an operator is bound by the limits of its key.
	operator := root
	operator.Caller.Resources = only
	sameRefusal(t, "an operator", ignore(w.CreateKey(t.Context(), operator, commands.CreateKey{ProjectID: strange, Name: "x"})), domain.NotFound("project"))
	wantCode(t, "a new project", ignore(w.CreateProject(t.Context(), weak, commands.CreateProject{Name: "x"})), domain.CodeEscalation)
	wantCode(t, "the organization", ignore(w.UpdateOrganization(t.Context(), weak, domain.UpdateOrganization{ID: tenant.OrganizationID, Name: domain.ChangeTo("x")})), domain.CodeEscalation)

	// In its own project it may do what its scopes say, and hands its limits on.
	heir := w.create(t, weak, commands.CreateKey{ProjectID: mine.ID}).Key
	if diff := cmp.Diff(only, heir.Resources); diff != "" {
		t.Error(diff)
	}
	if err := w.RevokeKey(t.Context(), weak, heir.ID, ""); err != nil {
		t.Error(err)
	}
	if _, err := w.UpdateProject(t.Context(), weak, domain.UpdateProject{ID: mine.ID, Name: domain.ChangeTo("ours")}); err != nil {
		t.Error(err)
	}
	// A key outside of the projects that it is limited to still fetches its own successor.
	abroad := w.create(t, by, commands.CreateKey{ProjectID: strange, Resources: only, RotationIntervalSeconds: 3600})
	w.rotateDue(t, abroad.Key)
	if _, err := w.ClaimSuccessor(t.Context(), commands.By{Caller: abroad.Key.Caller()}, abroad.Key); err != nil {
		t.Errorf("its own successor: %v", err)
	}
}

func updateErr(w *world, by commands.By, id domain.KeyID) error {
	_, _, err := w.UpdateKey(context.Background(), by, domain.UpdateKey{KeyID: id, Name: domain.ChangeTo("x")})
	return err
}

// The second wall: also if a lookup had let a foreign lineage through, the decision finds nothing.
func TestG6DecisionsFindNoForeignLineage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, _ := w.tenant(t, root)
	other, victim := w.tenant(t, root)
	limited := by
	limited.Caller.Resources = domain.Resources{domain.ResourceProject: {"proj_x"}}
	// A lookup that goes wrong: it takes the victim's key for one of the caller's own, in a project in reach.
	w.reader.Owned(victim.Key.ID, by.Caller.OrganizationID, victim.Key.LineageID, victim.Key.ProjectID)
	for what, err := range map[string]error{
		"rotate": ignore(w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: victim.Key.ID})),
		"revoke": w.RevokeKey(t.Context(), by, victim.Key.ID, ""),
		"update": updateErr(w, by, victim.Key.ID),
	} {
		sameRefusal(t, what, err, domain.NotFound("key"))
	}
	if v := w.verdict(t, other, victim.Secret); !v.Valid() {
		t.Errorf("the victim's key is %s", v.Code)
	}
}

// G6, G8: what is in another organization stays its own, also for an operator, who may rename it and switch surfaces.
func TestUpdateOrganization(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	stranger, _ := w.tenant(t, root)
	got, err := w.UpdateOrganization(t.Context(), by, domain.UpdateOrganization{
		ID: tenant.OrganizationID, Name: domain.ChangeTo(" Example "), DisabledSurfaces: domain.ChangeTo([]string{"projects", "apikey"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &projections.Organization{
		ID: tenant.OrganizationID, Version: 2, Name: "Example", DisabledSurfaces: []string{"apikey", "projects"}, CreatedAt: tenant.CreatedAt,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err = w.UpdateOrganization(t.Context(), root, domain.UpdateOrganization{ID: tenant.OrganizationID, DisabledSurfaces: domain.ChangeTo([]string(nil))}); err != nil || got.DisabledSurfaces != nil {
		t.Errorf("by an operator: %+v, %v", got, err)
	}
	for _, id := range []domain.OrganizationID{tenant.OrganizationID, "org_00000000000000000000000000", "org_\x00"} {
		_, err := w.UpdateOrganization(t.Context(), stranger, domain.UpdateOrganization{ID: id, Name: domain.ChangeTo("x")})
		sameRefusal(t, string(id), err, domain.NotFound("organization"))
	}
	_, err = w.UpdateOrganization(t.Context(), root, domain.UpdateOrganization{ID: "org_00000000000000000000000000", Name: domain.ChangeTo("x")})
	sameRefusal(t, "an unknown one, by an operator", err, domain.NotFound("organization"))
	_, err = w.UpdateProject(t.Context(), root, domain.UpdateProject{ID: tenant.Key.ProjectID, Name: domain.ChangeTo("x")})
	sameRefusal(t, "a project of it, by an operator", err, domain.NotFound("project"))
	sameRefusal(t, "its end, by an operator", w.DeleteProject(t.Context(), root, tenant.Key.ProjectID), domain.NotFound("project"))
	w.check(t)
}

// R5: editing and deleting projects takes locks in the order in which all commands do.
func TestR5NoDeadlocksWithProjects(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := []*replica{w.replica, w.another(t, func(c *eventstore.Config) { c.Writers = 3 })}
	by, tenant := w.root(t)
	project := tenant.Key.ProjectID
	var keys []domain.KeyID
	for range 8 {
		keys = append(keys, w.create(t, by, commands.CreateKey{ProjectID: project}).Key.ID)
	}
	together(8, func(g int) {
		r, ctx := replicas[g%2], context.Background()
		for i := range 12 {
			var err error
			switch (g + i) % 5 {
			case 0:
				_, err = r.UpdateProject(ctx, by, domain.UpdateProject{ID: project, Name: domain.ChangeTo(fmt.Sprint("n", g, i))})
			case 1:
				err = r.DeleteProject(ctx, by, project)
			case 2:
				_, err = r.UpdateOrganization(ctx, by, domain.UpdateOrganization{ID: tenant.OrganizationID, Name: domain.ChangeTo(fmt.Sprint("n", g, i))})
			case 3:
				_, err = r.CreateProject(ctx, by, commands.CreateProject{Name: "more"})
			default:
				_, _, err = r.UpdateKey(ctx, by, domain.UpdateKey{KeyID: keys[(g*3+i)%len(keys)], Name: domain.ChangeTo(fmt.Sprint("n", g, i))})
			}
			if code := domain.CodeOf(err); err != nil && code != domain.CodeProjectNotEmpty && code != domain.CodeVersionConflict {
				t.Errorf("%v", err)
			}
		}
	})
	if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	w.check(t)
}
