package domain

import (
	"errors"
	"math"
	"testing"
	"time"
)

// rotate asks for the generation next after the one that a caller takes for the active one.
func rotate(trigger Trigger, now time.Duration, change ...func(*RotateKey)) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) {
		c := RotateKey{KeyID: key1, NewKeyID: key6, RotationID: rot9, Trigger: trigger, Caller: System(), Mint: mintFixed}
		if active := l.Active(); active != nil {
			c.KeyID = active.KeyID
		}
		if trigger == TriggerManual {
			c.Grace = new(hour)
		}
		for _, f := range change {
			f(&c)
		}
		return l.Rotate(c, at(now))
	}
}

func grace(d time.Duration) func(*RotateKey) { return func(c *RotateKey) { c.Grace = new(d) } }
func of(id KeyID) func(*RotateKey)           { return func(c *RotateKey) { c.KeyID = id } }
func supersede(c *RotateKey)                 { c.Supersede = true }
func by(c Caller) func(*RotateKey)           { return func(r *RotateKey) { r.Caller = c } }
func stalled(after time.Duration) fact       { return fact{after, RotationStalled{rot1, key2, "gone"}} }
func revoked(after time.Duration, k KeyID) fact {
	return fact{after, Revoked{KeyID: k, KeyIDs: []KeyID{k}}}
}
func superseded(next *time.Time) RotationCancelled {
	return RotationCancelled{rot1, key2, "superseded", rot9, next}
}
func cancelled(next *time.Time) RotationCancelled {
	return RotationCancelled{RotationID: rot1, KeyID: key2, Reason: "not now", NextRotationAt: next}
}

// handed is a rotation that its own answer acknowledged.
func handed(t *testing.T, change func(*Rotated)) Rotated {
	r := Rotated{
		RotationID: rot9, Trigger: TriggerManual, PreviousKeyID: key1, KeyID: key6, Generation: 2, SecretFacts: mintedFacts(t),
		GraceSeconds: 3600, Acknowledged: AckAnswer, GraceExpiresAt: new(at(10*time.Minute + hour)),
	}
	if change != nil {
		change(&r)
	}
	return r
}

func TestRotateByHand(t *testing.T) {
	t.Parallel()
	const now = 10 * time.Minute
	// Three generations are in grace, until 61, 122 and 183 minutes.
	three := []fact{created(), byHand(time.Minute, 1, hour), byHand(2*time.Minute, 2, 2*hour), byHand(3*time.Minute, 3, 3*hour)}
	// A fourth was added when the first had run out, before that was recorded.
	four := append(three[:4:4], byHand(61*time.Minute, 4, 9*hour))
	fourth := func(r *Rotated) {
		r.PreviousKeyID, r.Generation = key4, 5
	}
	runDecisions(t, []decision{
		{
			name: "IsAcknowledgedByItsAnswer", given: []fact{created()}, when: rotate(TriggerManual, now),
			then: []Payload{handed(t, nil)},
		}, {
			name: "MovesTheSlots", given: []fact{created(hourly)}, when: rotate(TriggerManual, now),
			then: []Payload{handed(t, func(r *Rotated) { r.NextRotationAt = new(at(now + slot(1))) })},
		}, {
			name: "CutsOverAtOnceWithoutGrace", given: []fact{created()}, when: rotate(TriggerManual, now, grace(0)),
			then: []Payload{handed(t, func(r *Rotated) { r.GraceSeconds, r.GraceExpiresAt = 0, new(at(now)) })},
		}, {
			name: "TakesTheGreatestGrace", given: []fact{created()}, when: rotate(TriggerManual, now, grace(30*day)),
			then: []Payload{handed(t, func(r *Rotated) { r.GraceSeconds, r.GraceExpiresAt = 2592000, new(at(now+30*day)) })},
		}, {
			name: "GivesNoGraceBeyondTheLife", given: []fact{created(ending(30 * time.Minute))}, when: rotate(TriggerManual, now),
			then: []Payload{handed(t, func(r *Rotated) { r.GraceExpiresAt = new(at(30 * time.Minute)) })},
		}, {
			name: "CountsOnFromTheLastGeneration", given: []fact{created(), byHand(time.Minute, 1, 0)}, when: rotate(TriggerManual, now),
			then: []Payload{handed(t, func(r *Rotated) { r.PreviousKeyID, r.Generation = key2, 3 })},
		}, {
			name: "IsRefusedOfAnotherThanTheActiveKey", given: []fact{created(), byHand(time.Minute, 1, hour)},
			when: rotate(TriggerManual, now, of(key1)),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key2},
		}, {
			name: "IsRefusedOfAPendingKey", given: []fact{created(hourly), bySlot()}, when: rotate(TriggerManual, 2*hour, of(key2)),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key1},
		}, {
			name: "IsRefusedOfAnUnknownKey", given: []fact{created()}, when: rotate(TriggerManual, now, of(key5)),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key1},
		}, {
			name: "IsRefusedOfARevokedKey", given: []fact{created(), revoked(time.Minute, key1)}, when: rotate(TriggerManual, now),
			code: CodeKeyNotActive,
		}, {
			name: "IsRefusedOnceTheLifeIsOver", given: []fact{created(ending(now))}, when: rotate(TriggerManual, now),
			code: CodeKeyNotActive,
		}, {
			name: "IsRefusedOnceExpired", given: []fact{created(ending(now)), {now, Expired{[]KeyID{key1}}}}, when: rotate(TriggerManual, now),
			code: CodeKeyNotActive,
		}, {
			name: "IsRefusedWithANegativeGrace", given: []fact{created()}, when: rotate(TriggerManual, now, grace(-1)),
			code: CodeValidation, field: "grace_period_seconds",
		}, {
			name: "IsRefusedWithAGraceOverThirtyDays", given: []fact{created()}, when: rotate(TriggerManual, now, grace(30*day+1)),
			code: CodeValidation, field: "grace_period_seconds",
		}, {
			name: "IsRefusedWithTheGreatestDuration", given: []fact{created()}, when: rotate(TriggerManual, now, grace(math.MaxInt64)),
			code: CodeValidation, field: "grace_period_seconds",
		}, {
			name: "IsRefusedWhileOneWaits", given: []fact{created(hourly), bySlot()}, when: rotate(TriggerManual, 2*hour),
			code: CodeRotationInProgress, details: map[string]any{"rotation_id": rot1},
		}, {
			name: "IsRefusedWhileOneIsStalled", given: []fact{created(hourly), bySlot(), stalled(2 * hour)}, when: rotate(TriggerManual, 3*hour),
			code: CodeRotationInProgress, details: map[string]any{"rotation_id": rot1},
		}, {
			name: "ReplacesTheWaitingOneIfToldSo", given: []fact{created(hourly), bySlot()}, when: rotate(TriggerManual, 2*hour, supersede),
			then: []Payload{superseded(new(at(slot(2)))), handed(t, func(r *Rotated) {
				r.Generation, r.GraceExpiresAt, r.NextRotationAt = 3, new(at(3*hour)), new(at(2*hour+slot(1)))
			})},
		}, {
			name: "ReplacesAStalledOneIfToldSo", given: []fact{created(hourly), bySlot(), stalled(2 * hour)}, when: rotate(TriggerManual, 3*hour, supersede),
			then: []Payload{superseded(new(at(slot(2)))), handed(t, func(r *Rotated) {
				r.Generation, r.GraceExpiresAt, r.NextRotationAt = 3, new(at(4*hour)), new(at(3*hour+slot(1)))
			})},
		}, {
			name: "ReplacesTheWaitingOneIfTheOldKeyMustGo", given: []fact{created(hourly), bySlot()}, when: rotate(TriggerManual, 2*hour, grace(0)),
			then: []Payload{superseded(new(at(slot(2)))), handed(t, func(r *Rotated) {
				r.Generation, r.GraceSeconds, r.GraceExpiresAt, r.NextRotationAt = 3, 0, new(at(2*hour)), new(at(2*hour+slot(1)))
			})},
		}, {
			name: "IsRefusedWithThreeInGrace", given: three, when: rotate(TriggerManual, now),
			code: CodeTooManyInGrace, details: map[string]any{"possible_at": "2026-03-01T13:01:00Z"},
		}, {
			name: "IsPossibleWithThreeInGraceIfTheOldKeyMustGo", given: three, when: rotate(TriggerManual, now, grace(0)),
			then: []Payload{handed(t, func(r *Rotated) { fourth(r); r.GraceSeconds, r.GraceExpiresAt = 0, new(at(now)) })},
		}, {
			name: "IsRefusedUntilAGraceHasRunOut", given: three, when: rotate(TriggerManual, 61*time.Minute-time.Microsecond),
			code: CodeTooManyInGrace, details: map[string]any{"possible_at": "2026-03-01T13:01:00Z"},
		}, {
			name: "IsPossibleOnceAGraceHasRunOutUnrecorded", given: three, when: rotate(TriggerManual, 61*time.Minute),
			then: []Payload{handed(t, func(r *Rotated) { fourth(r); r.GraceExpiresAt = new(at(121 * time.Minute)) })},
		}, {
			name: "IsRefusedWithThreeInGraceBesideOneThatRanOutUnrecorded", given: four, when: rotate(TriggerManual, 62*time.Minute),
			code: CodeTooManyInGrace, details: map[string]any{"possible_at": "2026-03-01T14:02:00Z"},
		}, {
			name:  "SaysToTheMicrosecondWhenItIsPossible",
			given: append([]fact{created(), byHand(time.Microsecond, 1, hour)}, three[2:]...), when: rotate(TriggerManual, now),
			code: CodeTooManyInGrace, details: map[string]any{"possible_at": "2026-03-01T13:00:00.000001Z"},
		},
	})

	t.Run("FailsWithoutASecret", func(t *testing.T) {
		t.Parallel()
		got, err := rotate(TriggerManual, now, func(c *RotateKey) { c.Mint = mintNothing })(given(t, created()))
		if !errors.Is(err, errNoRandomness) || got != nil {
			t.Fatalf("decided %v (%v)", got, err)
		}
	})
}

func TestRotateByInterval(t *testing.T) {
	t.Parallel()
	pending := func(change func(*Rotated)) Rotated {
		r := Rotated{
			RotationID: rot9, Trigger: TriggerInterval, PreviousKeyID: key1, KeyID: key6, Generation: 2, SecretFacts: mintedFacts(t),
			GraceSeconds: 1800, EndpointID: ep1, Deadline: new(at(slot(1) + 7*day)), NextRotationAt: new(at(slot(2))),
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	endOfFirst := slot(1) - 30*time.Minute + hour // of the first of three graces
	crowded := []fact{
		created(hourly), byHand(slot(1)-30*time.Minute, 1, hour), byHand(slot(1)-29*time.Minute, 2, 2*hour),
		{slot(1) - 28*time.Minute, Rotated{
			RotationID: rot2, Trigger: TriggerManual, PreviousKeyID: key3, KeyID: key4, Generation: 4, SecretFacts: facts(4),
			GraceSeconds: 10800, Acknowledged: AckAnswer, GraceExpiresAt: new(at(slot(1) + 3*hour)), NextRotationAt: new(at(slot(1))),
		}},
	}
	deferred := append(crowded[:4:4], fact{slot(1), RotationDeferred{key4, at(slot(1)), at(endOfFirst), DeferredByGraces}})
	runDecisions(t, []decision{
		{name: "WaitsForItsReceiverWithoutADeadline", given: []fact{created(hourly)}, when: rotate(TriggerInterval, slot(1)), then: []Payload{pending(nil)}},
		{name: "IsNotDueBeforeItsSlot", given: []fact{created(hourly)}, when: rotate(TriggerInterval, slot(1)-time.Microsecond)},
		{
			name: "CollapsesMissedSlots", given: []fact{created(hourly)}, when: rotate(TriggerInterval, slot(5)+time.Minute),
			then: []Payload{pending(func(r *Rotated) { r.Deadline, r.NextRotationAt = new(at(slot(5)+time.Minute+7*day)), new(at(slot(6))) })},
		}, {
			name:  "IsClaimedWithoutAReceiver",
			given: []fact{created(hourly, func(c *Created) { c.EndpointID, c.WebhookURL = "", "" })}, when: rotate(TriggerInterval, slot(1)),
			then: []Payload{pending(func(r *Rotated) { r.EndpointID = "" })},
		},
		{name: "IsNeverDueWithoutAnInterval", given: []fact{created()}, when: rotate(TriggerInterval, 1000*day)},
		{name: "IsNotDueWhileOneWaits", given: []fact{created(hourly), bySlot()}, when: rotate(TriggerInterval, slot(3))},
		{name: "IsNotDueWhileOneIsStalled", given: []fact{created(hourly), bySlot(), stalled(2 * hour)}, when: rotate(TriggerInterval, slot(3))},
		{name: "IsNotDueOnceRevoked", given: []fact{created(hourly), revoked(time.Minute, key1)}, when: rotate(TriggerInterval, slot(1))},
		{name: "IsNotDueOnceTheLifeIsOver", given: []fact{created(hourly, ending(slot(1)))}, when: rotate(TriggerInterval, slot(1))},
		{name: "IsNotDueASecondTime", given: []fact{created(hourly), bySlot(), arrived(slot(1))}, when: rotate(TriggerInterval, slot(1))},
		{
			name: "IsDeferredWithThreeInGrace", given: crowded, when: rotate(TriggerInterval, slot(1)),
			then: []Payload{RotationDeferred{key4, at(slot(1)), at(endOfFirst), DeferredByGraces}},
		},
		{name: "IsDeferredOnce", given: deferred, when: rotate(TriggerInterval, endOfFirst-time.Microsecond)},
		{
			name: "IsDueWhenTheFirstOfThreeGracesEnds", given: deferred, when: rotate(TriggerInterval, endOfFirst),
			then: []Payload{pending(func(r *Rotated) {
				anchor := slot(1) - 28*time.Minute
				r.PreviousKeyID, r.Generation, r.NextRotationAt = key4, 5, new(at(anchor+slot(1)))
				r.Deadline = new(at(endOfFirst + 7*day))
			})},
		}, {
			name: "IsRefusedOfAnotherThanTheActiveKey", given: []fact{created(hourly)}, when: rotate(TriggerInterval, slot(1), of(key5)),
			code: CodeKeyNotActive, details: map[string]any{"active_key_id": key1},
		},
	})
}

// TestG8RotationHandsOutNoMoreThanTheCallerHolds: who rotates a key gets its secret, and with it all that the key may do.
func TestG8RotationHandsOutNoMoreThanTheCallerHolds(t *testing.T) {
	t.Parallel()
	const now = 10 * time.Minute
	small := func(c *Created) {
		c.Scopes, c.Resources, c.ExpiresAt = Scopes{"a:read"}, Resources{"app": {"x"}}, new(at(hour))
	}
	operator := func(c *Created) { c.Operator = true }
	runDecisions(t, []decision{
		{
			name: "RefusesFurtherScopes", given: []fact{created(small, func(c *Created) { c.Scopes = Scopes{"a:read", "b:read"} })},
			when: rotate(TriggerManual, now, by(limitedCaller())), code: CodeEscalation, field: "scopes",
		}, {
			name: "RefusesFurtherResources", given: []fact{created(small, func(c *Created) { c.Resources = nil })},
			when: rotate(TriggerManual, now, by(limitedCaller())), code: CodeEscalation, field: "resources",
		}, {
			name: "RefusesALongerLife", given: []fact{created(small, ending(2*day))},
			when: rotate(TriggerManual, now, by(limitedCaller())), code: CodeEscalation, field: "expires_at",
		}, {
			name: "RefusesAnEndlessLife", given: []fact{created(small, func(c *Created) { c.ExpiresAt = nil })},
			when: rotate(TriggerManual, now, by(limitedCaller())), code: CodeEscalation, field: "expires_at",
		}, {
			name: "RefusesTheOperatorRight", given: []fact{created(operator)},
			when: rotate(TriggerManual, now, by(Caller{Scopes: Scopes{"*"}})), code: CodeEscalation, field: "operator",
		}, {
			name: "AllowsAnOperatorTheOperatorRight", given: []fact{created(operator)},
			when: rotate(TriggerManual, now, by(Caller{Scopes: Scopes{"*"}, Operator: true})), then: []Payload{handed(t, nil)},
		}, {
			name: "AllowsASmallerKey", given: []fact{created(small)}, when: rotate(TriggerManual, now, by(limitedCaller())),
			then: []Payload{handed(t, func(r *Rotated) { r.GraceExpiresAt = new(at(hour)) })},
		}, {
			name: "AllowsAKeyToRotateItself", given: []fact{created(small)},
			when: rotate(TriggerManual, now, by(Caller{Scopes: Scopes{"a:read"}, Resources: Resources{"app": {"x"}}, ExpiresAt: new(at(hour))})),
			then: []Payload{handed(t, func(r *Rotated) { r.GraceExpiresAt = new(at(hour)) })},
		},
	})
}

func acknowledge(id RotationID, now time.Duration) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) { return l.Acknowledge(id, AckFirstUse, at(now)) }
}

func TestAcknowledge(t *testing.T) {
	t.Parallel()
	now := slot(1) + 10*time.Minute
	ack := func(change func(*RotationAcknowledged)) []Payload {
		a := RotationAcknowledged{
			RotationID: rot1, PreviousKeyID: key1, KeyID: key2, Level: AckFirstUse, GraceExpiresAt: at(now + 30*time.Minute),
			NextRotationAt: new(at(slot(2))),
		}
		if change != nil {
			change(&a)
		}
		return []Payload{a}
	}
	waiting := []fact{created(hourly), bySlot()}
	noGrace := bySlot().data.(Rotated)
	noGrace.GraceSeconds = 0
	runDecisions(t, []decision{
		{name: "BeginsTheGraceOfTheOldKey", given: waiting, when: acknowledge(rot1, now), then: ack(nil)},
		{name: "IsPossibleAtTheInstantOfTheRotation", given: waiting, when: acknowledge(rot1, slot(1)), then: ack(func(a *RotationAcknowledged) {
			a.GraceExpiresAt = at(slot(1) + 30*time.Minute)
		})},
		{name: "CountsLateAfterAStall", given: append(waiting[:2:2], stalled(slot(1)+time.Minute)), when: acknowledge(rot1, now), then: ack(nil)},
		{name: "CollapsesSlotsThatPassedMeanwhile", given: waiting, when: acknowledge(rot1, slot(4)+time.Minute), then: ack(func(a *RotationAcknowledged) {
			a.GraceExpiresAt, a.NextRotationAt = at(slot(4)+31*time.Minute), new(at(slot(5)))
		})},
		{name: "CollapsesASlotAtItsInstant", given: waiting, when: acknowledge(rot1, slot(2)), then: ack(func(a *RotationAcknowledged) {
			a.GraceExpiresAt, a.NextRotationAt = at(slot(2)+30*time.Minute), new(at(slot(3)))
		})},
		{name: "EndsTheOldKeyAtOnceWithoutGrace", given: []fact{created(hourly), {slot(1), noGrace}}, when: acknowledge(rot1, now), then: ack(func(a *RotationAcknowledged) {
			a.GraceExpiresAt = at(now)
		})},
		{name: "GivesNoGraceBeyondTheLife", given: []fact{created(hourly, ending(now+time.Minute)), bySlot()}, when: acknowledge(rot1, now), then: ack(func(a *RotationAcknowledged) {
			a.GraceExpiresAt = at(now + time.Minute)
		})},
		{name: "LeavesNoNextSlotIfTheIntervalIsGone", given: append(waiting[:2:2], fact{slot(1), Updated{Settings: created().data.(Created).Settings}}), when: acknowledge(rot1, now), then: ack(func(a *RotationAcknowledged) {
			a.NextRotationAt = nil
		})},
		{name: "CountsOnce", given: append(waiting[:2:2], arrived(now)), when: acknowledge(rot1, now+time.Minute)},
		{name: "DecidesNothingForOneThatItsAnswerAcknowledged", given: []fact{created(), byHand(0, 1, hour)}, when: acknowledge("rot_00000000000000000000000011", now)},
		{name: "IsRefusedOfAnUnknownRotation", given: waiting, when: acknowledge(rot2, now), code: CodeNoRotation},
		{name: "IsRefusedOfACancelledOne", given: append(waiting[:2:2], fact{now, cancelled(nil)}), when: acknowledge(rot1, now), code: CodeNoRotation},
		{name: "IsRefusedOfOneThatEndedLongAgo", given: append(waiting[:2:2], fact{now, cancelled(nil)}, byHand(now, 1, hour)), when: acknowledge(rot1, now), code: CodeNoRotation},
		{name: "IsRefusedOnceTheGraceHasEnded", given: append(waiting[:2:2], arrived(now), fact{now + hour, GraceExpired{KeyID: key1}}), when: acknowledge(rot1, now+hour), code: CodeNoRotation},
		{name: "IsRefusedOnceTheLineageIsRevoked", given: append(waiting[:2:2], fact{now, Revoked{KeyID: key1, KeyIDs: []KeyID{key1, key2}}}), when: acknowledge(rot1, now), code: CodeNoRotation},
	})
}

func TestStall(t *testing.T) {
	t.Parallel()
	stall := func(id RotationID) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.Stall(id, "410 Gone") }
	}
	waiting := []fact{created(hourly), bySlot()}
	runDecisions(t, []decision{
		{name: "IsRecorded", given: waiting, when: stall(rot1), then: []Payload{RotationStalled{rot1, key2, "410 Gone"}}},
		{name: "IsRecordedOnce", given: append(waiting[:2:2], stalled(2*hour)), when: stall(rot1)},
		{name: "DecidesNothingOnceItArrived", given: append(waiting[:2:2], arrived(2*hour)), when: stall(rot1)},
		{name: "DecidesNothingOnceCancelled", given: append(waiting[:2:2], fact{2 * hour, cancelled(nil)}), when: stall(rot1)},
		{name: "DecidesNothingForAnUnknownRotation", given: waiting, when: stall(rot2)},
	})
}
