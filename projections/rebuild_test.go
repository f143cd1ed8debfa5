package projections_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
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

// A rebuild locks a batch of streams at a time: when it stops halfway, what it did so far stands, and it can be started again.
func TestRebuildCanBeInterrupted(t *testing.T) {
	t.Parallel()
	w := setup(t)
	n := w.tenant(t)
	const streams = 450 // three batches
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
	if _, err := blocker.Exec(t.Context(), "SELECT FROM streams WHERE stream_id = (SELECT stream_id FROM streams ORDER BY stream_id LIMIT 1 OFFSET 300) FOR UPDATE"); err != nil {
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
	until(t, "the first batch is mended", func() bool { return one[int](t, w, damaged) <= streams-200 })
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
	if left := one[int](t, w, damaged); left == 0 || left > streams-200 {
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

// load is commands and verifies that go on while a rebuild runs.
type load struct {
	w        *world
	stop     atomic.Bool
	commands atomic.Int64
	verifies atomic.Int64
	group    sync.WaitGroup
}

// command runs commands on lineages that nobody else works on, until it is stopped.
func (l *load) command(t *testing.T, n tenant, mine []made, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	for !l.stop.Load() {
		i := random.IntN(len(mine))
		m := mine[i]
		var err error
		switch random.IntN(8) {
		case 0:
			err = l.w.tryRevoke(m)
			if err == nil {
				mine[i], err = l.w.tryCreate(n, hourly)
			}
		case 1, 2:
			_, err = l.w.on(m.lineage, func(s *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				return s.Update(domain.UpdateKey{
					KeyID: m.key, Name: domain.ChangeTo(fmt.Sprint("name ", random.Uint32())), Caller: domain.System(),
				}, domain.Limits{}, now)
			})
		case 3:
			mine[i], err = l.w.tryRotate(m, domain.TriggerManual, time.Hour)
		default:
			mine[i], err = l.w.tryRotate(m, domain.TriggerManual, 0)
		}
		if code := domain.CodeOf(err); err != nil && code != domain.CodeTooManyInGrace {
			t.Errorf("a command failed while the read model was rebuilt: %v", err)
			return
		} else if code == domain.CodeTooManyInGrace {
			mine[i] = m
		}
		l.commands.Add(1)
	}
}

// verify asserts that undamaged keys stay valid, until it is stopped.
func (l *load) verify(t *testing.T, quiet []made) {
	for i := 0; !l.stop.Load(); i++ {
		m := quiet[i%len(quiet)]
		v, err := l.w.verifier.Verify(context.Background(), projections.VerifyRequest{Reach: m.reach(), Secret: m.secret.Reveal()})
		if err != nil || !v.Valid() || v.Key.ID != m.key || v.Key.Name != "ci" {
			t.Errorf("an undamaged key: %+v, %v", v, err)
			return
		}
		l.verifies.Add(1)
	}
}

// damage spoils rows of a lineage in one way or another.
func (w *world) damage(t *testing.T, m made, way int) {
	t.Helper()
	keyColumns := w.written(t, "keys")
	sql := [...]string{
		"DELETE FROM keys WHERE lineage_id = $1",
		"UPDATE keys SET state = 'revoked', name = 'damaged' WHERE lineage_id = $1",
		"UPDATE keys SET secret_digest = sha256(secret_digest), version = version + 1 WHERE lineage_id = $1",
		"INSERT INTO keys (" + keyColumns + ") SELECT " + keyColumns + " FROM (SELECT (jsonb_populate_record(k, jsonb_build_object('id', id || random(), 'generation', 999999, 'secret_digest', '\\x' || encode(sha256(random()::text::bytea), 'hex')))).* FROM keys k WHERE lineage_id = $1 LIMIT 1) k ON CONFLICT DO NOTHING",
		"DELETE FROM rotations WHERE lineage_id = $1",
		"UPDATE rotations SET state = 'cancelled', ended_at = now() WHERE lineage_id = $1",
		"DELETE FROM due_work WHERE lineage_id = $1",
		"INSERT INTO due_work VALUES ($1, 'rotate', 'key_0', now(), now()) ON CONFLICT DO NOTHING",
	}
	w.exec(t, sql[way%len(sql)], m.lineage)
}

// G4, while it is being rebuilt under load: commands and verifies go on and notice nothing, and in the end every row is
// what the log says.
func TestG4RebuildUnderLoad(t *testing.T) {
	t.Parallel()
	w := setup(t)
	n := w.tenant(t)
	const writers, each, rounds = 4, 60, 5
	groups := make([][]made, writers+2) // the last but one is quiet, the last is damaged and quiet
	together(len(groups), func(g int) {
		for range each {
			m, err := w.tryCreate(n, hourly)
			if err != nil {
				t.Error(err)
				return
			}
			groups[g] = append(groups[g], m)
		}
	})
	l := &load{w: w}
	hurt := append([]made{}, groups[writers+1]...)
	for g := range writers {
		hurt = append(hurt, groups[g][:each/2]...) // lineages that commands work on meanwhile
		l.group.Go(func() { l.command(t, n, groups[g], uint64(g)) })
	}
	for range 2 {
		l.group.Go(func() { l.verify(t, groups[writers]) })
	}
	conn := w.connect(t)
	for round := range rounds {
		for i, m := range hurt {
			w.damage(t, m, i+round)
		}
		for range 2 {
			if _, err := projections.Rebuild(context.Background(), conn); err != nil {
				t.Fatal(err)
			}
		}
	}
	done, asked := l.commands.Load(), l.verifies.Load()
	l.stop.Store(true)
	l.group.Wait()
	if done == 0 || asked == 0 {
		t.Errorf("%d commands and %d verifies went on", done, asked)
	}
	w.check(t, conn) // not rebuilt once more: the last rebuild was after the last damage
	if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("R5: %d deadlocks", n)
	}
	t.Logf("%d commands and %d verifies during %d rebuilds", done, asked, 2*rounds)
}
