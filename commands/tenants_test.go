package commands_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

func TestSetup(t *testing.T) {
	t.Parallel()

	t.Run("MakesARootKey", func(t *testing.T) {
		t.Parallel()
		w := setup(t)
		by, tenant := w.root(t)
		if !tenant.Key.Operator || !cmp.Equal(tenant.Key.Scopes, domain.Scopes{"*"}) || tenant.Name != "default" || tenant.Key.Name != "root key" ||
			tenant.Key.CreatedBy != domain.ActorSetup || tenant.Key.ExpiresAt != nil {
			t.Errorf("got %+v", tenant)
		}
		if v := w.verdict(t, by, tenant.Secret); !v.Valid() || !v.Key.Operator {
			t.Errorf("the root key is %s", v.Code)
		}
		w.check(t)
	})

	t.Run("TakesAGivenKey", func(t *testing.T) {
		t.Parallel()
		w := setup(t)
		given, ok := domain.ParseSecret("a-root-key-of-another-system-0123456789")
		if !ok {
			t.Fatal("not a secret")
		}
		tenant, err := w.Setup(t.Context(), given)
		if err != nil {
			t.Fatal(err)
		}
		by := commands.By{Caller: tenant.Key.Caller()}
		if v := w.verdict(t, by, given); !v.Valid() || v.Key.ID != tenant.Key.ID || tenant.Secret.Reveal() != given.Reveal() {
			t.Errorf("the given key is %s", v.Code)
		}
		if _, err := w.CreateOrganization(t.Context(), by, "acme"); err != nil {
			t.Error(err)
		}
	})
}

func TestCreateOrganization(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, first := w.root(t)
	tenant, err := w.CreateOrganization(t.Context(), root, " Acme ")
	if err != nil {
		t.Fatal(err)
	}
	if tenant.Name != "Acme" || tenant.Key.Operator || tenant.Key.OrganizationID != tenant.OrganizationID || !tenant.CreatedAt.Equal(w.clock.Now()) ||
		!cmp.Equal(tenant.Key.Scopes, domain.Scopes{"*"}) || tenant.OrganizationID == first.OrganizationID ||
		tenant.Key.CreatedBy != domain.Actor(first.Key.ID) {
		t.Errorf("got %+v", tenant)
	}
	by := commands.By{Caller: tenant.Key.Caller()}
	if v := w.verdict(t, by, tenant.Secret); !v.Valid() {
		t.Errorf("its first key is %s", v.Code)
	}
	// All of it or nothing.
	for _, table := range []string{"organizations", "projects", "environments", "keys"} {
		if n := one[int](t, w, "SELECT count(*) FROM "+table); n != 2 {
			t.Errorf("%d rows in %s, want 2", n, table)
		}
	}
	for what, c := range map[string]struct {
		by   commands.By
		name string
		want domain.Code
	}{
		"not an operator, though of every scope": {by, "x", domain.CodeInsufficientScope},
		"empty name":                             {root, "", domain.CodeValidation},
		"NUL":                                    {root, "a\x00", domain.CodeValidation},
	} {
		got, err := w.CreateOrganization(t.Context(), c.by, c.name)
		wantCode(t, what, err, c.want)
		if !got.Secret.IsZero() || got.Key != nil {
			t.Errorf("%s: something was handed out", what)
		}
	}
	if _, err := w.CreateOrganization(t.Context(), by, "x"); err != nil {
		if refusal, _ := errors.AsType[*domain.Error](err); refusal.Details["required_scope"] != "operator" {
			t.Errorf("the details are %v", refusal.Details)
		}
	}
	w.check(t)
}

// An operator sets other organizations up, and that is all: what is in them stays theirs.
func TestOperatorMayCreateButNotRead(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project, err := w.CreateProject(t.Context(), root, commands.CreateProject{OrganizationID: tenant.OrganizationID, Name: "second", Brand: "brand"})
	if err != nil || project.OrganizationID != tenant.OrganizationID {
		t.Fatalf("got %+v, %v", project, err)
	}
	if _, err := w.CreateEnvironment(t.Context(), root, project.ID, "test"); err != nil {
		t.Error(err)
	}
	created := w.create(t, root, commands.CreateKey{ProjectID: project.ID})
	if created.Key.OrganizationID != tenant.OrganizationID || created.Key.Operator {
		t.Errorf("got %+v", created.Key)
	}
	if v := w.verdict(t, by, created.Secret); !v.Valid() {
		t.Errorf("for its organization the key is %s", v.Code)
	}
	if v := w.verdict(t, root, created.Secret); v.Code != projections.CodeNotFound || v.Key != nil {
		t.Errorf("for the operator it is %s", v.Code)
	}
	for what, err := range map[string]error{
		"read":   ignore(w.reader.Key(t.Context(), projections.ReachOf(root.Caller), created.Key.ID)),
		"revoke": w.RevokeKey(t.Context(), root, created.Key.ID, ""),
		"rotate": ignore(w.RotateKey(t.Context(), root, commands.RotateKey{KeyID: created.Key.ID})),
	} {
		wantCode(t, what, err, domain.CodeNotFound)
	}
	keys, err := w.reader.Keys(t.Context(), projections.KeyList{Reach: projections.ReachOf(root.Caller), Project: project.ID, Limit: 10})
	if err != nil || len(keys) != 0 {
		t.Errorf("the operator listed %d keys, %v", len(keys), err)
	}
}

func ignore[T any](_ T, err error) error { return err }

func TestCreateProjectAndEnvironment(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: " App "})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.reader.Projects(t.Context(), projections.Reach{Organization: tenant.OrganizationID}, projections.Page{ID: string(project.ID), Limit: 1})
	if err != nil || len(rows) != 1 {
		t.Fatalf("got %v, %v", rows, err)
	}
	if diff := cmp.Diff(rows[0], project); diff != "" || project.Name != "App" || project.Brand != "rk" {
		t.Errorf("the answer differs from the row: %s", diff)
	}
	w.clock.step(time.Second) // ids sort by time
	environment, err := w.CreateEnvironment(t.Context(), by, project.ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	environments, err := w.reader.Environments(t.Context(), projections.Reach{Organization: tenant.OrganizationID}, project.ID, projections.Page{Limit: 10})
	if err != nil || len(environments) != 2 || environments[0].Name != "live" {
		t.Fatalf("got %v, %v", environments, err)
	}
	if diff := cmp.Diff(environments[1], environment); diff != "" {
		t.Errorf("the answer differs from the row: %s", diff)
	}
	for what, c := range map[string]struct {
		err  error
		want domain.Code
	}{
		"project without a name":  {ignore(w.CreateProject(t.Context(), by, commands.CreateProject{})), domain.CodeValidation},
		"bad brand":               {ignore(w.CreateProject(t.Context(), by, commands.CreateProject{Name: "x", Brand: "UPPER"})), domain.CodeValidation},
		"brand with underscore":   {ignore(w.CreateProject(t.Context(), by, commands.CreateProject{Name: "x", Brand: "a_b"})), domain.CodeValidation},
		"organization with a NUL": {ignore(w.CreateProject(t.Context(), root, commands.CreateProject{OrganizationID: "org_\x00", Name: "x"})), domain.CodeNotFound},
		"environment twice":       {ignore(w.CreateEnvironment(t.Context(), by, project.ID, "test")), domain.CodeValidation},
		"bad environment":         {ignore(w.CreateEnvironment(t.Context(), by, project.ID, "a b")), domain.CodeValidation},
		"project with a NUL":      {ignore(w.CreateEnvironment(t.Context(), by, "proj_\x00", "x")), domain.CodeNotFound},
		"environment of a key":    {ignore(w.CreateEnvironment(t.Context(), by, domain.ProjectID(tenant.Key.LineageID), "x")), domain.CodeNotFound},
	} {
		wantCode(t, what, c.err, c.want)
	}
	// The brand and the environment stand in the secret.
	branded, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "branded", Brand: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if secret := w.create(t, by, commands.CreateKey{ProjectID: branded.ID}).Secret.Reveal(); secret[:10] != "acme_live_" {
		t.Errorf("the secret begins %s", secret[:10])
	}
	w.check(t)
}
