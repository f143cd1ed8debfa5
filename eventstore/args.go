package eventstore

import (
	"maps"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// headArgs lays the heads out as the arrays that move_heads takes: those that moved, then those that the decisions only
// looked at.
func (tx *transaction) headArgs(decisions []decision) ([]any, error) {
	var (
		streams, states, read           []string
		expected, versions, readVersion = []int64{}, []int64{}, []int64{}
	)
	used := usedBy(decisions)
	for _, id := range slices.Sorted(maps.Keys(tx.heads)) { // in the order in which heads are locked
		h := tx.heads[id]
		if !h.dirty() {
			if used[id] {
				read, readVersion = append(read, id), append(readVersion, h.expected)
			}
			continue
		}
		raw, err := domain.EncodeState(h.state)
		if err != nil {
			return nil, err
		}
		streams, states = append(streams, id), append(states, string(raw))
		expected, versions = append(expected, h.expected), append(versions, h.state.StreamVersion())
	}
	return []any{streams, expected, versions, domain.SnapshotRevision, states, orNone(read), readVersion}, nil
}

// usedBy lists the streams that the decisions were made on. Those of commands that decided nothing do not matter.
func usedBy(decisions []decision) map[string]bool {
	used := map[string]bool{}
	for _, d := range decisions {
		if d.first == d.last {
			continue
		}
		for _, ids := range [][]string{d.pending.command.Writes, d.pending.command.Reads} {
			for _, id := range ids {
				used[id] = true
			}
		}
	}
	return used
}

// orNone is an empty array instead of NULL.
func orNone(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

// eventArgs lays the events out as the arrays that append_events takes.
func (tx *transaction) eventArgs() []any {
	n := len(tx.records)
	text := func(get func(*Record) string) []string {
		out := make([]string, n)
		for i := range tx.records {
			out[i] = get(&tx.records[i])
		}
		return out
	}
	versions, revisions, times := make([]int64, n), make([]int16, n), make([]time.Time, n)
	for i := range tx.records {
		versions[i], revisions[i], times[i] = tx.records[i].Version, int16(tx.records[i].Revision), tx.records[i].OccurredAt
	}
	return []any{
		Lifecycle,
		text(func(r *Record) string { return string(r.ID) }),
		text(func(r *Record) string { return r.StreamID }),
		versions,
		text(func(r *Record) string { return string(r.OrganizationID) }),
		text(func(r *Record) string { return string(r.ProjectID) }),
		text(func(r *Record) string { return string(r.Data.Type()) }),
		revisions, times,
		text(func(r *Record) string { return string(r.Actor) }),
		text(func(r *Record) string { return r.RequestID }),
		text(func(r *Record) string { return string(r.Raw) }),
	}
}
