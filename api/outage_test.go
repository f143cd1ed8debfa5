package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// line is what connects a pool with Postgres. It can be cut and mended.
type line struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

// pool returns a pool on a fresh database whose connections go over the line.
func (l *line) pool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(dbtest.New(t).URL)
	must(t, err)
	config.MaxConns, config.AfterConnect = 8, migrations.AsRole
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, l.join(conn)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func (l *line) join(conn net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		_ = conn.Close()
		return errors.New("the line is cut")
	}
	l.conns = append(l.conns, conn)
	return nil
}

// cut breaks every connection; if it stays down, no new one comes about.
func (l *line) cut(stays bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = stays
	for _, conn := range l.conns {
		_ = conn.Close()
	}
	l.conns = nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// TestStoreGone: without Postgres every route says so and does nothing, the process is alive but not ready, and all works
// again when Postgres is back.
func TestStoreGone(t *testing.T) {
	t.Parallel()
	var wire line
	b := setup(t, options{pool: wire.pool(t), configure: heartbeat(time.Hour)}) // a heartbeat would end the stream too
	made := b.newKey(nil)
	open := b.root.stream(fmt.Sprint("/v1/events?after=", b.head()))
	before := b.head()

	wire.cut(true)
	published().each(func(method, pattern string, o *operation) {
		if o.open() {
			return
		}
		a := b.root.call(method, somePath(pattern, unknown), nil)
		a.refused(http.StatusServiceUnavailable, domain.CodeUnavailable)
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q", o.OperationID, a.header.Get("Retry-After"))
		}
	})
	b.as("").call("GET", "/v1/projects", nil).wants(401) // needs no store
	if ready := b.root.call("GET", "/readyz", nil); ready.header.Get("Retry-After") != "1" {
		ready.refused(http.StatusServiceUnavailable, domain.CodeUnavailable)
	}
	b.root.call("GET", "/healthz", nil).wants(200)
	b.root.call("GET", "/openapi.json", nil).wants(200)
	open.wantEnd()
	refused := b.root.call("POST", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": "in the dark"}).wants(503)
	if line := b.logs.line(t, refused.header.Get("X-Request-Id")); line["level"] != "ERROR" || line["error"] == nil || line["code"] != "unavailable" {
		t.Errorf("logged %v", line)
	}
	if text := string(refused.body); strings.Contains(text, "line is cut") || strings.Contains(text, "dial") {
		t.Errorf("the answer shows the cause: %s", text)
	}

	wire.mend()
	eventually(t, "readiness", func() bool { return b.root.call("GET", "/readyz", nil).status == 200 })
	if after := b.head(); after != before {
		t.Errorf("%d events were appended in the dark", after-before)
	}
	if a := b.verify(made.text("key")); a.text("code") != "VALID" {
		t.Errorf("got %s", a.body)
	}
	b.newKey(nil)
	b.root.call("DELETE", "/v1/api-keys/"+made.text("id"), nil).wants(204)
	if a := b.verify(made.text("key")); a.text("code") != "REVOKED" {
		t.Errorf("got %s", a.body)
	}
}

// TestStoreFlickers cuts the connections again and again under load. What was answered 201 exists, once; what was refused
// with "nothing was done" does not; and an outcome that is not known is said to be not known.
func TestStoreFlickers(t *testing.T) {
	t.Parallel()
	var wire line
	b := setup(t, options{pool: wire.pool(t)})
	var (
		mu      sync.Mutex
		created = map[string]string{} // name to secret
		refused = map[string]bool{}
		unknown int
		group   sync.WaitGroup
	)
	for worker := range 16 {
		group.Go(func() {
			for n := range 40 {
				name := fmt.Sprintf("%d/%d", worker, n)
				a, err := b.root.try("POST", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": name})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				switch {
				case a.status == 201:
					created[name] = a.text("key")
				case a.status == 503 && strings.Contains(string(a.body), "outcome_unknown"):
					if unknown++; a.header.Get("Retry-After") != "" {
						t.Error("a client is told to try again blindly")
					}
				case a.status == 503:
					refused[name] = true
				default:
					t.Errorf("got %d %s", a.status, a.body)
				}
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for cutting := true; cutting; {
		select {
		case <-done:
			cutting = false
		case <-time.After(50 * time.Millisecond):
			wire.cut(false)
		}
	}
	eventually(t, "readiness", func() bool { return b.root.call("GET", "/readyz", nil).status == 200 })

	var names []string
	for _, k := range pages[struct{ Name string }](t, b.root, "/v1/api-keys?limit=500&project_id="+string(b.tenant.Key.ProjectID)) {
		names = append(names, k.Name)
		if refused[k.Name] {
			t.Errorf("%s was refused, but is there", k.Name)
		}
	}
	if slices.Sort(names); len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("a key is there twice")
	}
	for name, secret := range created {
		if _, there := slices.BinarySearch(names, name); !there || b.verify(secret).text("code") != "VALID" {
			t.Errorf("%s was answered 201, but is not there", name)
		}
	}
	if len(created) == 0 || len(refused)+unknown == 0 {
		t.Errorf("nothing was shown: %d created, %d refused, %d unknown", len(created), len(refused), unknown)
	}
	t.Logf("%d created, %d refused, %d unknown", len(created), len(refused), unknown)
}

// breaking is a verifier that panics for one secret, as a fault of ours would.
type breaking struct {
	surface.Verifier
	at string
}

const panicText = "a text that only the log may have"

func (v breaking) Authenticate(ctx context.Context, secret string) (*verifier.Record, error) {
	if secret == v.at {
		panic(panicText)
	}
	return v.Verifier.Authenticate(ctx, secret)
}

func TestPanic(t *testing.T) {
	t.Parallel()
	const secret = "a-secret-that-makes-the-server-panic-0123456789"
	var tails sync.Map
	b := setup(t, options{configure: func(c *api.Config) {
		c.Verifier = breaking{c.Verifier, secret}
		tail := c.Tail
		c.Tail = func(ctx context.Context, after int64) (int64, error) {
			if _, panics := tails.Load("now"); panics {
				panic(panicText)
			}
			return tail(ctx, after)
		}
	}})
	t.Run("IsADullAnswerAndALine", func(t *testing.T) {
		a := b.as(secret).call("GET", "/v1/projects", nil)
		a.refused(http.StatusInternalServerError, domain.CodeInternal)
		if strings.Contains(string(a.body), panicText) || strings.Contains(string(a.body), "goroutine") {
			t.Errorf("the answer shows the cause: %s", a.body)
		}
		line := b.logs.line(t, a.header.Get("X-Request-Id"))
		cause, _ := line["error"].(string)
		if line["level"] != "ERROR" || !strings.Contains(cause, panicText) || !strings.Contains(cause, "outage_test.go") {
			t.Errorf("logged %v", line)
		}
		b.root.call("GET", "/v1/projects", nil).wants(200)
	})
	t.Run("InTheMiddleOfAnAnswerCutsIt", func(t *testing.T) {
		s := b.root.stream("/v1/events")
		s.wantNext("OrganizationCreated")
		tails.Store("now", true)
		b.newKey(nil)
		s.wantEnd()
		if !errors.Is(s.body.Err(), io.ErrUnexpectedEOF) {
			t.Errorf("the stream ended as if all was well: %v", s.body.Err())
		}
		line := b.logs.line(t, s.id)
		if cause, _ := line["error"].(string); line["level"] != "ERROR" || !strings.Contains(cause, panicText) {
			t.Errorf("logged %v", line)
		}
	})
	if strings.Contains(b.logs.String(), secret) {
		t.Error("the log has the secret")
	}
}
