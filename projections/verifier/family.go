package verifier

import (
	"encoding/binary"
	"math/bits"

	"github.com/rekeyhq/rekey/domain"
)

// families finds the records of a lineage, which are its live generations: usually one, rarely more than two. Only the
// writer uses it. A slot is one record, as in table: a map from lineage to records would cost five times as much.
type families struct {
	slots []*Record
	live  int
	used  int // slots that are not open: records, and what was removed
}

func newFamilies() *families { return &families{slots: make([]*Record, smallestTable)} }

// place is where the search for a lineage begins. The second half of a UUIDv7 is random.
func (f *families) place(lineage domain.UUID) int {
	return int(binary.LittleEndian.Uint64(lineage[8:]) * 0x9e3779b97f4a7c15 >> (64 - bits.TrailingZeros(uint(len(f.slots)))))
}

// of returns the records of a lineage.
func (f *families) of(lineage domain.UUID) (found []*Record) {
	for i := f.place(lineage); f.slots[i] != nil; i = (i + 1) & (len(f.slots) - 1) {
		if r := f.slots[i]; r != removed && r.lineage == lineage {
			found = append(found, r)
		}
	}
	return found
}

// add adds a record.
func (f *families) add(r *Record) {
	if 4*(f.used+1) > 3*len(f.slots) {
		f.resize()
	}
	f.used++
	f.live++
	f.insert(r)
}

func (f *families) insert(r *Record) {
	i := f.place(r.lineage)
	for f.slots[i] != nil {
		i = (i + 1) & (len(f.slots) - 1)
	}
	f.slots[i] = r
}

// remove takes out this very record.
func (f *families) remove(r *Record) {
	for i := f.place(r.lineage); f.slots[i] != nil; i = (i + 1) & (len(f.slots) - 1) {
		if f.slots[i] == r {
			f.slots[i] = removed
			f.live--
			return
		}
	}
}

func (f *families) resize() {
	former := f.slots
	size := smallestTable
	for size < 2*(f.live+1) {
		size *= 2
	}
	f.slots, f.used = make([]*Record, size), f.live
	for _, r := range former {
		if r != nil && r != removed {
			f.insert(r)
		}
	}
}
