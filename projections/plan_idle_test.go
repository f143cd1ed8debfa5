package projections

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// A sweep that finds nothing due walks down one index to where due work would begin and reads nothing else, however much
// is not due. `rekey bench --only idle` shows the same for a million keys.
func TestIdleSweepIsOneIndexScan(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner := db.OwnerPool(t)
	const fill = `INSERT INTO due_work SELECT 'lin_' || lpad(i::text, 26, '0'), 'rotate', 'key_' || lpad(i::text, 26, '0'), d.at, d.at, 0, NULL, 'proj_1'
		FROM generate_series(1, 20000) i, LATERAL (SELECT now() + interval '1 hour' + i * interval '1 minute' AS at) d`
	if _, err := owner.Exec(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	conn := acquire(t, db.Pool(t)) // with the settings of production
	for _, mode := range []string{"auto", "force_generic_plan"} {
		p := explain(t, conn, mode, sqlDue, time.Now(), 256)
		if p.rows != 0 || p.pages > 4 {
			t.Errorf("%s: %d rows from %d pages, want none from at most 4", mode, p.rows, p.pages)
		}
		if !slices.Contains(p.nodes, "Index Scan due_workdue_work_scan") {
			t.Errorf("%s: the plan is %q", mode, p.nodes)
		}
	}
}

// Rotations in overlap cost the look for unused old keys nothing in projects that do not ask for it, and in one that does, no
// other project's do.
func TestUnusedKeysAreLookedForWhereAPolicyAsks(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	owner := db.OwnerPool(t)
	for _, sql := range []string{
		`INSERT INTO projects (id, organization_id, name, brand, created_at, policy)
			SELECT 'proj_' || lpad(i::text, 26, '0'), 'org_1', 'app', 'rk', now(), CASE WHEN i % 2 = 0 THEN '{"require_expiry":true}'::jsonb END
			FROM generate_series(1, 2000) i`,
		`INSERT INTO rotations (id, lineage_id, organization_id, project_id, trigger, state, from_key_id, to_key_id, generation, grace_seconds,
				started_at, acknowledged_at, grace_expires_at)
			SELECT 'rot_' || lpad(i::text, 26, '0'), 'lin_' || lpad(i::text, 26, '0'), 'org_1', 'proj_' || lpad((1 + i / 10)::text, 26, '0'), 'manual',
				'overlap', 'key_' || lpad(i::text, 26, '0'), 'key_next', 2, 86400, now() - interval '3 hours', now() - interval '3 hours', now() + interval '1 day'
			FROM generate_series(1, 19000) i`,
		`INSERT INTO key_usage SELECT from_key_id, organization_id, now() - interval '5 hours', NULL, 7, 'boot_1', 1 FROM rotations`,
		`INSERT INTO usage_flushes (boot_id, number, flushed_at, complete_until, applied_until, ended) VALUES ('boot_1', 1, now() + interval '1 hour', now(), now(), false)`,
	} {
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	conn := acquire(t, db.Pool(t))                                                                      // with the settings of production
	for _, c := range []struct{ asking, rows, pages int }{{0, 0, 6}, {1, 10, 110}, {2000, 256, 2800}} { // the last is a page of many
		if c.asking > 0 {
			if _, err := owner.Exec(t.Context(), `UPDATE projects SET policy = '{"early_retire_seconds":7200}' WHERE id > $1 AND id <= $2`,
				padded("proj", min(1000, 2000-c.asking)), padded("proj", min(2000, 1000+c.asking))); err != nil {
				t.Fatal(err)
			}
		}
		for _, analyzed := range []bool{false, true} {
			if analyzed {
				if _, err := owner.Exec(t.Context(), "ANALYZE"); err != nil {
					t.Fatal(err)
				}
			}
			for _, mode := range []string{"auto", "force_generic_plan"} {
				p := explain(t, conn, mode, sqlUnused, "", "", "1 hour", 256)
				at := fmt.Sprintf("%d projects ask (%s, analyzed %v)", c.asking, mode, analyzed)
				t.Logf("%s: %d pages: %q", at, p.pages, p.nodes)
				if p.rows != c.rows || p.pages > c.pages {
					t.Errorf("%s: %d rows from %d pages, want %d from at most %d", at, p.rows, p.pages, c.rows, c.pages)
				}
				for _, table := range []string{"projects", "rotations", "key_usage", "grace_usage"} {
					if slices.Contains(p.nodes, "Seq Scan "+table) {
						t.Errorf("%s: it scans %s", at, table)
					}
				}
			}
		}
	}
}
