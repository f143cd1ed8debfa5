package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// sqlGaps finds what would let a tenant see, or do, more than it may.
const sqlGaps = `
	WITH relations AS (
		SELECT c.oid, c.oid::regclass::text AS name, c.relkind, c.relispartition, c.relrowsecurity FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
	)
	SELECT name || ' has rows of tenants and no row security' FROM relations
		WHERE relkind IN ('r', 'p') AND NOT relispartition AND NOT relrowsecurity
			AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = oid AND a.attname = 'organization_id')
	UNION ALL
	SELECT name || ' can be read by tenants without row security' FROM relations
		WHERE NOT relrowsecurity AND (has_table_privilege($1, oid, 'SELECT') OR has_any_column_privilege($1, oid, 'SELECT'))
	UNION ALL
	SELECT name || ' can be written by tenants' FROM relations
		WHERE has_table_privilege($1, oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
			OR has_any_column_privilege($1, oid, 'INSERT, UPDATE, REFERENCES')
	UNION ALL
	SELECT r.name || ' has a policy that shows tenants more than their own: ' || p.polname FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
		WHERE (0 = ANY(p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) role WHERE role <> 0 AND pg_has_role($1, role, 'USAGE')))
			AND (p.polcmd <> 'r' OR pg_get_expr(p.polqual, p.polrelid) NOT LIKE '%= NULLIF(current_setting(''rekey.organization''::text, true), ''''::text)%')
	UNION ALL
	SELECT f.oid::regprocedure || ' can be called by tenants' FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
		WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND has_schema_privilege($1, n.oid, 'USAGE')
			AND has_function_privilege($1, f.oid, 'EXECUTE')
			AND f.oid <> 'usage_complete_until()'::regprocedure -- one moment, which is of no tenant
	ORDER BY 1`

func gaps(t *testing.T, q interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}) []string {
	t.Helper()
	rows, err := q.Query(t.Context(), sqlGaps, migrations.TenantRole)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// G6: no table is without the second wall, also none that a later migration makes.
func TestG6WallsHaveNoGaps(t *testing.T) {
	t.Parallel()
	conn := connect(t, dbtest.New(t).URL)
	for _, gap := range gaps(t, conn) {
		t.Error(gap)
	}

	const own = "nullif(current_setting('rekey.organization', true), '')"
	for what, c := range map[string]struct{ sql, gap string }{
		"a table without row security": {"CREATE TABLE later (organization_id text)", "later has rows of tenants"},
		"a table in another schema":    {"CREATE SCHEMA s; CREATE TABLE s.later (organization_id text)", "s.later has rows of tenants"},
		"a grant":                      {"CREATE TABLE later (id text); GRANT SELECT ON later TO rekey_tenant", "later can be read"},
		"a grant on one column":        {"CREATE TABLE later (id text); GRANT SELECT (id) ON later TO rekey_tenant", "later can be read"},
		"a grant to everybody":         {"CREATE TABLE later (id text); GRANT SELECT ON later TO PUBLIC", "later can be read"},
		"a view, which asks as owner":  {"CREATE VIEW later AS SELECT * FROM keys; GRANT SELECT ON later TO rekey_tenant", "later can be read"},
		"a partition by itself":        {"GRANT SELECT ON events_lifecycle TO rekey_tenant", "events_lifecycle can be read"},
		"row security that is off":     {"ALTER TABLE keys DISABLE ROW LEVEL SECURITY", "keys can be read"},
		"a right to write":             {"GRANT UPDATE (name) ON keys TO rekey_tenant", "keys can be written"},
		"a policy too many":            {"CREATE POLICY more ON keys FOR SELECT TO rekey_tenant USING (true)", "keys has a policy"},
		"a policy for everybody":       {"CREATE POLICY more ON keys FOR SELECT USING (true)", "keys has a policy"},
		"a policy for writing":         {"CREATE POLICY more ON keys TO rekey_tenant USING (organization_id = " + own + ")", "keys has a policy"},
		"a function":                   {"CREATE FUNCTION later() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM keys'", "later() can be called"},
		"a table with its wall": {"CREATE TABLE later (organization_id text); ALTER TABLE later ENABLE ROW LEVEL SECURITY; GRANT SELECT ON later TO rekey_tenant;" +
			"CREATE POLICY service ON later TO rekey_app USING (true) WITH CHECK (true);" +
			"CREATE POLICY tenant ON later FOR SELECT TO rekey_tenant USING (organization_id = " + own + ")", ""},
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), c.sql); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if found := gaps(t, tx); len(found) > 0 != (c.gap != "") || c.gap != "" && !strings.HasPrefix(found[0], c.gap) {
			t.Errorf("%s: found %q, want %q", what, found, c.gap)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// fill puts one row of the organization "a" into every table and returns their names.
func fill(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "SELECT make_series_partitions('2026-03-01')"); err != nil { // for the day that all rows are of
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), `SELECT c.relname, array_agg(a.attname ORDER BY a.attnum),
			array_agg(CASE WHEN a.attname = 'id' OR a.attname LIKE '%\_id' THEN 'a' ELSE '' END ORDER BY a.attnum),
			array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'goose_db_version'
			AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = '' AND NOT a.atthasdef
		GROUP BY c.relname ORDER BY c.relname`)
	if err != nil {
		t.Fatal(err)
	}
	type table struct {
		name                   string
		columns, values, types []string
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v table, err error) {
		return v, row.Scan(&v.name, &v.columns, &v.values, &v.types)
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range tables {
		insert := func(text string) error {
			values := slices.Clone(v.values)
			for i, kind := range v.types {
				switch {
				case kind == "text" && values[i] == "":
					values[i] = text
				case kind == "timestamp with time zone":
					values[i] = "2026-03-01"
				case kind == "json", kind == "jsonb":
					values[i] = "{}"
				case kind == "inet":
					values[i] = "192.0.2.1"
				case kind == "text[]":
					values[i] = "{}"
				case kind != "text" && values[i] == "":
					values[i] = "1" // a number, a boolean, or bytes
				}
				values[i] = "'" + values[i] + "'"
			}
			_, err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", v.name, strings.Join(v.columns, ", "), strings.Join(values, ", ")))
			return err
		}
		// States must be one of a table's own.
		if err := errors.Join(insert("pending"), insert("delivering"), insert("closed"), insert("grace"), insert("completed"), insert("sealed"), insert("rate")); err != nil && count(t, conn, v.name) == 0 {
			t.Fatalf("fill %s: %v", v.name, err)
		}
		names = append(names, v.name)
	}
	return names
}

// count returns how many rows a role sees, or -1 if it may not look.
func count(t *testing.T, conn *pgx.Conn, table string) int {
	t.Helper()
	var n int
	err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
		return -1
	}
	if err != nil {
		t.Fatalf("%s: %v", table, err)
	}
	return n
}

// G6: the tenants' role sees rows of the organization that is set and nothing else: without one, nothing at all. It cannot
// write, has no way to sealed secrets and cannot call what runs with the owner's rights.
func TestG6TenantRole(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner, tenant, service := connect(t, db.URL), connect(t, db.URL), connect(t, db.URL)
	tables := fill(t, owner)
	if err := migrations.AsRole(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	// Only the role, without the connection's own rule that nothing is written.
	if _, err := tenant.Exec(t.Context(), "SET ROLE "+migrations.TenantRole); err != nil {
		t.Fatal(err)
	}
	enter := func(organization string) {
		t.Helper()
		if _, err := tenant.Exec(t.Context(), "SELECT set_config('rekey.organization', $1, false)", organization); err != nil {
			t.Fatal(err)
		}
	}
	visible := func() (seen []string) {
		t.Helper()
		for _, table := range tables {
			if count(t, tenant, table) > 0 {
				seen = append(seen, table)
			}
		}
		return seen
	}

	if seen := visible(); len(seen) > 0 {
		t.Errorf("before any organization was set: %v", seen)
	}
	own := []string{"environments", "events", "grace_usage", "keys", "organizations", "projects", "rotations", "usage_days", "usage_hours", "webhook_attempts", "webhook_deliveries", "webhook_endpoints"}
	enter("a")
	seen := visible()
	for _, table := range own {
		if !slices.Contains(seen, table) {
			t.Errorf("its own %s cannot be seen", table)
		}
	}
	for _, organization := range []string{"", "b", "A", "a ", "%"} {
		enter(organization)
		if seen := visible(); len(seen) > 0 {
			t.Errorf("as %q: %v", organization, seen)
		}
	}

	for _, table := range tables {
		if n := count(t, owner, table); n == 0 {
			t.Errorf("%s is empty, so nothing was shown about it", table)
		}
		// The walls are for tenants: the service sees what it saw.
		if n := count(t, service, table); n != count(t, owner, table) {
			t.Errorf("the service sees %d rows in %s", n, table)
		}
	}
	enter("a")
	for _, table := range []string{"streams", "due_work", "endpoint_secrets", "endpoint_certificates", "pending_secrets"} {
		if n := count(t, tenant, table); n != -1 {
			t.Errorf("%s can be read", table)
		}
		if _, err := owner.Exec(t.Context(), "GRANT SELECT ON "+table+" TO "+migrations.TenantRole); err != nil {
			t.Fatal(err)
		}
		if n := count(t, tenant, table); n != 0 {
			t.Errorf("granted by mistake, %s shows %d rows", table, n)
		}
	}
	for what, sql := range map[string]string{
		"insert": "INSERT INTO organizations (id, name, created_at) VALUES ('b', 'b', now())",
		"update": "UPDATE keys SET state = 'active'", "delete": "DELETE FROM keys", "truncate": "TRUNCATE keys", "lock": "SELECT FROM keys FOR UPDATE",
		"append":     "SELECT append_events(1::smallint, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
		"move heads": "SELECT move_heads('{}', '{}', '{}', 1::smallint, '{}', '{}', '{}')",
		"a table":    "CREATE TABLE mine (id int)", "jobs": "SELECT * FROM river.river_job", "a partition": "SELECT * FROM events_lifecycle",
	} {
		_, err := tenant.Exec(t.Context(), sql)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "42501" {
			t.Errorf("%s: got %v, want that it is not allowed", what, err)
		}
	}
}

// A connection of the service's login, which owns nothing, can become one for tenants, and that one only reads.
func TestAsTenant(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	user := login(t, "")
	nobody := connect(t, as(t, db.URL, user))
	if err := migrations.AsTenant(t.Context(), nobody); err == nil || !strings.Contains(err.Error(), "GRANT "+migrations.Role) {
		t.Errorf("without the role: got %v, want an error that says what to grant", err)
	}
	exec(t, db.URL, "GRANT "+migrations.Role+" TO "+user)
	conn := connect(t, as(t, db.URL, user))
	if err := migrations.AsTenant(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	var got [2]string
	if err := conn.QueryRow(t.Context(), "SELECT current_user, current_setting('transaction_read_only')").Scan(&got[0], &got[1]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([2]string{migrations.TenantRole, "on"}, got); diff != "" {
		t.Error(diff)
	}
}
