package projections_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// From nothing but the log, Rebuild makes every row.
func TestG4RebuildFromNothing(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.populate(t)
	before, outside, conn := w.contents(t), w.outside(t), w.connect(t)
	for table := range compared {
		w.exec(t, "TRUNCATE "+table)
	}
	streams, err := projections.Rebuild(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if want := one[int](t, w, "SELECT count(DISTINCT stream_id) FROM events"); streams != want {
		t.Errorf("went through %d streams, want %d", streams, want)
	}
	if diff := cmp.Diff(before, w.contents(t)); diff != "" {
		t.Errorf("the rows are others: %s", diff)
	}
	if diff := cmp.Diff(outside, w.outside(t)); diff != "" {
		t.Errorf("R16: rebuilding is silent, but: %s", diff)
	}
	w.check(t, conn)
}

// A fault in an older program can have written a value into the row of another: then no order of single-row updates
// leads out, because the values are unique.
func TestG4RebuildMendsMixedUpUniqueValues(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string][]string{
		"generations moved by one": {"UPDATE keys SET generation = generation + 1000", "UPDATE keys SET generation = generation - 1001"},
		"digests exchanged": {`UPDATE keys SET secret_digest = '\x00' WHERE id = (SELECT min(id) FROM keys)`,
			`UPDATE keys SET secret_digest = (SELECT sha256(convert_to(max(id), 'UTF8')) FROM keys) WHERE id = (SELECT max(id) FROM keys)`},
		"rows exchanged": {`CREATE TEMP TABLE was AS SELECT id, secret_digest, row_number() OVER (ORDER BY id) AS n FROM keys`,
			`UPDATE keys SET secret_digest = sha256(secret_digest)`,
			`UPDATE keys SET secret_digest = b.secret_digest FROM was a JOIN was b ON b.n = a.n % (SELECT count(*) FROM was) + 1 WHERE keys.id = a.id`},
		"ids and lineages lost": {"UPDATE keys SET id = id || 'x', lineage_id = lineage_id || 'x'"},
		"nothing left but what stands elsewhere": {`DELETE FROM due_work`, `DELETE FROM rotations`, `DELETE FROM environments`,
			`UPDATE keys SET lineage_id = 'zzz' || lineage_id`},
		"rotations exchanged": {`UPDATE rotations SET state = 'completed', ended_at = now() WHERE state = 'delivering'`,
			`UPDATE rotations SET state = 'delivering', ended_at = NULL, acknowledged_at = NULL WHERE id IN (SELECT min(id) FROM rotations GROUP BY lineage_id)`},
		"environments exchanged": {`UPDATE environments SET name = name || '0'`,
			`UPDATE environments e SET name = CASE name WHEN 'live0' THEN 'test' ELSE 'live' END`},
	} {
		w := setup(t)
		w.populate(t)
		w.decideTwice(t)
		before, conn := w.contents(t), w.connect(t)
		for _, sql := range damage {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		if cmp.Equal(before, w.contents(t)) {
			t.Fatalf("%s: no damage was done", what)
		}
		if _, err := projections.Rebuild(t.Context(), conn); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if diff := cmp.Diff(before, w.contents(t)); diff != "" {
			t.Errorf("%s: Rebuild left: %s", what, diff)
		}
	}
}

// decideTwice makes a lineage with a completed rotation and one that waits.
func (w *world) decideTwice(t *testing.T) {
	t.Helper()
	first := w.create(t, w.tenant(t), hourly)
	second := w.rotate(t, first, 0)
	w.clock.step(2 * time.Hour)
	w.rotateDue(t, second)
}

// R16: rebuilding is silent: it appends nothing, announces nothing and gives no worker anything to do. It also keeps what
// waits for a receiver.
func TestR16RebuildIsSilent(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.populate(t)
	before, conn := w.outside(t), w.connect(t)
	for _, table := range []string{"pending_secrets", "webhook_deliveries", "consumers", "events"} {
		if before[table] == "" {
			t.Fatalf("table %s is empty", table)
		}
	}
	if _, err := conn.Exec(t.Context(), "LISTEN river_insert; LISTEN river_control"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := projections.Rebuild(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, w.outside(t)); diff != "" {
		t.Error(diff)
	}
}

// A row that is right is not written again: xmin is the transaction that wrote it.
func TestRebuildLeavesRightRowsAlone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.populate(t)
	conn := w.connect(t)
	w.check(t, conn)
	for _, table := range []string{"keys", "rotations", "streams"} {
		written := "SELECT string_agg(r.xmin::text, ' ' ORDER BY r::text) FROM " + table + " r"
		before := one[string](t, w, written)
		if _, err := projections.Rebuild(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, one[string](t, w, written)); diff != "" {
			t.Errorf("rows of %s were written again: %s", table, diff)
		}
	}
}

// A rebuild locks a batch of streams at a time: when it stops halfway, what it did so far stands, and it can be started again.
func TestRebuildCanBeInterrupted(t *testing.T) {
	t.Parallel()
	w := setup(t)
	n := w.tenant(t)
	const streams = 850 // three batches
	all := make([]made, streams)
	together(16, func(g int) {
		for i := g; i < streams; i += 16 {
			var err error
			if all[i], err = w.tryCreate(n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	conn := w.connect(t)
	w.exec(t, "UPDATE keys SET name = 'damaged'")
	blocker, err := w.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(t.Context(), "SELECT FROM streams WHERE stream_id = (SELECT stream_id FROM streams ORDER BY stream_id LIMIT 1 OFFSET 600) FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rebuilt := make(chan error, 1)
	go func() {
		_, err := projections.Rebuild(ctx, conn)
		rebuilt <- err
	}()
	damaged := "SELECT count(*) FROM keys WHERE name = 'damaged'"
	until(t, "the first batch is mended", func() bool { return one[int](t, w, damaged) <= streams-400 })
	mended := domain.KeyID(one[string](t, w, "SELECT id FROM keys WHERE name <> 'damaged' LIMIT 1"))
	free := all[slices.IndexFunc(all, func(m made) bool { return m.key == mended })]
	if _, err := w.tryRotate(free, domain.TriggerManual, 0); err != nil {
		t.Errorf("a command on a stream that is not being rebuilt: %v", err)
	}
	cancel()
	if err := <-rebuilt; err == nil {
		t.Fatal("the rebuild ended though a stream was locked")
	}
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := one[int](t, w, damaged); left == 0 || left > streams-400 {
		t.Errorf("after the interruption %d rows are damaged", left)
	}
	conn = w.connect(t)
	if _, err := projections.Rebuild(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	w.check(t, conn)
}

// until polls a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
