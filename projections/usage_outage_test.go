package projections_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

// line stands between a pool and the server, and can be cut.
type line struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	work     sync.WaitGroup

	mu   sync.Mutex
	ends map[net.Conn]bool // all that are open
	down bool
	// lose: when this goes by next, it reaches the server, and when the server has answered it, the connection is cut instead.
	lose []byte
	drop []byte // when this goes by next, the connection is cut before it reaches the server
}

// connectThrough returns a pool of one connection over a line.
func (w *usageWorld) connectThrough(t *testing.T) (*line, *pgxpool.Pool) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener, ends: map[net.Conn]bool{}}
	config, err := pgxpool.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconn.NetworkAddress(config.ConnConfig.Host, config.ConnConfig.Port)
	l.dial = func() (net.Conn, error) { return net.Dial(network, address) }
	config.MaxConns, config.AfterConnect = 1, migrations.AsRole
	config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", listener.Addr().String())
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		pool.Close()
		l.set(true)
		l.work.Wait()
	})
	return l, pool
}

// set cuts the line, or mends it.
func (l *line) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for end := range l.ends {
		_ = end.Close()
	}
	clear(l.ends)
}

func (l *line) loseNextAnswer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = flushSign
}

// Signs by which a line tells what goes by: a flush carries the name of the replica's life, and a projection commits.
var (
	flushSign  = []byte("usage_0")
	commitSign = []byte("commit\x00")
)

// breakNextCommit cuts the connection when a transaction is about to commit, or when it has.
func (l *line) breakNextCommit(before bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before {
		l.drop = commitSign
	} else {
		l.lose = commitSign
	}
}

func (l *line) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		server, err := l.dial()
		if err != nil {
			_ = client.Close()
			continue
		}
		l.mu.Lock()
		l.ends[client], l.ends[server] = true, true
		if l.down {
			_, _ = client.Close(), server.Close()
		}
		l.mu.Unlock()
		losing := make(chan struct{}) // closed when a flush passed whose answer is to be lost
		l.work.Go(func() { l.carry(client, server, func(b []byte) bool { return l.arm(b, losing) && !isCancel(b) }) })
		l.work.Go(func() { l.carry(server, client, func(b []byte) bool { return !isAnswerTo(losing, b) }) })
	}
}

// carry copies from one end to the other as long as pass lets it.
func (l *line) carry(from, to net.Conn, pass func([]byte) bool) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil || !pass(buffer[:n]) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// arm looks whether what is waited for goes by, and whether it may.
func (l *line) arm(b []byte, losing chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.drop != nil && bytes.Contains(b, l.drop) {
		l.drop = nil
		return false
	}
	if l.lose != nil && bytes.Contains(b, l.lose) {
		l.lose = nil
		close(losing)
	}
	return true
}

// isCancel tells a client's request to cancel what another connection does. None gets through: a line that broke lets the
// server work on.
func isCancel(b []byte) bool { return bytes.HasPrefix(b, []byte{0, 0, 0, 16, 4, 210, 22, 46}) }

// isAnswerTo tells the server's word that a statement is done and committed.
func isAnswerTo(losing chan struct{}, b []byte) bool {
	select {
	case <-losing:
		return bytes.Contains(b, []byte("SELECT 1")) || bytes.Contains(b, []byte("COMMIT"))
	default:
		return false
	}
}

// blockedFlushes is how many flushes wait in the server.
func (w *world) blockedFlushes(t *testing.T) int {
	t.Helper()
	return one[int](t, w, `SELECT count(*)::int FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%write_usage%'`)
}

func TestUsageOutage(t *testing.T) {
	t.Parallel()
	key := usedKey(1)

	// Nobody can know whether such a flush was counted. It is sent again under its number, and counted once.
	t.Run("LostAnswerIsNotCountedTwice", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		l, pool := w.connectThrough(t)
		u := w.replica(t, func(c *projections.UsageConfig) { c.Pool = pool })
		at := w.clock.Now()
		for range 3 {
			u.Used(key, fromA, at)
			l.loseNextAnswer()
			if err := u.Flush(t.Context()); err == nil {
				t.Fatal("the answer was not lost")
			}
			u.Used(key, fromA, at.Add(time.Second)) // waits for the next flush
			flushed(t, u)
		}
		w.wantRows(t, map[domain.KeyID]usageRow{key.ID: {"org_a", at.Add(time.Second), addrA, 6}})
		if number := one[int64](t, &w.world, `SELECT number FROM usage_flushes`); number != 6 {
			t.Errorf("%d flushes, want 6", number)
		}
	})

	t.Run("AFlushOfManyEventsIsOne", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		l, pool := w.connectThrough(t)
		u := w.replica(t, func(c *projections.UsageConfig) { c.Pool = pool })
		const keys = 12_000
		for round := range int64(2) {
			for i := range keys {
				u.Used(usedKey(i), fromA, w.clock.Now())
			}
			l.loseNextAnswer()
			if err := u.Flush(t.Context()); err == nil {
				t.Fatal("the answer was not lost")
			}
			flushed(t, u)
			rows := w.rows(t)
			if len(rows) != keys {
				t.Errorf("%d rows, want %d", len(rows), keys)
			}
			for id, r := range rows {
				if r.Count != round+1 {
					t.Fatalf("key %s was counted %d times in %d rounds", id, r.Count, round+1)
				}
			}
		}
		if number := one[int64](t, &w.world, `SELECT number FROM usage_flushes`); number != 4 { // and two without uses
			t.Errorf("%d flushes, want 4", number)
		}
		if n := len(w.lane(t)); n != 2*keys/1000 {
			t.Errorf("%d events, want %d", n, 2*keys/1000)
		}
	})

	// The connection breaks while the server is at work on the flush, and does not notice. The second attempt waits for the
	// first, and adds nothing.
	t.Run("GivenUpAttemptIsNotCountedTwice", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		l, pool := w.connectThrough(t)
		u := w.replica(t, func(c *projections.UsageConfig) { c.Pool = pool })
		at := w.clock.Now()
		u.Used(key, fromA, at)
		flushed(t, u)
		tx, err := w.connect(t).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT FROM usage_flushes FOR UPDATE`); err != nil {
			t.Fatal(err)
		}
		attempts := make(chan error, 1)
		attempt := func() { attempts <- u.Flush(t.Context()) }
		u.Used(key, fromA, at)
		go attempt()
		eventually(t, "the first attempt is blocked", func() bool { return w.blockedFlushes(t) == 1 })
		u.Used(key, fromB, at.Add(time.Second)) // a request does not wait for the database
		l.set(true)
		if err := <-attempts; err == nil {
			t.Fatal("the first attempt was answered")
		}
		l.set(false)
		go attempt()
		eventually(t, "both attempts are blocked", func() bool { return w.blockedFlushes(t) == 2 })
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-attempts; err != nil {
			t.Fatal(err)
		}
		w.wantRows(t, map[domain.KeyID]usageRow{key.ID: {"org_a", at.Add(time.Second), addrB, 3}})
	})

	t.Run("NothingIsLostWhileTheDatabaseIsAway", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		l, pool := w.connectThrough(t)
		u := w.replica(t, func(c *projections.UsageConfig) { c.Pool, c.Every = pool, 5*time.Millisecond })
		stop := run(u)
		at, uses := w.clock.Now(), int64(0)
		count := func() {
			uses++
			u.Used(key, fromA, at.Add(time.Duration(uses)*time.Second))
		}
		for outage := 1; outage <= 2; outage++ {
			count()
			eventually(t, "the use is written", func() bool { return w.rows(t)[key.ID].Count == uses })
			l.set(true)
			count()
			eventually(t, "the outage is in the log", func() bool { return strings.Count(w.logs.String(), "cannot be written") == outage })
			for range 100 {
				count()
			}
			for range 3 { // many attempts, and nothing more to say
				if err := u.Flush(t.Context()); err == nil {
					t.Error("it can be written while the database is away")
				}
			}
			l.set(false)
			eventually(t, "all is written", func() bool { return w.rows(t)[key.ID].Count == uses })
			eventually(t, "its end is in the log", func() bool { return strings.Count(w.logs.String(), "written again") == outage })
		}
		stop()
		if logs := w.logs.String(); strings.Count(logs, "\n") != 4 || strings.Contains(logs, "lost") {
			t.Errorf("of two outages it logs:\n%s", logs)
		}
		w.wantRows(t, map[domain.KeyID]usageRow{key.ID: {"org_a", at.Add(time.Duration(uses) * time.Second), addrA, uses}})
	})

	t.Run("WhatIsLostAtTheEndIsTold", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		l, pool := w.connectThrough(t)
		u := w.replica(t, func(c *projections.UsageConfig) { c.Pool, c.Every = pool, time.Hour })
		l.set(true)
		u.Used(key, fromA, w.clock.Now())
		if err := u.Flush(t.Context()); err == nil {
			t.Fatal("it can be written while the database is away")
		}
		stop := run(u)
		u.Used(key, fromA, w.clock.Now())
		u.Used(usedKey(2), fromA, w.clock.Now())
		stop()
		if logs := w.logs.String(); !strings.Contains(logs, "uses are lost") || !strings.Contains(logs, "uses=3") {
			t.Errorf("it logs:\n%s", logs)
		}
	})
}
