package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/migrations/dbtest"
)

// issued is a secret that was answered, and the key it belongs to.
type issued struct{ id, secret string }

// TestTogether lets 64 clients create, rotate, revoke and verify at once, each on its own keys and all on a few shared
// ones. In the end every secret that was ever answered verifies as its key's status says.
func TestTogether(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	shared := make([]*contested, 4)
	for i := range shared {
		made := b.newKey(nil)
		shared[i] = &contested{active: made.text("id"), all: []issued{{made.text("id"), made.text("key")}}}
	}
	results := make(chan []issued)
	for worker := range 64 {
		go func() {
			c := b.as(b.root.secret)
			var mine []issued
			for round := range 3 {
				all, err := life(c, b, round+worker)
				mine = append(mine, all...)
				if err := errors.Join(err, shared[(worker+round)%len(shared)].rotate(c)); err != nil {
					t.Error(err)
				}
			}
			results <- mine
		}()
	}
	var all []issued
	for range 64 {
		all = append(all, <-results...)
	}
	for _, s := range shared {
		if all = append(all, s.all...); len(s.all) < 2 {
			t.Error("a shared key was never rotated")
		}
	}
	valid := map[string]bool{"active": true, "pending": true, "grace": true}
	codes := map[string]string{"revoked": "REVOKED", "retired": "GRACE_EXPIRED", "expired": "EXPIRED"}
	seen := map[string]int{}
	for _, k := range all {
		status := b.root.call("GET", "/v1/api-keys/"+k.id, nil).wants(200).text("status")
		verdict := b.verify(k.secret)
		seen[status]++
		want := codes[status]
		if valid[status] {
			want = "VALID"
		}
		if verdict.text("code") != want || verdict.text("key_id") != k.id || verdict.text("status") != status {
			t.Errorf("%s is %s, but: %s", k.id, status, verdict.body)
		}
	}
	if seen["active"] == 0 || seen["grace"] == 0 || seen["revoked"] == 0 || seen["retired"] == 0 {
		t.Errorf("not all was tried: %v", seen)
	}
}

// life is that of one key, with the verdicts that each step must have at once.
func life(c *client, b *bench, n int) (all []issued, err error) {
	verdict := func(secret, want string) {
		a, e := c.try("POST", "/v1/api-keys/verify", fields{"key": secret})
		if e == nil && !strings.Contains(string(a.body), `"code":"`+want+`"`) {
			e = fmt.Errorf("got %d %s, want %s", a.status, a.body, want)
		}
		err = errors.Join(err, e)
	}
	step := func(status int, method, path string, body any) *answer {
		a, e := c.try(method, path, body)
		if e == nil && a.status != status {
			e = fmt.Errorf("%s %s: got %d %s, want %d", method, path, a.status, a.body, status)
		}
		if err = errors.Join(err, e); err != nil {
			return nil
		}
		return a
	}
	made := step(201, "POST", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": "a life"})
	if made == nil {
		return nil, err
	}
	all = append(all, issued{made.text("id"), made.text("key")})
	verdict(all[0].secret, "VALID")
	grace := n % 2 * 600
	rotated := step(200, "POST", "/v1/api-keys/"+all[0].id+"/rotate", fields{"grace_period_seconds": grace})
	if rotated == nil {
		return all, err
	}
	all = append(all, issued{rotated.text("new_key_id"), rotated.text("key")})
	verdict(all[1].secret, "VALID")
	if grace == 0 {
		verdict(all[0].secret, "GRACE_EXPIRED")
	} else {
		verdict(all[0].secret, "VALID")
	}
	if n%3 != 0 {
		step(204, "DELETE", "/v1/api-keys/"+all[1].id, nil)
		verdict(all[1].secret, "REVOKED")
	}
	return all, err
}

// contested is a key that many rotate.
type contested struct {
	mu     sync.Mutex
	active string
	all    []issued
}

// rotate rotates what was active a moment ago: whoever comes too late is told which key is.
func (s *contested) rotate(c *client) error {
	s.mu.Lock()
	id := s.active
	s.mu.Unlock()
	a, err := c.try("POST", "/v1/api-keys/"+id+"/rotate", fields{"grace_period_seconds": 0})
	switch {
	case err != nil:
		return err
	case a.status == http.StatusConflict && strings.Contains(string(a.body), "key_not_active"):
		return nil
	case a.status != http.StatusOK:
		return fmt.Errorf("rotate: %d %s", a.status, a.body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != id {
		return fmt.Errorf("%s was rotated twice", id)
	}
	s.active = a.text("new_key_id")
	s.all = append(s.all, issued{s.active, a.text("key")})
	return nil
}

// TestLeavesNothingBehind starts and stops the surface with requests and streams under way: no goroutine stays. It is not
// parallel, so that it sees its own only.
func TestLeavesNothingBehind(t *testing.T) {
	published()   // starts nothing, but is shared
	dbtest.New(t) // the server of all tests
	before := goleak.IgnoreCurrent()
	t.Run("life", func(t *testing.T) {
		b := setup(t, options{})
		for range 3 {
			b.newKey(nil)
			b.root.stream("/v1/events")
		}
		pending, _ := life(b.root, b, 1)
		if len(pending) != 2 {
			t.Error("the life was cut short")
		}
	})
	goleak.VerifyNone(t, before)
}
