package projections

import (
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
