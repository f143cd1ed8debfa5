package projections

import (
	"fmt"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// folded is one stream folded from its first event, with all rows that it ever made, if they are kept apart.
type folded struct {
	streamID string
	state    domain.State
	rows     *rows
}

// folder folds records that come ordered by stream and version, one stream after the other, and hands each over.
type folder struct {
	current *folded
	all     *rows // takes the rows of every stream; nil: each has its own
	done    func(*folded) error
}

// add folds one record.
func (f *folder) add(r eventstore.Record) error {
	if f.current == nil || f.current.streamID != r.StreamID {
		if err := f.flush(); err != nil {
			return err
		}
		state, err := domain.NewState(r.StreamID)
		if err != nil {
			return err
		}
		f.current = &folded{streamID: r.StreamID, state: state, rows: f.all}
		if f.all == nil {
			f.current.rows = newRows()
		}
	}
	if want := f.current.state.StreamVersion() + 1; r.Version != want {
		return fmt.Errorf("the log is broken: stream %s has version %d where %d must be", r.StreamID, r.Version, want)
	}
	f.current.state.Apply(r.Event)
	return f.current.rows.Event(r.Event, f.current.state)
}

// flush hands the last stream over.
func (f *folder) flush() error {
	if f.current == nil {
		return nil
	}
	last := f.current
	f.current = nil
	return f.done(last)
}
