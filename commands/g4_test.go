package commands_test

import (
	"context"
	"flag"
	"os"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// checks sets how many sequences rapid draws: few in a usual run, many in a soak.
func checks(t *testing.T, usual, soak int) {
	t.Helper()
	n := usual
	if os.Getenv("REKEY_SOAK") == "1" {
		n = soak
	}
	if err := flag.Set("rapid.checks", strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		t.Fatal(err)
	}
}

// G4: whatever commands come, one by one, joined in one process or racing in two, folding the log gives exactly the
// tables, the log has no hole, and what the commands promised holds. Each way runs the same random actions.
func TestG4LogIsTheTruth(t *testing.T) {
	done := tally{}
	t.Run("OneByOne", func(t *testing.T) {
		checks(t, 12, 500)
		w := setup(t)
		rapid.Check(t, func(rt *rapid.T) {
			// Ids come again in every run, so nothing may be known from the last one.
			stop := w.restart(rt)
			defer func() { _ = stop() }()
			w.random.seed(rapid.Uint64().Draw(rt, "seed"))
			p := newPlay(rt, w, w.replica)
			p.alone = true
			for _, a := range rapid.SliceOfN(drawAction, 20, 60).Draw(rt, "actions") {
				p.do(rt, w.replica, a)
				until(rt, "the first use is acknowledged", func() bool { return w.FirstUses() == 0 })
			}
			p.assertTruth(rt)
			done.add(p)
		})
	})

	t.Run("Joined", func(t *testing.T) {
		checks(t, 12, 500)
		w := setup(t)
		rapid.Check(t, func(rt *rapid.T) {
			p := newPlay(rt, w, w.replica)
			p.race(rt, 16)
			p.assertTruth(rt)
			done.add(p)
		})
		if w.joins.Load() == 0 {
			t.Error("no two commands were joined")
		}
	})

	t.Run("Racing", func(t *testing.T) {
		checks(t, 12, 500)
		w := setup(t)
		other := w.another(t)
		rapid.Check(t, func(rt *rapid.T) {
			p := newPlay(rt, w, w.replica, other)
			p.race(rt, 16)
			p.assertTruth(rt)
			done.add(p)
		})
		if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
			t.Errorf("R5: %d deadlocks", n)
		}
	})

	done.assertAllKinds(t)
}

// race lets as many callers as lists of actions go at once, over all replicas.
func (p *play) race(t fataler, callers int) {
	rt := t.(*rapid.T)
	lists := make([][]action, callers)
	for i := range lists {
		lists[i] = rapid.SliceOfN(drawAction, 3, 8).Draw(rt, "caller "+strconv.Itoa(i))
	}
	faults := &collected{}
	together(callers, func(i int) {
		for _, a := range lists[i] {
			p.do(faults, p.replicas[i%len(p.replicas)], a)
		}
	})
	for _, r := range p.replicas {
		until(rt, "the first uses are acknowledged", func() bool { return r.FirstUses() == 0 })
	}
	for _, f := range faults.all {
		rt.Errorf("%s", f)
	}
}

// tally counts what was done over all sequences, to see that none of the actions is refused every time, which would prove nothing.
type tally map[string]int

func (done tally) add(p *play) {
	for kind, n := range p.done {
		done[kind] += n
	}
}

func (done tally) assertAllKinds(t *testing.T) {
	t.Helper()
	t.Logf("done: %v", done)
	for _, a := range actions {
		if done[a.name] == 0 {
			t.Errorf("%s was never carried out", a.name)
		}
	}
}

// collected takes failures of goroutines, which must not touch rapid's test.
type collected struct {
	mu  sync.Mutex
	all []string
}

func (*collected) Helper() {}

func (c *collected) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, sprintf(format, args...))
}

func (c *collected) Fatalf(format string, args ...any) { c.Errorf(format, args...) }

// empty removes everything from the database, so that each sequence begins with nothing.
func (w *world) empty(t fataler) {
	t.Helper()
	if _, err := w.owner.Exec(context.Background(), `TRUNCATE events, streams, consumers, organizations, projects, environments, keys,
		rotations, due_work, webhook_endpoints, endpoint_secrets, endpoint_certificates, pending_secrets, webhook_deliveries, webhook_attempts`); err != nil {
		t.Fatalf("empty the database: %v", err)
	}
}
