package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

var fresh atomic.Int64

// empty returns the URL of a database without anything in it. (The server's roles are there: roles belong to the cluster.)
func empty(t *testing.T, owner string) string {
	t.Helper()
	db := dbtest.New(t)
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s_fresh_%d", strings.TrimPrefix(u.Path, "/"), fresh.Add(1))
	create := "CREATE DATABASE " + name + " TEMPLATE template0"
	if owner != "" {
		create += " OWNER " + owner
	}
	exec(t, db.URL, create)
	t.Cleanup(func() { exec(t, db.URL, "DROP DATABASE "+name+" WITH (FORCE)") })
	u.Path = "/" + name
	return u.String()
}

func exec(t *testing.T, databaseURL string, statements ...string) {
	t.Helper()
	conn := connect(t, databaseURL)
	for _, sql := range statements {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	_ = conn.Close(context.Background())
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// schema tells everything that migrations made, with the rows of their own books.
func schema(t *testing.T, databaseURL string) string {
	t.Helper()
	const sql = `SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (
		SELECT format('%s.%s %s %s %s', n.nspname, c.relname, c.relkind, r.rolname, c.relacl) AS line
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
			WHERE n.nspname IN ('public', 'river')
		UNION ALL SELECT format('%s %s %s', p.oid::regprocedure, p.proconfig, p.proacl) FROM pg_proc p
			JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('public', 'river')
		UNION ALL SELECT format('%s.%s %s %s', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attacl) FROM pg_attribute a
			JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname IN ('public', 'river') AND a.attnum > 0) s`
	var text string
	if err := connect(t, databaseURL).QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestUp(t *testing.T) {
	t.Parallel()

	t.Run("BringsAFreshDatabaseUpAndDoesNothingAgain", func(t *testing.T) {
		t.Parallel()
		databaseURL := empty(t, "")
		for range 2 { // asking leaves nothing behind that would change the answer
			if err := migrations.Pending(t.Context(), databaseURL); !errors.Is(err, migrations.ErrPending) {
				t.Errorf("before: got %v, want ErrPending", err)
			}
		}
		if err := migrations.Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		first := schema(t, databaseURL)
		if err := migrations.Pending(t.Context(), databaseURL); err != nil {
			t.Errorf("after: %v", err)
		}
		if err := migrations.Up(t.Context(), databaseURL); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, schema(t, databaseURL)); diff != "" {
			t.Errorf("the second run changed something:\n%s", diff)
		}
		for _, table := range []string{"public.events", "public.keys", "public.webhook_deliveries", "river.river_job"} {
			if !strings.Contains(first, table+" ") {
				t.Errorf("there is no %s", table)
			}
		}
	})

	// Replicas that start together all try; so do those of other installations on the same cluster.
	t.Run("MayBeCalledByManyAtATime", func(t *testing.T) {
		t.Parallel()
		var urls []string
		for range 3 {
			urls = append(urls, empty(t, ""))
		}
		var callers sync.WaitGroup
		for _, databaseURL := range urls {
			for range 2 {
				callers.Go(func() {
					if err := migrations.Up(context.Background(), databaseURL); err != nil {
						t.Errorf("up: %v", err)
					}
				})
			}
		}
		callers.Wait()
		for _, databaseURL := range urls {
			if err := migrations.Pending(t.Context(), databaseURL); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("WorksForAnOwnerWhoIsNoSuperuser", func(t *testing.T) {
		t.Parallel()
		owner := login(t, "CREATEROLE")
		databaseURL := empty(t, owner)
		// The role exists, because the server has seen other databases. Had this owner made it, Postgres 16 and later would
		// have given the right to grant it, and not the right to use it; before, every maker of roles may grant it.
		var server int
		if err := connect(t, databaseURL).QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&server); err != nil {
			t.Fatal(err)
		}
		if server >= 160000 {
			exec(t, databaseURL, "GRANT "+migrations.Role+" TO "+owner+" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
		}
		if err := migrations.Up(t.Context(), as(t, databaseURL, owner)); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Pending(t.Context(), as(t, databaseURL, owner)); err != nil {
			t.Error(err)
		}
	})

	t.Run("WorksForAMemberOfTheRoleWhoMayNotGrantIt", func(t *testing.T) {
		t.Parallel()
		owner := login(t, "")
		databaseURL := empty(t, owner)
		exec(t, databaseURL, "GRANT "+migrations.Role+" TO "+owner)
		if err := migrations.Up(t.Context(), as(t, databaseURL, owner)); err != nil {
			t.Error(err)
		}
	})

	t.Run("SaysWhatIsMissing", func(t *testing.T) {
		t.Parallel()
		databaseURL := empty(t, "")
		nobody := login(t, "")
		err := migrations.Up(t.Context(), as(t, databaseURL, nobody))
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" || !strings.HasPrefix(err.Error(), "migrate rekey's tables: ") {
			t.Errorf("without rights: got %v", err)
		}
		// An owner who is no member of the service's role gets all but the last step.
		owner := login(t, "")
		databaseURL = empty(t, owner)
		err = migrations.Up(t.Context(), as(t, databaseURL, owner))
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" || !strings.Contains(err.Error(), migrations.Role) {
			t.Errorf("without the role: got %v", err)
		}
		exec(t, databaseURL, "GRANT "+migrations.Role+" TO "+owner) // what the error asks for
		if err := migrations.Up(t.Context(), as(t, databaseURL, owner)); err != nil {
			t.Errorf("going on: %v", err)
		}
	})

	t.Run("FailsSoonWithoutAServer", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		const nowhere = "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable"
		if err := migrations.Up(t.Context(), nowhere); err == nil || !strings.HasPrefix(err.Error(), "connect to the database: ") {
			t.Errorf("up: got %v", err)
		}
		if err := migrations.Pending(t.Context(), nowhere); err == nil || errors.Is(err, migrations.ErrPending) {
			t.Errorf("pending: got %v", err)
		}
		if err := migrations.Up(t.Context(), "no url"); err == nil {
			t.Error("a bad URL was taken")
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestPending(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"Ours":   "DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)",
		"Rivers": "DELETE FROM river.river_migration WHERE version = (SELECT max(version) FROM river.river_migration)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.New(t)
			exec(t, db.URL, sql)
			if err := migrations.Pending(t.Context(), db.URL); !errors.Is(err, migrations.ErrPending) {
				t.Errorf("got %v, want ErrPending", err)
			}
		})
	}

	// The service asks with its own login, which owns nothing.
	t.Run("CanBeAskedByTheServicesLogin", func(t *testing.T) {
		t.Parallel()
		db := dbtest.New(t)
		service := login(t, "")
		exec(t, db.URL, "GRANT "+migrations.Role+" TO "+service)
		if err := migrations.Pending(t.Context(), as(t, db.URL, service)); err != nil {
			t.Errorf("migrated: %v", err)
		}
		exec(t, db.URL, "DELETE FROM goose_db_version WHERE version_id > 0")
		if err := migrations.Pending(t.Context(), as(t, db.URL, service)); !errors.Is(err, migrations.ErrPending) {
			t.Errorf("not migrated: got %v, want ErrPending", err)
		}
	})
}

// login makes a role that may connect and little else.
func login(t *testing.T, rights string) string {
	t.Helper()
	db := dbtest.New(t)
	name := fmt.Sprintf("%s_login_%d", strings.TrimPrefix(mustParse(t, db.URL).Path, "/"), fresh.Add(1))
	exec(t, db.URL, "CREATE ROLE "+name+" LOGIN PASSWORD 'test' "+rights)
	t.Cleanup(func() { exec(t, db.URL, "DROP ROLE "+name) })
	return name
}

// as returns the URL with another login.
func as(t *testing.T, databaseURL, user string) string {
	u := mustParse(t, databaseURL)
	u.User = url.UserPassword(user, "test")
	return u.String()
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Functions that run with the owner's rights look only where the owner put things, temporary tables last, and are not for
// everybody.
func TestFunctionsOfTheOwner(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	rows, err := connect(t, db.URL).Query(t.Context(), `SELECT oid::regprocedure::text, proconfig, has_function_privilege('public', oid, 'EXECUTE')
		FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	var name string
	var config []string
	var public bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &config, &public}, func() error {
		count++
		if public || len(config) == 0 || config[0] != "search_path=public, pg_temp" {
			t.Errorf("%s: settings %q, for everybody: %v", name, config, public)
		}
		return nil
	}); err != nil || count != 8 {
		t.Errorf("%d functions, %v", count, err)
	}
}

// Every partition has the indexes of the log, those that are made later too.
func TestPartitionsHaveTheIndexes(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	conn := connect(t, db.URL)
	if _, err := conn.Exec(t.Context(), `INSERT INTO events VALUES (1, 25000000, '', '', 1, '', '', '', 1, now(), '', '', '{}'); SELECT ensure_partitions()`); err != nil {
		t.Fatal(err)
	}
	var partitions, wrong int
	if err := conn.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE
			(SELECT count(*) FROM pg_index i WHERE i.indrelid = p.relid AND i.indisvalid) <> 3 OR
			(SELECT count(*) FROM pg_attribute a WHERE a.attrelid = p.relid AND a.attnum > 0 AND NOT a.attnotnull) <> 0)
		FROM pg_partition_tree('events') p WHERE isleaf`).Scan(&partitions, &wrong); err != nil || partitions != 6+2 || wrong != 0 {
		t.Errorf("%d partitions, %d without all indexes and constraints, %v", partitions, wrong, err)
	}
}
