package projections_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

func TestReachOf(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		resources domain.Resources
		want      []string
	}{
		"no limits":           {nil, nil},
		"limits of others":    {domain.Resources{"app": {"com.demo"}}, nil},
		"some projects":       {domain.Resources{"project": {"proj_a", "proj_b"}}, []string{"proj_a", "proj_b"}},
		"no project":          {domain.Resources{"project": {}}, []string{}},
		"no project, as null": {domain.Resources{"project": nil}, []string{}},
	} {
		got := projections.ReachOf(domain.Caller{OrganizationID: "org_a", Resources: c.resources})
		if diff := cmp.Diff(projections.Reach{Organization: "org_a", Projects: c.want}, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
}

// G6: for a caller whose key is limited to projects, the rest of its own organization is like another's: not found.
func TestG6ReachOfAKeyLimitedToProjects(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	other := acme
	other.project, other.environment = newID[domain.ProjectID](w, domain.PrefixProject), newID[domain.EnvironmentID](w, domain.PrefixEnvironment)
	w.execute(t, eventstore.Command{Actor: domain.ActorSetup, Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) {
		return domain.CreateProject(domain.NewProject{
			ID: other.project, OrganizationID: other.organization, EnvironmentID: other.environment, Name: "other", Caller: domain.System(),
		})
	}})
	inside, outside := w.create(t, acme), w.create(t, other)
	limited := projections.Reach{Organization: acme.organization, Projects: []string{string(acme.project)}}

	// Both keys' owners are known from reads without a limit: what is remembered does not widen anybody's reach.
	for _, m := range []made{inside, outside} {
		if _, _, err := w.reader.LineageOf(t.Context(), acme.reach(), m.key); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		made
		reach projections.Reach
		found bool
	}{
		{inside, limited, true}, {outside, limited, false}, {outside, acme.reach(), true},
		{inside, projections.Reach{Organization: acme.organization, Projects: []string{}}, false},
	} {
		_, err := w.reader.Key(t.Context(), c.reach, c.key)
		_, _, lineage := w.reader.LineageOf(t.Context(), c.reach, c.key)
		v, verify := w.verifier.Verify(t.Context(), projections.VerifyRequest{Reach: c.reach, Secret: c.secret.Reveal()})
		history, _ := w.reader.History(t.Context(), c.reach, c.lineage, 0, 10)
		if verify != nil || (err == nil) != c.found || (lineage == nil) != c.found || v.Valid() != c.found || (len(history) > 0) != c.found {
			t.Errorf("within %v: key %v, lineage %v, verdict %s %v, %d events", c.reach.Projects, err, lineage, v.Code, verify, len(history))
		}
		if !c.found && (domain.CodeOf(err) != domain.CodeNotFound || domain.CodeOf(lineage) != domain.CodeNotFound || v != projections.Verdict{Code: projections.CodeNotFound}) {
			t.Errorf("out of reach is told apart from unknown: %v, %v, %+v", err, lineage, v)
		}
	}

	events, err := w.reader.Events(t.Context(), limited, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		if e.ProjectID != acme.project {
			t.Errorf("it was shown an event of %q", e.ProjectID)
		}
		got = append(got, string(e.Data.Type()))
	}
	if want := []string{"ProjectCreated", "EnvironmentCreated", "Created"}; !slices.Equal(got, want) {
		t.Errorf("the feed has %v, want %v, without what happens to the organization", got, want)
	}
}
