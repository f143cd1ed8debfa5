// Package dbtest gives tests a real Postgres: one private server per test binary (or the one REKEY_DATABASE_URL names),
// one migrated template database, and a clone of it for each test, in about twenty milliseconds.
//
// A package that uses it has `func TestMain(m *testing.M) { dbtest.Main(m) }`. Where there is no Postgres the tests skip,
// unless REKEY_TEST_REQUIRE=1 makes that a failure.
package dbtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/internal/tooltest"
	"github.com/rekeyhq/rekey/migrations"
)

// DB is the database of one test.
type DB struct {
	// URL connects as the owner; Pool gives connections with the service's rights.
	URL string
}

var (
	server struct {
		once     sync.Once
		admin    string // URL of the maintenance database
		template string
		stop     func()
		err      error
	}
	clones atomic.Int64
)

// Main runs the tests of a package and stops the server afterwards.
func Main(m *testing.M) {
	code := m.Run()
	if server.stop != nil {
		server.stop()
	}
	os.Exit(code)
}

// New returns a fresh, migrated database that is dropped when the test ends.
func New(t testing.TB) *DB {
	t.Helper()
	server.once.Do(start)
	if errors.Is(server.err, embedded.ErrNoPostgres) && !tooltest.Required() {
		t.Skip(server.err)
	}
	if server.err != nil {
		t.Fatal(server.err)
	}
	name := fmt.Sprintf("rekey_test_%d_%d", os.Getpid(), clones.Add(1))
	if err := admin("CREATE DATABASE " + name + " TEMPLATE " + server.template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return &DB{URL: withDatabase(server.admin, name)}
}

// Pool returns a pool with the service's rights that is closed when the test ends.
func (db *DB) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return db.pool(t, migrations.AsRole)
}

// OwnerPool returns a pool with the owner's rights that is closed when the test ends.
func (db *DB) OwnerPool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return db.pool(t, nil)
}

func (db *DB) pool(t testing.TB, after func(context.Context, *pgx.Conn) error) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 12
	config.AfterConnect = after
	config.ConnConfig.RuntimeParams["enable_seqscan"] = "off" // as in production: see cmd/rekey
	config.ConnConfig.RuntimeParams["jit"] = "off"
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Tenants returns a pool that reaches the same database the same way as another one, but only reads what one tenant at a
// time may see. It is closed when the test ends.
func Tenants(t testing.TB, like *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config := like.Config()
	config.AfterConnect = migrations.AsTenant
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// start brings up the server and the template, once per test binary.
func start() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server.admin = os.Getenv("REKEY_DATABASE_URL")
	if server.admin == "" {
		if server.err = startServer(ctx); server.err != nil {
			return
		}
	}
	server.template = fmt.Sprintf("rekey_template_%d", os.Getpid())
	drop := server.stop
	server.stop = func() {
		_ = admin("DROP DATABASE IF EXISTS " + server.template)
		if drop != nil {
			drop()
		}
	}
	if server.err = admin("CREATE DATABASE " + server.template); server.err != nil {
		return
	}
	server.err = migrations.Up(ctx, withDatabase(server.admin, server.template))
}

// startServer starts a private server on a memory disk where there is one.
func startServer(ctx context.Context) error {
	base := os.TempDir()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	sweep(base)
	dir, err := os.MkdirTemp(base, dirPrefix)
	if err != nil {
		return fmt.Errorf("make a folder for the test server: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // the server may run as another user
		return fmt.Errorf("open the folder of the test server: %w", err)
	}
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{Dir: dir, Fast: true, MaxConnections: 300})
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	server.admin = pg.URL("postgres")
	server.stop = func() {
		stopCtx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = pg.Stop(stopCtx)
		_ = os.RemoveAll(dir)
	}
	return nil
}

const dirPrefix = "rekey-tests-"

// sweep removes the folders of test binaries that were killed: those whose server lock nobody holds. A folder that has
// no lock yet is being made, or is too old to be.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, dirPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue // gone, or perhaps just being made
		}
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = lock.Close()
	}
}

// admin runs one statement in the maintenance database.
func admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.admin)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("run %q: %w", statement, err)
	}
	return nil
}

// withDatabase returns the URL with another database.
func withDatabase(raw, name string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	u.Path = "/" + name
	return u.String()
}
