package workers

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// together are the arguments of a statement that is carried out once for all who queue it in one transaction: columns of
// rows, one for each. Postgres then plans, locks and looks things up once for all of them.
type together[R any] struct {
	rows    []R
	columns func([]R) []any
}

// RewriteQuery gives the arguments, when all rows are there.
func (t *together[R]) RewriteQuery(_ context.Context, _ *pgx.Conn, sql string, _ []any) (string, []any, error) {
	return sql, t.columns(t.rows), nil
}

// queueTogether adds a row to the statement, which begins with the first one. It is not for statements of which the order
// matters to one another.
func queueTogether[R any](batch *pgx.Batch, sql string, row R, columns func([]R) []any) (first *pgx.QueuedQuery, all *together[R]) {
	for _, queued := range batch.QueuedQueries {
		if queued.SQL == sql {
			all := queued.Arguments[0].(*together[R])
			all.rows = append(all.rows, row)
			return nil, all
		}
	}
	all = &together[R]{rows: []R{row}, columns: columns}
	return batch.Queue(sql, all), all
}

// column is one value of each row.
func column[R, V any](rows []R, value func(R) V) []V {
	out := make([]V, len(rows))
	for i, row := range rows {
		out[i] = value(row)
	}
	return out
}
