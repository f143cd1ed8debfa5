package workers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

const (
	relayTestToken = "service"
	relayTestWait  = 30 * time.Second
)

// relayBench is a log in Postgres and a NATS server that can be stopped, wiped and started again on the same port.
type relayBench struct {
	db    *dbtest.DB
	store *eventstore.Store
	nats  atomic.Pointer[embedded.NATS]
	cfg   embedded.NATSConfig
	log   relayLog
}

func newRelayBench(t *testing.T) *relayBench {
	t.Helper()
	db := dbtest.New(t) // starts the server that all tests share
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	return relayBenchOn(t, db)
}

func relayBenchOn(t *testing.T, db *dbtest.DB) *relayBench {
	t.Helper()
	b := &relayBench{db: db, cfg: embedded.NATSConfig{
		Addr: "127.0.0.1:0", StoreDir: filepath.Join(t.TempDir(), "nats"), ServiceToken: relayTestToken,
	}}
	b.store = b.newStore(t)
	b.startNATS(t)
	b.cfg.Addr = strings.TrimPrefix(b.nats.Load().URL(), "nats://")
	t.Cleanup(func() { b.nats.Load().Stop() })
	return b
}

// newStore starts a store on the same log, as another process would have.
func (b *relayBench) newStore(t *testing.T) *eventstore.Store {
	t.Helper()
	store := eventstore.New(eventstore.Config{Pool: b.db.Pool(t)})
	relayTestRun(t, store.Run)
	return store
}

func (b *relayBench) startNATS(t *testing.T) {
	t.Helper()
	n, err := embedded.StartNATS(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.nats.Store(n)
}

// connect dials over TCP, as a relay in a process of its own does.
func (b *relayBench) connect() (*nats.Conn, error) {
	return nats.Connect("nats://"+b.cfg.Addr, nats.Token(relayTestToken), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
}

// stream opens a stream with a connection that lasts as long as the server or the test.
func (b *relayBench) stream(t *testing.T, name string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	nc, err := b.nats.Load().Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}

func (b *relayBench) relay(feeds ...Feed) *Relay {
	return b.relayOf(b.store, feeds...)
}

func (b *relayBench) relayOf(store *eventstore.Store, feeds ...Feed) *Relay {
	return NewRelay(RelayConfig{Store: store, Connect: b.connect, Feeds: feeds,
		Logger: slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
}

// relayTestRun runs a part until the returned function or the end of the test stops it.
func relayTestRun(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// append executes commands of one to four events, from several goroutines at once.
func (b *relayBench) append(t *testing.T, commands int) {
	t.Helper()
	var running sync.WaitGroup
	for worker := range 4 {
		running.Go(func() {
			for i := worker; i < commands; i += 4 {
				if _, err := b.store.Execute(context.Background(), relayTestCommand(i)); err != nil {
					t.Errorf("command failed: %v", err)
				}
			}
		})
	}
	running.Wait()
}

func relayTestCommand(i int) eventstore.Command {
	organization := domain.OrganizationID(ids.New(domain.PrefixOrganization, time.Now()))
	return eventstore.Command{
		Actor: domain.ActorSetup, RequestID: fmt.Sprintf("anfrage „%d“", i),
		Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) {
			decided, err := domain.CreateOrganization(organization, fmt.Sprintf("Mandant %d", i))
			if err != nil || i%2 == 0 {
				return decided, err
			}
			project, err := domain.CreateProject(domain.NewProject{
				ID: domain.ProjectID(ids.New(domain.PrefixProject, time.Now())), OrganizationID: organization,
				EnvironmentID: domain.EnvironmentID(ids.New(domain.PrefixEnvironment, time.Now())), Name: "Projekt",
			})
			return append(decided, project...), err
		},
	}
}

func (b *relayBench) head(t *testing.T) int64 {
	t.Helper()
	head, err := b.store.Head(t.Context(), eventstore.Lifecycle)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// wantDense waits until the stream holds the whole log, then compares every message with its record.
func (b *relayBench) wantDense(t *testing.T) {
	t.Helper()
	head := b.head(t)
	stream := b.awaitSequence(t, StreamEvents, uint64(head))
	for position := int64(1); position <= head; position++ {
		records, err := b.store.Read(t.Context(), eventstore.Lifecycle, position-1, 1)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := stream.GetMsg(t.Context(), uint64(position))
		if err != nil {
			t.Fatal(err)
		}
		want := records[0]
		if msg.Header.Get("ce-id") != string(want.ID) || msg.Header.Get(positionHeader) != strconv.FormatInt(position, 10) || !bytes.Equal(msg.Data, want.Raw) {
			t.Fatalf("position %d: got %v %s, want %+v", position, msg.Header, msg.Data, want)
		}
	}
}

// awaitSequence waits until a stream ends with a sequence, and makes sure that it stays so.
func (b *relayBench) awaitSequence(t *testing.T, name string, sequence uint64) jetstream.Stream {
	t.Helper()
	var last error
	var stream jetstream.Stream
	relayTestPoll(t, func() bool {
		nc, err := b.nats.Load().Connect()
		if err != nil {
			last = err
			return false
		}
		js, err := jetstream.New(nc)
		if err == nil {
			stream, err = js.Stream(t.Context(), name)
		}
		if err == nil && stream.CachedInfo().State.LastSeq >= sequence {
			t.Cleanup(nc.Close)
			return true
		}
		nc.Close()
		last = fmt.Errorf("stream %v, error %w", stream, errors.Join(err, last))
		return false
	}, func() string {
		return fmt.Sprintf("stream %s does not reach %d: %v\n%s", name, sequence, last, b.log.String())
	})
	if state := stream.CachedInfo().State; state.LastSeq != sequence || state.Msgs != sequence {
		t.Fatalf("stream %s: got %+v, want %d messages\n%s", name, state, sequence, b.log.String())
	}
	return stream
}

func relayTestPoll(t *testing.T, done func() bool, explain func() string) {
	t.Helper()
	for deadline := time.Now().Add(relayTestWait); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(explain())
		}
	}
}

// awaitStatus waits until the only feed of a relay is in a state.
func awaitStatus(t *testing.T, r *Relay, is func(FeedStatus) bool) FeedStatus {
	t.Helper()
	relayTestPoll(t, func() bool { return is(r.Status()[0]) }, func() string { return fmt.Sprintf("status %+v", r.Status()[0]) })
	return r.Status()[0]
}

func isHalted(s FeedStatus) bool { return s.Halted }

func (b *relayBench) checkpoint(t *testing.T, name string) int64 {
	t.Helper()
	position, err := b.store.Checkpoint(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

// dropOwners ends the database connections that hold an ownership. A store that begins holds such a lock for a moment too, and
// could not begin without it.
func (b *relayBench) dropOwners(t *testing.T) {
	t.Helper()
	var dropped int
	err := b.db.OwnerPool(t).QueryRow(t.Context(), `SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l
		JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
		WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()
			AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.query LIKE '%ensure_partitions%')`).Scan(&dropped)
	if err != nil || dropped == 0 {
		t.Fatalf("dropped %d connections, error %v", dropped, err)
	}
}

// relayLog is a log that the test reads while it is written.
type relayLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *relayLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *relayLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
