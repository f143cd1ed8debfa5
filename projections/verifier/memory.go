package verifier

import (
	"sync/atomic"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/signal"
	"github.com/rekeyhq/rekey/projections"
)

// memory is the projection: all live keys, up to a position of the log. One goroutine writes, any number read.
type memory struct {
	table    *table
	families *families
	places   places
	grants   grants
	// applied is up to where the log is in the table. It moves after the table has changed.
	applied atomic.Int64
	// last is the event that was applied last, by which it is known that the log is still the same.
	last  atomic.Pointer[applied]
	moved signal.Signal // applied has moved
	keys  atomic.Int64
}

// applied is an event that was applied.
type applied struct {
	position int64
	event    domain.EventID
}

func newMemory(at applied) *memory {
	m := &memory{table: newTable(), families: newFamilies(), places: places{}, grants: grants{}}
	m.reached(at)
	return m
}

// reached says that the log is in the table up to an event.
func (m *memory) reached(at applied) {
	m.last.Store(&at)
	m.applied.Store(at.position)
	m.moved.Fire()
}

// put takes over a live key.
func (m *memory) put(k *projections.Key) {
	r := record(k, m.places.share(placeOf(k)), m.grants.share(grantOf(k)))
	if former := m.table.put(r); former != nil {
		m.forget(former)
	}
	m.families.add(r)
	m.keys.Store(int64(m.table.live))
}

// end takes out a key.
func (m *memory) end(r *Record) {
	if m.table.remove(&r.digest) != nil {
		m.forget(r)
		m.keys.Store(int64(m.table.live))
	}
}

// forget drops what leads to a record that is in the table no more.
func (m *memory) forget(r *Record) {
	m.families.remove(r)
	m.places.release(r.place)
	m.grants.release(r.grant)
}

// replace makes the live keys of lineages be exactly these.
func (m *memory) replace(lineages []domain.LineageID, live []*projections.Key) {
	stays := make(map[domain.Digest]bool, len(live))
	for _, k := range live {
		stays[k.Secret.Digest] = true
		m.put(k) // new keys come before old ones go: nobody is locked out in between
	}
	for _, id := range lineages {
		lineage, _ := domain.UUIDOf(domain.PrefixLineage, string(id))
		for _, r := range m.families.of(lineage) {
			if !stays[r.digest] {
				m.end(r)
			}
		}
	}
}

// endKeys takes out keys of a lineage.
func (m *memory) endKeys(id domain.LineageID, ended []domain.KeyID) {
	lineage, _ := domain.UUIDOf(domain.PrefixLineage, string(id))
	for _, r := range m.families.of(lineage) {
		for _, id := range ended {
			if key, _ := domain.UUIDOf(domain.PrefixKey, string(id)); key == r.key {
				m.end(r)
			}
		}
	}
}
