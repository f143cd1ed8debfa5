package embedded_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/client/embedded"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// TestG1RevokedMeansRevoked revokes keys of which this process has just said from its memory that they are valid: once the
// revoke is answered it says so no more.
func TestG1RevokedMeansRevoked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	v := w.open(t, w.key(t, holding(domain.ScopeKeysVerify)))
	for range 30 {
		made := w.key(t)
		w.has(t, v, 3) // the root key, its own one, and this one
		if verdict := ask(t, v, made.Secret); !verdict.Valid {
			t.Fatalf("before the revoke it is %s", verdict.Code)
		}
		must(t, w.RevokeKey(t.Context(), w.by, made.Key.ID, "leaked"))
		if verdict := ask(t, v, made.Secret); verdict.Valid || verdict.Code != client.CodeRevoked {
			t.Fatalf("after the revoke it is %s", verdict.Code)
		}
		if !v.State().InMemory {
			t.Fatal("it does not answer from memory: nothing is shown")
		}
	}
}

// TestVerdict reads all facts of a key.
func TestVerdict(t *testing.T) {
	t.Parallel()
	w := setup(t)
	v := w.open(t, w.key(t, holding(domain.ScopeKeysVerify)))
	ends := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Microsecond)
	made := w.key(t, func(c *commands.CreateKey) {
		c.Scopes, c.ExpiresAt, c.Metadata = []string{"orders:*"}, &ends, []byte(`{"team": "pay"}`)
	})
	k := made.Key
	w.has(t, v, 3)
	got := ask(t, v, made.Secret, "orders:read")
	want := client.Verdict{
		Valid: true, Code: client.CodeValid, Status: client.StatusActive, Generation: 1, OrganizationID: string(k.OrganizationID),
		ProjectID: string(k.ProjectID), EnvironmentID: string(k.EnvironmentID), Name: "ci", Scopes: client.ScopesOf([]string{"orders:*"}),
		Metadata: `{"team":"pay"}`, ExpiresAt: ends, KeyID: got.KeyID, LineageID: got.LineageID,
	}
	if diff := cmp.Diff(want, got); diff != "" || got.KeyID.String() != string(k.ID) || got.LineageID.String() != string(k.LineageID) {
		t.Errorf("of %s it says\n%s", k.ID, diff)
	}
	if verdict := ask(t, v, made.Secret, "invoices:read"); verdict.Valid || verdict.Code != client.CodeInsufficientScope {
		t.Errorf("without the scope it says %s", verdict.Code)
	}
	grace := time.Hour
	rotated, err := w.RotateKey(t.Context(), w.by, commands.RotateKey{KeyID: k.ID, Grace: &grace})
	must(t, err)
	var old client.Verdict
	until(t, "it is in grace", func() bool { old = ask(t, v, made.Secret); return old.InGrace() })
	if old.ReplacedBy.String() != string(rotated.Rotated.KeyID) || time.Until(old.GraceExpiresAt) > time.Hour || time.Until(old.GraceExpiresAt) < time.Minute {
		t.Errorf("in grace it is replaced by %s until %s", old.ReplacedBy, old.GraceExpiresAt)
	}
	for _, garbage := range []string{"", "x", "rk_live_" + strings.Repeat("a", 39), strings.Repeat("f", 40)} {
		got, err := v.Verify(t.Context(), client.Request{Secret: client.NewSecret(garbage)})
		if err != nil || !cmp.Equal(got, client.Verdict{Code: client.CodeNotFound}) {
			t.Errorf("of %q it says %+v, %v", garbage, got, err)
		}
	}
}

// TestOwnKey opens verifiers with keys that may not verify, and takes the right away from one that might: from the answer
// on it verifies nothing.
func TestOwnKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	made := w.key(t)
	for what, secret := range map[string]string{
		"no key": "", "garbage": "garbage", "unknown": strings.Repeat("f", 40), "without the scope": w.key(t, holding(domain.ScopeKeysRead)).Secret.Reveal(),
	} {
		v, err := embedded.Open(t.Context(), embedded.Config{DatabaseURL: w.db.URL, Key: client.NewSecret(secret)})
		if v != nil || !errors.Is(err, client.ErrRefused) {
			t.Errorf("with %s: %v", what, err)
		}
	}
	own := w.key(t, holding(domain.ScopeKeysVerify))
	for what, take := range map[string]func() error{
		"its key was narrowed": func() error {
			_, _, err := w.UpdateKey(t.Context(), w.by, domain.UpdateKey{KeyID: own.Key.ID, Scopes: domain.Change[domain.Scopes]{Set: true, Value: domain.Scopes{"other"}}})
			return err
		},
		"its key was revoked": func() error { return w.RevokeKey(t.Context(), w.by, own.Key.ID, "") },
	} {
		own = w.key(t, holding(domain.ScopeKeysVerify))
		v := w.open(t, own)
		if verdict := ask(t, v, made.Secret); !verdict.Valid {
			t.Fatalf("it says %s", verdict.Code)
		}
		must(t, take())
		for _, secret := range []string{made.Secret.Reveal(), "garbage"} {
			if verdict, err := v.Verify(t.Context(), client.Request{Secret: client.NewSecret(secret)}); !errors.Is(err, client.ErrRefused) || verdict.Valid {
				t.Errorf("after %s: %v, %v", what, verdict.Code, err)
			}
		}
		v.Close()
	}
}

// TestG6Walls asks for keys that the own key cannot see: they are not found, and nothing is told of them.
func TestG6Walls(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other, err := w.CreateOrganization(t.Context(), w.by, "other")
	must(t, err)
	project, err := w.CreateProject(t.Context(), w.by, commands.CreateProject{Name: "second"})
	must(t, err)
	near := w.key(t)
	far := w.key(t, func(c *commands.CreateKey) { c.ProjectID = project.ID })
	all := w.open(t, w.key(t, holding(domain.ScopeKeysVerify)))
	some := w.open(t, w.key(t, holding(domain.ScopeKeysVerify), func(c *commands.CreateKey) {
		c.Resources = domain.Resources{domain.ResourceProject: {string(w.tenant.Key.ProjectID)}}
	}))
	nothing := client.Verdict{Code: client.CodeNotFound}
	for _, c := range []struct {
		what      string
		secret    domain.Secret
		all, some bool
	}{{"near", near.Secret, true, true}, {"of another project", far.Secret, true, false}, {"of another organization", other.Secret, false, false}} {
		for v, sees := range map[*embedded.Verifier]bool{all: c.all, some: c.some} {
			if got := ask(t, v, c.secret); got.Valid != sees || !sees && !cmp.Equal(got, nothing) {
				t.Errorf("a key %s: %+v", c.what, got)
			}
		}
	}
}

// TestG7UsesAreCounted verifies and closes: the counts are in Postgres then, of the keys and of the own one.
func TestG7UsesAreCounted(t *testing.T) {
	t.Parallel()
	w := setup(t)
	own, made := w.key(t, holding(domain.ScopeKeysVerify)), w.key(t)
	v := w.open(t, own)
	const n = 1000
	for i := range n {
		if verdict := ask(t, v, made.Secret); !verdict.Valid {
			t.Fatalf("verify %d: %s", i, verdict.Code)
		}
		ask(t, v, made.Secret, "no such scope here", fmt.Sprint(i)) // "*" holds it, so this is a use too
	}
	v.Close()
	pool := w.db.OwnerPool(t)
	projection := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: w.db.Pool(t)}) // as each rekey has one
	for more := true; more; {
		var err error
		more, err = projection.Apply(t.Context())
		must(t, err)
	}
	var count int64
	var ip string
	must(t, pool.QueryRow(t.Context(), "SELECT use_count, host(last_used_ip) FROM key_usage WHERE key_id = $1", made.Key.ID).Scan(&count, &ip))
	if count != 2*n || ip != somewhere.String() {
		t.Errorf("%d uses from %s, want %d from %s", count, ip, 2*n, somewhere)
	}
	must(t, pool.QueryRow(t.Context(), "SELECT use_count FROM key_usage WHERE key_id = $1", own.Key.ID).Scan(&count))
	if count < 1 {
		t.Error("its own key is not in use")
	}
	if verdict, err := v.Verify(t.Context(), client.Request{Secret: client.NewSecret(made.Secret.Reveal())}); !errors.Is(err, client.ErrUnavailable) || verdict.Valid {
		t.Errorf("after its end it says %s, %v", verdict.Code, err)
	}
	var leases int
	must(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM verifier_leases").Scan(&leases))
	if leases != 0 {
		t.Errorf("%d leases are left", leases)
	}
}

// TestNoAllocation verifies from memory: a valid key, one in grace, one that has ended, and garbage.
func TestNoAllocation(t *testing.T) {
	w := setup(t)
	v := w.open(t, w.key(t, holding(domain.ScopeKeysVerify)))
	active, graced, ended := w.key(t), w.key(t), w.key(t)
	grace := time.Hour
	_, err := w.RotateKey(t.Context(), w.by, commands.RotateKey{KeyID: graced.Key.ID, Grace: &grace})
	must(t, err)
	must(t, w.RevokeKey(t.Context(), w.by, ended.Key.ID, ""))
	until(t, "it is in grace", func() bool { return ask(t, v, graced.Secret).InGrace() })
	scopes, resources := []string{"orders:read"}, map[string]string{"app": "com.demo.app"}
	for what, secret := range map[string]string{
		"active": active.Secret.Reveal(), "in grace": graced.Secret.Reveal(), "ended": ended.Secret.Reveal(), "garbage": strings.Repeat("é", 20),
	} {
		request := client.Request{Secret: client.NewSecret(secret), Scopes: scopes, Resources: resources, IP: somewhere}
		// The count is the whole process's, and the verifier also renews, follows and flushes: what the caller
		// allocates is there each time, what they do is not.
		got := math.Inf(1)
		for try := 0; try < 20 && got != 0; try++ {
			got = min(got, testing.AllocsPerRun(1000, func() {
				if _, err := v.Verify(t.Context(), request); err != nil {
					t.Fatal(err)
				}
			}))
		}
		if got != 0 {
			t.Errorf("%s: %v allocations", what, got)
		}
	}
}
