package projections_test

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// names are the keys of a list by what the test calls them.
func names(keys []*projections.Key, known map[domain.KeyID]string) string {
	var out []string
	for _, k := range keys {
		out = append(out, known[k.ID])
	}
	return strings.Join(out, " ")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme, other := w.tenant(t), w.tenant(t)
	test := newID[domain.EnvironmentID](w, domain.PrefixEnvironment)
	w.execute(t, eventstore.Command{Writes: []string{string(acme.project)}, Decide: func(v eventstore.View, _ time.Time) ([]domain.Decided, error) {
		p, err := v.Project(acme.project)
		if err != nil {
			return nil, err
		}
		return p.CreateEnvironment(test, "test")
	}})
	known := map[domain.KeyID]string{}
	note := func(name string, m made) made {
		known[m.key] = name
		w.clock.step(time.Millisecond) // ids sort by the millisecond
		return m
	}
	a := note("a1", w.create(t, acme))
	b := note("b1", w.create(t, acme))
	a = note("a2", w.rotate(t, a, time.Hour))
	a = note("a3", w.rotate(t, a, 0))
	w.revoke(t, b)
	note("c1", w.create(t, acme))
	note("x1", w.create(t, other))

	list := func(l projections.KeyList) string {
		t.Helper()
		if l.Reach.Organization == "" {
			l.Reach.Organization = acme.organization
		}
		if l.Limit == 0 {
			l.Limit = 10
		}
		l.Project = acme.project
		keys, err := w.reader.Keys(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		return names(keys, known)
	}
	for what, c := range map[string]struct {
		list projections.KeyList
		want string
	}{
		"newest first":             {projections.KeyList{IncludeEnded: true}, "c1 a3 a2 b1 a1"},
		"live ones":                {projections.KeyList{}, "c1 a3 a1"},
		"lineage":                  {projections.KeyList{Lineage: a.lineage, IncludeEnded: true}, "a3 a2 a1"},
		"environment":              {projections.KeyList{Environment: acme.environment, IncludeEnded: true}, "c1 a3 a2 b1 a1"},
		"another environment":      {projections.KeyList{Environment: test, IncludeEnded: true}, ""},
		"G6: another organization": {projections.KeyList{Reach: other.reach(), IncludeEnded: true}, ""},
		"a limit":                  {projections.KeyList{IncludeEnded: true, Limit: 2}, "c1 a3"},
		"no such environment":      {projections.KeyList{Environment: "env_\x00"}, ""},
		"no such lineage":          {projections.KeyList{Lineage: "\xff"}, ""},
	} {
		if got := list(c.list); got != c.want {
			t.Errorf("%s: got %q, want %q", what, got, c.want)
		}
	}
	// Page by page, everything comes once.
	var pages []string
	for before := domain.KeyID(""); ; {
		keys, err := w.reader.Keys(t.Context(), projections.KeyList{
			Reach: acme.reach(), Project: acme.project, IncludeEnded: true, Before: before, Limit: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		pages, before = append(pages, names(keys, known)), keys[len(keys)-1].ID
	}
	if want := []string{"c1 a3", "a2 b1", "a1"}; !slices.Equal(pages, want) {
		t.Errorf("got pages %q, want %q", pages, want)
	}
}

// What the row says is what was asked for, also after its way through the database.
func TestKeyRoundTrip(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t), hourly, w.withWebhook, func(s *domain.Settings) {
		s.Name, s.Scopes, s.Resources = "Schlüssel №1", domain.Scopes{"b", "a:*"}, domain.Resources{"app": {"z", "a"}, "org": {}}
		s.ExpiresAt, s.Metadata = w.clock.in(time.Hour*24*365), []byte(`{"team": "a\"b", "n": [1, null, true]}`)
	})
	created := w.execute(t, onLineage(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Update(domain.UpdateKey{KeyID: m.key, Name: domain.ChangeTo("renamed"), Caller: domain.System()}, domain.Limits{}, now)
	}))
	history, err := w.reader.History(t.Context(), m.reach(), m.lineage, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(history) != 2 || history[1].ID != created[0].ID {
		t.Fatalf("the history is %+v", history)
	}
	want := projections.CreatedKey(history[0].Event)
	want.Name, want.Version = "renamed", 2
	got, err := w.reader.Key(t.Context(), m.reach(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	compact := cmp.Transformer("compact", func(raw json.RawMessage) string { return strings.ReplaceAll(string(raw), " ", "") })
	if diff := cmp.Diff(want, got, compact); diff != "" {
		t.Errorf("the row differs from what was made: %s", diff)
	}
	for _, at := range []*time.Time{&got.CreatedAt, got.ExpiresAt, got.NextRotationAt} {
		if at.Location() != time.UTC {
			t.Errorf("%v is not in UTC", at)
		}
	}
}

// G6: foreign and unknown are one refusal, whatever the id looks like; what cannot be an id costs no query.
func TestG6KeyOfAnotherOrganizationIsNotFound(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme, other := w.tenant(t), w.tenant(t)
	m := w.create(t, acme)
	if k, err := w.reader.Key(t.Context(), acme.reach(), m.key); err != nil || k.ID != m.key {
		t.Errorf("its own: %+v, %v", k, err)
	}
	reader, c := w.countingReader(t)
	refusal := func(organization domain.OrganizationID, id domain.KeyID) error {
		k, err := reader.Key(t.Context(), projections.Reach{Organization: organization}, id)
		if k != nil {
			t.Errorf("key %q was shown to %q", id, organization)
		}
		return err
	}
	unknown := refusal(acme.organization, newID[domain.KeyID](w, domain.PrefixKey))
	if domain.CodeOf(unknown) != domain.CodeNotFound {
		t.Fatalf("unknown: %v", unknown)
	}
	for _, foreign := range []error{refusal(other.organization, m.key), refusal("", m.key)} {
		if diff := cmp.Diff(unknown, foreign, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
			t.Errorf("a foreign key is told apart from an unknown one: %s", diff)
		}
	}
	c.queries.Store(0)
	for _, id := range []string{"", "key_", "key_x", "lin_" + string(m.key[4:]), string(m.key) + "\x00", "key_" + strings.Repeat("z", 26), strings.ToUpper(string(m.key)), "' OR true --"} {
		if err := refusal(acme.organization, domain.KeyID(id)); !cmp.Equal(unknown, err, cmp.Exporter(func(reflect.Type) bool { return true })) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	if n := c.queries.Load(); n != 0 {
		t.Errorf("ids that are none cost %d queries", n)
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var tenants []tenant
	for range 5 {
		tenants = append(tenants, w.tenant(t))
		w.clock.step(time.Millisecond)
	}
	second := newID[domain.ProjectID](w, domain.PrefixProject)
	w.execute(t, eventstore.Command{Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) {
		return domain.CreateProject(domain.NewProject{
			ID: second, OrganizationID: tenants[0].organization, EnvironmentID: newID[domain.EnvironmentID](w, domain.PrefixEnvironment),
			Name: "second", Brand: "ab",
		})
	}})

	organizations := func(p projections.Page) (out []domain.OrganizationID) {
		found, err := w.reader.Organizations(t.Context(), p)
		if err != nil {
			t.Errorf("%+v: %v", p, err)
		}
		for _, o := range found {
			out = append(out, o.ID)
		}
		return out
	}
	var want []domain.OrganizationID
	for _, n := range tenants {
		want = append(want, n.organization)
	}
	for what, c := range map[string]struct{ got, want []domain.OrganizationID }{
		"all, oldest first": {organizations(projections.Page{Limit: 10}), want},
		"a page":            {organizations(projections.Page{Limit: 2}), want[:2]},
		"the next page":     {organizations(projections.Page{Limit: 2, After: string(want[1])}), want[2:4]},
		"one":               {organizations(projections.Page{ID: string(want[3]), Limit: 1}), want[3:4]},
		"an unknown one":    {organizations(projections.Page{ID: "org_\x00", Limit: 1}), nil},
		"after nonsense":    {organizations(projections.Page{After: "\xff\x00", Limit: 1}), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("organizations, %s: got %v, want %v", what, c.got, c.want)
		}
	}

	projects := func(organization domain.OrganizationID, p projections.Page) (out []string) {
		found, err := w.reader.Projects(t.Context(), projections.Reach{Organization: organization}, p)
		if err != nil {
			t.Errorf("%+v: %v", p, err)
		}
		for _, o := range found {
			if o.OrganizationID != organization {
				t.Errorf("G6: %s was shown a project of %s", organization, o.OrganizationID)
			}
			out = append(out, o.Name+" "+o.Brand)
		}
		return out
	}
	first := tenants[0]
	for what, c := range map[string]struct{ got, want []string }{
		"all":               {projects(first.organization, projections.Page{Limit: 10}), []string{"app rk", "second ab"}},
		"one":               {projects(first.organization, projections.Page{ID: string(second), Limit: 1}), []string{"second ab"}},
		"the next page":     {projects(first.organization, projections.Page{After: string(first.project), Limit: 5}), []string{"second ab"}},
		"of another, by id": {projects(tenants[1].organization, projections.Page{ID: string(second), Limit: 1}), nil},
		"nonsense":          {projects(first.organization, projections.Page{ID: "\x00", Limit: 1}), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("projects, %s: got %v, want %v", what, c.got, c.want)
		}
	}

	environments := func(organization domain.OrganizationID, project domain.ProjectID, p projections.Page) (n int) {
		found, err := w.reader.Environments(t.Context(), projections.Reach{Organization: organization}, project, p)
		if err != nil {
			t.Errorf("%s, %+v: %v", project, p, err)
		}
		return len(found)
	}
	for what, c := range map[string]struct{ got, want int }{
		"all":               {environments(first.organization, "", projections.Page{Limit: 10}), 2},
		"of one project":    {environments(first.organization, second, projections.Page{Limit: 10}), 1},
		"one":               {environments(first.organization, "", projections.Page{ID: string(first.environment), Limit: 1}), 1},
		"of another":        {environments(tenants[1].organization, second, projections.Page{Limit: 10}), 0},
		"of another, by id": {environments(tenants[1].organization, "", projections.Page{ID: string(first.environment), Limit: 1}), 0},
		"nonsense":          {environments(first.organization, "\x00", projections.Page{Limit: 1}), 0},
	} {
		if c.got != c.want {
			t.Errorf("environments, %s: got %d, want %d", what, c.got, c.want)
		}
	}
}

// G6: the audit feed of an organization holds its own events, all of them, in order.
func TestG6EventsOfOneOrganization(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme, other := w.tenant(t), w.tenant(t)
	w.create(t, acme)
	w.create(t, other)
	w.rotate(t, w.create(t, acme, w.withWebhook), time.Hour)
	var got []string
	for after := int64(0); ; {
		page, err := w.reader.Events(t.Context(), acme.reach(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if r.OrganizationID != acme.organization || r.Position <= after {
				t.Errorf("position %d of %s after %d", r.Position, r.OrganizationID, after)
			}
			got, after = append(got, string(r.Data.Type())), r.Position
		}
	}
	want := []string{"OrganizationCreated", "ProjectCreated", "EnvironmentCreated", "Created", "EndpointCreated", "Created", "Rotated"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Every read says that the store cannot be reached when it cannot.
func TestReaderWithoutStore(t *testing.T) {
	t.Parallel()
	w := setup(t)
	pool := w.db.Pool(t)
	pool.Close()
	r, ctx, reach := projections.NewReader(pool, pool), t.Context(), projections.Reach{Organization: "org"}
	id := newID[domain.KeyID](w, domain.PrefixKey)
	for what, read := range map[string]func() error{
		"ping":          func() error { return r.Ping(ctx) },
		"key":           func() error { _, err := r.Key(ctx, reach, id); return err },
		"keys":          func() error { _, err := r.Keys(ctx, projections.KeyList{}); return err },
		"history":       func() error { _, err := r.History(ctx, reach, "lin", 0, 1); return err },
		"events":        func() error { _, err := r.Events(ctx, reach, 0, 1); return err },
		"organizations": func() error { _, err := r.Organizations(ctx, projections.Page{}); return err },
		"projects":      func() error { _, err := r.Projects(ctx, reach, projections.Page{}); return err },
		"environments":  func() error { _, err := r.Environments(ctx, reach, "", projections.Page{}); return err },
		"due":           func() error { _, err := r.Due(ctx, w.clock.Now(), 1); return err },
		"secrets":       func() error { _, err := r.EndpointSecrets(ctx, []domain.EndpointID{"ep"}, time.Time{}); return err },
		"pending":       func() error { _, err := r.PendingSecret(ctx, "rot"); return err },
		"waiting":       func() error { _, _, err := r.WaitingRotation(ctx, reach, "lin"); return err },
	} {
		if err := read(); domain.CodeOf(err) != domain.CodeUnavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := w.reader.Key(cancelled, reach, id); err != nil && domain.CodeOf(err) != domain.CodeUnavailable && domain.CodeOf(err) != domain.CodeNotFound {
		t.Errorf("a caller who went away got %v", err)
	}
}
