package eventstore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

func TestExecute(t *testing.T) {
	t.Parallel()

	t.Run("ReturnsPositionsAsTheyAreRead", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		var got []eventstore.Record
		for i := range 3 {
			records, err := b.store.Execute(t.Context(), begin(fmt.Sprint("r", i), newID(domain.PrefixOrganization), newID(domain.PrefixLineage)))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, records...)
		}
		if want := []int64{1, 2, 3, 4, 5, 6}; !slices.Equal(positions(got), want) {
			t.Errorf("got positions %v, want %v", positions(got), want)
		}
		// The answer of a command, what the process remembers and the log tell exactly the same, times and payloads included.
		for what, store := range map[string]*eventstore.Store{"what is remembered": b.store, "the log": b.idle()} {
			read, err := store.Read(t.Context(), eventstore.Lifecycle, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, read); diff != "" {
				t.Errorf("the answer differs from %s (-answer +read):\n%s", what, diff)
			}
		}
	})

	t.Run("DecidesNothingWithoutEvents", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		records, err := b.store.Execute(t.Context(), eventstore.Command{
			Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) { return nil, nil },
			Attach: func(*pgx.Batch, []domain.Event) error { return errors.New("called without events") },
		})
		if err != nil || len(records) != 0 {
			t.Errorf("got %v, %v", records, err)
		}
	})

	t.Run("ConflictLeavesEverythingUntouched", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		org := newID(domain.PrefixOrganization)
		b.mustExecute(t, touch("first", org), touch("second", org))
		before := b.contents(t)
		for _, expected := range []int64{0, 1, 3} {
			c := touch("conflict", org)
			c.Expected = &expected
			_, err := b.store.Execute(t.Context(), c)
			wantCode(t, err, domain.CodeVersionConflict)
		}
		// A stream that exists cannot be begun again, and the new stream beside it is not begun either.
		_, err := b.store.Execute(t.Context(), begin("again", newID(domain.PrefixLineage), org))
		wantCode(t, err, domain.CodeVersionConflict)
		if diff := cmp.Diff(before, b.contents(t)); diff != "" {
			t.Errorf("a conflict changed something:\n%s", diff)
		}
		expected := int64(2)
		c := touch("third", org)
		c.Expected = &expected
		if _, err := b.store.Execute(t.Context(), c); err != nil {
			t.Errorf("the true version was refused: %v", err)
		}
	})

	t.Run("RefusesToWriteWhatItOnlyReads", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		org := newID(domain.PrefixOrganization)
		b.mustExecute(t, touch("first", org))
		before := b.contents(t)
		c := touch("sneaky", org)
		c.Reads, c.Writes = c.Writes, nil
		_, err := b.store.Execute(t.Context(), c)
		wantCode(t, err, domain.CodeInternal)
		if b.contents(t) != before {
			t.Error("it was written")
		}
	})

	t.Run("CommitsSeveralStreamsTogether", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		streams := []string{newID(domain.PrefixLineage), newID(domain.PrefixOrganization), newID(domain.PrefixProject), newID(domain.PrefixEndpoint)}
		// The second stream is written twice: its versions follow each other within the command.
		c := begin("many", append(streams, streams[1])...)
		records, err := b.store.Execute(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range records {
			got = append(got, fmt.Sprint(r.Position, " ", r.StreamID, " ", r.Version))
		}
		want := []string{"1 " + streams[0] + " 1", "2 " + streams[1] + " 1", "3 " + streams[2] + " 1", "4 " + streams[3] + " 1", "5 " + streams[1] + " 2"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		b.checkLog(t)
	})
}

// A state that another version of the program stored is not trusted: the stream is folded again.
func TestExecuteFoldsAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	org := newID(domain.PrefixOrganization)
	b.mustExecute(t, touch("one", org), touch("two", org))
	b.exec(t, `UPDATE streams SET state_revision = 999, state = '{"name":"garbage","version":2}' WHERE stream_id = $1`, org)

	var seen string
	c := touch("three", org)
	decide := c.Decide
	c.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		o, err := view.Organization(domain.OrganizationID(org))
		if err != nil {
			return nil, err
		}
		seen = o.Name
		return decide(view, now)
	}
	records, err := b.store.Execute(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if seen != link(link("", "one"), "two") || records[0].Version != 3 {
		t.Errorf("decided on %q and wrote version %d, want the folded state and version 3", seen, records[0].Version)
	}
	if got := one[int](t, b, "SELECT state_revision FROM streams WHERE stream_id = $1", org); got != domain.SnapshotRevision {
		t.Errorf("the head keeps state revision %d", got)
	}

	// A head that the log does not bear out stops the command, and only commands on that stream.
	b.exec(t, `UPDATE streams SET state_revision = 999, version = 7 WHERE stream_id = $1`, org)
	_, err = b.store.Execute(t.Context(), touch("four", org))
	wantCode(t, err, domain.CodeInternal)
	b.mustExecute(t, touch("other", newID(domain.PrefixOrganization)))
}

// Rows of Attach commit with the events or not at all.
func TestAttach(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE attached (label text PRIMARY KEY); GRANT ALL ON attached TO rekey_app")
	attach := func(label string, more func(*pgx.Batch) error) eventstore.Command {
		c := begin(label, newID(domain.PrefixLineage))
		c.Attach = func(batch *pgx.Batch, events []domain.Event) error {
			batch.Queue("INSERT INTO attached VALUES ($1)", events[0].RequestID)
			return more(batch)
		}
		return c
	}
	cases := []struct {
		label string
		more  func(*pgx.Batch) error
		want  domain.Code // empty: success
	}{
		{"good", func(*pgx.Batch) error { return nil }, ""},
		{"fails in Postgres", func(p *pgx.Batch) error { p.Queue("SELECT 1/0"); return nil }, domain.CodeInternal},
		{"good", func(*pgx.Batch) error { return nil }, domain.CodeInternal}, // the row is there already
		{"fails before", func(*pgx.Batch) error { return errors.New("no") }, domain.CodeInternal},
		{"panics", func(*pgx.Batch) error { panic("no") }, domain.CodeInternal},
		{"good too", func(*pgx.Batch) error { return nil }, ""},
	}
	for _, c := range cases {
		_, err := b.store.Execute(t.Context(), attach(c.label, c.more))
		if got := code(err); got != c.want {
			t.Errorf("%s: got %v, want code %q", c.label, err, c.want)
		}
	}
	for _, sql := range []string{"SELECT string_agg(label, ', ' ORDER BY label) FROM attached", "SELECT string_agg(request_id, ', ' ORDER BY request_id) FROM events"} {
		if got := one[string](t, b, sql); got != "good, good too" {
			t.Errorf("%s: got %q", sql, got)
		}
	}
	b.checkLog(t)
}

// code is empty for no error.
func code(err error) domain.Code {
	if err == nil {
		return ""
	}
	return domain.CodeOf(err)
}

// Whatever the session's default is, appends run in READ COMMITTED.
func TestExecuteOverridesTheDefaultIsolation(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	b.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database()); END $$`)
	b.pool = b.poolNamed(t, "strict")
	b.store = b.another(t)
	b.mustExecute(t, touch("one", newID(domain.PrefixOrganization)))
}
