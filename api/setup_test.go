package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/api"
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

// bench is the surface on a real database, wired as cmd/rekey wires it, without NATS and workers.
type bench struct {
	t        testing.TB
	options  options
	store    *eventstore.Store
	reader   *projections.Reader
	commands *commands.Service
	clock    *clock
	logs     *logs
	config   api.Config
	http     *httptest.Server
	tenant   commands.NewTenant // of the first start
	root     *client
}

// options change a bench before it is built.
type options struct {
	db        *dbtest.DB    // nil: a fresh one
	pool      *pgxpool.Pool // nil: one on that database
	now       time.Time     // zero: the real time goes on; else it stands
	configure func(*api.Config)
	commands  func(*commands.Config)
	server    func(*httptest.Server)
}

// setup starts the surface on a fresh database, with the organization and the root key of a first start.
func setup(t testing.TB, o options) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{at: o.now}, logs: &logs{}}
	if o.db == nil && o.pool == nil {
		o.db = dbtest.New(t)
	}
	if o.pool == nil {
		o.pool = o.db.Pool(t)
	}
	b.wire(o)
	b.runStore()
	b.serve(o.server)
	tenant, err := b.commands.Setup(t.Context(), domain.Secret{})
	must(t, err)
	b.tenant, b.root = tenant, b.as(tenant.Secret.Reveal())
	return b
}

// wire builds what cmd/rekey builds for one process.
func (b *bench) wire(o options) {
	t := b.t
	t.Helper()
	b.options = o
	logger := slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.store = eventstore.New(eventstore.Config{Pool: o.pool, Projection: projections.ReadModel{}, Logger: logger, Now: b.clock.Now})
	b.reader = projections.NewReader(o.pool, dbtest.Tenants(t, o.pool))
	guard, err := webhook.NewGuard(nil)
	must(t, err)
	sealer, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize)) // replicas have one
	must(t, err)
	config := commands.Config{
		Store: b.store, Reader: b.reader, Sealer: sealer, CheckURL: guard.CheckURL, Now: b.clock.Now,
		Sender: webhook.NewSender(webhook.SenderConfig{Guard: guard, Now: b.clock.Now}),
		Limits: domain.Limits{MinRotationInterval: time.Hour},
	}
	if o.commands != nil {
		o.commands(&config)
	}
	b.commands = commands.New(config)
	b.config = api.Config{
		Commands: b.commands, Reader: b.reader, Logger: logger,
		Verifier: verifier.New(verifier.Config{
			Reader: b.reader, Now: b.clock.Now, Limiter: projections.NewLimiter(projections.LimiterConfig{Pool: o.pool, Logger: logger}),
		}),
		Version: "test", Now: b.clock.Now, Tail: b.tail, Ready: b.reader.Ping,
	}
	if o.configure != nil {
		o.configure(&b.config)
	}
}

// replica serves the same database once more, as another process does.
func (b *bench) replica() *bench {
	b.t.Helper()
	other := &bench{t: b.t, clock: b.clock, logs: b.logs, tenant: b.tenant}
	other.wire(b.options)
	other.runStore()
	other.serve(nil)
	other.root = other.as(b.tenant.Secret.Reveal())
	return other
}

// count is the number of rows in a table.
func (b *bench) count(table string) int {
	b.t.Helper()
	var n int
	must(b.t, b.options.pool.QueryRow(b.t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

func (b *bench) runStore() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.store.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
}

// serve listens as cmd/rekey does: streams end when the shutdown begins.
func (b *bench) serve(adjust func(*httptest.Server)) {
	base, cut := context.WithCancel(context.Background())
	b.http = httptest.NewUnstartedServer(api.New(b.config))
	b.http.Config.BaseContext = func(net.Listener) context.Context { return base }
	b.http.Config.RegisterOnShutdown(cut)
	b.http.Config.ErrorLog = slog.NewLogLogger(b.config.Logger.Handler(), slog.LevelWarn)
	if adjust != nil {
		adjust(b.http)
	}
	b.http.Start()
	b.t.Cleanup(func() {
		cut()
		b.http.Close()
	})
}

// tail is cmd/rekey's: it waits until the log moves past a position.
func (b *bench) tail(ctx context.Context, after int64) (int64, error) {
	for {
		head, err := b.store.Head(ctx, eventstore.Lifecycle)
		if err != nil || head > after {
			return head, err
		}
		if err := b.store.Wait(ctx, eventstore.Lifecycle, after); err != nil {
			return head, err
		}
	}
}

// head is the number of events so far: what it was before a refusal it must be after it.
func (b *bench) head() int64 {
	b.t.Helper()
	head, err := b.store.Head(b.t.Context(), eventstore.Lifecycle)
	must(b.t, err)
	return head
}

// sweep carries out what is due, as the worker does.
func (b *bench) sweep() {
	b.t.Helper()
	due, err := b.reader.Due(b.t.Context(), b.clock.Now(), 100)
	must(b.t, err)
	for _, outcome := range b.commands.Sweep(b.t.Context(), due) {
		must(b.t, outcome.Err)
	}
}

type fields = map[string]any

// newKey creates a key in the first project and returns what was answered.
func (b *bench) newKey(settings fields) *answer {
	b.t.Helper()
	return b.root.newKeyIn(b.tenant.Key.ProjectID, settings)
}

func (c *client) newKeyIn(project domain.ProjectID, settings fields) *answer {
	c.b.t.Helper()
	body := fields{"project_id": project, "name": "a key"}
	for name, value := range settings {
		body[name] = value
	}
	return c.call("POST", "/v1/api-keys", body).wants(http.StatusCreated)
}

// holding returns a client whose key holds these scopes.
func (b *bench) holding(scopes ...string) *client {
	b.t.Helper()
	return b.as(b.newKey(fields{"name": "caller", "scopes": scopes}).text("key"))
}

// organization is a tenant beside the first one.
type organization struct {
	id          domain.OrganizationID
	project     domain.ProjectID
	environment domain.EnvironmentID
	key         domain.KeyID
	owner       *client
}

func (b *bench) newOrganization(name string) organization {
	b.t.Helper()
	made := b.root.call("POST", "/v1/organizations", fields{"name": name}).wants(http.StatusCreated)
	return organization{
		id: domain.OrganizationID(made.text("id")), project: domain.ProjectID(made.text("project_id")),
		environment: domain.EnvironmentID(made.text("environment_id")), key: domain.KeyID(made.text("key_id")),
		owner: b.as(made.text("key")),
	}
}

// verify asks for a verdict on a secret.
func (b *bench) verify(secret string) *answer {
	b.t.Helper()
	return b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret}).wants(http.StatusOK)
}

// clock stands still at a time, or is the real one.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

// logs holds everything that was logged, from debug up.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// line returns the log line of a request once it is there: it is written after the answer.
func (l *logs) line(t *testing.T, requestID string) fields {
	t.Helper()
	var found fields
	eventually(t, "the log line of "+requestID, func() bool {
		for text := range strings.Lines(l.String()) {
			var line fields
			if json.Unmarshal([]byte(text), &line) == nil && line["request_id"] == requestID && line["msg"] == "request" {
				found = line
			}
		}
		return found != nil
	})
	return found
}

// eventually polls a condition with a deadline.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unknown is a well-formed id of something that does not exist.
func unknown(prefix string) string { return domain.IDs{}.New(prefix, time.Now()) }

// where is an address as text, empty where it is not known.
func where(from netip.Addr) string {
	if !from.IsValid() {
		return ""
	}
	return from.String()
}
