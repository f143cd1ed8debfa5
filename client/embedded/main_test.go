package embedded_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/client/embedded"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// world is a rekey that carries out commands, and the organization that asks for them.
type world struct {
	*commands.Service
	db     *dbtest.DB
	reader *projections.Reader
	by     commands.By
	tenant commands.NewTenant
}

func setup(t testing.TB) *world {
	t.Helper()
	db := dbtest.New(t)
	pool := db.Pool(t)
	w := &world{db: db, reader: projections.NewReader(pool, dbtest.Tenants(t, pool))}
	store := eventstore.New(eventstore.Config{Pool: db.Pool(t), Projection: projections.ReadModel{}})
	sealer, err := seal.New(seal.NewKey())
	must(t, err)
	guard, err := webhook.NewGuard(nil)
	must(t, err)
	w.Service = commands.New(commands.Config{
		Store: store, Reader: w.reader, Sealer: sealer, CheckURL: guard.CheckURL, Limits: domain.Limits{MinRotationInterval: time.Second},
		Barrier: verifier.NewBarrier(verifier.BarrierConfig{Pool: pool}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := store.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	w.tenant, err = w.Setup(t.Context(), domain.Secret{})
	must(t, err)
	w.by = commands.By{Caller: w.tenant.Key.Caller(), RequestID: "req_test"}
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key makes a key.
func (w *world) key(t testing.TB, adjust ...func(*commands.CreateKey)) commands.CreatedKey {
	t.Helper()
	c := commands.CreateKey{ProjectID: w.tenant.Key.ProjectID, Name: "ci"}
	for _, f := range adjust {
		f(&c)
	}
	made, err := w.CreateKey(t.Context(), w.by, c)
	must(t, err)
	return made
}

func holding(scopes ...string) func(*commands.CreateKey) {
	return func(c *commands.CreateKey) { c.Scopes = scopes }
}

// open opens a verifier on behalf of a key, and waits until it answers from memory.
func (w *world) open(t testing.TB, key commands.CreatedKey) *embedded.Verifier {
	t.Helper()
	v, err := embedded.Open(t.Context(), embedded.Config{DatabaseURL: w.db.URL, Key: client.NewSecret(key.Secret.Reveal())})
	must(t, err)
	t.Cleanup(v.Close)
	until(t, "it answers from memory", func() bool { return v.State().InMemory })
	return v
}

// has waits until a key is in memory.
func (w *world) has(t testing.TB, v *embedded.Verifier, keys int) {
	t.Helper()
	until(t, "the keys are in memory", func() bool { return v.State().Keys == keys })
}

var somewhere = netip.MustParseAddr("203.0.113.7")

// ask verifies a secret.
func ask(t testing.TB, v client.Verifier, secret domain.Secret, scopes ...string) client.Verdict {
	t.Helper()
	verdict, err := v.Verify(context.Background(), client.Request{Secret: client.NewSecret(secret.Reveal()), Scopes: scopes, IP: somewhere})
	must(t, err)
	return verdict
}

// until waits for a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within five minutes", what)
		}
	}
}
