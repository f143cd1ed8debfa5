package webhook

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

func TestNextDelay_Schedule(t *testing.T) {
	t.Parallel()
	never, always := func() float64 { return 0 }, func() float64 { return 0.999999 }
	want := []time.Duration{0, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour, 24 * time.Hour}
	var shortest, longest time.Duration
	for made, step := range want {
		low, more := NextDelay(made, 0, never)
		if low != step || !more {
			t.Errorf("after %d attempts: %v, %v; want %v", made, low, more, step)
		}
		high, _ := NextDelay(made, 0, always)
		shortest, longest = shortest+low, longest+high
	}
	if want := 51*time.Hour + 42*time.Minute + 35*time.Second; shortest != want {
		t.Errorf("all delays: %v, want %v", shortest, want)
	}
	if limit := 53*time.Hour + 20*time.Minute; longest > limit {
		t.Errorf("all delays with chance: %v, want at most %v", longest, limit)
	}
	for _, made := range []int{MaxAttempts, MaxAttempts + 1, 1 << 30} {
		if delay, more := NextDelay(made, time.Hour, nil); delay != 0 || more {
			t.Errorf("after %d attempts: %v, %v", made, delay, more)
		}
	}
	if delay, more := NextDelay(-1, time.Hour, always); delay != 0 || !more {
		t.Errorf("before the first attempt: %v, %v", delay, more)
	}
}

// no delay is early, none later than the chance allows, and many failures at one instant spread over the window.
func TestNextDelay_Spread(t *testing.T) {
	t.Parallel()
	const samples, buckets = 1000, 10
	random := rand.New(rand.NewPCG(1, 2)).Float64
	for made := 1; made < MaxAttempts; made++ {
		step := delays[made]
		window := min(max(step/5, time.Second), 15*time.Minute)
		var counts [buckets]int
		for range samples {
			delay, _ := NextDelay(made, 0, random)
			if delay < step || delay >= step+window {
				t.Fatalf("after %d attempts: %v is outside %v + %v", made, delay, step, window)
			}
			counts[int((delay-step)*buckets/window)]++
		}
		for i, n := range counts {
			if n < samples/buckets/2 || n > samples/buckets*2 {
				t.Errorf("after %d attempts: %d of %d in part %d of the window", made, n, samples, i)
			}
		}
	}
	seen := map[time.Duration]bool{}
	for range 10 {
		delay, _ := NextDelay(5, 0, nil)
		seen[delay] = true
	}
	if len(seen) < 2 {
		t.Error("the default randomness gives the same delay each time")
	}
}

// the receiver's wish can only delay.
func TestNextDelay_RetryAfter(t *testing.T) {
	t.Parallel()
	never := func() float64 { return 0 }
	tests := []struct {
		made       int
		retryAfter time.Duration
		want       time.Duration
	}{
		{1, time.Second, 5 * time.Second},
		{1, time.Minute, time.Minute},
		{1, -time.Hour, 5 * time.Second},
		{1, 1 << 62, 24 * time.Hour},
		{8, time.Minute, 4 * time.Hour},
		{11, 48 * time.Hour, 24 * time.Hour},
	}
	for _, test := range tests {
		if got, _ := NextDelay(test.made, test.retryAfter, never); got != test.want {
			t.Errorf("after %d attempts, told %v: %v, want %v", test.made, test.retryAfter, got, test.want)
		}
	}
	if got, _ := NextDelay(1, time.Hour, func() float64 { return 0.5 }); got != time.Hour+6*time.Minute {
		t.Errorf("told an hour: %v; messages told the same must not come back at one instant", got)
	}
}

// what is in the header.
func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	tests := map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 120 ": 2 * time.Minute, "007": 7 * time.Second,
		"86400": 24 * time.Hour, "86401": 24 * time.Hour, "9223372036854775807": 24 * time.Hour,
		"99999999999999999999999999": 24 * time.Hour,
		"-1":                         0, "+5": 0, "1.5": 0, "1e3": 0, "0x10": 0, "soon": 0, "5s": 0, "\x00": 0, "٣": 0,
		date(time.Minute): time.Minute, date(-time.Minute): 0, date(0): 0, date(48 * time.Hour): 24 * time.Hour,
		now.Add(time.Hour).Format(time.RFC850):      time.Hour,
		now.Add(time.Hour).Format(time.ANSIC):       time.Hour,
		now.Add(time.Hour).Format(time.RFC3339):     0,
		"Fri, 31 Dec 9999 23:59:59 GMT":             24 * time.Hour,
		"Mon, 01 Jan 0001 00:00:00 GMT":             0,
		"Sat, 21 Nov 2026 25:00:00 GMT":             0,
		"Sat, 21 Nov 2026 12:00:30 GMT, then after": 0,
		"120, 240": 0,
		"Sat, 21 Nov 2026 12:00:30 GMT\r\nSet: true": 0,
	}
	for value, want := range tests {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
