package projections_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
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
func (c *clock) moveTo(at time.Time)  { c.micros.Store(at.UnixMicro()) }
func (c *clock) in(d time.Duration) *time.Time {
	at := c.Now().Add(d)
	return &at
}

// world is a running store on a fresh database, with a clock of its own.
type world struct {
	db       *dbtest.DB
	owner    *pgxpool.Pool
	store    *eventstore.Store
	reader   *projections.Reader
	verifier *projections.Verifier
	clock    *clock
}

func setup(t *testing.T) *world {
	t.Helper()
	db, at := dbtest.New(t), newClock()
	w := &world{db: db, owner: ownerPool(t, db), clock: at}
	pool := db.Pool(t)
	w.reader = projections.NewReader(pool, dbtest.Tenants(t, pool))
	w.verifier = projections.NewVerifier(w.reader, at.Now)
	w.store = eventstore.New(eventstore.Config{Pool: db.Pool(t), Projection: projections.ReadModel{}, Now: at.Now})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// ownerPool gives the tests' own statements the owner's rights, and leave to scan tables: where scanning is off, Postgres
// takes a scan for so dear that it compiles the statement first, which takes longer than all else here.
func ownerPool(t *testing.T, db *dbtest.DB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// connect returns a connection with the owner's rights, as the operator's commands have.
func (w *world) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs a statement as the owner.
func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.owner.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the single value of a query, as the owner.
func one[T any](t testing.TB, w *world, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := w.owner.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// check asserts that the tables are what the log says.
func (w *world) check(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	report, err := projections.Check(context.Background(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range report.Differences {
		t.Errorf("%s row in %s: %s", d.Problem, d.Table, d.Row)
	}
}

var ids domain.IDs

func newID[T ~string](w *world, prefix string) T { return T(ids.New(prefix, w.clock.Now())) }

// tenant is an organization with one project and its environment live.
type tenant struct {
	organization domain.OrganizationID
	project      domain.ProjectID
	environment  domain.EnvironmentID
}

func (w *world) tenant(t *testing.T) tenant {
	t.Helper()
	n := tenant{
		newID[domain.OrganizationID](w, domain.PrefixOrganization), newID[domain.ProjectID](w, domain.PrefixProject),
		newID[domain.EnvironmentID](w, domain.PrefixEnvironment),
	}
	w.execute(t, eventstore.Command{Actor: domain.ActorSetup, Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) {
		organization, err := domain.CreateOrganization(n.organization, "acme")
		if err != nil {
			return nil, err
		}
		project, err := domain.CreateProject(domain.NewProject{ID: n.project, OrganizationID: n.organization, EnvironmentID: n.environment, Name: "app"})
		return append(organization, project...), err
	}})
	return n
}

// execute runs a command that must succeed.
func (w *world) execute(t *testing.T, c eventstore.Command) []eventstore.Record {
	t.Helper()
	records, err := w.store.Execute(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// made is a key as its owner has it.
type made struct {
	tenant
	lineage domain.LineageID
	key     domain.KeyID
	secret  domain.Secret
}

// reach is that of a key of the tenant which is not limited to projects.
func (n tenant) reach() projections.Reach { return projections.Reach{Organization: n.organization} }

// create makes a key in a tenant; adjust changes its settings.
func (w *world) create(t *testing.T, n tenant, adjust ...func(*domain.Settings)) made {
	t.Helper()
	m, err := w.tryCreate(n, adjust...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (w *world) tryCreate(n tenant, adjust ...func(*domain.Settings)) (made, error) {
	m := made{tenant: n, lineage: newID[domain.LineageID](w, domain.PrefixLineage), key: newID[domain.KeyID](w, domain.PrefixKey)}
	create := domain.CreateKey{
		LineageID: m.lineage, KeyID: m.key, Caller: domain.System(), Mint: mintInto(&m.secret),
		Settings: domain.Settings{Name: "ci", Scopes: domain.Scopes{domain.ScopeAll}},
	}
	for _, f := range adjust {
		f(&create.Settings)
	}
	create.GraceSet = create.Settings.GraceSeconds != 0
	_, err := w.store.Execute(context.Background(), eventstore.Command{
		Reads: []string{string(n.project)}, Actor: "key_maker",
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			project, err := view.Project(n.project)
			if err != nil {
				return nil, err
			}
			return project.CreateKeyIn(create, domain.Limits{}, now)
		},
	})
	return m, err
}

func mintInto(into *domain.Secret) func(brand, environment string) (domain.Secret, error) {
	return func(brand, environment string) (domain.Secret, error) {
		secret, err := domain.MintSecret(nil, brand, environment)
		*into = secret
		return secret, err
	}
}

// hourly rotates each hour, with half an hour of grace.
func hourly(s *domain.Settings) { s.RotationIntervalSeconds, s.GraceSeconds = 3600, 1800 }

// withWebhook sends new secrets to an endpoint that is made on the fly.
func (w *world) withWebhook(s *domain.Settings) {
	s.WebhookURL, s.EndpointID = "https://example.com/hook", newID[domain.EndpointID](w, domain.PrefixEndpoint)
}

// on decides on one lineage.
func (w *world) on(id domain.LineageID, decide func(*domain.Lineage, time.Time) ([]domain.Decided, error)) ([]eventstore.Record, error) {
	return w.store.Execute(context.Background(), onLineage(id, decide))
}

func onLineage(id domain.LineageID, decide func(*domain.Lineage, time.Time) ([]domain.Decided, error)) eventstore.Command {
	return eventstore.Command{
		Writes: []string{string(id)}, Actor: "key_maker",
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			l, err := view.Lineage(id)
			if err != nil {
				return nil, err
			}
			return decide(l, now)
		},
	}
}

// rotate makes the next generation, acknowledged by its answer.
func (w *world) rotate(t *testing.T, m made, grace time.Duration) made {
	t.Helper()
	next, err := w.tryRotate(m, domain.TriggerManual, grace)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// rotateDue makes the next generation of a key whose interval is over; it waits for its acknowledgment.
func (w *world) rotateDue(t *testing.T, m made) made {
	t.Helper()
	next, err := w.tryRotate(m, domain.TriggerInterval, 0)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func (w *world) tryRotate(m made, trigger domain.Trigger, grace time.Duration) (made, error) {
	next := m
	next.key = newID[domain.KeyID](w, domain.PrefixKey)
	rotate := domain.RotateKey{
		KeyID: m.key, NewKeyID: next.key, RotationID: newID[domain.RotationID](w, domain.PrefixRotation), Trigger: trigger,
		Grace: &grace, Supersede: true, Caller: domain.System(), Mint: mintInto(&next.secret),
	}
	records, err := w.on(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) { return l.Rotate(rotate, now) })
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("key %s was not due", m.key)
	}
	return next, err
}

// acknowledge records that the waiting rotation of a lineage arrived.
func (w *world) acknowledge(t *testing.T, m made) {
	t.Helper()
	_, err := w.on(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Acknowledge(l.WaitingRotation().ID, domain.AckAccepted, now)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) revoke(t *testing.T, m made) {
	t.Helper()
	if err := w.tryRevoke(m); err != nil {
		t.Fatal(err)
	}
}

func (w *world) tryRevoke(m made) error {
	_, err := w.on(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) { return l.Revoke(m.key, "lost", now) })
	return err
}

// together runs n copies of f at once and waits for them.
func together(n int, f func(i int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { f(i) })
	}
	group.Wait()
}
