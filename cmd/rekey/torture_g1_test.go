package main

import (
	"context"
	"os"
	"testing"
	"time"
)

// everyKind is how many kinds of faults there are: those of a replica, and those of all.
var everyKind = len(faults) + 3

// TestG1Torture takes rights away from keys at three replicas that cannot rely on anything: their networks are slow, cut,
// or pass one way only, they are frozen and killed, Postgres and NATS go and come. No verify that starts after the answer to a
// revoke, a cut-over or a narrowing of scopes says valid, at any replica. A verify that is answered before says valid.
//
// The clocks of single processes cannot be set from outside; TestTrustEnds of projections/verifier does so from inside.
func TestG1Torture(t *testing.T) {
	t.Parallel()
	takes, limit := int64(300), 4*time.Minute
	switch {
	case os.Getenv("REKEY_SOAK") == "1":
		takes, limit = 3000, 25*time.Minute
	case testing.Short():
		takes = 60
	}
	x := newTorture(t, false)
	ctx, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	x.run(ctx, 96, 2)
	x.deal(ctx)
	x.dealAll(ctx, t)
	within(t, limit, "enough keys and every kind of fault", func() bool {
		return x.incidents.Load() > 0 || x.taken.Load() >= takes && x.kinds() == everyKind || ctx.Err() != nil
	})
	stop()
	x.load.Wait()
	x.report(t)
	if n := x.taken.Load(); n < takes || x.kinds() < everyKind {
		t.Errorf("only %d rights were taken away under %d of %d kinds of faults: little is shown", n, x.kinds(), everyKind)
	}
	x.recover(t)
	for _, r := range x.replicas {
		x.count(r)
	}
	counted, looked := x.counted.Load(), x.looked.Load()
	t.Logf("%d requests were counted, Postgres was asked for %d secrets", counted, looked)
	if memory := counted - looked; memory < counted/4 {
		t.Errorf("only %d of %d requests had an answer from memory: little is shown", memory, counted)
	}
	checkReadModel(t, x.postgres.TCPURL("postgres"))
}

// TestG1TortureBites is the same with replicas whose commands do not wait at the barrier: it must find them out.
func TestG1TortureBites(t *testing.T) {
	t.Parallel()
	x := newTorture(t, true)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	x.run(ctx, 24, 4)
	x.deal(ctx)
	began := time.Now()
	within(t, 2*time.Minute, "a key that was valid after its end", func() bool { return x.stale.Load() > 0 })
	t.Logf("found out after %s, by key %d", time.Since(began).Round(time.Millisecond), x.taken.Load())
	stop()
	x.load.Wait()
	x.report(nil)
	t.Logf("such as: %s", x.wrong[0])
}

func newTorture(t testing.TB, inHaste bool) *torture {
	t.Helper()
	x := &torture{cluster: newCluster(t, inHaste), faults: map[string]int{}}
	x.project = x.replicas[0].project(t)
	return x
}

// report tells what happened, and fails the test for what must not.
func (x *torture) report(t testing.TB) {
	x.t.Logf("%d rights were taken away, %d tries had no clear answer; %d verifies were answered (%d valid), %d not",
		x.taken.Load(), x.unsure.Load(), x.verified.Load(), x.valid.Load(), x.noAnswer.Load())
	x.t.Logf("faults: %v", x.faults)
	if t == nil {
		return
	}
	for _, wrong := range x.wrong {
		t.Error(wrong)
	}
	for _, r := range x.replicas {
		if r.process.hasExited() {
			t.Errorf("the replica at %s has ended", r.addr)
		}
	}
}

// recover requires that every replica answers from memory again by itself, and that what ended stays so.
func (x *torture) recover(t testing.TB) {
	t.Helper()
	began := time.Now()
	for _, r := range x.replicas {
		within(t, 20*time.Second, "it answers from memory again", r.trusted)
	}
	t.Logf("all answer from memory again after %s", time.Since(began).Round(time.Millisecond))
	for _, v := range x.ended {
		for _, r := range x.replicas {
			// What was broken last may only be found out by the first who is asked.
			within(t, 20*time.Second, "an answer", func() bool { return x.verify(r, v) })
		}
	}
	for _, wrong := range x.wrong {
		t.Error(wrong)
	}
}
