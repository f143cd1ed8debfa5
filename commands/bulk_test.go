package commands_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// named are the ids of keys, sorted.
func named(keys ...*projections.Key) []domain.KeyID {
	ids := []domain.KeyID{}
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return ids
}

// dryRun is the first call, which must succeed.
func (w *world) dryRun(t fataler, by commands.By, s projections.Selection) commands.BulkRevoked {
	t.Helper()
	out, err := w.BulkRevoke(context.Background(), by, commands.BulkRevoke{Selection: s, DryRun: true})
	if err != nil {
		t.Fatalf("dry run: %v", err)
	}
	return out
}

// living are the live keys of an organization.
func (w *world) living(t fataler, by commands.By) int {
	return one[int](t, w, "SELECT count(*) FROM keys WHERE organization_id = $1 AND state IN ('pending', 'active', 'grace')", by.Caller.OrganizationID)
}

func TestBulkRevokeSelects(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	stranger, foreign := w.tenant(t, root)
	project := tenant.Key.ProjectID
	second, err := w.CreateProject(t.Context(), by, commands.CreateProject{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	test, err := w.CreateEnvironment(t.Context(), by, project, "test")
	if err != nil {
		t.Fatal(err)
	}
	make := func(by commands.By, c commands.CreateKey) *projections.Key { return w.create(t, by, c).Key }
	plain := make(by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"a:read", "b:read"}})
	maker := make(by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"keys:*", "c:read"}})
	made := make(commands.By{Caller: maker.Caller()}, commands.CreateKey{ProjectID: project, RotationIntervalSeconds: 60})
	inTest := make(by, commands.CreateKey{ProjectID: project, EnvironmentID: test.ID, Scopes: domain.Scopes{"a:*"}})
	inSecond := make(by, commands.CreateKey{ProjectID: second.ID, Scopes: domain.Scopes{"a:read"}})
	ended := make(by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"a:read"}})
	if err := w.RevokeKey(t.Context(), by, ended.ID, ""); err != nil {
		t.Fatal(err)
	}
	make(stranger, commands.CreateKey{ProjectID: foreign.Key.ProjectID, Scopes: domain.Scopes{"a:read"}})
	rotation := w.rotateDue(t, made) // by the sweep: that hides nobody
	pendingID := one[domain.KeyID](t, w, "SELECT to_key_id FROM rotations WHERE id = $1", rotation)
	pending := w.key(t, by, pendingID)
	// The maker's key was rotated by somebody else, and the maker's own is gone. And two keys whose time is over, unrecorded.
	handed := make(commands.By{Caller: maker.Caller()}, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"keys:read"}})
	rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: handed.ID, Grace: new(time.Duration(0))})
	if err != nil {
		t.Fatal(err)
	}
	heir := w.key(t, by, rotated.Rotated.KeyID)
	make(by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{"a:read"}, ExpiresAt: w.clock.in(time.Second)})
	if rotated, err = w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: plain.ID, Grace: new(time.Second)}); err != nil {
		t.Fatal(err)
	}
	ranOut := plain
	plain = w.key(t, by, rotated.Rotated.KeyID)
	w.clock.step(2 * time.Second)
	// Beside the active one lives one in grace.
	if rotated, err = w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: inSecond.ID}); err != nil {
		t.Fatal(err)
	}
	old := inSecond
	inSecond = w.key(t, by, rotated.Rotated.KeyID)

	for what, c := range map[string]struct {
		by   commands.By
		s    projections.Selection
		want []domain.KeyID
	}{
		"project":                {by, projections.Selection{Project: project}, named(plain, maker, made, pending, inTest, heir)},
		"second project":         {by, projections.Selection{Project: second.ID}, named(inSecond, old)},
		"environment":            {by, projections.Selection{Environment: test.ID}, named(inTest)},
		"creator":                {by, projections.Selection{CreatedBy: maker.ID}, named(made, pending, heir)},
		"scope":                  {by, projections.Selection{Scope: "a:read"}, named(plain, inSecond, old)},
		"scope that is wide":     {by, projections.Selection{Scope: "a:*"}, named(inTest)},
		"prefix":                 {by, projections.Selection{KeyPrefix: plain.Secret.Prefix}, named(plain)},
		"prefix of what ran out": {by, projections.Selection{KeyPrefix: ranOut.Secret.Prefix}, named()},
		"prefix of one in grace": {by, projections.Selection{KeyPrefix: old.Secret.Prefix}, named(old)},
		"prefix of an active one, which takes the one in grace with it": {by, projections.Selection{KeyPrefix: inSecond.Secret.Prefix}, named(inSecond, old)},
		"prefix of many":     {by, projections.Selection{KeyPrefix: "rk_test_"}, named(inTest)},
		"prefix with a sign": {by, projections.Selection{KeyPrefix: "rk%"}, named()},
		"two criteria":       {by, projections.Selection{Scope: "a:read", Project: second.ID}, named(inSecond, old)},
		"nothing":            {by, projections.Selection{Scope: "z"}, named()},
		"a foreign project":  {by, projections.Selection{Project: foreign.Key.ProjectID}, named()},
		"a NUL":              {by, projections.Selection{Scope: "a\x00"}, named()},
		"the caller's own":   {commands.By{Caller: maker.Caller()}, projections.Selection{Scope: "c:read"}, named(made, pending)},
		"another tenant":     {stranger, projections.Selection{Scope: "*"}, named()},
		"a limited caller": {
			commands.By{Caller: limitedTo(by.Caller, second.ID)}, projections.Selection{Scope: "a:read"}, named(inSecond, old),
		},
	} {
		out := w.dryRun(t, c.by, c.s)
		if diff := cmp.Diff(c.want, named(out.Keys...)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		if out.Token == "" || !out.ExpiresAt.Equal(*w.clock.in(10 * time.Minute)) {
			t.Errorf("%s: token until %s", what, out.ExpiresAt)
		}
	}
}

// limitedTo is a caller whose key is limited to a project.
func limitedTo(c domain.Caller, project domain.ProjectID) domain.Caller {
	c.Resources = domain.Resources{domain.ResourceProject: {string(project)}}
	return c
}

// A lineage counts as used if any of its keys was, however they replaced each other, and as old as its first key.
func TestBulkRevokeUnused(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	create := func() *projections.Key {
		return w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID}).Key
	}
	use := func(k *projections.Key) {
		w.exec(t, "INSERT INTO key_usage (key_id, organization_id, last_used_at, use_count, boot_id, flush_number) VALUES ($1, $2, $3, 1, 'b', 1)", k.ID, k.OrganizationID, w.clock.Now())
	}
	rotate := func(k *projections.Key) *projections.Key {
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: k.ID})
		if err != nil {
			t.Fatal(err)
		}
		return w.key(t, by, rotated.Rotated.KeyID)
	}
	idle, oldUse, used, usedBefore, idleRotated := create(), create(), create(), create(), create()
	use(oldUse)
	w.clock.step(time.Hour)
	since := w.clock.Now()
	use(used)
	use(usedBefore)
	fresh := create()
	after := rotate(usedBefore) // the new one has not been used yet
	successor := rotate(idleRotated)
	w.clock.step(time.Minute)
	out := w.dryRun(t, by, projections.Selection{UnusedSince: &since})
	if diff := cmp.Diff(named(idle, oldUse, idleRotated, successor), named(out.Keys...)); diff != "" {
		t.Errorf("%s (fresh is %s, in use is %s)", diff, fresh.ID, after.ID)
	}
}

func TestBulkRevoke(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, _ := w.root(t)
	by, tenant := w.tenant(t, root)
	project := tenant.Key.ProjectID
	scoped := func(t *testing.T, n int, scope string) []commands.CreatedKey {
		t.Helper()
		var out []commands.CreatedKey
		for range n {
			out = append(out, w.create(t, by, commands.CreateKey{ProjectID: project, Scopes: domain.Scopes{scope}}))
		}
		return out
	}
	revoke := func(by commands.By, s projections.Selection, token string) (commands.BulkRevoked, error) {
		return w.BulkRevoke(context.Background(), by, commands.BulkRevoke{Selection: s, Token: token, Reason: "tidy"})
	}

	t.Run("EndsTheNamedKeysAndNoOther", func(t *testing.T) {
		keys, others := scoped(t, 3, "one:a"), scoped(t, 1, "one:b")
		s := projections.Selection{Scope: "one:a"}
		dry := w.dryRun(t, by, s)
		if len(dry.Keys) != 3 || !w.verdict(t, by, keys[0].Secret).Valid() {
			t.Fatalf("the dry run named %d keys, or revoked them", len(dry.Keys))
		}
		done, err := revoke(by, s, dry.Token)
		if err != nil || cmp.Diff(named(dry.Keys...), named(done.Keys...)) != "" {
			t.Fatalf("revoked %v, %v", named(done.Keys...), err)
		}
		for _, k := range keys {
			row := w.key(t, by, k.Key.ID)
			if v := w.verdict(t, by, k.Secret); v.Code != projections.CodeRevoked || *row.RevokedReason != "tidy" {
				t.Errorf("%s is %s, for %q", k.Key.ID, v.Code, *row.RevokedReason)
			}
		}
		if !w.verdict(t, by, others[0].Secret).Valid() {
			t.Error("another key was revoked too")
		}
		history, err := w.reader.History(t.Context(), projections.ReachOf(by.Caller), keys[0].Key.LineageID, 1, 5)
		if err != nil || len(history) != 1 || history[0].Actor != domain.Actor(tenant.Key.ID) || history[0].RequestID != "req_test" {
			t.Errorf("the history ends %+v, %v", history, err)
		}
		// The same again finds nothing that is left, which is no change.
		if again, err := revoke(by, s, dry.Token); err != nil || len(again.Keys) != 0 {
			t.Errorf("again: %v, %v", named(again.Keys...), err)
		}
	})

	t.Run("EndsGenerationsAsTheyWereNamed", func(t *testing.T) {
		key := scoped(t, 1, "two")[0]
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID})
		if err != nil {
			t.Fatal(err)
		}
		s := projections.Selection{KeyPrefix: key.Key.Secret.Prefix} // only the old one
		dry := w.dryRun(t, by, s)
		if _, err := revoke(by, s, dry.Token); err != nil || len(dry.Keys) != 1 {
			t.Fatalf("%d keys, %v", len(dry.Keys), err)
		}
		if v := w.verdict(t, by, key.Secret); v.Code != projections.CodeRevoked || !w.verdict(t, by, rotated.Secret).Valid() {
			t.Errorf("the old one is %s", v.Code)
		}
	})

	t.Run("RefusesAnotherSet", func(t *testing.T) {
		s := projections.Selection{Scope: "three"}
		keys := scoped(t, 3, "three")
		dry := w.dryRun(t, by, s)
		refused := func(what string) {
			t.Helper()
			before := w.living(t, by)
			_, err := revoke(by, s, dry.Token)
			wantCode(t, what, err, domain.CodeSelectionChanged)
			if after := w.living(t, by); after != before {
				t.Errorf("%s: %d keys live, want %d", what, after, before)
			}
		}
		more := scoped(t, 1, "three")[0]
		refused("one more")
		if err := w.RevokeKey(t.Context(), by, more.Key.ID, ""); err != nil {
			t.Fatal(err)
		}
		if err := w.setScopes(by, keys[0].Key.ID, "other"); err != nil {
			t.Fatal(err)
		}
		refused("one that lives, but does not match any more")
		if err := w.setScopes(by, keys[0].Key.ID, "three"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: keys[1].Key.ID}); err != nil {
			t.Fatal(err)
		}
		refused("a successor that nobody was shown")
		// What has ended meanwhile is no change.
		dry = w.dryRun(t, by, s)
		if err := w.RevokeKey(t.Context(), by, keys[0].Key.ID, ""); err != nil {
			t.Fatal(err)
		}
		if done, err := revoke(by, s, dry.Token); err != nil || len(dry.Keys) != 4 || len(done.Keys) != 3 {
			t.Errorf("revoked %d, %v", len(done.Keys), err)
		}
	})

	// A token opens for nobody else, for no other criteria, and not for long.
	t.Run("RefusesAnotherToken", func(t *testing.T) {
		s := projections.Selection{Scope: "four", Project: project}
		scoped(t, 1, "four")
		dry := w.dryRun(t, by, s)
		colleague := commands.By{Caller: w.create(t, by, commands.CreateKey{ProjectID: project}).Key.Caller()}
		neighbour, _ := w.tenant(t, root)
		for what, attempt := range map[string]func() error{
			"by a colleague":        func() error { _, err := revoke(colleague, s, dry.Token); return err },
			"by another tenant":     func() error { _, err := revoke(neighbour, s, dry.Token); return err },
			"with fewer criteria":   func() error { _, err := revoke(by, projections.Selection{Scope: "four"}, dry.Token); return err },
			"with other criteria":   func() error { _, err := revoke(by, projections.Selection{Project: project}, dry.Token); return err },
			"cut off":               func() error { _, err := revoke(by, s, dry.Token[:len(dry.Token)-4]); return err },
			"of another alphabet":   func() error { _, err := revoke(by, s, "%"+dry.Token); return err },
			"changed":               func() error { _, err := revoke(by, s, "B"+dry.Token[1:]); return err },
			"short":                 func() error { _, err := revoke(by, s, "AA"); return err },
			"that is an endpoint's": func() error { _, err := revoke(by, s, strings.Repeat("A", 60)); return err },
		} {
			err := attempt()
			wantCode(t, what, err, domain.CodeValidation)
			wantFields(t, what, err, "token")
		}
		w.clock.step(10 * time.Minute)
		_, err := revoke(by, s, dry.Token)
		wantFields(t, "after ten minutes", err, "token")
		if n := one[int](t, w, `SELECT count(*) FROM keys WHERE scopes ? 'four' AND state = 'active'`); n != 1 {
			t.Errorf("%d such keys live", n)
		}
		dry = w.dryRun(t, by, s)
		w.clock.step(10*time.Minute - time.Second)
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: tenant.Key.ID})
		if err != nil {
			t.Fatal(err)
		}
		successor := commands.By{Caller: w.key(t, by, rotated.Rotated.KeyID).Caller()}
		if done, err := revoke(successor, s, dry.Token); err != nil || len(done.Keys) != 1 {
			t.Errorf("by the caller's own successor, just in time: %d, %v", len(done.Keys), err)
		}
	})

	t.Run("RefusesWhatIsNoRequest", func(t *testing.T) {
		tomorrow := w.clock.in(24 * time.Hour)
		for what, c := range map[string]struct {
			request commands.BulkRevoke
			field   string
		}{
			"no criteria":        {commands.BulkRevoke{DryRun: true}, "project_id"},
			"no token":           {commands.BulkRevoke{Selection: projections.Selection{Scope: "five"}}, "token"},
			"token in a dry run": {commands.BulkRevoke{Selection: projections.Selection{Scope: "five"}, Token: "x", DryRun: true}, "token"},
			"unused until then":  {commands.BulkRevoke{Selection: projections.Selection{UnusedSince: tomorrow}, DryRun: true}, "unused_since"},
			"unprintable reason": {commands.BulkRevoke{Selection: projections.Selection{Scope: "five"}, Reason: "\x00", DryRun: true}, "reason"},
		} {
			_, err := w.BulkRevoke(t.Context(), by, c.request)
			wantCode(t, what, err, domain.CodeValidation)
			wantFields(t, what, err, c.field)
		}
	})

	t.Run("RefusesTooMany", func(t *testing.T) {
		like := scoped(t, 1, "six")[0].Key
		w.exec(t, `INSERT INTO keys (id, lineage_id, generation, version, organization_id, project_id, environment_id, name, secret_digest, key_prefix,
				last_four, scopes, state, operator, created_by, created_at, updated_at, grace_seconds)
			SELECT 'key_' || lpad(i::text, 26, '0'), 'lin_' || lpad(i::text, 26, '0'), 1, 1, organization_id, project_id, environment_id, name,
				sha256(convert_to(i::text, 'UTF8')), key_prefix, last_four, scopes, state, operator, created_by, created_at, updated_at, grace_seconds
			FROM keys, generate_series(1, 9999) i WHERE keys.id = $1`, like.ID)
		if out := w.dryRun(t, by, projections.Selection{Scope: "six"}); len(out.Keys) != 10_000 || len(out.Token) > 220_000 {
			t.Errorf("%d keys, a token of %d bytes", len(out.Keys), len(out.Token))
		}
		scoped(t, 1, "six")
		_, err := w.BulkRevoke(t.Context(), by, commands.BulkRevoke{Selection: projections.Selection{Scope: "six"}, DryRun: true})
		wantFields(t, "10,001 keys", err, "project_id")
		w.exec(t, `DELETE FROM keys WHERE id < 'key_00000000000000000000010000' AND lineage_id NOT IN (SELECT stream_id FROM streams)`)
	})
	w.check(t)
}

func (w *world) setScopes(by commands.By, id domain.KeyID, scopes ...string) error {
	_, _, err := w.UpdateKey(context.Background(), by, domain.UpdateKey{KeyID: id, Scopes: domain.ChangeTo(domain.Scopes(scopes))})
	return err
}

// A request that fails on the way says how far it came, and the same request ends the rest.
func TestBulkRevokeGoesOn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	for i := range 450 {
		if i%50 == 0 {
			w.clock.step(time.Millisecond)
		}
		w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, Scopes: domain.Scopes{"many"}})
	}
	ctx, leave := context.WithCancel(context.Background())
	r := w.another(t, func(c *eventstore.Config) {
		c.Observe = func(commands, events int, _ time.Duration, _ error) {
			if events > 0 {
				leave() // after the first of them are committed
			}
		}
	})
	s := projections.Selection{Scope: "many"}
	dry := w.dryRun(t, by, s)
	request := commands.BulkRevoke{Selection: s, Token: dry.Token}
	before := w.living(t, by)
	_, err := r.BulkRevoke(ctx, by, request)
	refusal, ok := err.(*domain.Error)
	if !ok || refusal.Code != domain.CodeUnavailable {
		t.Fatalf("got %v", err)
	}
	n, _ := refusal.Details["revoked"].(int)
	if gone := before - w.living(t, by); n == 0 || n >= 450 || gone != n || !strings.HasPrefix(refusal.Message, fmt.Sprintf("%d of 450 keys", n)) {
		t.Fatalf("%d have ended; %s (%d)", gone, refusal.Message, n)
	}
	rest, err := w.BulkRevoke(t.Context(), by, request)
	if err != nil || len(rest.Keys) != 450-n {
		t.Fatalf("the rest were %d, %v", len(rest.Keys), err)
	}
	if left := before - w.living(t, by); left != 450 {
		t.Errorf("%d have ended", left)
	}
	w.check(t)
}
