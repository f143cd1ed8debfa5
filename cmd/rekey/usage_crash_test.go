package main

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// usageBucket is a bucket of GET /v1/usage.
type usageBucket struct {
	Start       time.Time `json:"start"`
	UseCount    int64     `json:"use_count"`
	DeniedCount int64     `json:"denied_count"`
	Complete    bool      `json:"complete"`
}

// TestG7KillNine kills a replica with -9 while it verifies. What is lost is younger than a flush, and use_complete_until never
// says that counts are complete which lack a verify that was answered before.
func TestG7KillNine(t *testing.T) {
	t.Parallel()
	dir := onDisk(t)
	first := startRekey(t, devEnv(dir), "dev")
	fields, _ := first.awaitReady(t)
	a := newREST(t, fields["url"], fields["root_key"])
	raw, err := os.ReadFile(dir + "/env")
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
			env = append(env, name+"="+strings.Trim(value, `'"`))
		}
	}
	second := startRekey(t, append(env, "REKEY_ADDR=127.0.0.1:0", "REKEY_METRICS_ADDR=127.0.0.1:0"), "serve", "--roles", "api")
	fields, _ = second.awaitReady(t)
	b := newREST(t, fields["url"], a.key)
	customer := a.create(t, "customer", nil)

	// Both replicas verify; each answer is noted with the moment at which it was there.
	var mu sync.Mutex
	var answered []time.Time
	var stopping atomic.Bool
	var clients sync.WaitGroup
	verify := func(at rest) {
		for !stopping.Load() {
			answer, err := at.send(t.Context(), "POST", "/v1/api-keys/verify", map[string]any{"key": customer.Key})
			if err != nil || answer.status != http.StatusOK {
				return // it was killed
			}
			mu.Lock()
			answered = append(answered, time.Now())
			mu.Unlock()
		}
	}
	for _, at := range []rest{a, b, b} {
		clients.Go(func() { verify(at) })
	}
	type use struct {
		Count int64      `json:"use_count"`
		Until *time.Time `json:"use_complete_until"`
	}
	look := func() use {
		t.Helper()
		var got use
		a.call(t, "GET", "/v1/api-keys/"+customer.ID, nil, http.StatusOK, &got)
		return got
	}
	before := func(until time.Time) (n int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, at := range answered {
			if at.Before(until) {
				n++
			}
		}
		return n
	}
	honest := func() use {
		t.Helper()
		got := look()
		if got.Until != nil && before(*got.Until) > got.Count {
			t.Errorf("%d verifies were answered before %s, and %d are counted", before(*got.Until), got.Until, got.Count)
		}
		return got
	}
	began := time.Now()
	eventually(t, "both replicas have written for a while", func() bool {
		got := honest()
		return got.Until != nil && got.Until.After(began.Add(2*time.Second))
	})
	second.kill()
	killed := time.Now()
	stopping.Store(true)
	clients.Wait()

	total := int64(len(answered))
	got := honest()
	if got.Until == nil || got.Until.After(killed) {
		t.Errorf("after the kill at %s counts are complete until %v", killed, got.Until)
	}
	// What was answered a flush before the kill is there. The flush is each second; a busy machine is given three.
	if sure := before(killed.Add(-3 * time.Second)); got.Count < sure {
		t.Errorf("%d are counted, and %d were answered three seconds before the kill", got.Count, sure)
	}
	held := *got.Until
	eventually(t, "the replica that lives writes on", func() bool { return time.Since(killed) > 3*time.Second })
	if got = honest(); !got.Until.Equal(held) && got.Until.After(killed) {
		t.Errorf("a moment later counts are complete until %s, with a replica that said nothing since %s", got.Until, held)
	}
	t.Logf("of %d verifies %d are counted; complete until %s before the kill", total, got.Count, killed.Sub(*got.Until).Round(time.Millisecond))

	// The series says the same, and its hour is not complete.
	var series []usageBucket
	a.call(t, "GET", "/v1/usage?key_id="+customer.ID, nil, http.StatusOK, &series)
	var sum int64
	for _, bucket := range series {
		sum += bucket.UseCount
	}
	if sum != got.Count || series[len(series)-1].Complete {
		t.Errorf("the series has %d of %d uses: %+v", sum, got.Count, series)
	}
	if code, _ := first.terminate(t); code != 0 {
		t.Errorf("it ended with %d", code)
	}
}
