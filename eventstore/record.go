package eventstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Lane is one totally ordered, gapless part of the log.
type Lane int16

// Lanes of the log.
const (
	Lifecycle Lane = 1 // what happens to keys, projects, organizations, endpoints; kept
	Usage     Lane = 2 // what keys are used for; dropped by age
)

// Record is an event as it stands in the log.
type Record struct {
	domain.Event
	Lane     Lane
	Position int64
	Revision int
	Raw      json.RawMessage // the payload as stored, byte for byte
}

// RecordColumns are the columns of the log that make a record, as ScanRecord takes them.
const RecordColumns = `lane, position, event_id, stream_id, version, organization_id, project_id, type, revision,
	occurred_at, actor, request_id, data`

// ScanRecord makes a record of RecordColumns.
func ScanRecord(row pgx.CollectableRow) (Record, error) {
	var (
		r        Record
		typeName domain.Type
		raw      []byte
	)
	err := row.Scan(&r.Lane, &r.Position, &r.ID, &r.StreamID, &r.Version, &r.OrganizationID, &r.ProjectID, &typeName,
		&r.Revision, &r.OccurredAt, &r.Actor, &r.RequestID, &raw)
	if err != nil {
		return Record{}, err
	}
	r.OccurredAt = r.OccurredAt.UTC()
	r.Raw = raw
	r.Data, err = domain.Decode(typeName, r.Revision, raw)
	if err != nil {
		return Record{}, internalError{fmt.Errorf("position %d: %w", r.Position, err)}
	}
	return r, nil
}

// EventsOf returns the events of records.
func EventsOf(records []Record) []domain.Event {
	events := make([]domain.Event, len(records))
	for i, r := range records {
		events[i] = r.Event
	}
	return events
}

// microseconds is the precision of a time in Postgres; what is decided must be what is read back.
func microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
