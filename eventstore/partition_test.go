package eventstore_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

const partitionSize = 10_000_000

// moveHead puts one event far ahead, as the owner.
func (b *bundle) moveHead(t *testing.T, position int64) {
	t.Helper()
	b.exec(t, `INSERT INTO events (lane, position, event_id, stream_id, version, organization_id, project_id, type, revision,
		occurred_at, actor, request_id, data) VALUES (1, $1, 'evt_far', 'org_far', 1, 'org_far', '', 'OrganizationCreated', 1,
		now(), 'system:setup', 'far', '{"name":"far"}')`, position)
}

// ensure makes partitions with the service's rights, and gives up rather than wait for a lock.
func (b *bundle) ensure(t *testing.T) (made int) {
	t.Helper()
	conn := b.connect(t)
	if _, err := conn.Exec(t.Context(), "SET lock_timeout = '2s'"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT ensure_partitions()").Scan(&made); err != nil {
		t.Fatalf("make partitions: %v", err)
	}
	return made
}

// emptyAhead counts the lifecycle partitions that begin after the head.
func (b *bundle) emptyAhead(t *testing.T) int {
	t.Helper()
	return one[int](t, b, `SELECT count(*) FROM pg_partition_tree('events_lifecycle') p WHERE p.isleaf AND
		right(p.relid::regclass::text, 6)::bigint * $1 > (SELECT coalesce(max(position), 0) FROM events WHERE lane = 1)`, partitionSize)
}

func TestPartitions(t *testing.T) {
	t.Parallel()

	t.Run("AreKeptAhead", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.fill(t, 1) // it has started, and made what it makes
		if made, ahead := b.ensure(t), b.emptyAhead(t); made != 0 || ahead != 3 {
			t.Errorf("at first: %d made, %d ahead; want 0 and 3", made, ahead)
		}
		b.moveHead(t, partitionSize-2)
		// The second and third event lie in the next partition, and nobody notices.
		b.fill(t, 3)
		records, err := b.store.Read(t.Context(), eventstore.Lifecycle, partitionSize-2, 10)
		if want := []int64{partitionSize - 1, partitionSize, partitionSize + 1}; err != nil || !slices.Equal(positions(records), want) {
			t.Errorf("over the boundary: got %v, %v, want %v", positions(records), err, want)
		}
		if got := one[int](t, b, "SELECT count(*) FROM events_lifecycle_000001"); got != 2 {
			t.Errorf("%d events in the second partition, want 2", got)
		}
		if made, ahead := b.ensure(t), b.emptyAhead(t); made != 1 || ahead != 3 {
			t.Errorf("after a step: %d made, %d ahead; want 1 and 3", made, ahead)
		}
		b.moveHead(t, 4*partitionSize+7) // more than one step at once
		if made, ahead := b.ensure(t), b.emptyAhead(t); made != 3 || ahead != 3 {
			t.Errorf("after a leap: %d made, %d ahead; want 3 and 3", made, ahead)
		}
		if made := b.ensure(t); made != 0 {
			t.Errorf("again: %d made", made)
		}
	})

	t.Run("MissingOneRefusesTheAppendOnly", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.fill(t, 1)
		b.moveHead(t, 4*partitionSize-1) // the last position that has a partition
		_, err := b.store.Execute(t.Context(), begin("no room", newID(domain.PrefixOrganization)))
		wantCode(t, err, domain.CodeInternal)
		b.another(t) // makes them as it starts
		until(t, "partitions were made", func() bool { return b.emptyAhead(t) >= 3 })
		records, err := b.store.Execute(t.Context(), begin("room", newID(domain.PrefixOrganization)))
		if err != nil || records[0].Position != 4*partitionSize {
			t.Errorf("got %v, %v", positions(records), err)
		}
	})

	t.Run("AreMadeOnceByManyAtATime", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		b.moveHead(t, 2*partitionSize)
		var made [4]int
		var callers sync.WaitGroup
		for i := range made {
			callers.Go(func() { made[i] = b.ensure(t) })
		}
		callers.Wait()
		if slices.Sort(made[:]); made != [4]int{0, 0, 0, 2} {
			t.Errorf("got %v, want one caller to make 2", made)
		}
	})

	// A backup or a check reads the log in one snapshot for minutes. If making a partition waited for it, every append
	// would wait behind that.
	t.Run("AreMadeWhileALongReaderIsAtWork", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		b.moveHead(t, 2*partitionSize)
		reader := b.longReader(t)
		if made := b.ensure(t); made != 2 {
			t.Errorf("%d made, want 2", made)
		}
		b.store = b.another(t)
		b.fill(t, 2)
		if got := reader(); got != 1 {
			t.Errorf("the reader's snapshot has %d events, want 1", got)
		}
	})
}

// longReader begins a snapshot that reads the log and stays open; it returns what counts the events in it.
func (b *bundle) longReader(t *testing.T) func() int {
	t.Helper()
	tx, err := b.connect(t).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	count := func() int {
		var n int
		if err := tx.QueryRow(context.Background(), "SELECT count(*) FROM events").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	count()
	return count
}

// Nobody else's open transaction may hold a reader up: not in another database of the cluster, not a long snapshot in this
// one, not a prepared one.
func TestForeignTransactionsDoNotStallReaders(t *testing.T) {
	t.Parallel()
	b, foreign := setup(t), setupIdle(t)
	b.fill(t, 3)
	tx := mustBegin(t, foreign.connect(t))
	if _, err := rawAppend(t.Context(), tx, newID(domain.PrefixOrganization), 0); err != nil {
		t.Fatal(err)
	}
	writer, err := b.owner.Begin(t.Context()) // writes here, but not to the log
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Rollback(context.Background()) }()
	if _, err := writer.Exec(t.Context(), "INSERT INTO consumers VALUES ('foreign', 1, 0, now())"); err != nil {
		t.Fatal(err)
	}
	snapshot := b.longReader(t)
	b.prepareForeign(t)

	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	applied := make(chan int64, 100)
	go func() {
		_ = b.store.Consume(ctx, eventstore.Consumer{Name: "reader", Apply: func(_ context.Context, _ pgx.Tx, records []eventstore.Record) error {
			applied <- records[len(records)-1].Position
			return nil
		}})
	}()
	for want := int64(4); want < 9; want++ {
		began := time.Now()
		b.fill(t, 1)
		records, err := b.store.Read(ctx, eventstore.Lifecycle, want-1, 10)
		if err != nil || !slices.Equal(positions(records), []int64{want}) {
			t.Fatalf("got %v, %v, want position %d at once", positions(records), err, want)
		}
		for got := int64(0); got < want; {
			select {
			case got = <-applied:
			case <-ctx.Done():
				t.Fatalf("the consumer stands before %d, %v after the append", want, time.Since(began))
			}
		}
	}
	if got := snapshot(); got != 3 {
		t.Errorf("the snapshot has %d events, want 3", got)
	}
}

// prepareForeign leaves a prepared transaction behind, where the server allows any.
func (b *bundle) prepareForeign(t *testing.T) {
	t.Helper()
	if one[string](t, b, "SHOW max_prepared_transactions") == "0" {
		t.Log("the server allows no prepared transactions")
		return
	}
	conn, err := b.owner.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	name := fmt.Sprintf("'%s'", newID("gid"))
	for _, sql := range []string{"BEGIN", "INSERT INTO consumers VALUES ('prepared', 1, 0, now())", "PREPARE TRANSACTION " + name} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { b.exec(t, "ROLLBACK PREPARED "+name) })
}
