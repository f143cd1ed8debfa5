package commands_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// clock is a clock that stands still until it is moved.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) Now() time.Time       { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *clock) step(d time.Duration) { c.micros.Add(d.Microseconds()) }
func (c *clock) in(d time.Duration) *time.Time {
	at := c.Now().Add(d)
	return &at
}

// replica is one process of rekey, as far as commands go.
type replica struct {
	*commands.Service
	store    *eventstore.Store
	reader   *projections.Reader
	verifier *projections.Verifier
	pool     *pgxpool.Pool // of its commands
	lookups  *pgxpool.Pool // of its reader
	tenants  *pgxpool.Pool // of its reader, for tenants
}

// world is replicas of rekey on a fresh database, with one clock and one master key.
type world struct {
	*replica // the first one
	db       *dbtest.DB
	owner    *pgxpool.Pool
	clock    *clock
	sealer   *seal.Sealer
	joins    atomic.Int64 // transactions that joined several commands
	random   *source
	guard    *webhook.Guard // nil: the public internet
}

func setup(t *testing.T) *world {
	t.Helper()
	db := dbtest.New(t)
	sealer, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{db: db, clock: newClock(), sealer: sealer, random: &source{}}
	// Not dbtest's pool: where scanning is off, Postgres takes the scans of these tests for so dear that it compiles them.
	if w.owner, err = pgxpool.New(context.Background(), db.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.owner.Close)
	w.replica = w.another(t)
	return w
}

// another starts one more replica on the same database.
func (w *world) another(t *testing.T, adjust ...func(*eventstore.Config)) *replica {
	t.Helper()
	lookups := w.db.Pool(t)
	r := w.build(t, w.db.Pool(t), lookups, dbtest.Tenants(t, lookups), adjust...)
	stop := r.start()
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// build makes a replica on pools for its commands and its lookups.
func (w *world) build(t fataler, pool, lookups, tenants *pgxpool.Pool, adjust ...func(*eventstore.Config)) *replica {
	t.Helper()
	guard := w.guard
	if guard == nil {
		guard, _ = webhook.NewGuard(nil) // fails on bad prefixes only
	}
	cfg := eventstore.Config{
		Pool: pool, Projection: projections.ReadModel{}, Now: w.clock.Now, IDs: domain.IDs{Random: w.random},
		Observe: func(commands, _ int, _ time.Duration, _ error) {
			if commands > 1 {
				w.joins.Add(1)
			}
		},
	}
	for _, f := range adjust {
		f(&cfg)
	}
	r := &replica{
		store: eventstore.New(cfg), pool: pool, lookups: lookups, tenants: tenants, reader: projections.NewReader(lookups, tenants),
	}
	r.verifier = projections.NewVerifier(r.reader, w.clock.Now)
	r.Service = commands.New(commands.Config{
		Store: r.store, Reader: r.reader, Sealer: w.sealer, CheckURL: guard.CheckURL, Now: w.clock.Now, Random: w.random,
		Sender: webhook.NewSender(webhook.SenderConfig{Guard: guard, Now: w.clock.Now, Timeout: 5 * time.Second}),
		Limits: domain.Limits{MinRotationInterval: time.Second},
	})
	return r
}

// start runs the replica's store and returns what stops it.
func (r *replica) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.store.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// restart replaces the first replica by a new process, which has nothing in memory.
func (w *world) restart(t fataler) (stop func() error) {
	w.replica = w.build(t, w.replica.pool, w.replica.lookups, w.replica.tenants)
	return w.replica.start()
}

// exec runs a statement as the owner.
func (w *world) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := w.owner.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// fataler is what the helpers need of a test; that of rapid is none of package testing.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// one returns the single value of a query, as the owner.
func one[T any](t fataler, w *world, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := w.owner.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// check asserts that the tables are what the log says.
func (w *world) check(t fataler) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), w.db.URL)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	report, err := projections.Check(context.Background(), conn)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for _, d := range report.Differences {
		t.Errorf("%s row in %s: %s", d.Problem, d.Table, d.Row)
	}
}

// root is the operator of a fresh installation.
func (w *world) root(t fataler) (commands.By, commands.NewTenant) {
	t.Helper()
	tenant, err := w.Setup(context.Background(), domain.Secret{})
	if err != nil {
		t.Fatalf("setup: %v", err)
	}
	return commands.By{Caller: tenant.Key.Caller(), RequestID: "req_test"}, tenant
}

// tenant makes an organization and returns who acts for it.
func (w *world) tenant(t fataler, root commands.By) (commands.By, commands.NewTenant) {
	t.Helper()
	tenant, err := w.CreateOrganization(context.Background(), root, "acme")
	if err != nil {
		t.Fatalf("create an organization: %v", err)
	}
	return commands.By{Caller: tenant.Key.Caller(), RequestID: "req_test"}, tenant
}

// create makes a key that must succeed.
func (w *world) create(t fataler, by commands.By, c commands.CreateKey) commands.CreatedKey {
	t.Helper()
	if c.Name == "" {
		c.Name = "ci"
	}
	created, err := w.CreateKey(context.Background(), by, c)
	if err != nil {
		t.Fatalf("create a key: %v", err)
	}
	return created
}

// sweep carries out all work that is due and returns the events that it made, by key.
func (w *world) sweep(t fataler) {
	t.Helper()
	due, err := w.reader.Due(context.Background(), w.clock.Now(), 1000)
	if err != nil {
		t.Fatalf("read due work: %v", err)
	}
	for i, outcome := range w.Sweep(context.Background(), due) {
		if outcome.Err != nil {
			t.Fatalf("sweep %+v: %v", due[i], outcome.Err)
		}
	}
}

// rotateDue lets the interval of a key pass and sweeps. It returns the rotation that then waits.
func (w *world) rotateDue(t fataler, key *projections.Key) domain.RotationID {
	t.Helper()
	w.clock.step(2 * time.Duration(*key.RotationIntervalSeconds) * time.Second)
	w.sweep(t)
	rotation, _, err := w.reader.WaitingRotation(context.Background(), projections.Reach{Organization: key.OrganizationID}, key.LineageID)
	if err != nil || rotation == "" {
		t.Fatalf("no rotation of %s waits: %v", key.ID, err)
	}
	return rotation
}

// key reads a key.
func (w *world) key(t fataler, by commands.By, id domain.KeyID) *projections.Key {
	t.Helper()
	key, err := w.reader.Key(context.Background(), projections.ReachOf(by.Caller), id)
	if err != nil {
		t.Fatalf("read key %s: %v", id, err)
	}
	return key
}

// verdict verifies a secret as an organization.
func (r *replica) verdict(t fataler, by commands.By, secret domain.Secret) projections.Verdict {
	t.Helper()
	v, err := r.verifier.Verify(context.Background(), projections.VerifyRequest{Reach: projections.ReachOf(by.Caller), Secret: secret.Reveal()})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return v
}

// atOnce is the grace of a rotation that ends the old key now.
var atOnce = new(time.Duration(0))

func wantCode(t fataler, what string, err error, want domain.Code) {
	t.Helper()
	if err == nil || domain.CodeOf(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

// sameRefusal asserts that two refusals cannot be told apart, not even by what only a log would show.
func sameRefusal(t fataler, what string, got, want error) {
	t.Helper()
	a, okA := got.(*domain.Error)
	b, okB := want.(*domain.Error)
	if !okA || !okB || a.Error() != b.Error() || !cmp.Equal(*a, *b, cmp.AllowUnexported(domain.Error{})) {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

// until polls a condition.
func until(t fataler, what string, condition func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// together runs n copies of f at once and waits for them.
func together(n int, f func(i int)) {
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		group.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	group.Wait()
}
