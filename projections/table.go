package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// column is one column of a table and where its values come from. kind is its SQL type.
type column[R any] struct {
	name, kind string
	value      func(*R) any
	array      func([]*R) any // of one type, which is encoded without reflection on each value
}

// col makes a column of values of one type.
func col[R, V any](name, kind string, get func(*R) V) column[R] {
	return column[R]{
		name: name, kind: kind,
		value: func(r *R) any { return get(r) },
		array: func(rows []*R) any {
			values := make(pgtype.FlatArray[V], len(rows))
			for i, r := range rows {
				values[i] = get(r)
			}
			return values
		},
	}
}

// table says once what is needed to write rows in bulk, to copy them and to compare them.
type table[R any] struct {
	name    string
	key     []string
	columns []column[R]
}

func (t table[R]) names() []string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return names
}

// unnest is the source of a statement that writes any number of rows: one array per column, so that it costs one round
// trip and one plan whatever the number.
func (t table[R]) unnest() (values, source string) {
	var selected, arrays []string
	for i, c := range t.columns {
		kind, value := c.kind, "r."+c.name
		if kind == "jsonb" { // an array of documents is sent as text
			kind, value = "text", value+"::jsonb"
		}
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, kind))
		selected = append(selected, value)
	}
	return strings.Join(selected, ", "), fmt.Sprintf("unnest(%s) AS r(%s)", strings.Join(arrays, ", "), strings.Join(t.names(), ", "))
}

// insert is the statement for rows that are new.
func (t table[R]) insert() string {
	values, source := t.unnest()
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", t.name, strings.Join(t.names(), ", "), values, source)
}

// upsert is the statement for rows that may be there.
func (t table[R]) upsert() string { return t.insert() + t.orUpdate() }

// mend is the statement for rows that may be there and are mostly right: those are only read.
func (t table[R]) mend() string {
	values, _ := t.unnest()
	return fmt.Sprintf("%s WHERE NOT EXISTS (SELECT FROM %s t WHERE %s AND (t.%s) IS NOT DISTINCT FROM (%s))%s",
		t.insert(), t.name, t.match(), strings.Join(t.names(), ", t."), values, t.orUpdate())
}

// orUpdate writes a row over the one that is there.
func (t table[R]) orUpdate() string {
	return fmt.Sprintf(" ON CONFLICT (%s) DO UPDATE SET %s", strings.Join(t.key, ", "), t.sets("excluded.%s"))
}

// update is the statement for rows that are there.
func (t table[R]) update() string {
	_, source := t.unnest()
	return fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s", t.name, t.sets("r.%s"), source, t.match())
}

// match finds the row t that a row r is to replace.
func (t table[R]) match() string {
	var match []string
	for _, name := range t.key {
		match = append(match, fmt.Sprintf("t.%s = r.%s", name, name))
	}
	return strings.Join(match, " AND ")
}

// sets assigns every column that is not part of the key.
func (t table[R]) sets(from string) string {
	var sets []string
	for _, name := range t.names() {
		if !slices.Contains(t.key, name) {
			sets = append(sets, name+" = "+fmt.Sprintf(from, name))
		}
	}
	return strings.Join(sets, ", ")
}

// only is the same table with the key and some of the other columns.
func (t table[R]) only(names ...string) table[R] {
	part := table[R]{name: t.name, key: t.key}
	for _, c := range t.columns {
		if slices.Contains(t.key, c.name) || slices.Contains(names, c.name) {
			part.columns = append(part.columns, c)
		}
	}
	return part
}

// queue adds the statement that writes the rows.
func (t table[R]) queue(batch *pgx.Batch, sql string, rows []*R) {
	if len(rows) == 0 {
		return
	}
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		args[i] = c.array(rows)
	}
	batch.Queue(sql, args...)
}

// copyInto writes new rows into a table with these columns. With many rows COPY costs less than a statement.
func (t table[R]) copyInto(ctx context.Context, tx pgx.Tx, name string, rows []*R) error {
	if len(rows) == 0 {
		return nil
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{name}, t.names(), t.copySource(rows)); err != nil {
		return fmt.Errorf("copy rows of %s: %w", name, err)
	}
	return nil
}

// copySource feeds rows to COPY.
func (t table[R]) copySource(rows []*R) pgx.CopyFromSource {
	return pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
		values := make([]any, len(t.columns))
		for j, c := range t.columns {
			values[j] = c.value(rows[i])
		}
		return values, nil
	})
}
