package verifier

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"github.com/rekeyhq/rekey/domain"
)

// table finds records by their digest. Any number of goroutines may read it without a lock while one writes: a slot is one
// pointer to a record that never changes. It costs eight bytes a slot, and an open slot ends a search.
type table struct {
	slots atomic.Pointer[[]slot]
	seed  uint64 // odd; secret, so that nobody can choose secrets that all fall into one place
	live  int    // records; only the writer counts
	used  int    // slots that are not open: records, and what was removed
}

type slot = atomic.Pointer[Record]

// removed stands where a record was: a search goes on behind it.
var removed = new(Record)

// smallestTable is a power of two, as all sizes are.
const smallestTable = 1 << 10

func newTable() *table {
	t := &table{seed: rand.Uint64() | 1}
	slots := make([]slot, smallestTable)
	t.slots.Store(&slots)
	return t
}

// place is where the search for a digest begins: the topmost bits of a product depend on all bits of the digest's part.
func (t *table) place(d *domain.Digest, size int) int {
	return int(binary.LittleEndian.Uint64(d[:8]) * t.seed >> (64 - bits.TrailingZeros(uint(size))))
}

// get returns the record of a digest, or nil.
func (t *table) get(d *domain.Digest) *Record {
	slots := *t.slots.Load()
	for i := t.place(d, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		r := slots[i].Load()
		if r == nil {
			return nil
		}
		if r != removed && r.digest == *d {
			return r
		}
	}
}

// put adds a record, or replaces the one of the same digest, which it returns. Only the writer calls it.
func (t *table) put(r *Record) *Record {
	slots := *t.slots.Load()
	if 4*(t.used+1) > 3*len(slots) {
		slots = t.resize()
	}
	i := t.place(&r.digest, len(slots))
	for {
		former := slots[i].Load()
		if former == nil {
			t.live++
			t.used++
			slots[i].Store(r)
			return nil
		}
		if former != removed && former.digest == r.digest {
			slots[i].Store(r)
			return former
		}
		i = (i + 1) & (len(slots) - 1)
	}
}

// remove takes out the record of a digest, and returns it. Only the writer calls it.
func (t *table) remove(d *domain.Digest) *Record {
	slots := *t.slots.Load()
	for i := t.place(d, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		r := slots[i].Load()
		if r == nil {
			return nil
		}
		if r != removed && r.digest == *d {
			slots[i].Store(removed)
			t.live--
			return r
		}
	}
}

// resize moves the records to slots of which at most half are taken, and leaves behind what was removed. Who still reads
// the former slots began before whatever is written from now on.
func (t *table) resize() []slot {
	former := *t.slots.Load()
	size := smallestTable
	for size < 2*(t.live+1) {
		size *= 2
	}
	slots := make([]slot, size)
	for i := range former {
		r := former[i].Load()
		if r == nil || r == removed {
			continue
		}
		j := t.place(&r.digest, size)
		for slots[j].Load() != nil {
			j = (j + 1) & (size - 1)
		}
		slots[j].Store(r)
	}
	t.used = t.live
	t.slots.Store(&slots)
	return slots
}
