package workers

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

// modelClock stands still until it is moved.
type modelClock struct{ micros atomic.Int64 }

func (c *modelClock) Now() time.Time       { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *modelClock) step(d time.Duration) { c.micros.Add(d.Microseconds()) }

// lifeline is what all connections of a process to its database hang on. Once it is cut, the process is to the database
// what one is that was killed: whatever it had not sent was never said, and whatever it had is carried out or not.
type lifeline struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	cut   bool
	left  int // writes until it is cut; negative: it is not going to be
}

func (l *lifeline) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.conns[conn] = true
	return lifelineConn{conn, l}, nil
}

// kill cuts it now.
func (l *lifeline) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
}

func (l *lifeline) end() {
	l.cut = true
	for conn := range l.conns {
		_ = conn.Close()
	}
	clear(l.conns)
}

// killAfter cuts it after some more writes, which is between any two statements, or between a commit and its answer.
func (l *lifeline) killAfter(writes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = writes
}

func (l *lifeline) dead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

type lifelineConn struct {
	net.Conn
	line *lifeline
}

func (c lifelineConn) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	if c.line.left == 0 {
		c.line.end()
	}
	if c.line.left > 0 {
		c.line.left--
	}
	c.line.mu.Unlock()
	return c.Conn.Write(p) // of a closed connection it fails by itself
}

func (c lifelineConn) Close() error {
	c.line.mu.Lock()
	delete(c.line.conns, c.Conn)
	c.line.mu.Unlock()
	return c.Conn.Close()
}

// process is one process of workers, with a store and connections of its own.
type process struct {
	w    *Workers
	line *lifeline
	stop func() // waits until everything has ended
}

// spawn starts a process.
func (m *model) spawn(t testing.TB) *process {
	t.Helper()
	p := &process{line: &lifeline{conns: map[net.Conn]bool{}, left: -1}}
	var pools []*pgxpool.Pool
	pool := func(as func(context.Context, *pgx.Conn) error) *pgxpool.Pool {
		config := m.pool.Config()
		config.AfterConnect, config.ConnConfig.DialFunc, config.MaxConns = as, p.line.dial, 6
		made, err := pgxpool.NewWithConfig(context.Background(), config)
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, made)
		return made
	}
	store := eventstore.New(eventstore.Config{
		Pool: pool(migrations.AsRole), Projection: projections.ReadModel{}, Now: m.clock.Now, Poll: 5 * time.Millisecond, Linger: time.Millisecond,
	})
	background := pool(migrations.AsRole)
	reader := projections.NewReader(background, pool(migrations.AsTenant))
	sender := webhook.NewSender(webhook.SenderConfig{Guard: m.guard, Now: m.clock.Now, Timeout: time.Second})
	w, err := New(Config{
		Pool: background, Store: store, Reader: reader, Commands: m.commands(store, reader, sender), Sender: sender,
		Logger: slog.New(slog.DiscardHandler), Now: m.clock.Now,
		SweepEvery: 24 * time.Hour, EndpointRate: 1e6, // the test sweeps by itself
		Retry: func(attempts int, retryAfter time.Duration) (time.Duration, bool) {
			return webhook.NextDelay(attempts, retryAfter, func() float64 { return 0.5 })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.w = w
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = store.Run(ctx) })
	running.Go(func() {
		if err := w.Run(ctx); err != nil && !p.line.dead() {
			t.Errorf("the workers ended: %v", err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		cancel()
		if p.line.dead() { // what is under way is not waited for
			cut, done := context.WithTimeout(context.Background(), time.Second)
			defer done()
			_ = w.client.StopAndCancel(cut)
		}
		running.Wait()
		for _, made := range pools {
			made.Close()
		}
		sender.Close()
	})
	return p
}

// commands is a service on a store.
func (m *model) commands(store *eventstore.Store, reader *projections.Reader, sender *webhook.Sender) *commands.Service {
	return commands.New(commands.Config{
		Store: store, Reader: reader, Sealer: m.sealer, CheckURL: m.guard.CheckURL, Sender: sender, PublicURL: "http://127.0.0.1:8080",
		Limits: domain.Limits{MinRotationInterval: time.Second}, Now: m.clock.Now,
	})
}

// bury replaces the processes that were killed. Their ends are waited for when the test ends: nobody else needs them.
func (m *model) bury(t testing.TB) {
	for i, p := range m.processes {
		if p.line.dead() {
			m.killed++
			m.graves.Go(p.stop)
			m.processes[i] = m.spawn(t)
		}
	}
}
