package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// Writes that wait at the same time are one transaction; each of them has its effect once, and fails alone.
func TestJoinedWrites(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).OwnerPool(t)
	if _, err := pool.Exec(t.Context(), "CREATE TABLE joined (n int PRIMARY KEY CHECK (n <> 13))"); err != nil {
		t.Fatal(err)
	}
	const writes = 200
	j := &joined{pool: pool, runners: joinedRunners} // as if all runners were at work: everything gathers
	errs := make([]error, writes)
	var wait sync.WaitGroup
	for i := range writes {
		wait.Go(func() {
			errs[i] = j.do(t.Context(), fmt.Sprintf("%06d", i), func(batch *pgx.Batch) { batch.Queue("INSERT INTO joined VALUES ($1)", i) })
		})
	}
	for gathered := 0; gathered < writes; {
		j.mu.Lock()
		gathered = len(j.waiting)
		j.mu.Unlock()
	}
	var runners sync.WaitGroup
	for range joinedRunners {
		runners.Go(j.run)
	}
	wait.Wait()
	runners.Wait()

	for i, err := range errs {
		if refused, ok := errors.AsType[*pgconn.PgError](err); (i == 13) != (ok && refused.Code == "23514") {
			t.Errorf("write %d: %v", i, err)
		}
	}
	var rows, transactions int
	if err := pool.QueryRow(t.Context(), "SELECT count(*), count(DISTINCT xmin::text) FROM joined").Scan(&rows, &transactions); err != nil {
		t.Fatal(err)
	}
	if rows != writes-1 {
		t.Errorf("%d rows, want %d", rows, writes-1)
	}
	// The batch with the faulty one was made again one by one, all others are one transaction each.
	if most := writes/joinedMost + joinedMost; transactions > most {
		t.Errorf("%d transactions, want at most %d", transactions, most)
	}
	if j.mu.Lock(); j.runners != 0 || len(j.waiting) != 0 {
		t.Errorf("%d runners and %d writes are left", j.runners, len(j.waiting))
	}
	j.mu.Unlock()
}

// A write whose caller has gone already is not made.
func TestJoinedWritesNotForThoseWhoLeft(t *testing.T) {
	t.Parallel()
	j := &joined{pool: dbtest.New(t).OwnerPool(t)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.do(ctx, "", func(*pgx.Batch) { t.Error("the write was made") }); err == nil {
		t.Error("it has an outcome")
	}
}
