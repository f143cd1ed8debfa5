package domain

import (
	"testing"
	"time"
)

// A deadline is exclusive: at the instant itself the key is refused, whatever workers have recorded by then.
func TestStatusIsJudgedByTime(t *testing.T) {
	t.Parallel()
	early, late := new(at(10*time.Minute)), new(at(20*time.Minute))
	before, now, after := at(10*time.Minute-1), at(10*time.Minute), at(10*time.Minute+1)
	for _, c := range []struct {
		name    string
		state   GenerationState
		expires *time.Time
		grace   *time.Time
		now     time.Time
		want    Status
		valid   bool
	}{
		{"ActiveWithoutADeadline", GenerationActive, nil, nil, now, StatusActive, true},
		{"ActiveBeforeItsExpiry", GenerationActive, early, nil, before, StatusActive, true},
		{"ActiveAtItsExpiry", GenerationActive, early, nil, now, StatusExpired, false},
		{"ActiveAfterItsExpiry", GenerationActive, early, nil, after, StatusExpired, false},
		{"PendingWithoutADeadline", GenerationPending, nil, nil, now, StatusPending, true},
		{"PendingAtItsExpiry", GenerationPending, early, nil, now, StatusExpired, false},
		{"GraceBeforeItsEnd", GenerationGrace, nil, early, before, StatusGrace, true},
		{"GraceAtItsEnd", GenerationGrace, nil, early, now, StatusRetired, false},
		{"GraceAfterItsEnd", GenerationGrace, late, early, after, StatusRetired, false},
		{"GraceAtTheExpiry", GenerationGrace, early, late, now, StatusExpired, false},
		{"GraceAtBothEnds", GenerationGrace, early, early, now, StatusRetired, false},
		{"GraceWithoutAnEnd", GenerationGrace, nil, nil, now, StatusGrace, true},
		{"RevokedStaysRevoked", GenerationRevoked, late, late, before, StatusRevoked, false},
		{"RevokedThatWouldHaveExpired", GenerationRevoked, early, early, after, StatusRevoked, false},
		{"DiscardedReadsAsRevoked", GenerationDiscarded, nil, nil, before, StatusRevoked, false},
		{"RetiredStaysRetired", GenerationRetired, early, late, before, StatusRetired, false},
		{"ExpiredStaysExpired", GenerationExpired, late, nil, before, StatusExpired, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := StatusAt(c.state, c.expires, c.grace, c.now); got != c.want || got.Valid() != c.valid {
				t.Fatalf("status is %s, valid %v", got, got.Valid())
			}
		})
	}
}
