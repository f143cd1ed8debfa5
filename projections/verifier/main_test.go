package verifier_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

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

// Leases of these tests are shorter than usual, so that they run out soon.
const (
	ttl    = 1200 * time.Millisecond
	renew  = 200 * time.Millisecond
	margin = 100 * time.Millisecond
)

// world is a replica that carries out commands, and the organization that asks for them.
type world struct {
	*commands.Service
	db      *dbtest.DB
	store   *eventstore.Store
	reader  *projections.Reader
	barrier *verifier.Barrier
	by      commands.By
	tenant  commands.NewTenant
}

func setup(t *testing.T) *world {
	t.Helper()
	db := dbtest.New(t)
	pool := db.Pool(t)
	w := &world{db: db, reader: projections.NewReader(pool, dbtest.Tenants(t, pool))}
	w.store = eventstore.New(eventstore.Config{Pool: db.Pool(t), Projection: projections.ReadModel{}})
	w.barrier = verifier.NewBarrier(verifier.BarrierConfig{Pool: pool, TTL: ttl})
	sealer, err := seal.New(seal.NewKey())
	must(t, err)
	guard, err := webhook.NewGuard(nil)
	must(t, err)
	w.Service = commands.New(commands.Config{
		Store: w.store, Reader: w.reader, Sealer: sealer, CheckURL: guard.CheckURL, Barrier: w.barrier,
		Limits: domain.Limits{MinRotationInterval: time.Second},
	})
	background(t, func(ctx context.Context) { must(t, w.store.Run(ctx)) })
	w.tenant, err = w.Setup(t.Context(), domain.Secret{})
	must(t, err)
	w.by = commands.By{Caller: w.tenant.Key.Caller(), RequestID: "req_test"}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// background runs something until the test ends.
func background(t *testing.T, run func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { run(ctx) })
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

// verifier starts a verifier on a pool and waits until it answers from memory.
func (w *world) verifier(t *testing.T, pool *pgxpool.Pool) (*verifier.Verifier, func()) {
	t.Helper()
	log := eventstore.New(eventstore.Config{Pool: pool})
	v := verifier.New(verifier.Config{Reader: w.reader, Pool: pool, Log: log, TTL: ttl, RenewEvery: renew, Margin: margin, Name: t.Name()})
	stop := background(t, v.Run)
	until(t, "it answers from memory", func() bool { return v.State().Trusted })
	return v, stop
}

// key makes a key.
func (w *world) key(t *testing.T) commands.CreatedKey {
	t.Helper()
	made, err := w.CreateKey(t.Context(), w.by, commands.CreateKey{ProjectID: w.tenant.Key.ProjectID, Name: "ci"})
	must(t, err)
	return made
}

// ask verifies a secret.
func (w *world) ask(t *testing.T, v *verifier.Verifier, secret domain.Secret) verifier.Answer {
	t.Helper()
	answer, err := v.Verify(context.Background(), &projections.VerifyRequest{Reach: projections.ReachOf(w.by.Caller), Secret: secret.Reveal()})
	must(t, err)
	return answer
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// link is a line to Postgres that can be held up: then nothing passes in either direction, and nobody is told.
type link struct {
	mu   sync.Mutex
	open *sync.Cond
	held bool
}

// linked returns a pool whose connections go through a link.
func (w *world) linked(t *testing.T) (*pgxpool.Pool, *link) {
	t.Helper()
	l := &link{}
	l.open = sync.NewCond(&l.mu)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	config := w.db.Pool(t).Config()
	network, address := pgconn.NetworkAddress(config.ConnConfig.Host, config.ConnConfig.Port)
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", listener.Addr().String())
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	must(t, err)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(network, address)
			if err != nil {
				_ = client.Close()
				continue
			}
			go l.carry(client, server)
			go l.carry(server, client)
		}
	}()
	t.Cleanup(func() {
		l.hold(false)
		_ = listener.Close()
		pool.Close()
	})
	return pool, l
}

func (l *link) hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	l.open.Broadcast()
}

func (l *link) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		for l.held {
			l.open.Wait()
		}
		l.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil || err == io.EOF {
			return
		}
	}
}
