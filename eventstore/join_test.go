package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// joined sends commands so that one transaction joins them all, and returns their outcomes and how many commands each
// transaction had. The queue is full before the one writer starts, so nothing is left to chance.
func (b *bundle) joined(t *testing.T, projection eventstore.Projection, commands ...eventstore.Command) ([]eventstore.Outcome, []int) {
	t.Helper()
	var sizes []int // written by the one writer
	store := b.idle(func(c *eventstore.Config) {
		c.Writers, c.Projection = 1, projection
		c.Observe = func(commands, _ int, _ time.Duration, _ error) { sizes = append(sizes, commands) }
	})
	outcomes := make(chan []eventstore.Outcome, 1)
	go func() { outcomes <- store.ExecuteAll(t.Context(), commands) }()
	until(t, "the commands wait", func() bool { return store.Waiting() == len(commands) })
	stop := run(t, store)
	got := <-outcomes
	stop()
	// One that would be refused is decided again by itself, on locked heads.
	if sizes[0] < len(commands)-1 {
		t.Fatalf("the first transaction joined %d commands, want %d", sizes[0], len(commands))
	}
	return got, sizes
}

// One bad command among five that were joined: it alone fails, with its own code; the others commit, each once.
func TestJoinedCommandFailsAlone(t *testing.T) {
	t.Parallel()
	attach := func(sql string, args ...any) func(*eventstore.Command) {
		return func(c *eventstore.Command) {
			c.Attach = func(batch *pgx.Batch, _ []domain.Event) error { batch.Queue(sql, args...); return nil }
		}
	}
	decide := func(f func() error) func(*eventstore.Command) {
		return func(c *eventstore.Command) {
			c.Decide = func(eventstore.View, time.Time) ([]domain.Decided, error) { return nil, f() }
		}
	}
	cases := []struct {
		name  string
		spoil func(*eventstore.Command)
		want  domain.Code
	}{
		{"Refused", decide(func() error { return domain.NotFound("key") }), domain.CodeNotFound},
		{"UnknownError", decide(func() error { return errors.New("no idea") }), domain.CodeInternal},
		{"PanicInDecide", decide(func() error { panic("oh") }), domain.CodeInternal},
		{"SyntaxError", attach("SELEKT"), domain.CodeInternal},
		{"NoSuchTable", attach("INSERT INTO nowhere VALUES (1)"), domain.CodeInternal},
		{"DivisionByZero", attach("SELECT 1/$1::int", 0), domain.CodeInternal},
		{"ForbiddenByRole", attach("DELETE FROM events"), domain.CodeInternal},
		{"ArgumentThatCannotBeEncoded", attach("SELECT $1::int", struct{}{}), domain.CodeInternal},
		{"TooFewArguments", attach("SELECT $1::int, $2::int", 1), domain.CodeInternal},
		{"NULByte", attach("SELECT $1::text", "a\x00b"), domain.CodeInternal},
		{"AttachError", func(c *eventstore.Command) {
			c.Attach = func(*pgx.Batch, []domain.Event) error { return errors.New("no") }
		}, domain.CodeInternal},
		{"PanicInAttach", func(c *eventstore.Command) {
			c.Attach = func(*pgx.Batch, []domain.Event) error { panic("oh") }
		}, domain.CodeInternal},
		{"UnknownKindOfStream", func(c *eventstore.Command) { *c = begin("bad", "nokind_1") }, domain.CodeInternal},
	}
	b := setupIdle(t)
	for i, c := range cases {
		first := int64(i)*4 + 1
		t.Run(c.name, func(t *testing.T) {
			commands := make([]eventstore.Command, 5)
			for i := range commands {
				commands[i] = begin(fmt.Sprint("command ", i), newID(domain.PrefixLineage))
				attach("SELECT 1")(&commands[i]) // so that other statements come before the bad one
			}
			c.spoil(&commands[2])
			outcomes, _ := b.joined(t, nil, commands...)
			var got []int64
			for i, o := range outcomes {
				if i == 2 {
					wantCode(t, o.Err, c.want)
					continue
				}
				if o.Err != nil {
					t.Errorf("command %d: %v", i, o.Err)
				}
				got = append(got, positions(o.Records)...)
			}
			if want := []int64{first, first + 1, first + 2, first + 3}; !slices.Equal(got, want) {
				t.Errorf("got positions %v, want %v", got, want)
			}
			b.checkLog(t)
			if log := one[string](t, b, "SELECT string_agg(request_id, ', ' ORDER BY request_id) FROM events WHERE position >= $1", first); log != "command 0, command 1, command 3, command 4" {
				t.Errorf("the log has %s", log)
			}
		})
	}
}

// A command sees what those before it in the same transaction decided, and is checked against it.
func TestJoinedCommandsAreDecidedInTurn(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	org := newID(domain.PrefixOrganization)
	at := func(label string, version int64) eventstore.Command {
		c := touch(label, org)
		c.Expected = &version
		return c
	}
	outcomes, sizes := b.joined(t, nil, at("a", 0), at("late", 0), at("b", 1), at("late", 1), begin("late", org), at("c", 2))
	var got []string
	for _, o := range outcomes {
		if o.Err == nil {
			got = append(got, fmt.Sprint(o.Records[0].RequestID, o.Records[0].Version))
		} else {
			got = append(got, string(domain.CodeOf(o.Err)))
		}
	}
	// Beginning what exists is a fault, so that command is tried again alone, against the database.
	want := []string{"a1", "version_conflict", "b2", "version_conflict", "version_conflict", "c3"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v (transactions of %v)", got, want, sizes)
	}
	b.checkLog(t)
}

func TestQueue(t *testing.T) {
	t.Parallel()

	t.Run("RefusesWhenFull", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		store := b.idle(func(c *eventstore.Config) { c.MaxQueue = 2 })
		var commands []eventstore.Command
		for i := range 4 {
			commands = append(commands, begin(fmt.Sprint(i), newID(domain.PrefixOrganization)))
		}
		waiting := make(chan []eventstore.Outcome, 1)
		go func() { waiting <- store.ExecuteAll(t.Context(), commands) }()
		until(t, "the queue is full", func() bool { return store.Waiting() == 2 })
		_, err := store.Execute(t.Context(), commands[0]) // at once, though nobody works
		wantCode(t, err, domain.CodeOverloaded)
		run(t, store)
		var got []domain.Code
		for _, o := range <-waiting {
			got = append(got, code(o.Err))
		}
		if want := []domain.Code{"", "", domain.CodeOverloaded, domain.CodeOverloaded}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("DropsCommandsWhoseCallerWentAway", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		store := b.idle()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			c := begin("gone", newID(domain.PrefixOrganization))
			c.Decide = func(eventstore.View, time.Time) ([]domain.Decided, error) {
				t.Error("a command whose caller went away was decided")
				return nil, nil
			}
			_, err := store.Execute(ctx, c)
			gone <- err
		}()
		until(t, "the command waits", func() bool { return store.Waiting() == 1 })
		cancel()
		run(t, store)
		err := <-gone
		wantCode(t, err, domain.CodeUnavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the cause is lost: %v", err)
		}
	})

	t.Run("SurvivesProjectionThatPanics", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		bad, good := newID(domain.PrefixOrganization), newID(domain.PrefixOrganization)
		outcomes, _ := b.joined(t, panicky{bad}, touch("bad", bad), touch("good", good))
		wantCode(t, outcomes[0].Err, domain.CodeInternal)
		if outcomes[1].Err != nil {
			t.Error(outcomes[1].Err)
		}
		b.checkLog(t)
	})
}

// panicky is a projection with a fault in one stream.
type panicky struct{ stream string }

func (p panicky) Collect() eventstore.Collector { return p }

func (p panicky) Event(e domain.Event, _ domain.State) error {
	if e.StreamID == p.stream {
		panic("a fault in the projection")
	}
	return nil
}

func (p panicky) Queue(*pgx.Batch) error { return nil }

func TestStop(t *testing.T) {
	t.Parallel()

	t.Run("FinishesWaitingCommandsAndRefusesLaterOnes", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		store := b.idle(func(c *eventstore.Config) { c.Writers, c.MaxBatch = 1, 2 })
		stop := run(t, store)
		deciding, release := make(chan struct{}), make(chan struct{})
		blocker := begin("blocker", newID(domain.PrefixOrganization))
		decide := blocker.Decide
		blocker.Decide = func(v eventstore.View, now time.Time) ([]domain.Decided, error) {
			close(deciding)
			<-release
			return decide(v, now)
		}
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, err := store.Execute(t.Context(), blocker); err != nil {
				t.Error(err)
			}
		})
		<-deciding
		const n = 7
		for range n {
			callers.Go(func() {
				if _, err := store.Execute(t.Context(), begin("waiting", newID(domain.PrefixOrganization))); err != nil {
					t.Error(err)
				}
			})
		}
		until(t, "the commands wait", func() bool { return store.Waiting() == n })
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		refused := make(chan error, 1)
		until(t, "later commands are refused", func() bool {
			// Those that came just before the end wait, and are dropped because their caller went away.
			callers.Go(func() {
				if _, err := store.Execute(canceled(t), begin("late", newID(domain.PrefixOrganization))); !errors.Is(err, context.Canceled) {
					select {
					case refused <- err:
					default:
					}
				}
			})
			return len(refused) > 0
		})
		wantCode(t, <-refused, domain.CodeUnavailable)
		close(release)
		callers.Wait()
		<-stopped
		stop() // again is harmless
		if got := one[int](t, b, "SELECT count(*) FROM events"); got != n+1 {
			t.Errorf("the log has %d events, want %d", got, n+1)
		}
	})

	// Nobody may wait for ever on a store that could not start.
	t.Run("AnswersWaitingCommandsWhenItCannotStart", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		dead := b.poolNamed(t, "dead")
		dead.Close()
		for _, ended := range []bool{false, true} {
			store := eventstore.New(eventstore.Config{Pool: dead})
			waiting := make(chan error, 1)
			go func() {
				_, err := store.Execute(t.Context(), begin("waiting", newID(domain.PrefixOrganization)))
				waiting <- err
			}()
			until(t, "the command waits", func() bool { return store.Waiting() == 1 })
			ctx := t.Context()
			if ended {
				ctx = canceled(t)
			}
			if err := store.Run(ctx); (err == nil) != ended {
				t.Errorf("stopped while starting %v: got %v", ended, err)
			}
			select {
			case err := <-waiting:
				wantCode(t, err, domain.CodeUnavailable)
			case <-time.After(10 * time.Second):
				t.Fatal("the command still waits")
			}
			_, err := store.Execute(t.Context(), begin("late", newID(domain.PrefixOrganization)))
			wantCode(t, err, domain.CodeUnavailable)
		}
	})

	t.Run("MayBeRunOnce", func(t *testing.T) {
		t.Parallel()
		b := setupIdle(t)
		store := b.idle()
		run(t, store)()
		if err := store.Run(t.Context()); err == nil {
			t.Error("a store that was stopped ran again")
		}
	})
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// Not parallel, so that no other test's goroutines are about.
func TestStopLeavesNoGoroutines(t *testing.T) {
	b := setupIdle(t)
	ignore := goleak.IgnoreCurrent()
	pool := b.poolNamed(t, "leak")
	store := eventstore.New(eventstore.Config{Pool: pool})
	stop := run(t, store)
	ctx, cancel := context.WithCancel(t.Context())
	consumed := make(chan error, 1)
	go func() {
		consumed <- store.Consume(ctx, eventstore.Consumer{Name: "leak", Apply: func(context.Context, pgx.Tx, []eventstore.Record) error { return nil }})
	}()
	own, err := store.Own(ctx, "leak")
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	if _, err := store.Execute(ctx, begin("one", newID(domain.PrefixOrganization))); err != nil {
		t.Error(err)
	}
	own.Release() // before the pool is closed, which waits for it
	cancel()
	if err := <-consumed; err != nil {
		t.Error(err)
	}
	stop()
	pool.Close()
	goleak.VerifyNone(t, ignore)
}
