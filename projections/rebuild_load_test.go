package projections_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

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
	const writers, each, rounds = 4, 80, 5    // two batches of streams
	groups := w.groups(t, n, writers+2, each) // the last but one is quiet, the last is damaged and quiet
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
	w.undisturbed(t)
	t.Logf("%d commands and %d verifies during %d rebuilds", done, asked, 2*rounds)
}

// G4, into empty tables: commands go on while their rows are not even there, and in the end every row is what the log says.
func TestG4RebuildIntoEmptyTablesUnderLoad(t *testing.T) {
	t.Parallel()
	w := setup(t)
	n := w.tenant(t)
	const writers, each, rounds = 4, 250, 3 // three batches of streams
	groups := w.groups(t, n, writers, each)
	l := &load{w: w}
	for g := range writers {
		l.group.Go(func() { l.command(t, n, groups[g], uint64(g)) })
	}
	conn := w.connect(t)
	for range rounds {
		w.exec(t, "TRUNCATE keys, rotations, due_work")
		if _, err := projections.Rebuild(context.Background(), conn); err != nil {
			t.Fatal(err)
		}
	}
	l.stop.Store(true)
	l.group.Wait()
	w.check(t, conn) // not rebuilt once more: the last rebuild was after the last damage
	if l.commands.Load() == 0 {
		t.Error("no command went on")
	}
	w.undisturbed(t)
}

// Rows of one batch of streams that stand in the place of another batch's are mended too, though two batches are worked on
// at a time.
func TestG4RebuildMendsAcrossBatches(t *testing.T) {
	t.Parallel()
	w := setup(t)
	n := w.tenant(t)
	const streams = 850 // three batches
	together(16, func(g int) {
		for i := g; i < streams; i += 16 {
			if _, err := w.tryCreate(n, hourly); err != nil {
				t.Error(err)
				return
			}
		}
	})
	before, conn := w.contents(t), w.connect(t)
	for _, sql := range []string{
		`CREATE TEMP TABLE was AS SELECT id, secret_digest, row_number() OVER (ORDER BY id) AS n, count(*) OVER () AS of FROM keys`,
		`UPDATE keys SET secret_digest = sha256(secret_digest)`,
		`UPDATE keys SET secret_digest = b.secret_digest FROM was a JOIN was b ON b.n = (a.n + a.of / 2) % a.of + 1 WHERE keys.id = a.id`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if _, err := projections.Rebuild(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.contents(t)); diff != "" {
		t.Errorf("Rebuild left: %s", diff)
	}
	w.undisturbed(t)
}

// groups makes so many groups of so many lineages each.
func (w *world) groups(t *testing.T, n tenant, count, each int) [][]made {
	t.Helper()
	groups := make([][]made, count)
	together(count, func(g int) {
		for range each {
			m, err := w.tryCreate(n, hourly)
			if err != nil {
				t.Error(err)
				return
			}
			groups[g] = append(groups[g], m)
		}
	})
	return groups
}

// undisturbed asserts that no transaction was sacrificed.
func (w *world) undisturbed(t *testing.T) {
	t.Helper()
	if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("R5: %d deadlocks", n)
	}
}
