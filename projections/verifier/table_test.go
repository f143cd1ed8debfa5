package verifier

import (
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
)

// numbered is a record that a number stands for. Only a few of its digest's bits differ, so that records come together.
func numbered(n int, lineage byte) *Record {
	r := &Record{generation: uint32(n)}
	binary.LittleEndian.PutUint64(r.digest[:], uint64(n))
	r.lineage[8] = lineage
	return r
}

// TestTable plays random changes against a map.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, families, model := newTable(), newFamilies(), map[int]*Record{}
		numbers := rapid.IntRange(0, 4000)
		for _, n := range rapid.SliceOfN(numbers, 0, 6000).Draw(t, "changes") {
			former := model[n]
			if n%3 == 0 && former != nil {
				if got := table.remove(&former.digest); got != former {
					t.Fatalf("removing %d gave %v", n, got)
				}
				families.remove(former)
				delete(model, n)
				continue
			}
			r := numbered(n, byte(n%17))
			if got := table.put(r); got != former {
				t.Fatalf("putting %d gave %v, want %v", n, got, former)
			}
			if former != nil {
				families.remove(former)
			}
			families.add(r)
			model[n] = r
		}
		for n := range 4000 {
			if got := table.get(&numbered(n, 0).digest); got != model[n] {
				t.Fatalf("%d is %v, want %v", n, got, model[n])
			}
		}
		if table.live != len(model) || families.live != len(model) {
			t.Fatalf("%d and %d live, want %d", table.live, families.live, len(model))
		}
		for lineage := range byte(17) {
			want := maps.Clone(model)
			maps.DeleteFunc(want, func(n int, _ *Record) bool { return byte(n%17) != lineage })
			found := families.of(numbered(0, lineage).lineage)
			if len(found) != len(want) {
				t.Fatalf("lineage %d has %d records, want %d", lineage, len(found), len(want))
			}
			for _, r := range found {
				if want[int(r.generation)] != r {
					t.Fatalf("lineage %d has %d", lineage, r.generation)
				}
			}
		}
	})
}

// TestTableWhileItIsRead has readers beside a writer that makes the table grow and shrink: what stays is found at all
// times.
func TestTableWhileItIsRead(t *testing.T) {
	t.Parallel()
	table := newTable()
	const stays = 500
	for n := range stays {
		table.put(numbered(n, 0))
	}
	var (
		readers sync.WaitGroup
		stop    atomic.Bool
	)
	for range 3 {
		readers.Go(func() {
			for n := 0; !stop.Load(); n = (n + 1) % stays {
				digest := numbered(n, 0).digest
				if r := table.get(&digest); r == nil || r.digest != digest {
					t.Errorf("%d is not found", n)
					return
				}
			}
		})
	}
	for round := range 60 {
		for n := range 3000 {
			table.put(numbered(stays+n, 0))
			table.put(numbered(n%stays, 0)) // replaced by an equal one
		}
		for n := range 3000 {
			table.remove(&numbered(stays+n, 0).digest)
		}
		if table.live != stays {
			t.Fatalf("%d live after round %d", table.live, round)
		}
	}
	stop.Store(true)
	readers.Wait()
	if size := len(*table.slots.Load()); size > 8192 {
		t.Errorf("%d slots for %d records", size, stays)
	}
}

// TestSharedIsGivenUp counts what keys share: when the last one has gone, nothing is left of it.
func TestSharedIsGivenUp(t *testing.T) {
	t.Parallel()
	m := newMemory(applied{})
	a, b := liveKey("a", "read"), liveKey("b", "read")
	m.put(a)
	m.put(b)
	m.put(a) // again, as after a change of something else
	if len(m.places) != 1 || len(m.grants) != 1 || m.table.live != 2 || m.families.live != 2 {
		t.Fatalf("%d places, %d grants, %d and %d records", len(m.places), len(m.grants), m.table.live, m.families.live)
	}
	m.replace([]domain.LineageID{a.LineageID}, nil)
	m.endKeys(b.LineageID, []domain.KeyID{b.ID})
	if len(m.places) != 0 || len(m.grants) != 0 || m.table.live != 0 || m.keys.Load() != 0 {
		t.Fatalf("%d places, %d grants, %d records are left", len(m.places), len(m.grants), m.table.live)
	}
}
