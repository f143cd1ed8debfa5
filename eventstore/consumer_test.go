package eventstore_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

func TestRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const n = 23
	if head, err := b.store.Head(t.Context(), eventstore.Lifecycle); err != nil || head != 0 {
		t.Errorf("empty log: head %d, %v", head, err)
	}
	b.fill(t, n)
	all, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 1000)
	if err != nil || len(all) != n {
		t.Fatalf("read %d records, %v", len(all), err)
	}
	for _, size := range []int{1, 2, 7, n, n + 1} {
		var pages []int64
		for after := int64(0); ; {
			page, err := b.store.Read(t.Context(), eventstore.Lifecycle, after, size)
			if err != nil || len(page) > size {
				t.Fatalf("pages of %d: %d records, %v", size, len(page), err)
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Position // resumes after it, not at it
			pages = append(pages, positions(page)...)
		}
		if !slices.Equal(pages, positions(all)) {
			t.Errorf("pages of %d read %v", size, pages)
		}
	}
	if head, err := b.store.Head(t.Context(), eventstore.Lifecycle); err != nil || head != n {
		t.Errorf("head %d, %v", head, err)
	}
	if usage, err := b.store.Read(t.Context(), eventstore.Usage, 0, 10); err != nil || len(usage) != 0 {
		t.Errorf("the other lane: %v, %v", positions(usage), err)
	}
}

// Consumers of one name in several processes apply each event once between them, whatever fails.
func TestConsumeAppliesOnceAndInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.another(t)
	b.exec(t, "CREATE TABLE effects (n bigserial, position bigint); GRANT ALL ON effects, effects_n_seq TO rekey_app")
	b.fill(t, 30)
	ctx, cancel := context.WithCancel(t.Context())
	var consumers sync.WaitGroup
	for i, store := range []*eventstore.Store{b.store, other, b.store} {
		failures := 3
		consumers.Go(func() {
			err := store.Consume(ctx, eventstore.Consumer{Name: "effects", Apply: func(ctx context.Context, tx pgx.Tx, records []eventstore.Record) error {
				for _, p := range positions(records) {
					if _, err := tx.Exec(ctx, "INSERT INTO effects (position) VALUES ($1)", p); err != nil {
						return err
					}
				}
				if failures--; failures >= 0 {
					return errors.New("a passing fault")
				}
				return nil
			}})
			if err != nil {
				t.Errorf("consumer %d: %v", i, err)
			}
		})
	}
	b.fill(t, 30)
	until(t, "all is applied", func() bool { return one[int](t, b, "SELECT count(*) FROM effects") >= 60 })
	until(t, "the checkpoint is there", func() bool {
		at, err := b.store.Checkpoint(t.Context(), "effects")
		return err == nil && at == 60
	})
	cancel()
	consumers.Wait()
	if got := one[int](t, b, "SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY n) AS i FROM effects) e WHERE position <> i"); got != 0 {
		t.Errorf("%d effects are out of order or repeated", got)
	}
}

// Records that a consumer does not want cost it nothing, but its checkpoint follows; the wanted ones have their effect
// exactly once, also when two processes are at it.
func TestConsumeSkipsWhatHasNoEffect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.another(t)
	b.exec(t, "CREATE TABLE effects (n bigserial, position bigint); GRANT ALL ON effects, effects_n_seq TO rekey_app")
	wanted := func(r eventstore.Record) bool { return r.RequestID == "wanted" }
	ctx, cancel := context.WithCancel(t.Context())
	var consumers sync.WaitGroup
	for _, store := range []*eventstore.Store{b.store, other} {
		consumers.Go(func() {
			err := store.Consume(ctx, eventstore.Consumer{Name: "picky", Wants: wanted, Apply: func(ctx context.Context, tx pgx.Tx, records []eventstore.Record) error {
				for _, r := range records {
					if !wanted(r) {
						continue
					}
					if _, err := tx.Exec(ctx, "INSERT INTO effects (position) VALUES ($1)", r.Position); err != nil {
						return err
					}
				}
				return nil
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	count := func() int { return one[int](t, b, "SELECT count(*) FROM effects") }
	for i := range 40 {
		store := []*eventstore.Store{b.store, other}[i/2%2] // each process remembers its own and reads the other's
		label := "unwanted"
		if i%5 == 4 {
			label = "wanted"
		}
		if _, err := store.Execute(t.Context(), begin(label, newID(domain.PrefixLineage))); err != nil {
			t.Fatal(err)
		}
		if i == 20 {
			until(t, "the first half is applied", func() bool { return count() == 4 })
		}
	}
	until(t, "all is applied", func() bool { return count() >= 8 })
	cancel()
	consumers.Wait()
	if got := one[string](t, b, "SELECT string_agg(position::text, ' ' ORDER BY n) FROM effects"); got != "5 10 15 20 25 30 35 40" {
		t.Errorf("effects of %s", got)
	}
	if at, err := b.store.Checkpoint(t.Context(), "picky"); err != nil || at != 40 {
		t.Errorf("checkpoint %d, %v", at, err)
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, want := range []int64{0, 7, 9} {
		if want > 0 {
			if err := b.store.SaveCheckpoint(t.Context(), "relay", eventstore.Lifecycle, want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := b.store.Checkpoint(t.Context(), "relay"); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()

	t.Run("ReturnsAfterACommitOfThisProcess", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(c *eventstore.Config) { c.Poll = time.Hour })
		for i := range int64(5) {
			returned := make(chan error, 1)
			go func() { returned <- b.store.Wait(t.Context(), eventstore.Lifecycle, i) }()
			b.fill(t, 1)
			select {
			case err := <-returned:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(deadline):
				t.Fatal("it still waits")
			}
		}
		if err := b.store.Wait(t.Context(), eventstore.Lifecycle, 4); err != nil { // what is there already
			t.Error(err)
		}
	})

	t.Run("FindsCommitsOfOthersByPolling", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		readers := b.poolNamed(t, "waiter")
		other := b.idle(func(c *eventstore.Config) { c.Readers, c.Poll = readers, 200*time.Millisecond })
		b.fill(t, 1)
		seen := make(chan int64, 1)
		go func() {
			for at := int64(1); ; {
				if err := other.Wait(t.Context(), eventstore.Lifecycle, at); err != nil {
					return
				}
				if head, err := other.Head(t.Context(), eventstore.Lifecycle); err == nil && head > at {
					seen <- head
					return
				}
			}
		}()
		until(t, "it has looked in vain and waits", func() bool {
			return one[int](t, b, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND state = 'idle' AND query LIKE 'SELECT position%'") > 0
		})
		b.fill(t, 1)
		select {
		case <-seen:
		case <-time.After(deadline):
			t.Fatal("it still waits")
		}
	})

	t.Run("EndsWithItsContext", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(c *eventstore.Config) { c.Poll = time.Hour })
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { returned <- b.store.Wait(ctx, eventstore.Lifecycle, 0) }()
		cancel()
		if err := <-returned; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOwn(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	store := func(name string) (*eventstore.Store, *pgxpool.Pool) {
		pool := b.poolNamed(t, name)
		return b.idle(func(c *eventstore.Config) { c.Pool, c.Poll = pool, 2*time.Millisecond }), pool
	}
	first, _ := store("first")
	second, _ := store("second")
	own := func(s *eventstore.Store) *eventstore.Ownership {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		o, err := s.Own(ctx, "relay")
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	a := own(first)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if _, err := second.Own(ctx, "relay"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second owner: %v", err)
	}
	cancel()
	if other, err := second.Own(t.Context(), "another name"); err != nil {
		t.Error(err)
	} else {
		other.Release()
	}
	a.Release()
	a.Release() // again is harmless
	c := own(second)

	// The owner's connection dies: it is told, and somebody else may go on.
	b.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'second'")
	d := own(first)
	select {
	case <-c.Lost():
	case <-time.After(deadline):
		t.Error("the former owner was not told")
	}
	select {
	case <-d.Lost():
		t.Error("the new owner lost it too")
	default:
	}
	c.Release()
	d.Release()

	// Ownership needs no writer, and commands need no ownership.
	if _, err := b.another(t).Execute(t.Context(), begin("free", newID(domain.PrefixOrganization))); err != nil {
		t.Error(err)
	}
}
