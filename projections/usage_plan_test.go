package projections

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// R41 for reads of keys with their use: one lookup more for each row that is shown, by the primary key, whatever the
// planner knows. A page of a large project costs no more than its rows.
func TestR41UsageIsLookedUpByKey(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner := db.OwnerPool(t)
	for _, sql := range []string{
		`INSERT INTO keys (id, lineage_id, generation, version, organization_id, project_id, environment_id, name, secret_digest,
				key_prefix, last_four, scopes, state, operator, created_by, created_at, updated_at, grace_seconds)
			SELECT 'key_' || lpad(i::text, 26, '0'), 'lin_' || lpad(i::text, 26, '0'), 1, 1, 'org_1', 'proj_1', 'env_1', 'ci',
				sha256(convert_to(i::text, 'UTF8')), 'rk_live_abcd', 'wxyz', '["*"]', 'active', false, 'key_maker', now(), now(), 0
			FROM generate_series(1, 10000) i`,
		`INSERT INTO key_usage SELECT id, organization_id, now(), '192.0.2.1', 7, 'boot_1', 1 FROM keys`,
	} {
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	pooled, err := dbtest.Tenants(t, db.Pool(t)).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	if _, err := conn.Exec(t.Context(), "SELECT set_config('rekey.organization', 'org_1', false)"); err != nil {
		t.Fatal(err)
	}
	all, now := []string(nil), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	cases := []struct {
		what, sql string
		args      []any
		rows      int
		pages     int
	}{
		{"key by id", sqlKeysByID, []any{"org_1", all, []string{padded("key", 4711)}}, 1, 12},
		{"page in the middle", sqlListKeys, []any{"org_1", all, "proj_1", padded("key", 5000), "", "", true, now, 51}, 51, 200},
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			if _, err := owner.Exec(t.Context(), "ANALYZE"); err != nil {
				t.Fatal(err)
			}
		}
		for _, mode := range []string{"auto", "force_custom_plan", "force_generic_plan"} {
			for _, c := range cases {
				p := explain(t, conn, mode, c.sql, c.args...)
				at := fmt.Sprintf("%s (%s, analyzed %v)", c.what, mode, analyzed)
				t.Logf("%s: %d pages: %s", at, p.pages, strings.Join(p.nodes, " < "))
				if p.rows != c.rows {
					t.Errorf("%s: %d rows, want %d", at, p.rows, c.rows)
				}
				if p.pages > c.pages && (c.rows == 1 || analyzed && mode == "auto") {
					t.Errorf("%s: %d pages, want at most %d", at, p.pages, c.pages)
				}
				if slices.ContainsFunc(p.nodes, func(n string) bool { return strings.HasPrefix(n, "Seq Scan") }) {
					t.Errorf("%s scans a table", at)
				}
			}
		}
	}
}
