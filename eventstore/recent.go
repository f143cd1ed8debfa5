package eventstore

import (
	"slices"
	"sync"
)

// recentSize is how many records a process remembers of the lifecycle lane: a few seconds of full load.
const recentSize = 4096

// recent is the end of the lifecycle lane as this process knows it. Several readers follow the lane, and most of what they
// read was committed here a moment ago; they need not ask Postgres for it. It holds only committed records, without a
// hole, so reading from it is the same as reading the table.
type recent struct {
	mu      sync.RWMutex
	records []Record
}

// add takes over committed, consecutive records. What does not follow on what is there, since another process or writer
// committed in between, begins a new window.
func (r *recent) add(records []Record) {
	if len(records) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.records); n > 0 && r.records[n-1].Position+1 != records[0].Position {
		r.records = nil
	}
	// Readers hold slices of the window, so it is only ever appended to, and copied when it is cut.
	if len(r.records)+len(records) > 2*recentSize {
		r.records = slices.Clone(r.records[max(0, len(r.records)-recentSize):])
	}
	r.records = append(r.records, records...)
}

// after returns up to limit records that follow a position, if the window reaches back to it.
func (r *recent) after(position int64, limit int) ([]Record, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.records) == 0 {
		return nil, false
	}
	first := int(position + 1 - r.records[0].Position)
	if first < 0 || first >= len(r.records) {
		return nil, false // older than the window, or perhaps committed by another process meanwhile
	}
	last := min(len(r.records), first+limit)
	return r.records[first:last:last], true
}
