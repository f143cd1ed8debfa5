package projections

import (
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

// upsert is the statement that writes any number of rows: one array per column, so that it costs one round trip and one
// plan whatever the number.
func (t table[R]) upsert() string {
	var arrays, values, sets []string
	for i, c := range t.columns {
		kind, value := c.kind, "r."+c.name
		if kind == "jsonb" { // an array of documents is sent as text
			kind, value = "text", value+"::jsonb"
		}
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, kind))
		values = append(values, value)
		if !slices.Contains(t.key, c.name) {
			sets = append(sets, fmt.Sprintf("%s = excluded.%s", c.name, c.name))
		}
	}
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM unnest(%s) AS r(%s) ON CONFLICT (%s) DO UPDATE SET %s",
		t.name, strings.Join(t.names(), ", "), strings.Join(values, ", "), strings.Join(arrays, ", "),
		strings.Join(t.names(), ", "), strings.Join(t.key, ", "), strings.Join(sets, ", "))
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
