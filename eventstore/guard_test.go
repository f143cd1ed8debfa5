package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// Under another isolation level the head of the lane would be read from an old snapshot.
func TestAppendRefusesOtherIsolationLevels(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tx, err := b.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rawAppend(t.Context(), tx, newID(domain.PrefixOrganization), 0); err == nil || stateOf(err) != "25001" {
			t.Errorf("%s: got %v, want 25001", level, err)
		}
		_ = tx.Rollback(t.Context())
	}
}

// G9: the role that the service works as can read the log and append to it, and nothing else, on whichever way.
func TestG9RoleCannotChangeTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	org := newID(domain.PrefixOrganization)
	b.mustExecute(t, begin("first", org))
	before := b.contents(t)
	conn := b.connect(t)

	var refused []string
	tables := strings.Fields(one[string](t, b, "SELECT string_agg(relid::regclass::text, ' ') FROM pg_partition_tree('events')"))
	if len(tables) < 3+4+2 { // parents, and partitions of both lanes
		t.Fatalf("only the tables %v", tables)
	}
	for _, table := range append(tables, "streams") {
		refused = append(refused,
			"DELETE FROM "+table, "TRUNCATE "+table, "DROP TABLE "+table+" CASCADE", "ALTER TABLE "+table+" ADD COLUMN x int",
			"UPDATE "+table+" SET version = 9", "INSERT INTO "+table+" SELECT * FROM "+table+" WHERE false",
			"CREATE RULE r AS ON SELECT TO "+table+" DO INSTEAD NOTHING",
			"CREATE TRIGGER r BEFORE INSERT ON "+table+" FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		)
	}
	refused = append(refused,
		"UPDATE streams SET state = ''", "UPDATE streams SET stream_id = 'x'", "UPDATE events SET data = '{}'",
		"MERGE INTO events e USING (SELECT 1 AS p) s ON e.position = s.p WHEN MATCHED THEN DELETE",
		"COPY events FROM PROGRAM 'true'", "ALTER TABLE events DETACH PARTITION events_lifecycle",
		"ALTER FUNCTION append_events SECURITY INVOKER", "DROP FUNCTION append_events", "DROP FUNCTION ensure_partitions",
		"CREATE FUNCTION public.hashtext(text) RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TABLE public.x ()",
		"SET session_replication_role = replica", "DELETE FROM consumers",
	)
	for _, sql := range refused {
		if _, err := conn.Exec(t.Context(), sql); err == nil || stateOf(err) != "42501" {
			t.Errorf("%s: got %v, want it refused for lack of rights", sql, err)
		}
	}
	if b.contents(t) != before {
		t.Error("something was changed")
	}
	for _, sql := range []string{"SELECT * FROM events", "SELECT * FROM streams FOR UPDATE", "SELECT ensure_partitions()"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if position, err := rawAppend(t.Context(), conn, org, 1); err != nil || position != 2 {
		t.Errorf("append: got %d, %v", position, err)
	}
}

// The functions run with the owner's rights. Whoever may call them must not be able to slip them a table of his own:
// its triggers would run with these rights too.
func TestG9FunctionsCannotBeLedAstray(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.mustExecute(t, begin("first", newID(domain.PrefixOrganization)))
	conn := b.connect(t)
	for _, table := range []string{"events", "streams"} {
		for _, sql := range []string{
			"CREATE TEMP TABLE %[1]s (LIKE public.%[1]s INCLUDING ALL)",
			`CREATE FUNCTION pg_temp.attack_%[1]s() RETURNS trigger LANGUAGE plpgsql AS
				'BEGIN DELETE FROM public.%[1]s; RETURN NEW; END'`,
			"CREATE TRIGGER attack BEFORE INSERT ON pg_temp.%[1]s FOR EACH ROW EXECUTE FUNCTION pg_temp.attack_%[1]s()",
			"GRANT ALL ON pg_temp.%[1]s TO PUBLIC",
		} {
			if _, err := conn.Exec(t.Context(), fmt.Sprintf(sql, table)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := rawAppend(t.Context(), conn, newID(domain.PrefixOrganization), 0); err != nil {
		t.Error(err)
	}
	if got := one[int](t, b, "SELECT count(*) FROM events"); got != 2 {
		t.Errorf("the log has %d events, want 2", got)
	}
	b.checkLog(t)
}

// A hole in the log is corruption: no reader walks over it.
func TestGapStopsReaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill(t, 10)
	b.exec(t, "DELETE FROM events WHERE position = 6")
	store := b.idle() // one that has not written these events itself, and must ask the database

	isGap := func(err error, want, got int64) {
		t.Helper()
		if gap, ok := errors.AsType[*eventstore.GapError](err); !ok || *gap != (eventstore.GapError{Lane: eventstore.Lifecycle, Want: want, Got: got}) {
			t.Errorf("got %v, want a gap error: %d instead of %d", err, got, want)
		}
	}
	_, err := store.Read(t.Context(), eventstore.Lifecycle, 0, 100)
	isGap(err, 6, 7)
	_, err = store.Read(t.Context(), eventstore.Lifecycle, 5, 1) // also when the page begins at the hole
	isGap(err, 6, 7)
	if records, err := store.Read(t.Context(), eventstore.Lifecycle, 0, 5); err != nil || len(records) != 5 {
		t.Errorf("before the hole: %v, %v", positions(records), err)
	}
	var applied []int64
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	err = store.Consume(ctx, eventstore.Consumer{Name: "gap", Apply: func(_ context.Context, _ pgx.Tx, records []eventstore.Record) error {
		applied = append(applied, positions(records)...)
		return nil
	}})
	isGap(err, 6, 7)
	if len(applied) != 0 {
		t.Errorf("the consumer applied %v of a broken page", applied)
	}
}

// An event that this version cannot read holds a consumer up; it does not walk over it. Once the event can be read, by a
// newer version, it goes on.
func TestUnknownEventHoldsReadersUp(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"Type":     "UPDATE events SET type = 'Invented' WHERE position = 2",
		"Revision": "UPDATE events SET revision = 99 WHERE position = 2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.fill(t, 3)
			b.exec(t, sql)
			faults := make(faultLog, 100)
			store := b.idle(func(c *eventstore.Config) { c.Logger = slog.New(faults) })
			ctx, cancel := context.WithCancel(t.Context())
			applied := make(chan []int64, 1)
			done := make(chan error, 1)
			go func() {
				done <- store.Consume(ctx, eventstore.Consumer{Name: "old", Apply: func(_ context.Context, _ pgx.Tx, records []eventstore.Record) error {
					applied <- positions(records)
					return nil
				}})
			}()
			for range 2 {
				select {
				case <-faults:
				case got := <-applied:
					t.Fatalf("applied %v", got)
				case <-time.After(deadline):
					t.Fatal("no fault was logged")
				}
			}
			// Commands on that stream cannot be decided once it must be folded; others are not touched by it.
			stream := one[string](t, b, "UPDATE streams SET state_revision = 999 WHERE stream_id = (SELECT stream_id FROM events WHERE position = 2) RETURNING stream_id")
			outcomes, _ := b.joined(t, nil, touch("unreadable", stream), touch("fine", newID(domain.PrefixLineage)))
			wantCode(t, outcomes[0].Err, domain.CodeInternal)
			if outcomes[1].Err != nil {
				t.Error(outcomes[1].Err)
			}
			b.exec(t, "UPDATE events SET type = 'Updated', revision = 1 WHERE position = 2")
			select {
			case got := <-applied:
				if want := []int64{1, 2, 3, 4}; !slices.Equal(got, want) {
					t.Errorf("applied %v, want %v", got, want)
				}
			case <-time.After(deadline):
				t.Error("it does not go on")
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// faultLog is a log of which only the count of errors matters.
type faultLog chan string

func (f faultLog) Enabled(context.Context, slog.Level) bool { return true }
func (f faultLog) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f faultLog) WithGroup(string) slog.Handler            { return f }

func (f faultLog) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		f <- r.Message
	}
	return nil
}
