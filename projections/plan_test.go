package projections

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// crowd fills the read model to a realistic size: 10,000 keys of 100 projects, one of which has half of them, 100,000
// pieces of work and as many deliveries that are not due, and 10,000 rotations.
var crowd = []string{
	`INSERT INTO organizations SELECT 'org_' || lpad(i::text, 26, '0'), 'acme', now() FROM generate_series(1, 10000) i`,
	`INSERT INTO projects SELECT 'proj_' || lpad(i::text, 26, '0'), 'org_' || lpad(i::text, 26, '0'), 'app', 'rk', now() FROM generate_series(1, 10000) i`,
	`INSERT INTO environments SELECT 'env_' || lpad(i::text, 26, '0'), 'org_' || lpad(i::text, 26, '0'), 'proj_' || lpad(i::text, 26, '0'), 'live', now()
		FROM generate_series(1, 10000) i`,
	`INSERT INTO keys SELECT 'key_' || lpad(i::text, 26, '0'), 'lin_' || lpad((i / 2)::text, 26, '0'), 1 + i % 2, 1, 'org_' || lpad('1', 26, '0'),
			'proj_' || lpad((CASE WHEN i % 2 = 0 THEN 1 ELSE 2 + i % 99 END)::text, 26, '0'), 'env_' || lpad('1', 26, '0'), 'ci',
			sha256(convert_to(i::text, 'UTF8')), 'rk_live_abcd', 'wxyz', '["*"]', NULL, '{"team": "billing"}',
			CASE WHEN i % 10 = 0 THEN 'revoked' WHEN i % 2 = 1 THEN 'pending' ELSE 'active' END, false, 'key_maker', now(),
			CASE WHEN i % 5 = 0 THEN timestamptz '2026-03-01' + i * interval '1 hour' END, NULL, NULL, NULL, NULL, NULL, 3600, 1800, now(), NULL, NULL
		FROM generate_series(1, 10000) i`,
	`INSERT INTO rotations SELECT 'rot_' || lpad(i::text, 26, '0'), 'lin_' || lpad(i::text, 26, '0'), 'org_' || lpad('1', 26, '0'),
			'proj_' || lpad('1', 26, '0'), 'interval', CASE WHEN i % 10 = 0 THEN 'delivering' ELSE 'completed' END, 'key_a', 'key_b', 2, 0, NULL, now(), NULL, NULL,
			CASE WHEN i % 10 <> 0 THEN now() END
		FROM generate_series(1, 10000) i`,
	`INSERT INTO pending_secrets SELECT id, 'key_b', 'sealed', now() FROM rotations WHERE state = 'delivering'`,
	`INSERT INTO due_work SELECT 'lin_' || lpad(i::text, 26, '0'), 'rotate', 'key_' || lpad(i::text, 26, '0'), d.at, d.at, 0, NULL, 'proj_' || lpad('1', 26, '0')
		FROM generate_series(1, 100000) i, LATERAL (SELECT timestamptz '2026-03-02' + i * interval '7 seconds' AS at) d`,
	`INSERT INTO webhook_deliveries SELECT 'dlv_' || lpad(i::text, 26, '0'), 'msg_' || i, 'ep_1', 'org_1', 'proj_1', 'lin_1', 'rot_1', i,
			'key.rotation.created', CASE WHEN i % 100 = 0 THEN 'pending' ELSE 'delivered' END, 0, timestamptz '2026-03-02' + i * interval '7 seconds',
			NULL, NULL, now(), NULL
		FROM generate_series(1, 100000) i`,
}

func padded(prefix string, n int) string { return fmt.Sprintf("%s_%026d", prefix, n) }

// R41: at a realistic size every lookup of the hot paths and every question of the sweeps is an index scan that reads a
// few pages. Those must be so whatever the planner knows: before the first ANALYZE, and with a generic plan, which a
// connection may take to after five uses. Lists need statistics to be as cheap; without them they still scan no table.
func TestR41PlansReadFewPages(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner := db.OwnerPool(t)
	for _, sql := range crowd {
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	pool := db.Pool(t) // with the settings of production
	service, tenant := acquire(t, pool), acquire(t, dbtest.Tenants(t, pool))

	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) // nothing is due
	one := func(s string) []string { return []string{s} }
	org, other, project := padded("org", 1), padded("org", 9000), padded("proj", 1)
	all := []string(nil) // projects
	cases := []struct {
		what, sql string
		args      []any // of a tenant's read: its reach first
		rows      int
		pages     int
		always    bool // also without statistics and with a generic plan
	}{
		{"verify by digest", sqlKeysByDigest, []any{[][]byte{digestOf(4711)}}, 1, 6, true},
		{"verify of an unknown digest", sqlKeysByDigest, []any{[][]byte{make([]byte, 32)}}, 0, 4, true},
		{"20 joined verifies", sqlKeysByDigest, []any{digests(20)}, 20, 120, true},
		{"key by id", sqlKeysByID, []any{org, all, one(padded("key", 4711))}, 1, 8, true},
		{"key by number", sqlKeyByNumber, []any{org, all, domain.KeyNumber(domain.KeyID(padded("key", 4711)))}, 1, 8, true},
		{"oldest keys of an organization", sqlOldestKeys, []any{org, all, "", now, 101}, 101, 240, false},
		{"first page of a project", sqlListKeys, []any{org, all, project, lastKeyID, "", "", true, now, 51}, 51, 120, true},
		{"last page of a project", sqlListKeys, []any{org, all, project, padded("key", 100), "", "", true, now, 51}, 49, 120, true},
		{"page in the middle", sqlListKeys, []any{org, all, project, padded("key", 5000), "", "", true, now, 51}, 51, 120, true},
		{"lineage", sqlListKeys, []any{org, all, project, lastKeyID, "", padded("lin", 7), true, now, 51}, 1, 20, false},
		{"newest keys of an organization", sqlListAllKeys, []any{org, all, lastKeyID, now, 101}, 101, 240, true},
		{"no keys of an organization", sqlListAllKeys, []any{other, all, lastKeyID, now, 101}, 0, 4, false},
		{"keys that end soon", sqlExpiringKeys, []any{org, all, now, lastKeyID, now.AddDate(0, 1, 0), "", now, 51}, 51, 200, true},
		{"no keys that end soon", sqlExpiringKeys, []any{other, all, now, lastKeyID, now.AddDate(0, 1, 0), "", now, 51}, 0, 4, true},
		{"idle sweep of due work", sqlDue, []any{now, 256}, 0, 4, true},
		{"busy sweep of due work", sqlDue, []any{now.Add(48 * time.Hour), 256}, 256, 270, true},
		{"idle sweep of deliveries", claimDeliveries(t), []any{now, now, 256}, 0, 4, true},
		{"waiting rotation", sqlWaitingRotation, []any{org, all, padded("lin", 10)}, 1, 4, true},
		{"pending secret", sqlPendingSecrets, []any{[]string{padded("rot", 10)}}, 1, 4, true},
		{"own organization", sqlOwnOrganization, []any{other, all}, 1, 6, true},
		{"project by id", sqlProjects, []any{other, all, padded("proj", 9000), "", 1}, 1, 6, true},
		{"projects of an organization", sqlProjects, []any{other, all, "", "", 50}, 1, 6, true},
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			if _, err := owner.Exec(t.Context(), "ANALYZE"); err != nil {
				t.Fatal(err)
			}
		}
		for _, mode := range []string{"auto", "force_custom_plan", "force_generic_plan"} {
			for _, c := range cases {
				conn, production := service, "auto"
				if len(c.args) > 1 && cmp.Equal(c.args[1], all) {
					conn, production = tenant, "force_custom_plan" // see migrations.AsTenant
					if _, err := conn.Exec(t.Context(), "SELECT set_config('rekey.organization', $1, false)", c.args[0]); err != nil {
						t.Fatal(err)
					}
				}
				p := explain(t, conn, mode, c.sql, c.args...)
				at := fmt.Sprintf("%s (%s, analyzed %v)", c.what, mode, analyzed)
				if p.rows != c.rows {
					t.Errorf("%s: %d rows, want %d", at, p.rows, c.rows)
				}
				if p.pages > c.pages && (c.always || analyzed && mode == production) {
					t.Errorf("%s: %d pages, want at most %d: %s", at, p.pages, c.pages, strings.Join(p.nodes, " < "))
				}
				if slices.ContainsFunc(p.nodes, func(n string) bool { return strings.HasPrefix(n, "Seq Scan") }) {
					t.Errorf("%s scans a table: %s", at, strings.Join(p.nodes, " < "))
				}
			}
		}
	}
}

func acquire(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return conn.Conn()
}

func digestOf(n int) []byte { return digests(n)[n-1] }

// plan is what a statement did.
type plan struct {
	rows, pages int
	nodes       []string // from the top
}

// explain runs a statement as a prepared one under a plan mode, often enough that auto takes to a generic plan if it will.
func explain(t *testing.T, conn *pgx.Conn, mode, sql string, args ...any) plan {
	t.Helper()
	ctx := context.Background()
	for _, s := range []string{"DEALLOCATE ALL", "SET plan_cache_mode = " + mode} {
		if _, err := conn.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	conn.DeallocateAll(ctx)
	if _, err := conn.PgConn().Prepare(ctx, "explained", sql, nil); err != nil {
		t.Fatal(err)
	}
	marks := make([]string, len(args))
	for i := range args {
		marks[i] = "$" + strconv.Itoa(i+1)
	}
	ask := fmt.Sprintf("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE explained(%s)", strings.Join(marks, ", "))
	args = append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	var raw []byte
	for range 7 {
		if err := conn.QueryRow(ctx, ask, args...).Scan(&raw); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var out []struct {
		Plan planNode
	}
	if err := json.Unmarshal(raw, &out); err != nil || len(out) != 1 {
		t.Fatalf("%s: %v", raw, err)
	}
	top := out[0].Plan
	return plan{int(top.Rows), top.Hit + top.Read, top.names()}
}

// planNode is what matters here of EXPLAIN's own form.
type planNode struct {
	Type  string  `json:"Node Type"`
	Index string  `json:"Index Name"`
	Table string  `json:"Relation Name"`
	Rows  float64 `json:"Actual Rows"`
	Hit   int     `json:"Shared Hit Blocks"`
	Read  int     `json:"Shared Read Blocks"`
	Plans []planNode
}

func (n planNode) names() []string {
	out := []string{strings.TrimSpace(n.Type + " " + n.Table + n.Index)}
	for _, p := range n.Plans {
		out = append(out, p.names()...)
	}
	return out
}

func digests(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		sum := sha256.Sum256([]byte(strconv.Itoa(i + 1)))
		out[i] = sum[:]
	}
	return out
}

// claimDeliveries is the statement with which the sweep takes deliveries. It is read from its source, so that this test
// explains the one that is run.
func claimDeliveries(t *testing.T) string {
	t.Helper()
	const path, name = "../workers/sweep.go", "sqlClaimDeliveries"
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && spec.Names[0].Name == name {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				found, _ = strconv.Unquote(literal.Value)
			}
		}
		return true
	})
	if found == "" {
		t.Fatalf("%s is not in %s", name, path)
	}
	return found
}
