package domain

import (
	"encoding/json"
	"fmt"
)

// State is what a stream folds into. Apply is total: every event that a decision could have made applies.
type State interface {
	Apply(Event)
	// StreamVersion is the number of events applied.
	StreamVersion() int64
}

// SnapshotRevision numbers the stored form of folded states. A stored state of another revision is not read; the stream
// is folded again instead, so raising it is all that a change of the states needs.
const SnapshotRevision = 6

// NewState returns the empty state for a stream, by the kind in its id.
func NewState(streamID string) (State, error) {
	switch StreamKind(streamID) {
	case PrefixLineage:
		return &Lineage{}, nil
	case PrefixOrganization:
		return &Organization{}, nil
	case PrefixProject:
		return &Project{}, nil
	case PrefixEndpoint:
		return &Endpoint{}, nil
	}
	return nil, fmt.Errorf("fold stream %q: unknown kind", streamID)
}

// Fold applies the events of one stream, in order, from the start.
func Fold(streamID string, events []Event) (State, error) {
	state, err := NewState(streamID)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.StreamID != streamID || e.Version != state.StreamVersion()+1 {
			return nil, fmt.Errorf("fold stream %s: event %s of %s is version %d, want %d",
				streamID, e.ID, e.StreamID, e.Version, state.StreamVersion()+1)
		}
		state.Apply(e)
	}
	return state, nil
}

// EncodeState writes a state for storage beside its stream's head.
func EncodeState(s State) ([]byte, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return raw, nil
}

// DecodeState reads what EncodeState wrote at the current SnapshotRevision.
func DecodeState(streamID string, raw []byte) (State, error) {
	state, err := NewState(streamID)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, state); err != nil {
		return nil, fmt.Errorf("decode state of %s: %w", streamID, err)
	}
	return state, nil
}

// Decided is an event as a decision makes it: the rest of the envelope is filled in when it is appended.
type Decided struct {
	StreamID       string
	OrganizationID OrganizationID
	ProjectID      ProjectID
	Data           Payload
}
