package eventstore_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// What a writer keeps in memory is only a hint: when another replica has written meanwhile, commands are decided on what is
// in the database, whether memory would have let them through or refused them.
func TestMemoryIsOnlyAHint(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	here, there := b.another(t), b.another(t)
	at := func(stream, label string, version int64) eventstore.Command {
		c := touch(label, stream)
		c.Expected = &version
		return c
	}
	execute := func(store *eventstore.Store, c eventstore.Command) error {
		_, err := store.Execute(t.Context(), c)
		return err
	}
	for range 20 {
		stream := newID(domain.PrefixLineage)
		for i, step := range []struct {
			store   *eventstore.Store
			command eventstore.Command
			want    domain.Code
		}{
			{here, begin("first", stream), ""},
			{here, at(stream, "here knows 1", 1), ""},
			{there, at(stream, "there reads 2", 2), ""},
			{here, at(stream, "here is behind and would let this through", 2), domain.CodeVersionConflict},
			{here, at(stream, "here is up to date again", 3), ""},
			{there, at(stream, "there is behind and would refuse this", 4), ""},
			{there, begin("there is a stream", stream), domain.CodeVersionConflict},
			{here, at(stream, "here is behind by one and would refuse this", 5), ""},
		} {
			err := execute(step.store, step.command)
			if step.want == "" && err != nil || step.want != "" && domain.CodeOf(err) != step.want {
				t.Fatalf("step %d: got %v, want code %q", i, err, step.want)
			}
		}
	}
	b.checkLog(t)
}

// The usual command costs one transaction, without locking heads first and without reading what memory has.
func TestUsualCommandIsOneTransaction(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	var transactions atomic.Int64
	store := b.another(t, func(c *eventstore.Config) {
		c.Observe = func(int, int, time.Duration, error) { transactions.Add(1) }
	})
	stream := newID(domain.PrefixLineage)
	for i := range 5 {
		command := touch("again", stream)
		if i == 0 {
			command = begin("first", stream)
		}
		if _, err := store.Execute(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	if n := transactions.Load(); n != 5 {
		t.Errorf("5 commands took %d transactions", n)
	}
	b.checkLog(t)
}

// A command that looks at an endpoint, as each rotation does at its receiver, is decided once like any other, and not again
// on locked heads.
func TestLookingAtAnEndpointNeedsNoLocks(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	store := b.another(t)
	lineage, endpoint := newID(domain.PrefixLineage), newID(domain.PrefixEndpoint)
	for _, stream := range []string{lineage, endpoint} {
		if _, err := store.Execute(t.Context(), begin("first", stream)); err != nil {
			t.Fatal(err)
		}
	}
	var decided atomic.Int64
	for range 5 {
		command := touch("again", lineage)
		command.Reads = []string{endpoint}
		decide := command.Decide
		command.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			decided.Add(1)
			return decide(view, now)
		}
		if _, err := store.Execute(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	if n := decided.Load(); n != 5 {
		t.Errorf("5 commands were decided %d times", n)
	}
	b.checkLog(t)
}
