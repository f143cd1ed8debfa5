package eventstore_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// A writer decides the next batch on the states that the batch before will leave, while that one is still on its way. If
// it fails and somebody else brings the stream to the very same version, the version alone cannot tell that the next batch
// was decided on what never happened: it must be decided again.
func TestNothingIsDecidedOnWhatDidNotHappen(t *testing.T) {
	t.Parallel()
	for _, then := range []string{"SomebodyElseTookTheVersion", "ItWasDecidedAgain"} {
		t.Run(then, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.exec(t, "CREATE TABLE attached (label text PRIMARY KEY); GRANT ALL ON attached TO rekey_app")
			stream := newID(domain.PrefixEndpoint)
			b.mustExecute(t, begin("one", stream))

			// The first command waits for the lock of a stream that somebody else is writing.
			other := mustBeginOwner(t, b)
			if _, err := other.Exec(t.Context(), "SELECT FROM streams WHERE stream_id = $1 FOR UPDATE", stream); err != nil {
				t.Fatal(err)
			}
			first := touch("first", stream)
			if then == "SomebodyElseTookTheVersion" {
				first.Expected = new(int64)
				*first.Expected = 1
			} else {
				// The transaction fails for a reason of its own, and then succeeds with another event at the same version.
				first.Attach = failOnce()
				first.Decide = differently(first.Decide)
			}
			answers := make(chan error, 2)
			go func() { _, err := b.store.Execute(t.Context(), first); answers <- err }()
			until(t, "the first command is on its way", func() bool {
				return one[int](t, b, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()") == 1
			})
			// The second one is decided meanwhile, on what the first one would do.
			second, decided := touch("second", stream), make(chan struct{}, 10)
			decide := second.Decide
			second.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
				events, err := decide(view, now)
				decided <- struct{}{}
				return events, err
			}
			go func() { _, err := b.store.Execute(t.Context(), second); answers <- err }()
			select {
			case <-decided:
			case <-time.After(300 * time.Millisecond): // a store that waits with it is right as well
			}
			if then == "SomebodyElseTookTheVersion" {
				takeVersion(t, other, stream)
			}
			if err := other.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			codes := []domain.Code{code(<-answers), code(<-answers)}
			want := []domain.Code{"", ""}
			if then == "SomebodyElseTookTheVersion" {
				want = []domain.Code{"", domain.CodeVersionConflict}
			}
			if slices.Sort(codes); !slices.Equal(codes, want) {
				t.Errorf("got %v, want %v", codes, want)
			}
			b.checkLog(t)
		})
	}
}

func mustBeginOwner(t *testing.T, b *bundle) pgx.Tx {
	t.Helper()
	tx, err := b.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// takeVersion writes version 2 of an endpoint, as another replica would.
func takeVersion(t *testing.T, tx pgx.Tx, stream string) {
	t.Helper()
	var raw []byte
	if err := tx.QueryRow(t.Context(), "SELECT state FROM streams WHERE stream_id = $1", stream).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	state, err := domain.DecodeState(stream, raw)
	if err != nil {
		t.Fatal(err)
	}
	name := link(nameOf(state), "other")
	at := time.Now().UTC().Truncate(time.Microsecond)
	state.Apply(domain.Event{
		StreamID: stream, Version: 2, OrganizationID: "org_test", ProjectID: "proj_test", OccurredAt: at, Data: domain.EndpointCreated{URL: name},
	})
	if raw, err = domain.EncodeState(state); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE streams SET version = 2, state = $2 WHERE stream_id = $1", stream, string(raw)); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO events (lane, position, event_id, stream_id, version, organization_id, project_id, type,
			revision, occurred_at, actor, request_id, data)
		VALUES (1, 2, 'evt_other', $1, 2, 'org_test', 'proj_test', 'EndpointCreated', 1, $2, 'system:setup', 'other', json_build_object('url', $3::text))`,
		stream, at, name); err != nil {
		t.Fatal(err)
	}
}

// failOnce attaches a row that Postgres refuses the first time.
func failOnce() func(*pgx.Batch, []domain.Event) error {
	calls := 0
	return func(batch *pgx.Batch, _ []domain.Event) error {
		if calls++; calls == 1 {
			batch.Queue("INSERT INTO attached VALUES ('twice'), ('twice')")
		}
		return nil
	}
}

// differently decides another event each time, as a command that mints a secret does.
func differently(decide func(eventstore.View, time.Time) ([]domain.Decided, error)) func(eventstore.View, time.Time) ([]domain.Decided, error) {
	first := true
	return func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		events, err := decide(view, now)
		if first && len(events) > 0 {
			d := events[0].Data.(domain.EndpointCreated)
			d.URL += " of the first time"
			events[0].Data = d
		}
		first = false
		return events, err
	}
}

// What a command only reads is held to the version it was decided on, too: a replica that remembers an older one decides
// again.
func TestReadStreamsAreTheTrueOnes(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	here, there := b.another(t), b.another(t)
	project, lineage := newID(domain.PrefixProject), newID(domain.PrefixLineage)
	read := func(label string) eventstore.Command {
		c := touch(label, lineage)
		c.Reads = []string{project}
		return c
	}
	for i := range 10 {
		for store, c := range map[*eventstore.Store]eventstore.Command{there: touch("change", project), here: read("read")} {
			if _, err := store.Execute(t.Context(), c); err != nil {
				t.Fatal(i, err)
			}
		}
	}
	b.checkLog(t)
}
