package commands_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

func TestCreateKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project := tenant.Key.ProjectID

	t.Run("Defaults", func(t *testing.T) {
		created := w.create(t, by, commands.CreateKey{ProjectID: project, Name: "  ci  "})
		k, now := created.Key, w.clock.Now()
		facts := domain.FactsOf(created.Secret)
		want := &projections.Key{
			ID: k.ID, LineageID: k.LineageID, Generation: 1, Version: 1, OrganizationID: tenant.OrganizationID, ProjectID: project,
			EnvironmentID: tenant.Key.EnvironmentID, Name: "ci", Secret: facts, Scopes: domain.Scopes{"*"}, State: domain.GenerationActive,
			CreatedBy: domain.Actor(tenant.Key.ID), CreatedAt: now, UpdatedAt: now, GraceSeconds: 3600,
		}
		if diff := cmp.Diff(want, k); diff != "" {
			t.Errorf("the answer: %s", diff)
		}
		if diff := cmp.Diff(want, w.key(t, by, k.ID)); diff != "" {
			t.Errorf("the row: %s", diff)
		}
		if !strings.HasPrefix(created.Secret.Reveal(), "rk_live_") || !created.WebhookSecret.IsZero() {
			t.Errorf("the secret begins %s, and there is a webhook secret: %v", facts.Prefix, !created.WebhookSecret.IsZero())
		}
		if v := w.verdict(t, by, created.Secret); !v.Valid() || v.Key.ID != k.ID {
			t.Errorf("the new secret is %s", v.Code)
		}
		history, err := w.reader.History(t.Context(), projections.ReachOf(by.Caller), k.LineageID, 0, 10)
		if err != nil || len(history) != 1 || history[0].Actor != domain.Actor(tenant.Key.ID) || history[0].RequestID != "req_test" {
			t.Errorf("the history says %+v, %v", history, err)
		}
	})

	t.Run("Everything", func(t *testing.T) {
		environment, err := w.CreateEnvironment(t.Context(), by, project, "test")
		if err != nil {
			t.Fatal(err)
		}
		grace := int64(30)
		created := w.create(t, by, commands.CreateKey{
			ProjectID: project, EnvironmentID: environment.ID, Name: "all", Scopes: domain.Scopes{"a:read", "b:*"},
			Resources: domain.Resources{"app": {"com.demo"}}, ExpiresAt: w.clock.in(time.Hour), RotationIntervalSeconds: 60,
			GraceSeconds: &grace, WebhookURL: "https://hooks.example.com/a", Metadata: []byte(`{"z":1,"a":"b"}`),
		})
		k := created.Key
		if k.EnvironmentID != environment.ID || !strings.HasPrefix(created.Secret.Reveal(), "rk_test_") || *k.RotationIntervalSeconds != 60 ||
			k.GraceSeconds != 30 || *k.WebhookURL != "https://hooks.example.com/a" || k.NextRotationAt == nil || k.EndpointID == nil ||
			!k.ExpiresAt.Equal(*w.clock.in(time.Hour)) || string(k.Metadata) != `{"a":"b","z":1}` {
			t.Errorf("got %+v", k)
		}
		row := w.key(t, by, k.ID)
		row.Metadata = k.Metadata // the database has its own spelling of JSON
		if diff := cmp.Diff(k, row); diff != "" {
			t.Errorf("the row differs from the answer: %s", diff)
		}
		secrets, err := w.SigningKeys(t.Context(), []domain.EndpointID{*k.EndpointID})
		if err != nil || newest(secrets[*k.EndpointID]).Reveal() != created.WebhookSecret.Reveal() {
			t.Errorf("the stored signing secret is another: %v", err)
		}
		if _, err := webhook.ParseSecret(created.WebhookSecret.Reveal()); err != nil {
			t.Errorf("the signing secret cannot be used: %v", err)
		}
		w.exec(t, "DELETE FROM endpoint_secrets WHERE endpoint_id = $1", *k.EndpointID)
		if secrets, err := w.SigningKeys(t.Context(), []domain.EndpointID{*k.EndpointID}); err != nil || len(secrets) != 0 {
			t.Errorf("a signing secret that is gone: %v, %v", secrets, err)
		}
	})

	t.Run("GraceFollowsAShortInterval", func(t *testing.T) {
		created := w.create(t, by, commands.CreateKey{ProjectID: project, RotationIntervalSeconds: 60})
		if created.Key.GraceSeconds != 30 || created.Key.WebhookURL != nil || !created.WebhookSecret.IsZero() {
			t.Errorf("got grace %d", created.Key.GraceSeconds)
		}
	})

	t.Run("RefusesAndMakesNothing", func(t *testing.T) {
		before := one[int](t, w, "SELECT count(*) FROM events")
		long := int64(1 << 40)
		for what, c := range map[string]struct {
			change func(*commands.CreateKey)
			want   domain.Code
			field  string
		}{
			"empty name":            {func(c *commands.CreateKey) { c.Name = " " }, domain.CodeValidation, "name"},
			"huge name":             {func(c *commands.CreateKey) { c.Name = strings.Repeat("x", 10_000) }, domain.CodeValidation, "name"},
			"NUL in the name":       {func(c *commands.CreateKey) { c.Name = "a\x00b" }, domain.CodeValidation, "name"},
			"past expiry":           {func(c *commands.CreateKey) { c.ExpiresAt = w.clock.in(0) }, domain.CodeValidation, "expires_at"},
			"interval too short":    {func(c *commands.CreateKey) { c.RotationIntervalSeconds = -1 }, domain.CodeValidation, "rotation_interval_seconds"},
			"huge interval":         {func(c *commands.CreateKey) { c.RotationIntervalSeconds = long }, domain.CodeValidation, "rotation_interval_seconds"},
			"huge grace":            {func(c *commands.CreateKey) { c.GraceSeconds = &long }, domain.CodeValidation, "grace_period_seconds"},
			"scope that is none":    {func(c *commands.CreateKey) { c.Scopes = domain.Scopes{"a b"} }, domain.CodeValidation, "scopes[0]"},
			"metadata that is none": {func(c *commands.CreateKey) { c.Metadata = []byte(`[1]`) }, domain.CodeValidation, "metadata"},
			"ftp webhook":           {func(c *commands.CreateKey) { c.WebhookURL = "ftp://example.com" }, domain.CodeValidation, "rotation_webhook_url"},
			"loopback webhook":      {func(c *commands.CreateKey) { c.WebhookURL = "https://127.0.0.1/" }, domain.CodeValidation, "rotation_webhook_url"},
			"webhook that is none":  {func(c *commands.CreateKey) { c.WebhookURL = "https://a\x00b/" }, domain.CodeValidation, "rotation_webhook_url"},
			"unknown environment":   {func(c *commands.CreateKey) { c.EnvironmentID = "env_x" }, domain.CodeNotFound, ""},
			"no project":            {func(c *commands.CreateKey) { c.ProjectID = "" }, domain.CodeNotFound, ""},
			"project that is none":  {func(c *commands.CreateKey) { c.ProjectID = "proj_\x00" }, domain.CodeNotFound, ""},
			"another kind of id":    {func(c *commands.CreateKey) { c.ProjectID = domain.ProjectID(tenant.OrganizationID) }, domain.CodeNotFound, ""},
		} {
			request := commands.CreateKey{ProjectID: project, Name: "ci"}
			c.change(&request)
			created, err := w.CreateKey(t.Context(), by, request)
			wantCode(t, what, err, c.want)
			if !created.Secret.IsZero() || !created.WebhookSecret.IsZero() || created.Key != nil {
				t.Errorf("%s: something was handed out", what)
			}
			if refusal, ok := err.(*domain.Error); ok && c.field != "" && (len(refusal.Fields) != 1 || refusal.Fields[0].Field != c.field || refusal.Fields[0].Remedy == "") {
				t.Errorf("%s: the fields are %+v, want %s and a remedy", what, refusal.Fields, c.field)
			}
		}
		if after := one[int](t, w, "SELECT count(*) FROM events"); after != before {
			t.Errorf("%d events were made", after-before)
		}
	})
}

// G8: nobody hands out more than he holds.
func TestG8NoEscalation(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project := tenant.Key.ProjectID
	limited := w.create(t, by, commands.CreateKey{
		ProjectID: project, Scopes: domain.Scopes{"keys:*", "a:*"}, Resources: domain.Resources{"app": {"x", "y"}}, ExpiresAt: w.clock.in(time.Hour),
	})
	weak := commands.By{Caller: limited.Key.Caller()}

	// Left open, it gets what its maker holds.
	heir := w.create(t, weak, commands.CreateKey{ProjectID: project}).Key
	if diff := cmp.Diff(limited.Key.Scopes, heir.Scopes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(limited.Key.Resources, heir.Resources); diff != "" {
		t.Error(diff)
	}
	if heir.ExpiresAt == nil || !heir.ExpiresAt.Equal(*limited.Key.ExpiresAt) || heir.Operator {
		t.Errorf("it lives until %v, operator %v", heir.ExpiresAt, heir.Operator)
	}

	strong := w.create(t, by, commands.CreateKey{ProjectID: project}).Key
	for what, attempt := range map[string]func() error{
		"scope": func() error {
			_, err := w.CreateKey(t.Context(), weak, commands.CreateKey{ProjectID: project, Name: "x", Scopes: domain.Scopes{"b:read"}})
			return err
		},
		"every scope": func() error {
			_, err := w.CreateKey(t.Context(), weak, commands.CreateKey{ProjectID: project, Name: "x", Scopes: domain.Scopes{"*"}})
			return err
		},
		"resources": func() error {
			_, err := w.CreateKey(t.Context(), weak, commands.CreateKey{ProjectID: project, Name: "x", Resources: domain.Resources{"app": {"z"}}})
			return err
		},
		"life": func() error {
			_, err := w.CreateKey(t.Context(), weak, commands.CreateKey{ProjectID: project, Name: "x", ExpiresAt: w.clock.in(2 * time.Hour)})
			return err
		},
		// Whoever rotates a key holds its successor.
		"rotating a stronger key": func() error {
			_, err := w.RotateKey(t.Context(), weak, commands.RotateKey{KeyID: strong.ID})
			return err
		},
		// Whoever names the receiver gets the next secret.
		"naming the receiver of a stronger key": func() error {
			_, _, err := w.UpdateKey(t.Context(), weak, domain.UpdateKey{KeyID: strong.ID, WebhookURL: domain.ChangeTo("https://evil.example.com/")})
			return err
		},
		"widening a key": func() error {
			_, _, err := w.UpdateKey(t.Context(), weak, domain.UpdateKey{KeyID: heir.ID, Scopes: domain.ChangeTo(domain.Scopes{"*"})})
			return err
		},
		"prolonging a key": func() error {
			_, _, err := w.UpdateKey(t.Context(), weak, domain.UpdateKey{KeyID: heir.ID, ExpiresAt: domain.ChangeTo[*time.Time](nil)})
			return err
		},
	} {
		wantCode(t, what, attempt(), domain.CodeEscalation)
	}
}

func TestUpdateKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	update := func(t *testing.T, id domain.KeyID, change domain.UpdateKey) (*projections.Key, webhook.Secret) {
		t.Helper()
		change.KeyID = id
		key, secret, err := w.UpdateKey(t.Context(), by, change)
		if err != nil {
			t.Fatal(err)
		}
		return key, secret
	}
	full := func(t *testing.T) *projections.Key {
		return w.create(t, by, commands.CreateKey{
			ProjectID: tenant.Key.ProjectID, Scopes: domain.Scopes{"a"}, Resources: domain.Resources{"app": {"x"}}, ExpiresAt: w.clock.in(time.Hour),
			RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/", Metadata: []byte(`{"a":1}`),
		}).Key
	}

	t.Run("ClearsFields", func(t *testing.T) {
		key, _ := update(t, full(t).ID, domain.UpdateKey{
			Resources: domain.ChangeTo[domain.Resources](nil), ExpiresAt: domain.ChangeTo[*time.Time](nil),
			RotationIntervalSeconds: domain.ChangeTo[int64](0), WebhookURL: domain.ChangeTo(""), Metadata: domain.ChangeTo[json.RawMessage](nil),
		})
		if key.Resources != nil || key.ExpiresAt != nil || key.RotationIntervalSeconds != nil || key.NextRotationAt != nil ||
			key.WebhookURL != nil || key.EndpointID != nil || key.Metadata != nil {
			t.Errorf("left: %+v", key)
		}
		if n := one[int](t, w, "SELECT count(*) FROM due_work WHERE lineage_id = $1", key.LineageID); n != 0 {
			t.Errorf("%d pieces of work are left", n)
		}
	})

	t.Run("LeavesWhatIsNotNamed", func(t *testing.T) {
		before := full(t)
		key, secret := update(t, before.ID, domain.UpdateKey{Name: domain.ChangeTo("renamed")})
		want := *before
		want.Name, want.Version = "renamed", 2
		want.Metadata, key.Metadata = nil, nil
		if diff := cmp.Diff(&want, key); diff != "" || !secret.IsZero() {
			t.Errorf("a webhook secret: %v; %s", !secret.IsZero(), diff)
		}
	})

	t.Run("NewWebhookMakesAnEndpointAndItsSecret", func(t *testing.T) {
		before := full(t)
		key, secret := update(t, before.ID, domain.UpdateKey{WebhookURL: domain.ChangeTo("https://b.example.com/")})
		if *key.EndpointID == *before.EndpointID || *key.WebhookURL != "https://b.example.com/" || secret.IsZero() {
			t.Fatalf("got endpoint %s at %s", *key.EndpointID, *key.WebhookURL)
		}
		found, err := w.SigningKeys(t.Context(), []domain.EndpointID{*key.EndpointID, *before.EndpointID})
		if err != nil || len(found) != 2 || newest(found[*key.EndpointID]).Reveal() != secret.Reveal() || newest(found[*before.EndpointID]).Reveal() == secret.Reveal() {
			t.Errorf("the stored secrets are not those of the endpoints: %v", err)
		}
	})

	// Sending the whole form back with one field changed is what many clients do.
	t.Run("UnchangedWebhookMakesNothing", func(t *testing.T) {
		before := full(t)
		endpoints := one[int](t, w, "SELECT count(*) FROM webhook_endpoints")
		key, secret := update(t, before.ID, domain.UpdateKey{WebhookURL: domain.ChangeTo(*before.WebhookURL), Name: domain.ChangeTo("other")})
		if *key.EndpointID != *before.EndpointID || !secret.IsZero() || key.Version != 2 {
			t.Errorf("endpoint %s became %s", *before.EndpointID, *key.EndpointID)
		}
		if n := one[int](t, w, "SELECT count(*) FROM webhook_endpoints"); n != endpoints {
			t.Errorf("%d endpoints more", n-endpoints)
		}
	})

	t.Run("NothingChangedIsNoEvent", func(t *testing.T) {
		before := full(t)
		key, secret := update(t, before.ID, domain.UpdateKey{Name: domain.ChangeTo(before.Name), Metadata: domain.ChangeTo(json.RawMessage(` {"a": 1} `))})
		if key.Version != 1 || !secret.IsZero() {
			t.Errorf("version %d", key.Version)
		}
	})

	t.Run("RefusesBadReceiver", func(t *testing.T) {
		before := full(t)
		_, secret, err := w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: before.ID, WebhookURL: domain.ChangeTo("https://10.0.0.1/")})
		wantCode(t, "private address", err, domain.CodeValidation)
		if !secret.IsZero() || w.key(t, by, before.ID).Version != 1 {
			t.Error("something was done all the same")
		}
	})

	// An edit that was made must not be reported as if nothing had been done.
	t.Run("SaysSoWhenTheAnswerCannotBeRead", func(t *testing.T) {
		r := w.another(t)
		created, err := r.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, Name: "ci"})
		if err != nil {
			t.Fatal(err)
		}
		r.tenants.Close()
		_, _, err = r.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: created.Key.ID, Name: domain.ChangeTo("renamed")})
		wantCode(t, "an edit that was made", err, domain.CodeOutcomeUnknown)
		if name := w.key(t, by, created.Key.ID).Name; name != "renamed" {
			t.Errorf("it is named %q", name)
		}
	})

	t.Run("RefusesEndedKey", func(t *testing.T) {
		key := full(t)
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.ID, Grace: new(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: key.ID, Name: domain.ChangeTo("x")})
		wantCode(t, "key in grace", err, domain.CodeKeyNotActive)
		w.clock.step(2 * time.Hour) // past its life; nothing swept
		_, _, err = w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: rotated.Rotated.KeyID, Name: domain.ChangeTo("x")})
		wantCode(t, "key past its life", err, domain.CodeKeyNotActive)
	})
}

func TestRevokeKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	revoke := func(id domain.KeyID, reason string) {
		t.Helper()
		if err := w.RevokeKey(t.Context(), by, id, reason); err != nil {
			t.Fatal(err)
		}
	}
	revoke(key.Key.ID, "leaked")
	revoked := w.key(t, by, key.Key.ID)
	if revoked.State != domain.GenerationRevoked || !revoked.RevokedAt.Equal(w.clock.Now()) || *revoked.RevokedReason != "leaked" {
		t.Errorf("got %+v", revoked)
	}
	// Again is fine and changes nothing.
	w.clock.step(time.Hour)
	revoke(key.Key.ID, "again")
	if diff := cmp.Diff(revoked, w.key(t, by, key.Key.ID)); diff != "" {
		t.Error(diff)
	}

	// An older one ends alone; the active one takes all with it.
	first := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	second, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: first.Key.ID, Grace: new(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	third, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: second.Rotated.KeyID, Grace: new(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	revoke(first.Key.ID, "")
	states := func() string {
		return fmt.Sprint(w.key(t, by, first.Key.ID).State, " ", w.key(t, by, second.Rotated.KeyID).State, " ", w.key(t, by, third.Rotated.KeyID).State)
	}
	if got := states(); got != "revoked grace active" {
		t.Errorf("after the oldest: %s", got)
	}
	revoke(third.Rotated.KeyID, "")
	if got := states(); got != "revoked revoked revoked" {
		t.Errorf("after the active one: %s", got)
	}
	err = w.RevokeKey(t.Context(), by, third.Rotated.KeyID, strings.Repeat("x", 501))
	wantCode(t, "a long reason", err, domain.CodeValidation)
}

// G6: whatever is asked of a key or a project of another organization, the refusal is the very one for an unknown one.
func TestG6ForeignIsUnknown(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	victimBy, victim := w.tenant(t, root)
	// A key that this process knows from having made it.
	victim.Key = w.create(t, victimBy, commands.CreateKey{ProjectID: victim.Key.ProjectID}).Key
	by, _ := w.tenant(t, root)
	unknownKey, unknownProject := domain.KeyID("key_01jz8q0v6me5et8b3k2c9d4x7a"), domain.ProjectID("proj_01jz8q0v6me5et8b3k2c9d4x7a")
	unknownOrganization := domain.OrganizationID("org_01jz8q0v6me5et8b3k2c9d4x7a")
	events := one[int](t, w, "SELECT count(*) FROM events")
	for what, do := range map[string]func(bool) error{
		"update": func(foreign bool) error {
			key, secret, err := w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: either(foreign, victim.Key.ID, unknownKey), Name: domain.ChangeTo("x")})
			if key != nil || !secret.IsZero() {
				t.Error("update gave something away")
			}
			return err
		},
		"rotate": func(foreign bool) error {
			rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: either(foreign, victim.Key.ID, unknownKey)})
			if !rotated.Secret.IsZero() || rotated.ProjectID != "" {
				t.Error("rotate gave something away")
			}
			return err
		},
		"revoke": func(foreign bool) error {
			return w.RevokeKey(t.Context(), by, either(foreign, victim.Key.ID, unknownKey), "")
		},
		"create a key": func(foreign bool) error {
			_, err := w.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: either(foreign, victim.Key.ProjectID, unknownProject), Name: "x"})
			return err
		},
		"create an environment": func(foreign bool) error {
			_, err := w.CreateEnvironment(t.Context(), by, either(foreign, victim.Key.ProjectID, unknownProject), "test")
			return err
		},
		"create a project": func(foreign bool) error {
			_, err := w.CreateProject(t.Context(), by, commands.CreateProject{OrganizationID: either(foreign, victim.OrganizationID, unknownOrganization), Name: "x"})
			return err
		},
	} {
		unknown := do(false)
		wantCode(t, what, unknown, domain.CodeNotFound)
		sameRefusal(t, what, do(true), unknown)
	}
	if n := one[int](t, w, "SELECT count(*) FROM events"); n != events {
		t.Errorf("%d events were made", n-events)
	}
}

func either[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}
