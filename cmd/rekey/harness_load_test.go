package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clients create, rotate and revoke keys, each its own, and remember what was acknowledged.
type clients struct {
	rest
	project string
	stop    context.CancelFunc
	running sync.WaitGroup
	all     []*loadClient

	acknowledged, failed atomic.Int64
}

// loadClient is one of them; only its own goroutine writes to it while it runs.
type loadClient struct {
	load  *clients
	name  string
	keys  []*loadKey
	tried map[string]string // names of creates that were not acknowledged, with the code of the refusal
	code  string            // of the last refusal; empty if there was no answer
}

// loadKey is a key that was acknowledged, and what is known of it.
type loadKey struct {
	name, lineage, id, secret string
	unsure                    bool // a command on it got no answer
	revoked                   bool
	older                     []olderSecret
}

// olderSecret is one that a rotation replaced; cut off, or with a grace that outlasts the test.
type olderSecret struct {
	secret string
	cut    bool
}

const (
	loadGraceSeconds = 3600
	loadMaxInGrace   = 3
)

// startLoad runs clients until the load is stopped.
func startLoad(t testing.TB, a rest, count int) *clients {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &clients{rest: a, project: a.project(t), stop: stop}
	for n := range count {
		c := &loadClient{load: l, name: fmt.Sprintf("load-%d", n), tried: map[string]string{}}
		l.all = append(l.all, c)
		l.running.Go(func() { c.run(ctx) })
	}
	t.Cleanup(l.end)
	return l
}

// end stops the clients and waits for them.
func (l *clients) end() {
	l.stop()
	l.running.Wait()
}

func (c *loadClient) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		var ok bool
		switch k := c.pick(); {
		case k == nil || rand.IntN(10) < 6:
			ok = c.create(fmt.Sprintf("%s-%d", c.name, n))
		case rand.IntN(10) < 7:
			ok = c.rotate(k)
		default:
			ok = c.revoke(k)
		}
		if ok {
			c.load.acknowledged.Add(1)
			continue
		}
		c.load.failed.Add(1)
		time.Sleep(5 * time.Millisecond) // the server is away; a loop that only fails would take its processor
	}
}

// pick is a key of which everything is known.
func (c *loadClient) pick() *loadKey {
	if len(c.keys) == 0 {
		return nil
	}
	k := c.keys[rand.IntN(len(c.keys))]
	if k.unsure || k.revoked {
		return nil
	}
	return k
}

// command sends a command to its end: what was acknowledged must not be forgotten because the test ends.
func (c *loadClient) command(method, path string, body any, want int, into any) bool {
	got, err := c.load.send(context.Background(), method, path, body)
	if err != nil || got.status != want {
		var problem struct{ Code string }
		_ = json.Unmarshal(got.body, &problem) // what is no problem document has no code
		c.code = problem.Code
		return false
	}
	return into == nil || json.Unmarshal(got.body, into) == nil
}

func (c *loadClient) create(name string) bool {
	var key keyInfo
	body := map[string]any{"project_id": c.load.project, "name": name}
	if !c.command("POST", "/v1/api-keys", body, http.StatusCreated, &key) {
		c.tried[name] = c.code
		return false
	}
	c.keys = append(c.keys, &loadKey{name: name, lineage: key.LineageID, id: key.ID, secret: key.Key})
	return true
}

func (c *loadClient) rotate(k *loadKey) bool {
	cut := rand.IntN(2) == 0
	graces := 0
	for _, o := range k.older {
		if !o.cut {
			graces++
		}
	}
	grace := loadGraceSeconds
	if cut = cut || graces == loadMaxInGrace; cut {
		grace = 0
	}
	var rotated rotatedInfo
	if !c.command("POST", "/v1/api-keys/"+k.id+"/rotate", map[string]any{"grace_period_seconds": grace}, http.StatusOK, &rotated) {
		k.unsure = true
		return false
	}
	k.older = append(k.older, olderSecret{k.secret, cut})
	k.id, k.secret = rotated.NewKeyID, rotated.Key
	return true
}

func (c *loadClient) revoke(k *loadKey) bool {
	if !c.command("DELETE", "/v1/api-keys/"+k.id, nil, http.StatusNoContent, nil) {
		k.unsure = true
		return false
	}
	k.revoked = true
	return true
}

// check requires that everything acknowledged is there, once, and holds.
func (l *clients) check(t testing.TB) {
	t.Helper()
	l.checkList(t)
	var checking sync.WaitGroup
	for _, c := range l.all {
		checking.Go(func() {
			for _, k := range c.keys {
				if err := c.checkVerdicts(k); err != nil {
					t.Error(err)
				}
			}
		})
	}
	checking.Wait()
}

// checkList requires each key once in the list, and each acknowledged create exactly once.
func (l *clients) checkList(t testing.TB) {
	t.Helper()
	generations, ids, lineages := map[string]bool{}, map[string]bool{}, map[string]map[string]bool{}
	for _, k := range l.allKeys(t) {
		generation := fmt.Sprintf("%s/%d", k.LineageID, k.Generation)
		if ids[k.ID] || generations[generation] {
			t.Errorf("key %s, %s is there twice", k.ID, generation)
		}
		ids[k.ID], generations[generation] = true, true
		if lineages[k.Name] == nil {
			lineages[k.Name] = map[string]bool{}
		}
		lineages[k.Name][k.LineageID] = true
	}
	for _, c := range l.all {
		for _, k := range c.keys {
			if len(lineages[k.name]) != 1 || !lineages[k.name][k.lineage] || !ids[k.id] {
				t.Errorf("key %s (%s) was acknowledged; under its name there are %v", k.id, k.name, lineages[k.name])
			}
		}
		for name, code := range c.tried {
			if n := len(lineages[name]); n > 1 || n > 0 && code == "unavailable" { // which says that nothing was done
				t.Errorf("the create of %s was refused (%s), and carried out %d times", name, code, n)
			}
		}
	}
}

// checkVerdicts verifies all secrets of a key.
func (c *loadClient) checkVerdicts(k *loadKey) error {
	want := "VALID active"
	if k.revoked {
		want = "REVOKED revoked"
	}
	if err := c.checkVerdict(k, k.secret, want); err != nil {
		return err
	}
	for _, o := range k.older {
		want := "VALID grace"
		switch {
		case o.cut:
			want = "GRACE_EXPIRED retired"
		case k.revoked: // with the active key all that live end
			want = "REVOKED revoked"
		}
		if err := c.checkVerdict(k, o.secret, want); err != nil {
			return err
		}
	}
	return nil
}

func (c *loadClient) checkVerdict(k *loadKey, secret, want string) error {
	var v verdictInfo
	if !c.command("POST", "/v1/api-keys/verify", map[string]any{"key": secret}, http.StatusOK, &v) {
		return fmt.Errorf("key %s cannot be verified", k.id)
	}
	// A command without an answer may have been carried out or not; the key itself must be there.
	if k.unsure && v.LineageID == k.lineage || v.String() == want && v.LineageID == k.lineage {
		return nil
	}
	return fmt.Errorf("key %s answers %s, not %s (unsure: %t)", k.id, v, want, k.unsure)
}
