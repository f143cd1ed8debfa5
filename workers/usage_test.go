package workers

import (
	"testing"
	"time"
)

// The upkeep drops what of the usage is too old, and says so.
func TestOldUsageIsDropped(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true) // the upkeep of running workers would drop it in the middle
	old := time.Now().Add(-200 * 24 * time.Hour)
	for _, sql := range []string{`SELECT make_series_partitions($1)`, `INSERT INTO usage_hours VALUES ('key_a', $1, 'org_a', 'proj_a', 'lin_a', 1, 0)`, `INSERT INTO usage_days VALUES ('key_a', $1, 'org_a', 'proj_a', 'lin_a', 1, 0)`} {
		if _, err := h.owner.Exec(t.Context(), sql, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.w.dropOldUsage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, h, `SELECT count(*) FROM usage_hours`); n != 0 {
		t.Errorf("%d hours are left of 200 days ago", n)
	}
	if n := one[int](t, h, `SELECT count(*) FROM usage_days`); n != 1 {
		t.Errorf("%d days are left of 200 days ago, want 1", n)
	}
}

// Who reads a series for long puts its end off; nobody waits for it.
func TestADropWaitsForNobody(t *testing.T) {
	t.Parallel()
	h := newHooksIn(t, true)
	if _, err := h.owner.Exec(t.Context(), `SELECT make_series_partitions(now() - interval '200 days')`); err != nil {
		t.Fatal(err)
	}
	reader, err := h.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Rollback(t.Context()) }()
	if _, err := reader.Exec(t.Context(), `SELECT count(*) FROM usage_hours`); err != nil {
		t.Fatal(err)
	}
	partitions := func() int {
		return one[int](t, h, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_hours'::regclass`)
	}
	before := partitions()
	if err := h.w.dropOldUsage(t.Context()); err != nil || partitions() != before {
		t.Errorf("with a reader: %v, %d partitions of %d", err, partitions(), before)
	}
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.w.dropOldUsage(t.Context()); err != nil || partitions() != before-1 {
		t.Errorf("without it: %v, %d partitions of %d", err, partitions(), before)
	}
}
