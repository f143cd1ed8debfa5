package commands_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// foreign is the n-th secret of another system.
func foreign(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "secret %d", n))
	return "sk_live_" + hex.EncodeToString(sum[:12])
}

// raw is an entry with a secret itself, hashed one with its digest.
func raw(secret string) commands.ImportKey {
	return commands.ImportKey{Secret: domain.ForeignSecret{Key: secret}, CreateKey: commands.CreateKey{Name: "theirs"}}
}

func hashed(secret string) commands.ImportKey {
	digest := sha256.Sum256([]byte(secret))
	return commands.ImportKey{
		Secret:    domain.ForeignSecret{SHA256: base64.StdEncoding.EncodeToString(digest[:]), KeyPrefix: secret[:8], LastFour: secret[len(secret)-4:]},
		CreateKey: commands.CreateKey{Name: "theirs"},
	}
}

func presented(t fataler, secret string) domain.Secret {
	t.Helper()
	s, ok := domain.ParseSecret(secret)
	if !ok {
		t.Fatalf("%q cannot be presented", secret)
	}
	return s
}

// facts of the database that an import that does nothing must leave as they are.
func (w *world) size(t fataler) [3]int {
	return [3]int{one[int](t, w, "SELECT count(*) FROM events"), one[int](t, w, "SELECT count(*) FROM keys"), one[int](t, w, "SELECT count(*) FROM endpoint_secrets")}
}

// wantFields asserts which fields a refusal names.
func wantFields(t fataler, what string, err error, want ...string) {
	t.Helper()
	refusal, ok := err.(*domain.Error)
	if !ok {
		t.Errorf("%s: got %v, want a refusal", what, err)
		return
	}
	var got []string
	for _, f := range refusal.Fields {
		got = append(got, f.Field)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestImportKeys(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project := tenant.Key.ProjectID
	do := func(t *testing.T, by commands.By, keys ...commands.ImportKey) []commands.ImportedKey {
		t.Helper()
		out, err := w.ImportKeys(t.Context(), by, commands.ImportKeys{ProjectID: project, Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}

	t.Run("VerifiesRotatesAndEndsLikeOurOwn", func(t *testing.T) {
		for i, entry := range []commands.ImportKey{raw(foreign(1)), hashed(foreign(2))} {
			secret := presented(t, foreign(i+1))
			got := do(t, by, entry)
			if len(got) != 1 || got[0].ID == "" || got[0].Exists || got[0].Status != domain.StatusActive || got[0].Prefix != "sk_live_" ||
				got[0].LastFour != secret.LastFour() || got[0].Name != "theirs" {
				t.Fatalf("got %+v", got)
			}
			if v := w.verdict(t, by, secret); !v.Valid() || v.Key.ID != got[0].ID {
				t.Fatalf("the imported secret is %s", v.Code)
			}
			rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: got[0].ID})
			if err != nil || !strings.HasPrefix(rotated.Secret.Reveal(), "rk_live_") {
				t.Fatalf("its successor begins %s, %v", rotated.Rotated.Prefix, err)
			}
			if v := w.verdict(t, by, secret); v.Status != domain.StatusGrace {
				t.Errorf("after the rotation the imported secret is %s", v.Status)
			}
			if err := w.RevokeKey(t.Context(), by, rotated.Rotated.KeyID, ""); err != nil {
				t.Fatal(err)
			}
			if v := w.verdict(t, by, secret); v.Code != projections.CodeRevoked {
				t.Errorf("after the end the imported secret is %s", v.Code)
			}
			history, err := w.reader.History(t.Context(), projections.ReachOf(by.Caller), w.key(t, by, got[0].ID).LineageID, 0, 1)
			if err != nil || len(history) != 1 || !history[0].Data.(domain.Created).Imported || history[0].RequestID != "req_test" {
				t.Errorf("the history begins %+v, %v", history, err)
			}
		}
	})

	t.Run("TakesTheSettingsOfANewKey", func(t *testing.T) {
		environment, err := w.CreateEnvironment(t.Context(), by, project, "eu")
		if err != nil {
			t.Fatal(err)
		}
		entry := raw(foreign(10))
		grace := int64(20)
		entry.CreateKey = commands.CreateKey{
			Name: "all", Scopes: domain.Scopes{"a:read"}, Resources: domain.Resources{"app": {"x"}}, ExpiresAt: w.clock.in(time.Hour),
			RotationIntervalSeconds: 60, GraceSeconds: &grace, WebhookURL: "https://hooks.example.com/a", Metadata: []byte(`{"n":1}`),
		}
		out, err := w.ImportKeys(t.Context(), by, commands.ImportKeys{ProjectID: project, EnvironmentID: environment.ID, Keys: []commands.ImportKey{entry, hashed(foreign(11))}})
		if err != nil {
			t.Fatal(err)
		}
		k := w.key(t, by, out[0].ID)
		if k.Name != "all" || k.EnvironmentID != environment.ID || k.Scopes[0] != "a:read" || k.Resources["app"][0] != "x" || *k.RotationIntervalSeconds != 60 ||
			k.GraceSeconds != 20 || *k.WebhookURL != "https://hooks.example.com/a" || !k.ExpiresAt.Equal(*w.clock.in(time.Hour)) || k.Metadata == nil {
			t.Errorf("got %+v", k)
		}
		secrets, err := w.SigningKeys(t.Context(), []domain.EndpointID{*k.EndpointID})
		if err != nil || out[0].WebhookSecret.IsZero() || newest(secrets[*k.EndpointID]).Reveal() != out[0].WebhookSecret.Reveal() || !out[1].WebhookSecret.IsZero() {
			t.Errorf("the stored signing secret is not the one that was answered: %v", err)
		}
		if secret, err := w.OpenPending(t.Context(), w.rotateDue(t, k)); err != nil || !strings.HasPrefix(secret.Reveal(), "rk_eu_") {
			t.Errorf("the successor that waits is %s, %v", secret.Prefix(), err)
		}
	})

	t.Run("AgainChangesNothing", func(t *testing.T) {
		first := do(t, by, raw(foreign(20)), hashed(foreign(21)))
		if err := w.RevokeKey(t.Context(), by, first[1].ID, ""); err != nil {
			t.Fatal(err)
		}
		before := w.size(t)
		other := hashed(foreign(20))
		other.Name, other.WebhookURL = "", "https://hooks.example.com/" // not looked at
		again := do(t, by, other, raw(foreign(21)))
		for i, k := range again {
			if !k.Exists || k.ID != first[i].ID || k.Name != "theirs" || k.Prefix != "sk_live_" || !k.WebhookSecret.IsZero() {
				t.Errorf("entry %d: got %+v", i, k)
			}
		}
		if again[0].Status != domain.StatusActive || again[1].Status != domain.StatusRevoked {
			t.Errorf("they are %s and %s", again[0].Status, again[1].Status)
		}
		if after := w.size(t); after != before {
			t.Errorf("from %v to %v", before, after)
		}
		if v := w.verdict(t, by, presented(t, foreign(21))); v.Code != projections.CodeRevoked {
			t.Errorf("the revoked one is %s", v.Code)
		}
	})

	t.Run("DryRunSaysTheSameAndWritesNothing", func(t *testing.T) {
		there := do(t, by, raw(foreign(30)))[0]
		before := w.size(t)
		entry := hashed(foreign(31))
		entry.WebhookURL = "https://hooks.example.com/"
		out, err := w.ImportKeys(t.Context(), by, commands.ImportKeys{ProjectID: project, DryRun: true, Keys: []commands.ImportKey{raw(foreign(30)), entry}})
		if err != nil {
			t.Fatal(err)
		}
		would := out[1]
		if !out[0].Exists || out[0].ID != there.ID || would.ID != "" || would.Exists || would.Status != "" || !would.WebhookSecret.IsZero() ||
			would.Name != "theirs" || would.Prefix != "sk_live_" || would.LastFour != foreign(31)[28:] {
			t.Errorf("got %+v", out)
		}
		if after := w.size(t); after != before {
			t.Errorf("from %v to %v", before, after)
		}
		entry.Name = ""
		_, err = w.ImportKeys(t.Context(), by, commands.ImportKeys{ProjectID: project, DryRun: true, Keys: []commands.ImportKey{entry}})
		wantFields(t, "a fault in a dry run", err, "keys[0].name")
	})

	t.Run("AllOrNothing", func(t *testing.T) {
		weak := w.create(t, by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"keys:write", "a:*"}})
		before := w.size(t)
		escalates, past, badHook, faulty := raw(foreign(44)), raw(foreign(45)), raw(foreign(46)), raw(foreign(47))
		escalates.Scopes = domain.Scopes{"b:read"}
		past.ExpiresAt = w.clock.in(-time.Hour)
		badHook.WebhookURL = "https://127.0.0.1/"
		faulty.Fault = domain.InvalidField("expires_at", "is not a time", "")
		_, err := w.ImportKeys(t.Context(), commands.By{Caller: weak.Key.Caller()}, commands.ImportKeys{ProjectID: project, Keys: []commands.ImportKey{
			raw(foreign(40)), raw("short"), raw(foreign(40)), hashed(foreign(40)), escalates, past, badHook, faulty,
		}})
		wantCode(t, "faults of all kinds", err, domain.CodeValidation)
		wantFields(t, "faults of all kinds", err, "keys[1].key", "keys[2].key", "keys[3].sha256", "keys[4].scopes", "keys[5].expires_at",
			"keys[6].rotation_webhook_url", "keys[7].expires_at")
		if after := w.size(t); after != before {
			t.Errorf("from %v to %v", before, after)
		}
		_, err = w.ImportKeys(t.Context(), commands.By{Caller: weak.Key.Caller()}, commands.ImportKeys{ProjectID: project, Keys: []commands.ImportKey{escalates}})
		wantCode(t, "G8: more than the caller holds", err, domain.CodeEscalation)
		// Left open, it gets what the caller holds.
		out := do(t, commands.By{Caller: weak.Key.Caller()}, raw(foreign(48)))
		if k := w.key(t, by, out[0].ID); !cmp.Equal(k.Scopes, weak.Key.Scopes) {
			t.Errorf("it got %v", k.Scopes)
		}
	})

	t.Run("RefusesTheRequestAsAWhole", func(t *testing.T) {
		for what, c := range map[string]struct {
			request commands.ImportKeys
			want    domain.Code
		}{
			"no keys":             {commands.ImportKeys{ProjectID: project}, domain.CodeValidation},
			"too many keys":       {commands.ImportKeys{ProjectID: project, Keys: make([]commands.ImportKey, domain.MaxImport+1)}, domain.CodeValidation},
			"no project":          {commands.ImportKeys{Keys: []commands.ImportKey{raw(foreign(50))}}, domain.CodeNotFound},
			"unknown project":     {commands.ImportKeys{ProjectID: domain.ProjectID("proj_" + strings.Repeat("0", 26)), Keys: []commands.ImportKey{raw(foreign(50))}}, domain.CodeNotFound},
			"unknown environment": {commands.ImportKeys{ProjectID: project, EnvironmentID: "env_x", Keys: []commands.ImportKey{raw(foreign(50))}}, domain.CodeNotFound},
		} {
			_, err := w.ImportKeys(t.Context(), by, c.request)
			wantCode(t, what, err, c.want)
		}
	})

	t.Run("ManyAtOnce", func(t *testing.T) {
		entries := make([]commands.ImportKey, domain.MaxImport)
		for i := range entries {
			if entries[i] = raw(foreign(1000 + i)); i%2 == 1 {
				entries[i] = hashed(foreign(1000 + i))
			}
			entries[i].WebhookURL = "https://hooks.example.com/"
		}
		out := do(t, by, entries...)
		for i, k := range out {
			if k.ID == "" || k.Exists || k.WebhookSecret.IsZero() {
				t.Fatalf("entry %d: %+v", i, k)
			}
		}
		if v := w.verdict(t, by, presented(t, foreign(1999))); !v.Valid() || v.Key.ID != out[999].ID {
			t.Errorf("the last one is %s", v.Code)
		}
	})
	w.check(t)
}

// G6: a secret that somebody else has, or that lies out of the caller's reach, is refused like one that could never be a
// key. Neither the answer nor the log tells whose it is.
func TestG6ImportTellsNothing(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	a, tenantA := w.tenant(t, root)
	b, tenantB := w.tenant(t, root)
	second, err := w.CreateProject(t.Context(), a, commands.CreateProject{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	importing := func(by commands.By, project domain.ProjectID, dryRun bool, keys ...commands.ImportKey) error {
		_, err := w.ImportKeys(t.Context(), by, commands.ImportKeys{ProjectID: project, DryRun: dryRun, Keys: keys})
		return err
	}
	if err := importing(a, tenantA.Key.ProjectID, false, raw(foreign(1))); err != nil {
		t.Fatal(err)
	}
	ended := w.create(t, a, commands.CreateKey{ProjectID: tenantA.Key.ProjectID})
	if err := w.RevokeKey(t.Context(), a, ended.Key.ID, ""); err != nil {
		t.Fatal(err)
	}
	limited := w.create(t, a, commands.CreateKey{ProjectID: tenantA.Key.ProjectID, Resources: domain.Resources{"project": {string(second.ID)}}})
	unusable := importing(b, tenantB.Key.ProjectID, false, raw("0123456789 0123456789"))
	for what, attempt := range map[string]struct {
		by      commands.By
		project domain.ProjectID
		secret  string
	}{
		"another organization's":                {b, tenantB.Key.ProjectID, foreign(1)},
		"another organization's ended one":      {b, tenantB.Key.ProjectID, ended.Secret.Reveal()},
		"another organization's first key":      {b, tenantB.Key.ProjectID, tenantA.Secret.Reveal()},
		"another project's":                     {a, second.ID, foreign(1)},
		"one in a project that is out of reach": {commands.By{Caller: limited.Key.Caller()}, second.ID, foreign(1)},
	} {
		for _, dryRun := range []bool{false, true} {
			sameRefusal(t, what, importing(attempt.by, attempt.project, dryRun, raw(attempt.secret)), unusable)
		}
		// By hash nothing about the secret is known, but the answer is the same sentence.
		wantFields(t, what, importing(attempt.by, attempt.project, false, hashed(attempt.secret)), "keys[0].sha256")
	}
	none := importing(b, domain.ProjectID("proj_"+strings.Repeat("0", 26)), false, raw(foreign(2)))
	sameRefusal(t, "into a project of another organization", importing(b, tenantA.Key.ProjectID, false, raw(foreign(2))), none)
	sameRefusal(t, "into a project out of reach", importing(commands.By{Caller: limited.Key.Caller()}, tenantA.Key.ProjectID, false, raw(foreign(1))), none)
}

// G5: an imported secret is nowhere: it came from its owner, who has it.
func TestG5ImportedSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	project := tenant.Key.ProjectID
	request := commands.ImportKeys{ProjectID: project, Keys: []commands.ImportKey{raw(foreign(1)), raw("0123456789abcdef"), hashed(foreign(2))}}
	out, err := w.ImportKeys(t.Context(), by, request)
	if err != nil {
		t.Fatal(err)
	}
	wrong := commands.ImportKeys{ProjectID: project, Keys: []commands.ImportKey{raw(foreign(3) + " "), raw(foreign(1)), raw(foreign(1)), {Secret: domain.ForeignSecret{SHA256: foreign(4), KeyPrefix: foreign(4)}}}}
	_, refused := w.ImportKeys(t.Context(), by, wrong)
	places := w.dump(t)
	places["what is printed"] = fmt.Appendf(nil, "%v %+v %#v", out, refused, refused)
	for _, secret := range []string{foreign(1), foreign(2), foreign(3), foreign(4), "0123456789abcdef"} {
		for spelling, needle := range spellings(secret) {
			for place, content := range places {
				if bytes.Contains(content, needle) {
					t.Errorf("an imported secret stands in %s, %s", place, spelling)
				}
			}
		}
	}
	if !bytes.Contains(places["public.keys.key_prefix"], []byte("sk_live_")) {
		t.Error("the search does not even find the prefix")
	}
}

// Imports of the same secrets race, in one process and in two, also against each other's halves: each secret becomes one
// key, every import is answered whole, and none sees a fault of ours.
func TestImportRace(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other := w.another(t)
	by, tenant := w.root(t)
	const rounds, callers, secrets = 12, 6, 20
	for round := range rounds {
		made := make([][]commands.ImportedKey, callers)
		together(callers, func(i int) {
			var keys []commands.ImportKey
			for n := range secrets {
				entry := raw
				if (n+i)%2 == 0 {
					entry = hashed
				}
				keys = append(keys, entry(foreign(round*secrets+(n+i*7)%secrets)))
			}
			out, err := []*replica{w.replica, other}[i%2].ImportKeys(context.Background(), by, commands.ImportKeys{ProjectID: tenant.Key.ProjectID, Keys: keys})
			if err != nil {
				t.Errorf("round %d, caller %d: %v", round, i, err)
			}
			made[i] = out
		})
		created := 0
		for _, out := range made {
			for _, k := range out {
				if k.ID == "" {
					t.Fatalf("an entry without a key: %+v", k)
				}
				if !k.Exists {
					created++
				}
			}
		}
		if created != secrets {
			t.Errorf("round %d: %d keys were created, want %d", round, created, secrets)
		}
	}
	if n := one[int](t, w, "SELECT count(*) FROM keys WHERE key_prefix = 'sk_live_'"); n != rounds*secrets {
		t.Errorf("%d keys, want %d", n, rounds*secrets)
	}
	w.check(t)
}

// The store itself keeps a secret one key's, whatever was looked up before; the refusal says to look again.
func TestSecretIsOneKeys(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	given := presented(t, foreign(1))
	if _, err := w.Setup(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	_, err := w.Setup(t.Context(), given)
	wantCode(t, "the same secret past the lookup", err, domain.CodeVersionConflict)
	if _, err := w.CreateOrganization(t.Context(), root, "goes on"); err != nil {
		t.Errorf("the next command: %v", err)
	}
}

// Whatever is imported, in whichever mix and order, verifies as the key that was answered, rotates, and folds into what
// the tables say.
func TestImportedKeysAreKeys(t *testing.T) {
	checks(t, 10, 200)
	w := setup(t)
	by, tenant := w.root(t)
	project, next := tenant.Key.ProjectID, 0
	rapid.Check(t, func(rt *rapid.T) {
		var entries []commands.ImportKey
		var secrets []string
		for range rapid.IntRange(1, 30).Draw(rt, "keys") {
			text := rapid.StringOfN(rapid.RuneFrom([]rune("abcXYZ019-_.~/+=!#:")), 16, 80, -1).Draw(rt, "secret") + fmt.Sprint(next)
			next++
			secrets = append(secrets, text)
			entry := raw(text)
			if rapid.Bool().Draw(rt, "hashed") {
				entry = hashed(text)
			}
			if rapid.Bool().Draw(rt, "interval") {
				entry.RotationIntervalSeconds = 60
			}
			entries = append(entries, entry)
		}
		out, err := w.ImportKeys(context.Background(), by, commands.ImportKeys{ProjectID: project, Keys: entries})
		if err != nil {
			rt.Fatalf("import: %v", err)
		}
		for i, k := range out {
			v := w.verdict(rt, by, presented(rt, secrets[i]))
			if !v.Valid() || v.Key.ID != k.ID {
				rt.Fatalf("secret %d is %s of %+v, want %s", i, v.Code, v.Key, k.ID)
			}
			if !rapid.Bool().Draw(rt, "rotate") {
				continue
			}
			rotated, err := w.RotateKey(context.Background(), by, commands.RotateKey{KeyID: k.ID})
			if err != nil {
				rt.Fatalf("rotate: %v", err)
			}
			old, fresh := w.verdict(rt, by, presented(rt, secrets[i])), w.verdict(rt, by, rotated.Secret)
			if old.Status != domain.StatusGrace || !fresh.Valid() || fresh.Key.LineageID != old.Key.LineageID || fresh.Key.Generation != 2 {
				rt.Fatalf("after the rotation the old one is %s, the new one %s of generation %d", old.Status, fresh.Code, fresh.Key.Generation)
			}
		}
		w.clock.step(3 * time.Minute)
		w.sweep(rt)
		w.check(rt)
	})
}
