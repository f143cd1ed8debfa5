package eventstore_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// bundle is a running store on a fresh database.
type bundle struct {
	store *eventstore.Store
	pool  *pgxpool.Pool // with the service's rights
	owner *pgxpool.Pool
	db    *dbtest.DB
}

func setup(t *testing.T, adjust ...func(*eventstore.Config)) *bundle {
	t.Helper()
	b := setupIdle(t)
	b.store = b.another(t, adjust...)
	return b
}

// setupIdle makes the database and no store.
func setupIdle(t *testing.T) *bundle {
	t.Helper()
	db := dbtest.New(t)
	return &bundle{db: db, pool: db.Pool(t), owner: db.OwnerPool(t)}
}

// another starts one more store on the same database, as another replica would.
func (b *bundle) another(t *testing.T, adjust ...func(*eventstore.Config)) *eventstore.Store {
	t.Helper()
	store := b.idle(adjust...)
	run(t, store)
	return store
}

// idle makes a store that has not been started: commands wait.
func (b *bundle) idle(adjust ...func(*eventstore.Config)) *eventstore.Store {
	cfg := eventstore.Config{Pool: b.pool}
	for _, f := range adjust {
		f(&cfg)
	}
	return eventstore.New(cfg)
}

// run starts a store and returns what stops it, which may be called again.
func run(t *testing.T, store *eventstore.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// poolNamed returns a pool with the service's rights whose connections the database knows by name.
func (b *bundle) poolNamed(t *testing.T, name string, adjust ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(b.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	config.AfterConnect = migrations.AsRole
	config.ConnConfig.RuntimeParams["application_name"] = name
	for _, f := range adjust {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// connect returns a connection of its own with the service's rights.
func (b *bundle) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), b.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if err := migrations.AsRole(context.Background(), conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

// exec runs a statement as the owner.
func (b *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.owner.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the single value of a query, as the owner.
func one[T any](t *testing.T, b *bundle, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := b.owner.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// contents is everything that a command could have changed, as text.
func (b *bundle) contents(t *testing.T) string {
	t.Helper()
	return one[string](t, b, `SELECT coalesce((SELECT string_agg(s::text, E'\n' ORDER BY stream_id) FROM streams s), '') || E'\n--\n' ||
		coalesce((SELECT string_agg(e::text, E'\n' ORDER BY lane, position) FROM events e), '')`)
}

// checkLog asserts what must hold for every log: positions 1..n without a hole, versions of each stream 1..n in the order
// of the positions, and heads that agree.
func (b *bundle) checkLog(t *testing.T) {
	t.Helper()
	for what, sql := range map[string]string{
		"positions that are not 1..n": `SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM events
			WHERE lane = 1) p WHERE position <> n`,
		"versions out of order": `SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY stream_id ORDER BY position) AS n
			FROM events WHERE lane = 1) v WHERE version <> n`,
		"heads that differ from the log": `SELECT count(*) FROM streams s FULL JOIN
			(SELECT stream_id, max(version) AS version FROM events GROUP BY stream_id) e USING (stream_id)
			WHERE s.version IS DISTINCT FROM e.version`,
	} {
		if n := one[int](t, b, sql); n != 0 {
			t.Errorf("the log has %d %s", n, what)
		}
	}
	b.checkLinks(t)
}

// until polls a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	end := time.Now().Add(deadline)
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// deadline is far more than anything here takes.
const deadline = 10 * time.Second

var ids domain.IDs

func newID(prefix string) string { return ids.New(prefix, time.Now()) }

// touch decides one event on each stream, whether it exists or not. The label stands in the log as the request id. What it
// decides depends on the state it was shown, so that checkLog can tell whether that was the true one.
func touch(label string, streams ...string) eventstore.Command {
	return eventstore.Command{
		Writes: streams, Actor: domain.ActorSetup, RequestID: label,
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			return eventsFor(view, label, streams...), nil
		},
	}
}

// begin decides the first event of each stream and does not name it.
func begin(label string, streams ...string) eventstore.Command {
	c := touch(label, streams...)
	c.Writes = nil
	return c
}

func eventsFor(view eventstore.View, label string, streams ...string) []domain.Decided {
	names := map[string]string{}
	var out []domain.Decided
	for _, id := range streams {
		if _, again := names[id]; !again {
			names[id] = nameOf(view[id])
		}
		name := link(names[id], label)
		names[id] = name
		d := domain.Decided{StreamID: id, OrganizationID: "org_test", ProjectID: "proj_test"}
		switch domain.StreamKind(id) {
		case domain.PrefixLineage:
			d.Data = domain.Updated{Changed: seen(view, streams), Settings: domain.Settings{Name: name}}
		case domain.PrefixProject:
			d.Data = domain.ProjectCreated{Name: name}
		case domain.PrefixEndpoint:
			d.Data = domain.EndpointCreated{URL: name}
		default:
			d.Data = domain.OrganizationCreated{Name: name}
		}
		out = append(out, d)
	}
	return out
}

// seen lists what a decision saw of streams that it only reads.
func seen(view eventstore.View, writes []string) []string {
	out := []string{"name"}
	for id, state := range view {
		if !slices.Contains(writes, id) {
			out = append(out, id+"="+nameOf(state))
		}
	}
	slices.Sort(out)
	return out
}

// link is the next name of a stream: it follows from the one before and from who asks.
func link(before, label string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(before + " " + label))
	return fmt.Sprintf("%s %x", label, h.Sum64())
}

func nameOf(state domain.State) string {
	switch s := state.(type) {
	case *domain.Lineage:
		return s.Settings.Name
	case *domain.Project:
		return s.Name
	case *domain.Endpoint:
		return s.URL
	case *domain.Organization:
		return s.Name
	}
	return ""
}

// checkLinks asserts that each event of touch was decided on what the events before it made of the streams that it wrote or
// read, and that the stored states are what the log folds into.
func (b *bundle) checkLinks(t *testing.T) {
	t.Helper()
	states := map[string]domain.State{}
	after := int64(0)
	for {
		records, err := eventstore.ReadLane(t.Context(), b.owner, eventstore.Lifecycle, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			after = r.Position
			state := states[r.StreamID]
			if state == nil {
				if state, err = domain.NewState(r.StreamID); err != nil {
					t.Fatal(err)
				}
				states[r.StreamID] = state
			}
			if updated, ok := r.Data.(domain.Updated); ok {
				for _, read := range updated.Changed {
					if id, name, ok := strings.Cut(read, "="); ok && nameOf(states[id]) != name {
						t.Errorf("position %d was decided on %q, but %s said %q", r.Position, name, id, nameOf(states[id]))
					}
				}
			}
			want := link(nameOf(state), r.RequestID)
			if state.Apply(r.Event); r.RequestID != "raw" && nameOf(state) != want {
				t.Errorf("position %d, version %d of %s was decided on what did not happen: it says %q, want %q",
					r.Position, r.Version, r.StreamID, nameOf(state), want)
			}
		}
		if len(records) == 0 {
			break
		}
	}
	for id, state := range states {
		want, err := domain.EncodeState(state)
		if err != nil {
			t.Fatal(err)
		}
		if got := one[string](t, b, "SELECT state FROM streams WHERE stream_id = $1", id); got != string(want) && got != "{}" {
			t.Errorf("the stored state of %s differs from the fold:\n%s\n%s", id, got, want)
		}
	}
}

// mustExecute runs commands one after the other.
func (b *bundle) mustExecute(t *testing.T, commands ...eventstore.Command) {
	t.Helper()
	for _, c := range commands {
		if _, err := b.store.Execute(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// fill appends n events of as many streams.
func (b *bundle) fill(t *testing.T, n int) {
	t.Helper()
	var commands []eventstore.Command
	for i := range n {
		commands = append(commands, begin(fmt.Sprintf("fill %d", i), newID(domain.PrefixLineage)))
	}
	for _, o := range b.store.ExecuteAll(t.Context(), commands) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
	}
}

func wantCode(t *testing.T, err error, want domain.Code) {
	t.Helper()
	if err == nil || domain.CodeOf(err) != want {
		t.Errorf("got error %v, want code %s", err, want)
	}
}

func positions(records []eventstore.Record) []int64 {
	var out []int64
	for _, r := range records {
		out = append(out, r.Position)
	}
	return out
}
