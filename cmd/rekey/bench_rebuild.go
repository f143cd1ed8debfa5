package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/projections"
)

const rebuildAim = 0.5

// rebuildTables are those that imported keys have rows in.
var rebuildTables = []string{"keys", "due_work"}

// rebuildBench is a database with keys, and beside each of its tables an empty one with the same indexes.
type rebuildBench struct {
	conn *pgx.Conn // with the owner's rights, as rekey projections rebuild has
	rows int64
	// copies are the rows of each table as COPY takes them, and columns those that are not computed.
	copies, columns map[string]string

	rebuilding, copying spent
}

func benchRebuild(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if _, err := p.importKeys(ctx, "rebuild", b.keys/b.rounds, nil); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, p.cfg.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	r := &rebuildBench{conn: conn, copies: map[string]string{}, columns: map[string]string{}}
	for _, table := range rebuildTables {
		if err := r.prepare(ctx, table); err != nil {
			return nil, fmt.Errorf("prepare table %s: %w", table, err)
		}
	}
	rounds, err := b.byTurns(func() (float64, error) { return r.copyIn(ctx) }, func() (float64, error) { return r.rebuild(ctx) })
	if err != nil {
		return nil, err
	}
	if err := r.check(ctx); err != nil {
		return nil, err
	}
	return []benchFigure{{
		name: "rebuild", unit: "rows/s", aim: rebuildAim, rounds: rounds,
		note: fmt.Sprintf("%d rows of %s, into empty tables; cpu %d us each, limit %d us", r.rows, strings.Join(rebuildTables, " and "),
			r.rebuilding.each().Microseconds(), r.copying.each().Microseconds()),
	}}, nil
}

// prepare reads the rows of a table, and makes the one that they are copied into for the limit.
func (r *rebuildBench) prepare(ctx context.Context, table string) error {
	if _, err := r.conn.Exec(ctx, fmt.Sprintf("CREATE TABLE bench_%s (LIKE %s INCLUDING ALL)", table, table)); err != nil {
		return err
	}
	const sql = `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`
	var columns string
	if err := r.conn.QueryRow(ctx, sql, table).Scan(&columns); err != nil {
		return err
	}
	var rows bytes.Buffer
	tag, err := r.conn.PgConn().CopyTo(ctx, &rows, fmt.Sprintf("COPY %s (%s) TO STDOUT (FORMAT binary)", table, columns))
	r.rows += tag.RowsAffected()
	r.columns[table], r.copies[table] = columns, rows.String()
	return err
}

// copyIn is the limit: nothing is read, folded or compared, and each table is one commit.
func (r *rebuildBench) copyIn(ctx context.Context) (float64, error) {
	if err := r.empty(ctx, "bench_"); err != nil {
		return 0, err
	}
	defer r.copying.count()()
	r.copying.times += int(r.rows)
	began := time.Now()
	for _, table := range rebuildTables {
		sql := fmt.Sprintf("COPY bench_%s (%s) FROM STDIN (FORMAT binary)", table, r.columns[table])
		if _, err := r.conn.PgConn().CopyFrom(ctx, strings.NewReader(r.copies[table]), sql); err != nil {
			return 0, fmt.Errorf("copy rows of %s: %w", table, err)
		}
	}
	return float64(r.rows) / time.Since(began).Seconds(), nil
}

// rebuild makes the rows from the log, as rekey projections rebuild does.
func (r *rebuildBench) rebuild(ctx context.Context) (float64, error) {
	if err := r.empty(ctx, ""); err != nil {
		return 0, err
	}
	defer r.rebuilding.count()()
	r.rebuilding.times += int(r.rows)
	began := time.Now()
	if _, err := projections.Rebuild(ctx, r.conn); err != nil {
		return 0, err
	}
	return float64(r.rows) / time.Since(began).Seconds(), nil
}

func (r *rebuildBench) empty(ctx context.Context, prefix string) error {
	for _, table := range rebuildTables {
		if _, err := r.conn.Exec(ctx, "TRUNCATE "+prefix+table); err != nil {
			return fmt.Errorf("empty %s: %w", prefix+table, err)
		}
	}
	return nil
}

// check looks whether what was rebuilt is what the log says.
func (r *rebuildBench) check(ctx context.Context) error {
	report, err := projections.Check(ctx, r.conn)
	if err != nil {
		return err
	}
	var rows int64
	for _, table := range rebuildTables {
		rows += report.Rows[table]
	}
	if len(report.Differences) > 0 || rows != r.rows {
		return fmt.Errorf("the read model was not rebuilt: %d differences, %d of %d rows", len(report.Differences), rows, r.rows)
	}
	return nil
}
