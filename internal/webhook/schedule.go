package webhook

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxAttempts is how often a message is sent before it counts as undeliverable: over a bit more than two days.
const MaxAttempts = 12

const (
	minJitter     = time.Second
	maxJitter     = 15 * time.Minute
	maxRetryAfter = 24 * time.Hour
)

// delays[n] is the wait before attempt n+1.
var delays = [MaxAttempts]time.Duration{
	0, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// NextDelay says how long to wait after attemptsMade attempts, and whether there is another one at all. random gives
// numbers in [0,1); nil means math/rand/v2.
//
// Chance is only ever added, so no attempt is early: evenly between 0 and a fifth of the wait, where that fifth counts
// as one second at least and a quarter of an hour at most. retryAfter, the receiver's wish, can only delay, by a day at
// most; the chance comes on top of it, so that many messages told to come back at one time do not do so at one instant.
func NextDelay(attemptsMade int, retryAfter time.Duration, random func() float64) (delay time.Duration, more bool) {
	if attemptsMade >= MaxAttempts {
		return 0, false
	}
	if attemptsMade <= 0 {
		return 0, true
	}
	if random == nil {
		random = rand.Float64
	}
	delay = max(delays[attemptsMade], min(retryAfter, maxRetryAfter))
	spread := min(max(delay/5, minJitter), maxJitter)
	return delay + time.Duration(random()*float64(spread)), true
}

// parseRetryAfter reads seconds or an HTTP date, as a wait from now. What is past, negative or unreadable is no wait;
// more than a day is a day.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		// Digits that do not parse are too many: a wait longer than any.
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
