package projections

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// Report is the outcome of a check.
type Report struct {
	Events      int64 // folded
	Streams     int64
	Rows        map[string]int64 // compared, by table
	Differences []Difference
}

// Difference is a row on which the log and a table do not agree.
type Difference struct {
	Table string
	// Problem is "missing" for a row that the log asks for and the table lacks, "unexpected" for the reverse; a row that
	// differs is both.
	Problem string
	Row     string // as JSON
}

// maxDifferences bounds the report per table and problem; one is enough to be wrong.
const maxDifferences = 100

// streamRow is the head of a stream as the log has it.
type streamRow struct {
	id      string
	version int64
	state   string
}

var streamTable = table[streamRow]{
	name: "streams",
	key:  []string{"stream_id"},
	columns: []column[streamRow]{
		col("stream_id", "text", func(r *streamRow) string { return r.id }),
		col("version", "int8", func(r *streamRow) int64 { return r.version }),
		col("state", "text", func(r *streamRow) string { return r.state }),
	},
}

// Check folds the whole log and compares every row of the read model, and every stream's head, with what it gives. It
// sees one instant (a single snapshot), so it needs no lock and commands go on.
func Check(ctx context.Context, conn *pgx.Conn) (*Report, error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // also drops the temporary tables
	c := &checker{tx: tx, report: &Report{Rows: map[string]int64{}}}
	if err := c.assertContiguous(ctx); err != nil {
		return nil, err
	}
	if err := c.fold(ctx); err != nil {
		return nil, err
	}
	for _, compare := range []func(context.Context) error{
		compareTable(c, organizationTable), compareTable(c, projectTable), compareTable(c, environmentTable),
		compareTable(c, endpointTable), compareTable(c, keyTable), compareTable(c, rotationTable), compareTable(c, dueTable),
		compareTable(c, streamTable),
	} {
		if err := compare(ctx); err != nil {
			return nil, err
		}
	}
	return c.report, nil
}

type checker struct {
	tx     pgx.Tx
	report *Report
	// Buffers of folded rows, copied to temporary tables when they are large enough.
	organizations []*Organization
	projects      []*Project
	environments  []*Environment
	endpoints     []*Endpoint
	keys          []*Key
	rotations     []*Rotation
	due           []*dueRow
	streams       []*streamRow
}

// assertContiguous makes sure that positions run from 1 to the head.
func (c *checker) assertContiguous(ctx context.Context) error {
	var count, first, head int64
	err := c.tx.QueryRow(ctx, `SELECT count(*), coalesce(min(position), 1), coalesce(max(position), 0) FROM events WHERE lane = $1`,
		eventstore.Lifecycle).Scan(&count, &first, &head)
	if err != nil {
		return fmt.Errorf("count events: %w", err)
	}
	if first != 1 || count != head {
		return fmt.Errorf("the log is broken: %d events, but the positions go from %d to %d", count, first, head)
	}
	c.report.Events = count
	return nil
}

const (
	foldPage  = 5000
	copyBatch = 5000
)

// fold reads the log ordered by stream through a cursor, so that memory holds one stream and some buffers, and fills one
// temporary table beside each table.
func (c *checker) fold(ctx context.Context) error {
	for _, t := range []string{"organizations", "projects", "environments", "webhook_endpoints", "keys", "rotations", "due_work", "streams"} {
		if _, err := c.tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE folded_%s (LIKE %s) ON COMMIT DROP", t, t)); err != nil {
			return fmt.Errorf("make a temporary table: %w", err)
		}
		if _, err := c.tx.Exec(ctx, dropNotNull(t)); err != nil {
			return fmt.Errorf("prepare a temporary table: %w", err)
		}
	}
	if _, err := c.tx.Exec(ctx, `DECLARE log_by_stream NO SCROLL CURSOR FOR `+eventstore.SelectByStream); err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	f := &folder{done: func(s *folded) error { return c.keep(ctx, s) }}
	for {
		records, err := eventstore.Collect(ctx, c.tx, fmt.Sprintf("FETCH %d FROM log_by_stream", foldPage))
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		for _, r := range records {
			if err := f.add(r); err != nil {
				return err
			}
		}
		if len(records) < foldPage {
			break
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	return c.copyAll(ctx, 0)
}

// dropNotNull lets a temporary table go without the columns that do not follow from the log.
func dropNotNull(t string) string {
	switch t {
	case "due_work":
		return "ALTER TABLE folded_due_work ALTER scan_at DROP NOT NULL, ALTER attempts DROP NOT NULL"
	case "streams":
		return "ALTER TABLE folded_streams ALTER state_revision DROP NOT NULL"
	}
	return "SELECT"
}

// keep buffers the rows of one stream.
func (c *checker) keep(ctx context.Context, s *folded) error {
	state, err := domain.EncodeState(s.state)
	if err != nil {
		return err
	}
	c.report.Streams++
	c.streams = append(c.streams, &streamRow{s.streamID, s.state.StreamVersion(), string(state)})
	c.organizations = append(c.organizations, sorted(s.rows.organizations)...)
	c.projects = append(c.projects, sorted(s.rows.projects)...)
	c.environments = append(c.environments, sorted(s.rows.environments)...)
	c.endpoints = append(c.endpoints, sorted(s.rows.endpoints)...)
	c.keys = append(c.keys, sorted(s.rows.keys)...)
	c.rotations = append(c.rotations, sorted(s.rows.rotations)...)
	c.due = append(c.due, s.rows.dueRows()...)
	return c.copyAll(ctx, copyBatch)
}

// copyAll writes the buffers that hold more than a number of rows.
func (c *checker) copyAll(ctx context.Context, over int) error {
	for _, copied := range []error{
		copyRows(ctx, c.tx, organizationTable, &c.organizations, over), copyRows(ctx, c.tx, projectTable, &c.projects, over),
		copyRows(ctx, c.tx, environmentTable, &c.environments, over), copyRows(ctx, c.tx, endpointTable, &c.endpoints, over),
		copyRows(ctx, c.tx, keyTable, &c.keys, over), copyRows(ctx, c.tx, rotationTable, &c.rotations, over),
		copyRows(ctx, c.tx, dueTable, &c.due, over), copyRows(ctx, c.tx, streamTable, &c.streams, over),
	} {
		if copied != nil {
			return copied
		}
	}
	return nil
}

func copyRows[R any](ctx context.Context, tx pgx.Tx, t table[R], buffer *[]*R, over int) error {
	if len(*buffer) <= over {
		return nil
	}
	if err := t.copyInto(ctx, tx, "folded_"+t.name, *buffer); err != nil {
		return err
	}
	*buffer = (*buffer)[:0]
	return nil
}

// A state of another revision is folded again before use, so it is not wrong; its version must be right all the same.
const (
	sqlLiveHeads   = `SELECT stream_id, version, CASE WHEN state_revision = %d THEN state END AS state FROM streams`
	sqlFoldedHeads = `SELECT f.stream_id, f.version, CASE WHEN coalesce(s.state_revision, %[1]d) = %[1]d THEN f.state END AS state
		FROM folded_streams f LEFT JOIN streams s USING (stream_id)`
)

// compareTable compares a table with its folded twin, column by column.
func compareTable[R any](c *checker, t table[R]) func(context.Context) error {
	return func(ctx context.Context) error {
		columns := strings.Join(t.names(), ", ")
		live, want := "SELECT "+columns+" FROM "+t.name, "SELECT "+columns+" FROM folded_"+t.name
		if t.name == "streams" {
			live, want = fmt.Sprintf(sqlLiveHeads, domain.SnapshotRevision), fmt.Sprintf(sqlFoldedHeads, domain.SnapshotRevision)
		}
		var count int64
		if err := c.tx.QueryRow(ctx, "SELECT count(*) FROM "+t.name).Scan(&count); err != nil {
			return fmt.Errorf("count %s: %w", t.name, err)
		}
		c.report.Rows[t.name] = count
		for _, side := range [...]struct{ problem, query string }{
			{"missing", want + " EXCEPT " + live},
			{"unexpected", live + " EXCEPT " + want},
		} {
			rows, err := c.tx.Query(ctx, fmt.Sprintf("SELECT to_jsonb(d)::text FROM (%s) d LIMIT %d", side.query, maxDifferences))
			if err != nil {
				return fmt.Errorf("compare %s: %w", t.name, err)
			}
			found, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("compare %s: %w", t.name, err)
			}
			for _, row := range found {
				c.report.Differences = append(c.report.Differences, Difference{Table: t.name, Problem: side.problem, Row: row})
			}
		}
		return nil
	}
}
