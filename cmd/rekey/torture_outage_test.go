package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/projections/verifier"
)

const (
	outageClients = 16 // at each replica
	outageLasts   = verifier.TTL + 4*time.Second
	// outageGrowth is what an outage may add to a replica's goroutines and descriptors: for each client one that reads, one
	// that waits and one that is late, and what all parts of a replica together may have to try again with.
	outageGrowth = 3*outageClients + 100
)

// TestPostgresAwayLongerThanLease takes Postgres away from three replicas under load, for longer than their leases last: by
// stopping it, and by a network that swallows everything. No answer is wrong, nothing piles up, who is refused is told when to
// come again, and all is well within seconds of its return.
func TestPostgresAwayLongerThanLease(t *testing.T) {
	t.Parallel()
	x := newTorture(t, false)
	o := &outage{torture: x}
	for _, r := range x.replicas {
		o.live = append(o.live, r.create(t, "live", nil).Key)
		dead := r.create(t, "dead", nil)
		r.revoke(t, dead.ID)
		o.dead = append(o.dead, dead.Key)
	}
	for _, take := range []struct {
		name       string
		away, back func()
	}{
		{"stopped", func() { x.stopPostgres(t, false) }, func() { x.startPostgres(t) }},
		{"swallowed", func() { o.all(weather{holdsRequests: true, holdAnswers: true}) }, func() { o.all(weather{}) }},
	} {
		o.run(t)
		eventually(t, "some load", func() bool { return o.answered.Load() > 500 })
		before := o.sizes(t)
		take.away()
		began := time.Now()
		grown := o.watchSizes(t, began.Add(outageLasts))
		take.back()
		returned := time.Now()
		for _, r := range x.replicas {
			within(t, 15*time.Second, "it answers from memory again", r.trusted)
		}
		o.wellSince(t, returned.Add(15*time.Second))
		t.Logf("%s for %s: well %s after its return; %d answers, %d refused, the slowest after %s; goroutines and descriptors %v, at most %v",
			take.name, returned.Sub(began).Round(time.Millisecond), time.Since(returned).Round(time.Millisecond),
			o.answered.Load(), o.refused.Load(), time.Duration(o.slowest.Load()).Round(time.Millisecond), before, grown)
		o.stop()
		for i := range before {
			for j := range before[i] {
				if grown[i][j] > before[i][j]+outageGrowth {
					t.Errorf("%s: goroutines and descriptors of %s grew from %v to %v", take.name, x.replicas[i].addr, before[i], grown[i])
				}
			}
		}
		if o.refused.Load() == 0 {
			t.Errorf("%s: nobody was refused: nothing is shown", take.name)
		}
		o.afterwards(t)
	}
	for _, wrong := range x.wrong {
		t.Error(wrong)
	}
}

// outage is a load of verifies whose answers are known.
type outage struct {
	*torture
	live, dead []string

	cancel                     context.CancelFunc
	running                    sync.WaitGroup
	answered, refused, slowest atomic.Int64
	lastRefusal                atomic.Int64 // when it was asked for, in unix nanoseconds
}

func (o *outage) all(w weather) {
	for _, r := range o.replicas {
		r.postgres.be(w)
	}
}

// run asks every replica, each with its own clients.
func (o *outage) run(t testing.TB) {
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(t.Context())
	for _, n := range []*atomic.Int64{&o.answered, &o.refused, &o.slowest} {
		n.Store(0)
	}
	for _, r := range o.replicas {
		for n := range outageClients {
			o.running.Go(func() {
				for n := n; ctx.Err() == nil; n++ {
					live := n%4 != 0
					secrets := o.dead
					if live {
						secrets = o.live
					}
					o.ask(r, secrets[n%len(secrets)], live)
					time.Sleep(5 * time.Millisecond) // the clients of a gateway; a loop would only take the processor
				}
			})
		}
	}
	t.Cleanup(o.stop)
}

func (o *outage) stop() { o.cancel(); o.running.Wait() }

// ask requires the right answer or a refusal that says when to come again.
func (o *outage) ask(r *replica, secret string, live bool) {
	began := time.Now()
	got, err := r.send(context.Background(), "POST", "/v1/api-keys/verify", map[string]any{"key": secret})
	o.slowest.Store(max(o.slowest.Load(), int64(time.Since(began))))
	var v verdictInfo
	switch {
	case err != nil:
		o.accuse("%s: %v", r.addr, err)
	case got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") != "":
		o.refused.Add(1)
		o.lastRefusal.Store(max(o.lastRefusal.Load(), began.UnixNano()))
	case got.status != http.StatusOK || json.Unmarshal(got.body, &v) != nil:
		o.accuse("%s answered %d %v: %s", r.addr, got.status, got.header, got.body)
	case v.Valid != live:
		o.accuse("%s says %s of a key that lives: %v", r.addr, v, live)
	default:
		o.answered.Add(1)
	}
}

// wellSince requires that for a second nobody is refused, before a deadline.
func (o *outage) wellSince(t testing.TB, deadline time.Time) {
	t.Helper()
	within(t, time.Until(deadline), "a second without a refusal", func() bool {
		return time.Since(time.Unix(0, o.lastRefusal.Load())) > time.Second
	})
}

// afterwards requires that rights are taken away at once again.
func (o *outage) afterwards(t testing.TB) {
	t.Helper()
	for i, r := range o.replicas {
		key := r.create(t, "afterwards", nil)
		r.revoke(t, key.ID)
		if v := o.replicas[(i+1)%len(o.replicas)].verify(t, key.Key); v.Code != "REVOKED" {
			t.Errorf("a revoked key answers %s", v)
		}
	}
}

// watchSizes returns the most that the replicas had until a moment.
func (o *outage) watchSizes(t testing.TB, until time.Time) [][2]int {
	t.Helper()
	most := o.sizes(t)
	for time.Now().Before(until) {
		for i, now := range o.sizes(t) {
			most[i] = [2]int{max(most[i][0], now[0]), max(most[i][1], now[1])}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return most
}

// sizes counts the goroutines and the open descriptors of each replica.
func (o *outage) sizes(t testing.TB) (sizes [][2]int) {
	t.Helper()
	for _, r := range o.replicas {
		var size [2]int
		response, err := r.http.Get("http://" + r.metrics + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fscanf(response.Body, "goroutine profile: total %d", &size[0])
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.process.cmd.Process.Pid))
		if err != nil {
			t.Skip("descriptors are listed by /proc")
		}
		size[1] = len(open)
		sizes = append(sizes, size)
	}
	return sizes
}
