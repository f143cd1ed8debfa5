package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	torturePatience = 10 * time.Second        // of one verify
	watchFor        = 4500 * time.Millisecond // a key after its end: longer than a lease
	watchEvery      = 400 * time.Millisecond
)

// torture is a load on a cluster, and what was found out by it. All times are of this process's monotonic clock.
type torture struct {
	*cluster
	project string
	load    sync.WaitGroup

	mu     sync.Mutex
	live   []*victim // those that may be asked for at random
	ended  []*victim
	wrong  []string
	faults map[string]int

	taken, unsure             atomic.Int64
	verified, valid, noAnswer atomic.Int64
	counted, looked           atomic.Int64
	stale, incidents          atomic.Int64
}

// victim is a key of which a right is taken away.
type victim struct {
	id, secret, how string
	begun, done     atomic.Pointer[time.Time] // when it was asked for, and when the answer was there
}

// takings are the ways to take the right to read away.
var takings = map[string]struct {
	method, path string
	body         any
	want         int
}{
	"revoke": {"DELETE", "", nil, http.StatusNoContent},
	"cut":    {"POST", "/rotate", map[string]any{"grace_period_seconds": 0}, http.StatusOK},
	"narrow": {"PATCH", "", map[string]any{"scopes": []string{"write"}}, http.StatusOK},
}

// some is any replica.
func (x *torture) some() *replica { return x.replicas[rand.IntN(len(x.replicas))] }

// run runs clients until ctx ends.
func (x *torture) run(ctx context.Context, takers, hammers int) {
	for range takers {
		x.load.Go(func() {
			for ctx.Err() == nil {
				x.take(ctx)
			}
		})
	}
	for range hammers {
		x.load.Go(func() {
			for ctx.Err() == nil {
				if v := x.any(); v != nil {
					x.verify(x.some(), v)
				} else {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
}

// any is any key that is live, or was a moment ago.
func (x *torture) any() *victim {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.live) == 0 {
		return nil
	}
	return x.live[rand.IntN(len(x.live))]
}

// take makes a key, has it verified everywhere, takes the right away at any replica, and then asks all of them.
func (x *torture) take(ctx context.Context) {
	v := x.create(ctx)
	if v == nil {
		time.Sleep(20 * time.Millisecond) // a loop that only fails would take the processor
		return
	}
	defer x.forget(v)
	x.askAll(v)
	taking := takings[v.how]
	began := time.Now()
	v.begun.Store(&began)
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	got, err := x.some().send(patience, taking.method, "/v1/api-keys/"+v.id+taking.path, taking.body)
	done := time.Now()
	cancel()
	if err != nil || got.status != taking.want {
		x.unsure.Add(1)
		return
	}
	v.done.Store(&done)
	x.taken.Add(1)
	x.mu.Lock()
	x.ended = append(x.ended, v)
	x.mu.Unlock()
	x.watch(v, done)
}

func (x *torture) create(ctx context.Context) *victim {
	ctx, cancel := context.WithTimeout(ctx, torturePatience)
	defer cancel()
	var key keyInfo
	got, err := x.some().send(ctx, "POST", "/v1/api-keys", map[string]any{"project_id": x.project, "name": "victim", "scopes": []string{"read", "write"}})
	if err != nil || got.status != http.StatusCreated || json.Unmarshal(got.body, &key) != nil {
		return nil
	}
	v := &victim{id: key.ID, secret: key.Key}
	for v.how = range takings { // a map begins anywhere
		break
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.live = append(x.live, v)
	return v
}

// forget ends the asking at random.
func (x *torture) forget(v *victim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, other := range x.live {
		if other == v {
			x.live[i] = x.live[len(x.live)-1]
			x.live = x.live[:len(x.live)-1]
			return
		}
	}
}

// watch asks every replica again and again until leases of before have run out.
func (x *torture) watch(v *victim, since time.Time) {
	var asking sync.WaitGroup
	for _, r := range x.replicas {
		asking.Go(func() {
			for time.Since(since) < watchFor {
				x.verify(r, v)
				time.Sleep(rand.N(watchEvery))
			}
		})
	}
	asking.Wait()
}

// askAll asks every replica that answers soon.
func (x *torture) askAll(v *victim) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var asking sync.WaitGroup
	for _, r := range x.replicas {
		asking.Go(func() { x.verifyWithin(ctx, r, v) })
	}
	asking.Wait()
}

// verify asks a replica for a key and judges the answer. It reports whether there was one.
func (x *torture) verify(r *replica, v *victim) bool {
	ctx, cancel := context.WithTimeout(context.Background(), torturePatience)
	defer cancel()
	return x.verifyWithin(ctx, r, v)
}

func (x *torture) verifyWithin(ctx context.Context, r *replica, v *victim) bool {
	started := time.Now()
	got, err := r.send(ctx, "POST", "/v1/api-keys/verify", map[string]any{"key": v.secret, "scopes": []string{"read"}})
	answered := time.Now()
	var verdict verdictInfo
	switch {
	case err != nil, got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") != "":
		x.noAnswer.Add(1)
		return false
	case got.status != http.StatusOK || json.Unmarshal(got.body, &verdict) != nil:
		x.accuse("verify answered %d: %s", got.status, got.body)
		return false
	}
	x.verified.Add(1)
	if verdict.Valid {
		x.valid.Add(1)
	}
	switch begun, done := v.begun.Load(), v.done.Load(); {
	case verdict.Valid && done != nil && started.After(*done):
		x.stale.Add(1)
		x.accuse("%s: %s was valid at %s, asked %s and answered %s after the answer", v.how, v.id, r.addr, started.Sub(*done), answered.Sub(*done))
	case !verdict.Valid && (begun == nil || answered.Before(*begun)):
		x.accuse("%s was %s at %s, before anything was taken away", v.id, verdict, r.addr)
	}
	return true
}

// accuse notes what must not be.
func (x *torture) accuse(format string, args ...any) {
	x.incidents.Add(1)
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.wrong) < 20 {
		x.wrong = append(x.wrong, fmt.Sprintf(format, args...))
	}
}

// count adds up what a replica has counted since it was started.
func (x *torture) count(r *replica) {
	verifies, lookups := r.measure("rekey_http_request_duration_seconds_count"), r.measure("rekey_verifier_lookups_total")
	if verifies < 0 || lookups < 0 {
		return
	}
	x.counted.Add(int64(verifies))
	x.looked.Add(int64(lookups))
}
