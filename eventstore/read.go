package eventstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Querier is what reading needs: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// GapError says that the log has a hole or a repetition. It is corruption: no reader goes on after it.
type GapError struct {
	Lane      Lane
	Want, Got int64
}

// Error names the positions.
func (e *GapError) Error() string {
	return fmt.Sprintf("the log is broken: lane %d has position %d where %d must be", e.Lane, e.Got, e.Want)
}

const (
	sqlReadLane = `SELECT ` + RecordColumns + ` FROM events WHERE lane = $1 AND position > $2 ORDER BY position LIMIT $3`
	// A backward index scan over the partitions: one page, however long the log.
	sqlHead         = `SELECT position FROM events WHERE lane = $1 ORDER BY position DESC LIMIT 1`
	sqlLastPosition = `SELECT position FROM events WHERE stream_id = $1 ORDER BY version DESC LIMIT 1`
	sqlReadStream   = `SELECT ` + RecordColumns + ` FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3`
)

// ReadLane returns up to limit records after a position, in order, and asserts that they are consecutive.
func ReadLane(ctx context.Context, q Querier, lane Lane, after int64, limit int) ([]Record, error) {
	records, err := Collect(ctx, q, sqlReadLane, lane, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read lane %d after %d: %w", lane, after, err)
	}
	for i, r := range records {
		if want := after + int64(i) + 1; r.Position != want {
			return nil, &GapError{Lane: lane, Want: want, Got: r.Position}
		}
	}
	return records, nil
}

// Head returns the last position of a lane, 0 when it is empty.
func Head(ctx context.Context, q Querier, lane Lane) (int64, error) {
	var head int64
	err := q.QueryRow(ctx, sqlHead, lane).Scan(&head)
	if err == pgx.ErrNoRows {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the head of lane %d: %w", lane, err)
	}
	return head, nil
}

// ReadStream returns up to limit events of one stream after a version, in order.
func ReadStream(ctx context.Context, q Querier, streamID string, after int64, limit int) ([]Record, error) {
	records, err := Collect(ctx, q, sqlReadStream, streamID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", streamID, err)
	}
	return records, nil
}

// Statements for folding the log stream by stream; their rows go through Collect.
const (
	SelectByStream = `SELECT ` + RecordColumns + ` FROM events WHERE lane = 1 ORDER BY stream_id, version`
	// The partition is named, because a condition on the lane makes Postgres combine the stream's index with the whole of
	// another one.
	SelectStreams = `SELECT ` + RecordColumns + ` FROM events_lifecycle WHERE stream_id >= $1 AND stream_id <= $2 ORDER BY stream_id, version`
)

// Collect reads the records of a statement of this package, or of a cursor over one.
func Collect(ctx context.Context, q Querier, sql string, args ...any) ([]Record, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, ScanRecord)
}
