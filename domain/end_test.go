package domain

import (
	"strings"
	"testing"
	"time"
)

func revoke(id KeyID, now time.Duration) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) { return l.Revoke(id, "leaked", at(now)) }
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	waiting := []fact{created(hourly), byHand(time.Minute, 1, 9*hour), {slot(1), Rotated{
		RotationID: rot1, Trigger: TriggerInterval, PreviousKeyID: key2, KeyID: key3, Generation: 3, SecretFacts: facts(3),
		GraceSeconds: 1800, NextRotationAt: new(at(slot(2))),
	}}}
	const now = 2 * hour
	with := func(extra fact) []fact { return append(waiting[:3:3], extra) }
	reason := func(text string) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.Revoke(key1, text, at(now)) }
	}
	next := nextSlot(lin1, at(time.Minute), hour, at(now))
	runDecisions(t, []decision{
		{
			name: "OfTheOnlyKeyEndsIt", given: []fact{created()}, when: revoke(key1, now),
			then: []Payload{Revoked{key1, []KeyID{key1}, "leaked"}},
		}, {
			name: "OfTheActiveKeyEndsAllOfItsLineage", given: waiting, when: revoke(key2, now),
			then: []Payload{Revoked{key2, []KeyID{key1, key2, key3}, "leaked"}},
		}, {
			name: "OfAKeyInGraceEndsItAlone", given: waiting, when: revoke(key1, now),
			then: []Payload{Revoked{key1, []KeyID{key1}, "leaked"}},
		}, {
			name: "OfAPendingKeyCancelsItsRotation", given: waiting, when: revoke(key3, now),
			then: []Payload{RotationCancelled{rot1, key3, "leaked", "", &next}},
		}, {
			name: "OfAStalledPendingKeyCancelsItsRotation", given: with(fact{slot(1), RotationStalled{rot1, key3, "gone"}}), when: revoke(key3, now),
			then: []Payload{RotationCancelled{rot1, key3, "leaked", "", &next}},
		},
		{
			name: "OfAKeyWhoseLifeIsOverIsStillRecorded", given: []fact{created(ending(hour))}, when: revoke(key1, now),
			then: []Payload{Revoked{key1, []KeyID{key1}, "leaked"}},
		},
		{name: "OfARevokedKeyDecidesNothing", given: []fact{created(), revoked(time.Minute, key1)}, when: revoke(key1, now)},
		{name: "OfAKeyThatWasRevokedInGraceDecidesNothing", given: with(revoked(slot(1), key1)), when: revoke(key1, now)},
		{name: "OfARetiredKeyDecidesNothing", given: []fact{created(), byHand(time.Minute, 1, 0)}, when: revoke(key1, now)},
		{name: "OfAnExpiredKeyDecidesNothing", given: []fact{created(ending(hour)), {hour, Expired{[]KeyID{key1}}}}, when: revoke(key1, now)},
		{name: "OfADiscardedKeyDecidesNothing", given: with(fact{slot(1), RotationCancelled{RotationID: rot1, KeyID: key3}}), when: revoke(key3, now)},
		{name: "OfAnUnknownKeyDecidesNothing", given: waiting, when: revoke(key6, now)},
		{name: "NeedsNoReason", given: []fact{created()}, when: reason(""), then: []Payload{Revoked{KeyID: key1, KeyIDs: []KeyID{key1}}}},
		{name: "RefusesALongReason", given: []fact{created()}, when: reason(strings.Repeat("a", 501)), code: CodeValidation, field: "reason"},
		{name: "RefusesNULInAReason", given: []fact{created()}, when: reason("a\x00"), code: CodeValidation, field: "reason"},
	})
}

func TestExpireGrace(t *testing.T) {
	t.Parallel()
	expire := func(id KeyID, now time.Duration) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.ExpireGrace(id, at(now)) }
	}
	inGrace := []fact{created(), byHand(0, 1, hour)}
	runDecisions(t, []decision{
		{name: "IsRecordedAtItsEnd", given: inGrace, when: expire(key1, hour), then: []Payload{GraceExpired{KeyID: key1}}},
		{name: "IsRecordedLate", given: inGrace, when: expire(key1, 100*day), then: []Payload{GraceExpired{KeyID: key1}}},
		{name: "DecidesNothingBeforeItsEnd", given: inGrace, when: expire(key1, hour-1)},
		{name: "DecidesNothingTwice", given: append(inGrace[:2:2], fact{hour, GraceExpired{KeyID: key1}}), when: expire(key1, hour)},
		{name: "DecidesNothingForTheActiveKey", given: inGrace, when: expire(key2, 100*day)},
		{name: "DecidesNothingForAPendingKey", given: []fact{created(hourly), bySlot()}, when: expire(key2, 100*day)},
		{name: "DecidesNothingForAnOldKeyWhoseSuccessorHasNotArrived", given: []fact{created(hourly), bySlot()}, when: expire(key1, 100*day)},
		{name: "DecidesNothingForAnUnknownKey", given: inGrace, when: expire(key6, 100*day)},
		{name: "DecidesNothingOnceRevoked", given: append(inGrace[:2:2], revoked(time.Minute, key1)), when: expire(key1, hour)},
	})
}

func TestExpire(t *testing.T) {
	t.Parallel()
	expire := func(now time.Duration) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.Expire(at(now)) }
	}
	mortal := []fact{created(hourly, ending(2*hour)), byHand(time.Minute, 1, 9*hour), {slot(1), Rotated{
		RotationID: rot1, Trigger: TriggerInterval, PreviousKeyID: key2, KeyID: key3, Generation: 3, SecretFacts: facts(3),
	}}}
	runDecisions(t, []decision{
		{name: "EndsAllThatLives", given: mortal, when: expire(2 * hour), then: []Payload{Expired{[]KeyID{key1, key2, key3}}}},
		{name: "IsRecordedLate", given: mortal, when: expire(100 * day), then: []Payload{Expired{[]KeyID{key1, key2, key3}}}},
		{name: "DecidesNothingBeforeItsTime", given: mortal, when: expire(2*hour - 1)},
		{name: "DecidesNothingForAnEndlessLife", given: []fact{created()}, when: expire(100 * 365 * day)},
		{name: "DecidesNothingTwice", given: append(mortal[:3:3], fact{2 * hour, Expired{[]KeyID{key1, key2, key3}}}), when: expire(2 * hour)},
		{name: "DecidesNothingOnceRevoked", given: append(mortal[:3:3], fact{hour, Revoked{KeyID: key2, KeyIDs: []KeyID{key1, key2, key3}}}), when: expire(2 * hour)},
	})
}

// What the projections see of a generation or a rotation is its state right after the event that ended it.
func TestApplyShowsHowThingsEnded(t *testing.T) {
	t.Parallel()
	waiting := []fact{created(hourly), bySlot()}
	end := slot(1) + 10*time.Minute
	for _, c := range []struct {
		name                 string
		history              []fact
		generations          string // key numbers with their states
		rotation             RotationState
		acknowledged, reason bool
	}{
		{"Waiting", waiting, "1 active 2 pending", RotationDelivering, false, false},
		{"Stalled", append(waiting[:2:2], stalled(end)), "1 active 2 pending", RotationStuck, false, true},
		{"Arrived", append(waiting[:2:2], arrived(end)), "1 grace 2 active", RotationOverlap, true, false},
		{"ArrivedAfterAStall", append(waiting[:2:2], stalled(end), arrived(end)), "1 grace 2 active", RotationOverlap, true, false},
		{"GraceExpired", append(waiting[:2:2], arrived(slot(1)), fact{end, GraceExpired{KeyID: key1}}), "1 retired 2 active", RotationCompleted, true, false},
		{"Cancelled", append(waiting[:2:2], fact{end, cancelled(nil)}), "1 active 2 discarded", RotationAbandoned, false, true},
		{"Superseded", append(waiting[:2:2], fact{end, superseded(nil)}), "1 active 2 discarded", RotationSuperseded, false, true},
		{"RevokedInTheOverlap", append(waiting[:2:2], arrived(slot(1)), fact{end, Revoked{key2, []KeyID{key1, key2}, "leaked"}}), "1 revoked 2 revoked", RotationAborted, true, true},
		{"RolledBack", append(waiting[:2:2], arrived(slot(1)), fact{end, RotationRolledBack{rot1, key1, key2, at(end + hour), nil}}), "1 active 2 grace", RotationUndone, true, false},
		{"RolledBackWithoutGrace", append(waiting[:2:2], arrived(slot(1)), fact{end, RotationRolledBack{rot1, key1, key2, at(end), nil}}), "1 active 2 retired", RotationUndone, true, false},
		{"GraceEndedEarly", append(waiting[:2:2], arrived(slot(1)), fact{end, GraceExpired{KeyID: key1, Early: true}}), "1 retired 2 active", RotationCompleted, true, false},
		{"RetiredUnused", append(waiting[:2:2], arrived(slot(1)), fact{end, GraceExpired{KeyID: key1, Early: true, Reason: ReasonUnused}}), "1 retired 2 active", RotationCompleted, true, true},
		{"TimedOut", append(waiting[:2:2], fact{end, RotationTimedOut{rot1, key2, at(end + day)}}), "1 active 2 pending", RotationStuck, false, true},
		{"Redelivered", append(waiting[:2:2], stalled(slot(1)), fact{end, RotationRedelivered{rot1, key2}}), "1 active 2 pending", RotationDelivering, false, false},
		{"CutOverBecauseOfACompromise", []fact{created(hourly), {end, Rotated{
			RotationID: rot1, Trigger: TriggerCompromise, PreviousKeyID: key1, KeyID: key2, Generation: 2, Acknowledged: AckAnswer,
			GraceExpiresAt: new(at(end)), RevokedKeyIDs: []KeyID{key1},
		}}}, "1 revoked 2 active", RotationCompleted, true, false},
		{"RevokedWhileWaiting", append(waiting[:2:2], fact{end, Revoked{key1, []KeyID{key1, key2}, "leaked"}}), "1 revoked 2 revoked", RotationAborted, false, true},
		{"ExpiredWhileWaiting", append(waiting[:2:2], fact{end, Expired{[]KeyID{key1, key2}}}), "1 expired 2 expired", RotationAborted, false, true},
		{"OldKeyRevokedInGrace", append(waiting[:2:2], arrived(slot(1)), revoked(end, key1)), "1 revoked 2 active", RotationCompleted, true, false},
		{"CutOver", []fact{created(hourly), {end, Rotated{
			RotationID: rot1, Trigger: TriggerManual, PreviousKeyID: key1, KeyID: key2, Generation: 2, Acknowledged: AckAnswer, GraceExpiresAt: new(at(end)),
		}}}, "1 retired 2 active", RotationCompleted, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := given(t, c.history...)
			var states []string
			for _, g := range l.Generations {
				states = append(states, string(g.KeyID[len(g.KeyID)-1:])+" "+string(g.State))
			}
			if got := strings.Join(states, " "); got != c.generations {
				t.Fatalf("generations are %s, want %s", got, c.generations)
			}
			r := l.rotation(rot1)
			if r == nil || r.State != c.rotation || (r.AcknowledgedAt != nil) != c.acknowledged || (r.Reason != "") != c.reason {
				t.Fatalf("rotation is %+v", r)
			}
			if ended := !c.rotation.Live(); ended != (r.EndedAt != nil) || ended && !r.EndedAt.Equal(at(c.history[len(c.history)-1].after)) {
				t.Fatalf("rotation ended at %v", r.EndedAt)
			}
			if l.Active() == nil && l.NextRotationAt != nil {
				t.Fatalf("a dead lineage rotates next at %v", l.NextRotationAt)
			}
		})
	}
}

func TestApplyKeepsHowAKeyEnded(t *testing.T) {
	t.Parallel()
	l := given(t, created(), byHand(time.Minute, 1, hour), fact{2 * time.Minute, Revoked{key1, []KeyID{key1}, "leaked"}})
	same(t, "generations", *l.Generation(key1), Generation{
		KeyID: key1, Number: 1, Secret: facts(1), State: GenerationRevoked, CreatedAt: start, CreatedBy: actor, ReplacedBy: key2,
		GraceExpiresAt: new(at(61 * time.Minute)), RevokedAt: new(at(2 * time.Minute)), RevokedReason: "leaked",
	})
	same(t, "generations", *l.Generation(key2), Generation{
		KeyID: key2, Number: 2, Secret: facts(2), State: GenerationActive, CreatedAt: at(time.Minute), CreatedBy: actor,
	})
	// The next event forgets what had ended before it.
	l = given(t, created(), byHand(time.Minute, 1, hour), revoked(2*time.Minute, key1), byHand(3*time.Minute, 2, hour))
	if l.Generation(key1) != nil || len(l.Generations) != 2 || len(l.Rotations) != 1 {
		t.Fatalf("state still holds %+v", l)
	}
}
