package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// At one expected version exactly one of k racing writers wins, in one process or in several, whether the stream exists
// or begins; the losers change nothing.
func TestRaceAtOneVersionHasOneWinner(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	var mu sync.Mutex
	failed := map[string]int{} // transactions that Postgres refused, by state
	observe := func(c *eventstore.Config) {
		c.Observe = func(_, _ int, _ time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[stateOf(err)]++
			}
		}
	}
	stores := []*eventstore.Store{b.another(t, observe), b.another(t, observe)}
	race := func(version int64, stream string) {
		const k = 8
		var racers sync.WaitGroup
		start := make(chan struct{})
		codes := make(chan domain.Code, k)
		for i := range k {
			c := touch(fmt.Sprint(version, "/", i), stream)
			c.Expected = &version
			racers.Go(func() {
				<-start
				_, err := stores[i%2].Execute(context.Background(), c)
				codes <- code(err)
			})
		}
		close(start)
		racers.Wait()
		close(codes)
		won := map[domain.Code]int{}
		for c := range codes {
			won[c]++
		}
		if won[""] != 1 || won[domain.CodeVersionConflict] != k-1 {
			t.Fatalf("at version %d: %v, want one winner", version, won)
		}
	}
	const rounds, streams = 25, 20
	org := newID(domain.PrefixOrganization)
	b.store = stores[0]
	b.mustExecute(t, begin("first", org))
	for v := range int64(rounds) {
		race(v+1, org)
	}
	// The head is locked before anything is decided, so a race over a stream that exists costs no transaction.
	if len(failed) != 0 {
		t.Errorf("transactions failed: %v", failed)
	}
	for range streams {
		race(0, newID(domain.PrefixLineage))
	}
	delete(failed, "40001") // two that begin one stream do collide
	if len(failed) != 0 {
		t.Errorf("transactions failed: %v", failed)
	}
	if got := one[int](t, b, "SELECT count(*) FROM events"); got != 1+rounds+streams {
		t.Errorf("the log has %d events, want %d", got, 1+rounds+streams)
	}
	b.checkLog(t)
}

func stateOf(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return err.Error()
}

const sqlRawAppend = `WITH moved AS MATERIALIZED (
		SELECT move_heads(ARRAY[$1], ARRAY[$2::bigint], ARRAY[$2::bigint + 1], 1::smallint, ARRAY['{}'], ARRAY[]::text[], ARRAY[]::bigint[]) AS done
	) SELECT append_events(1::smallint,
	ARRAY['evt_' || gen_random_uuid()], ARRAY[$1], ARRAY[$2::bigint + 1], ARRAY['org_test'], ARRAY[''],
	ARRAY['OrganizationCreated'], ARRAY[1::smallint], ARRAY[now()], ARRAY['system:setup'], ARRAY['raw'], ARRAY['{"name":"raw"}']) FROM moved`

// rawAppend appends one event without a Store.
func rawAppend(ctx context.Context, q eventstore.Querier, stream string, expected int64) (position int64, err error) {
	err = q.QueryRow(ctx, sqlRawAppend, stream, expected).Scan(&position)
	return position, err
}

func mustBegin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// waitsFor returns when the connection waits for a lock, and says for which kind.
func (b *bundle) waitsFor(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var event string
	until(t, "the connection waits for a lock", func() bool {
		err := b.owner.QueryRow(t.Context(), `SELECT wait_event FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'`,
			conn.PgConn().PID()).Scan(&event)
		return err == nil
	})
	return event
}

// Append A holds before its commit while append B comes: B must wait, and no reader may see what comes after A.
func TestRaceOfTwoAppends(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"Commit", "Rollback"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			connA, connB := b.connect(t), b.connect(t)
			a := mustBegin(t, connA)
			first, err := rawAppend(t.Context(), a, newID(domain.PrefixOrganization), 0)
			if err != nil || first != 1 {
				t.Fatalf("got position %d, %v", first, err)
			}
			type appended struct {
				position int64
				err      error
			}
			answer := make(chan appended, 1)
			go func() {
				position, err := rawAppend(context.Background(), connB, newID(domain.PrefixOrganization), 0)
				answer <- appended{position, err}
			}()
			if event := b.waitsFor(t, connB); event != "advisory" {
				t.Errorf("the second append waits for %s, want the lane", event)
			}
			if records, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 10); err != nil || len(records) != 0 {
				t.Errorf("a reader saw %v, %v", positions(records), err)
			}
			want := int64(2)
			if end == "Rollback" {
				want = 1 // positions that were not committed are given again
				err = a.Rollback(t.Context())
			} else {
				err = a.Commit(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := <-answer; got.err != nil || got.position != want {
				t.Errorf("the second append got %+v, want position %d", got, want)
			}
			records, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 10)
			if err != nil || int64(len(records)) != want {
				t.Errorf("read %v, %v", positions(records), err)
			}
		})
	}
}

// The test above proves something only if it fails without the lane lock: then both appends take the same position. The
// primary key refuses the second one, and without the key the reader stops at the repetition.
func TestRaceWithoutTheLaneLock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	source := one[string](t, b, "SELECT pg_get_functiondef('append_events'::regproc)")
	var kept []string
	for line := range strings.Lines(source) {
		if !strings.Contains(line, "rekey.lane") {
			kept = append(kept, line)
		}
	}
	broken := strings.Join(kept, "")
	if broken == source {
		t.Fatal("append_events has no lane lock")
	}
	b.exec(t, broken)

	race := func() error {
		connA, connB := b.connect(t), b.connect(t)
		a := mustBegin(t, connA)
		if _, err := rawAppend(t.Context(), a, newID(domain.PrefixOrganization), 0); err != nil {
			t.Fatal(err)
		}
		answer := make(chan error, 1)
		go func() {
			_, err := rawAppend(context.Background(), connB, newID(domain.PrefixOrganization), 0)
			answer <- err
		}()
		until(t, "the second append waits or is done", func() bool {
			return len(answer) > 0 || one[bool](t, b, "SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1", connB.PgConn().PID())
		})
		if err := a.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		return <-answer
	}
	if err := race(); err == nil || stateOf(err) != "23505" {
		t.Errorf("with the primary key: got %v, want a duplicate", err)
	}
	b.exec(t, "ALTER TABLE events DROP CONSTRAINT events_pkey")
	if err := race(); err != nil {
		t.Errorf("without the primary key: %v", err)
	}
	_, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 10)
	if gap, ok := errors.AsType[*eventstore.GapError](err); !ok || gap.Want != 3 || gap.Got != 2 {
		t.Errorf("got %v, want a gap error at position 3", err)
	}
}

// The function itself refuses a stale version, whoever calls it.
func TestAppendRefusesStaleVersion(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	conn, org := b.connect(t), newID(domain.PrefixOrganization)
	for i := range int64(2) {
		if _, err := rawAppend(t.Context(), conn, org, i); err != nil {
			t.Fatal(err)
		}
	}
	before := b.contents(t)
	for _, expected := range []int64{0, 1, 3} {
		if _, err := rawAppend(t.Context(), conn, org, expected); err == nil || stateOf(err) != "40001" {
			t.Errorf("expecting version %d: got %v, want 40001", expected, err)
		}
	}
	if b.contents(t) != before {
		t.Error("a refused append changed something")
	}
}
