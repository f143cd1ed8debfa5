package domain

import (
	"testing"
	"time"
)

// TestRetireUnused: an old key ends early if it is known that nobody has used it for as long as the policy says, and in no
// other case.
func TestRetireUnused(t *testing.T) {
	t.Parallel()
	const span, arrival, tick = 2 * hour, time.Minute, time.Microsecond
	policy := Policy{EarlyRetireSeconds: int64(span / time.Second)}
	rotated := byHand(arrival, 1, 3*day).data.(Rotated)
	rotated.RotationID = rot1
	overlap := []fact{created(), {arrival, rotated}}
	// known is what is known at a moment: all uses since long ago and until that very moment.
	known := func(until time.Duration) KnownUse { return KnownUse{From: at(-day), Until: at(until)} }
	used := func(last, until time.Duration) KnownUse {
		use := known(until)
		use.LastUsedAt = new(at(last))
		return use
	}
	decide := func(use KnownUse, now time.Duration) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.RetireUnused(rot1, use, policy, at(now)), nil }
	}
	ended := func(since time.Duration) []Payload {
		return []Payload{GraceExpired{KeyID: key1, Early: true, Reason: ReasonUnused, UnusedSince: new(at(since))}}
	}
	const end = arrival + span
	runDecisions(t, []decision{
		{name: "NeverUsedSinceItsSuccessorArrived", given: overlap, when: decide(known(end), end), then: ended(arrival)},
		{name: "NotATickTooEarly", given: overlap, when: decide(known(end-tick), end-tick)},
		{name: "AUseBeforeTheSuccessorArrivedIsNone", given: overlap, when: decide(used(arrival-tick, end), end), then: ended(arrival)},
		{name: "UsedJustWithinTheSpan", given: overlap, when: decide(used(day-span+tick, day), day)},
		{name: "UsedJustBeforeTheSpan", given: overlap, when: decide(used(day-span, day), day), then: ended(day - span)},
		{name: "UsedLaterThanIsKnown", given: overlap, when: decide(used(day+time.Minute, day), day+2*time.Minute)},
		{name: "NothingIsKnown", given: overlap, when: decide(KnownUse{}, day)},
		{name: "AGapJustWithinTheSpan", given: overlap, when: decide(KnownUse{From: at(day - span + tick), Until: at(day)}, day)},
		{name: "AGapJustBeforeTheSpan", given: overlap, when: decide(KnownUse{From: at(day - span), Until: at(day)}, day), then: ended(day - span)},
		{name: "TheSpanEndsWhereKnowledgeDoes", given: overlap, when: decide(known(end-tick), end+time.Minute)},
		{name: "WhatIsKnownIsALittleBehind", given: overlap, when: decide(known(day), day+MaxUseLag), then: ended(arrival)},
		{name: "WhatIsKnownIsTooFarBehind", given: overlap, when: decide(known(day), day+MaxUseLag+tick)},
		{name: "AClockAheadKnowsNoFuture", given: overlap, when: decide(known(9*day), end-tick)},
		{name: "AClockAheadKnowsThePresent", given: overlap, when: decide(known(9*day), end), then: ended(arrival)},
		{name: "NotWithoutTheTerm", given: overlap, when: on(func(l *Lineage, now time.Time) ([]Decided, error) {
			return l.RetireUnused(rot1, known(day), Policy{}, now), nil
		}, day)},
		{name: "NotOnceItsGraceHasRunOut", given: overlap, when: decide(known(9*day), 9*day)},
		{name: "NotOnceItHasEnded", given: append(overlap[:2:2], fact{hour, GraceExpired{KeyID: key1, Early: true}}), when: decide(known(day), day)},
		{name: "NotOnceItWasRevoked", given: append(overlap[:2:2], revoked(hour, key1)), when: decide(known(day), day)},
		{name: "NotOnceItWasRolledBack", given: append(overlap[:2:2], fact{hour, RotationRolledBack{rot1, key1, key2, at(3 * day), nil}}), when: decide(known(day), day)},
		{name: "NotWhileItsSuccessorWaits", given: inState(RotationDelivering), when: decide(known(day), day)},
		{name: "NotWhileItsSuccessorIsStuck", given: inState(RotationStuck), when: decide(known(day), day)},
		{name: "NotOfAnUnknownRotation", given: overlap, when: on(func(l *Lineage, now time.Time) ([]Decided, error) {
			return l.RetireUnused(rot9, known(day), policy, now), nil
		}, day)},
		{name: "AfterTheNextRotationToo", given: append(overlap[:2:2], byHand(hour, 2, day)), when: decide(known(end), end), then: ended(arrival)},
	})
}

func TestEarlyRetireIsBounded(t *testing.T) {
	t.Parallel()
	for _, seconds := range []int64{-1, 1, 3599, 2592001, 1 << 62} {
		_, err := Policy{EarlyRetireSeconds: seconds}.validate()
		refused(t, err, CodeValidation, "policy.early_retire_seconds")
	}
	for _, seconds := range []int64{0, 3600, 2592000} {
		if p, err := (Policy{EarlyRetireSeconds: seconds}).validate(); err != nil || p.EarlyRetire() != time.Duration(seconds)*time.Second {
			t.Errorf("%d seconds: %v, %v", seconds, p.EarlyRetire(), err)
		}
	}
}
