package domain

import (
	"strings"
	"testing"
	"time"
)

// on asks a decision about rot1.
func on(decide func(*Lineage, time.Time) ([]Decided, error), now time.Duration) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) { return decide(l, at(now)) }
}

// timed is the rotation bySlot with a deadline after a day, that demands an acknowledgment.
func timed(demand AckLevel) fact {
	r := bySlot().data.(Rotated)
	r.Demand, r.Deadline = demand, new(at(day))
	return fact{slot(1), r}
}

// inState are the histories that leave rot1 in each state.
func inState(state RotationState) []fact {
	waiting := []fact{created(hourly), timed("")}
	return map[RotationState][]fact{
		RotationDelivering: waiting,
		RotationStuck:      append(waiting[:2:2], stalled(slot(1)+time.Minute)),
		RotationOverlap:    append(waiting[:2:2], arrived(slot(1)+time.Minute)),
		RotationCompleted:  append(waiting[:2:2], arrived(slot(1)+time.Minute), fact{slot(1) + hour, GraceExpired{KeyID: key1}}),
		RotationAbandoned:  append(waiting[:2:2], fact{slot(1) + time.Minute, cancelled(nil)}),
		RotationSuperseded: append(waiting[:2:2], fact{slot(1) + time.Minute, superseded(nil)}),
		RotationAborted:    append(waiting[:2:2], fact{slot(1) + time.Minute, Revoked{KeyID: key1, KeyIDs: []KeyID{key1, key2}}}),
		RotationUndone:     append(waiting[:2:2], arrived(slot(1)+time.Minute), fact{slot(1) + 2*time.Minute, RotationRolledBack{rot1, key1, key2, at(9 * hour), new(at(slot(2)))}}),
	}[state]
}

// TestEachDecisionBelongsToItsStates: whatever is asked of a rotation in a state in which it cannot be is refused, and
// changes nothing; so nothing revives what has ended.
func TestEachDecisionBelongsToItsStates(t *testing.T) {
	t.Parallel()
	waits := []RotationState{RotationDelivering, RotationStuck}
	overlaps := []RotationState{RotationOverlap}
	for _, c := range []struct {
		name   string
		decide func(*Lineage, time.Time) ([]Decided, error)
		states []RotationState
	}{
		{"Cancel", func(l *Lineage, now time.Time) ([]Decided, error) { return l.CancelRotation(rot1, "", Policy{}, now) }, waits},
		{"Force", func(l *Lineage, now time.Time) ([]Decided, error) { return l.Force(rot1, now) }, waits},
		{"Redeliver", func(l *Lineage, now time.Time) ([]Decided, error) {
			return l.Redeliver(Redeliver{RotationID: rot1}, now)
		}, waits},
		{"RollBack", func(l *Lineage, now time.Time) ([]Decided, error) { return l.RollBack(rot1, Policy{}, now) }, overlaps},
		{"EndGrace", func(l *Lineage, now time.Time) ([]Decided, error) { return l.EndGrace(rot1, now) }, overlaps},
		{"ChangeGrace", func(l *Lineage, now time.Time) ([]Decided, error) {
			return l.ChangeGrace(rot1, now.Add(time.Minute), Policy{}, now)
		}, overlaps},
	} {
		for _, state := range RotationStates() {
			t.Run(c.name+"/"+string(state), func(t *testing.T) {
				t.Parallel()
				l := given(t, inState(state)...)
				if r := l.rotation(rot1); r == nil || r.State != state {
					t.Fatalf("rotation is %+v", r)
				}
				decided, err := c.decide(l, at(slot(1)+10*time.Minute))
				for _, allowed := range c.states {
					if state == allowed {
						if err != nil || len(decided) != 1 {
							t.Fatalf("decided %v (%v)", decided, err)
						}
						return
					}
				}
				refusal := refused(t, err, CodeRotationState, "")
				if len(decided) > 0 || refusal.Details["state"] != state {
					t.Fatalf("decided %v, details %v", decided, refusal.Details)
				}
			})
		}
		t.Run(c.name+"/forgotten", func(t *testing.T) {
			t.Parallel()
			_, err := c.decide(given(t, append(inState(RotationAbandoned), byHand(3*hour, 1, hour))...), at(4*hour))
			refused(t, err, CodeRotationState, "")
		})
	}
}

func TestAcknowledgmentsHaveLevels(t *testing.T) {
	t.Parallel()
	order := []AckLevel{AckAccepted, AckProof, AckFirstUse}
	for i, demand := range order {
		l := given(t, created(hourly), timed(demand))
		for j, level := range order {
			decided, err := l.Acknowledge(rot1, level, at(slot(1)))
			if err != nil || (len(decided) == 1) != (j >= i) {
				t.Errorf("%s is demanded, and %s decides %v (%v)", demand, level, decided, err)
			}
		}
		for _, level := range []AckLevel{AckClaim, AckAnswer, AckForced} {
			if decided, err := l.Acknowledge(rot1, level, at(slot(1))); err != nil || len(decided) != 1 {
				t.Errorf("%s is demanded, and %s decides %v (%v)", demand, level, decided, err)
			}
		}
	}
}

func TestRotateBecauseOfACompromise(t *testing.T) {
	t.Parallel()
	const now = slot1 + 20*time.Minute
	cut := func(change func(*Rotated)) Rotated {
		return handed(t, func(r *Rotated) {
			r.Trigger, r.GraceSeconds, r.GraceExpiresAt = TriggerCompromise, 0, new(at(now))
			r.RevokedKeyIDs = []KeyID{key1}
			change(r)
		})
	}
	next := new(at(now + slot(1)))
	runDecisions(t, []decision{
		{
			name: "EndsTheOldKey", given: []fact{created(hourly)}, when: rotate(TriggerCompromise, now),
			then: []Payload{cut(func(r *Rotated) { r.NextRotationAt = next })},
		}, {
			name: "EndsOlderOnesToo", given: []fact{created(), byHand(0, 1, 9*hour)}, when: rotate(TriggerCompromise, now),
			then: []Payload{cut(func(r *Rotated) {
				r.PreviousKeyID, r.Generation, r.RevokedKeyIDs = key2, 3, []KeyID{key1, key2}
			})},
		}, {
			name: "ReplacesAWaitingOneWithoutBeingToldSo", given: inState(RotationStuck), when: rotate(TriggerCompromise, now),
			then: []Payload{superseded(new(at(slot(2)))), cut(func(r *Rotated) { r.Generation, r.NextRotationAt = 3, next })},
		}, {
			name: "LeavesAGraceThatIsNamed", given: inState(RotationDelivering), when: rotate(TriggerCompromise, now, grace(time.Minute)),
			then: []Payload{superseded(new(at(slot(2)))), cut(func(r *Rotated) {
				r.Generation, r.GraceSeconds, r.GraceExpiresAt, r.RevokedKeyIDs, r.NextRotationAt = 3, 60, new(at(now+time.Minute)), nil, next
			})},
		}, {
			name: "IsRefusedOfARevokedKey", given: []fact{created(), revoked(time.Minute, key1)}, when: rotate(TriggerCompromise, now),
			code: CodeKeyNotActive,
		},
	})
}

const slot1 = hour + hourPhase

func TestRotateByIntervalWithoutAReceiver(t *testing.T) {
	t.Parallel()
	unverified := func(c *RotateKey) { c.Receiver.Problem = "unverified" }
	blocked := fact{slot(1), RotationBlocked{key1, ep1, at(slot(1)), "unverified"}}
	told := func(after time.Duration) []Payload {
		return []Payload{RotationBlocked{key1, ep1, at(slot(1)), "unverified"}}
	}
	runDecisions(t, []decision{
		{name: "IsBlocked", given: []fact{created(hourly)}, when: rotate(TriggerInterval, slot(1), unverified), then: told(slot(1))},
		{name: "SaysSoOnce", given: []fact{created(hourly), blocked}, when: rotate(TriggerInterval, slot(2)-time.Microsecond, unverified)},
		{name: "SaysSoAgainAtTheNextSlot", given: []fact{created(hourly), blocked}, when: rotate(TriggerInterval, slot(2), unverified), then: told(slot(2))},
		{
			name: "BeginsOnceThereIsOne", given: []fact{created(hourly), blocked}, when: rotate(TriggerInterval, slot(1)+time.Minute, func(c *RotateKey) { c.Receiver.Demand = AckProof }),
			then: []Payload{Rotated{
				RotationID: rot9, Trigger: TriggerInterval, PreviousKeyID: key1, KeyID: key6, Generation: 2, SecretFacts: mintedFacts(t),
				GraceSeconds: 1800, EndpointID: ep1, Demand: AckProof, Deadline: new(at(slot(1) + time.Minute + 7*day)), NextRotationAt: new(at(slot(2))),
			}},
		},
	})
}

func TestRedeliverTheSecretOfARotation(t *testing.T) {
	t.Parallel()
	const now = slot1 + 20*time.Minute
	redeliver := func(change func(*Redeliver)) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) {
			c := Redeliver{RotationID: rot1, With: RotateKey{NewKeyID: key6, RotationID: rot9, Caller: System(), Mint: mintFixed}}
			change(&c)
			return l.Redeliver(c, at(now))
		}
	}
	plain := func(*Redeliver) {}
	anew := []Payload{superseded(new(at(slot(2)))), Rotated{
		RotationID: rot9, Trigger: TriggerInterval, PreviousKeyID: key1, KeyID: key6, Generation: 3, SecretFacts: mintedFacts(t),
		GraceSeconds: 1800, EndpointID: ep1, Deadline: new(at(now + 7*day)), NextRotationAt: new(at(slot(2))),
	}}
	elsewhere := created(hourly, func(c *Created) { c.EndpointID = ep2 })
	runDecisions(t, []decision{
		{name: "SendsTheSameSecret", given: inState(RotationStuck), when: redeliver(plain), then: []Payload{RotationRedelivered{rot1, key2}}},
		{name: "IsPossibleWhileItIsUnderWay", given: inState(RotationDelivering), when: redeliver(plain), then: []Payload{RotationRedelivered{rot1, key2}}},
		{name: "MakesAnotherSecretIfToldSo", given: inState(RotationStuck), when: redeliver(func(c *Redeliver) { c.Fresh = true }), then: anew},
		{
			name: "MakesAnotherSecretOfOneThatTimedOut", when: redeliver(plain), then: anew,
			given: append(inState(RotationStuck), fact{slot1 + 10*time.Minute, RotationTimedOut{rot1, key2, at(3 * day)}}),
		}, {
			name: "MakesAnotherSecretForAnotherReceiver", when: redeliver(plain), given: []fact{elsewhere, timed("")},
			then: []Payload{anew[0], func() Rotated { r := anew[1].(Rotated); r.EndpointID = ep2; return r }()},
		}, {
			name: "IsRefusedWithAReceiverThatCannotBeSentIt", given: inState(RotationStuck), when: redeliver(func(c *Redeliver) { c.With.Receiver.Problem = "disabled" }),
			code: CodeRotationState, details: map[string]any{"state": RotationStuck},
		}, {
			name: "IsRefusedIfNothingIsSent", when: redeliver(plain), code: CodeRotationState, details: map[string]any{"state": RotationDelivering},
			given: []fact{created(hourly, func(c *Created) { c.EndpointID, c.WebhookURL = "", "" }), func() fact {
				f := timed("")
				r := f.data.(Rotated)
				r.EndpointID = ""
				return fact{f.after, r}
			}()},
		},
	})
}

func TestTimeOut(t *testing.T) {
	t.Parallel()
	timeOut := func(now time.Duration, action TimeoutAction) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) {
			return l.TimeOut(key2, Policy{RotationTimeout: action}, at(now))
		}
	}
	waiting, missed := inState(RotationStuck), nextSlot(lin1, start, hour, at(day))
	held := append(inState(RotationStuck), fact{day, RotationTimedOut{rot1, key2, at(2 * day)}})
	runDecisions(t, []decision{
		{name: "HoldsTheOldKey", given: waiting, when: timeOut(day, ""), then: []Payload{RotationTimedOut{rot1, key2, at(2 * day)}}},
		{name: "HoldsOneThatIsUnderWay", given: inState(RotationDelivering), when: timeOut(day, TimeoutHold), then: []Payload{RotationTimedOut{rot1, key2, at(2 * day)}}},
		{name: "SaysSoOnceADay", given: held, when: timeOut(2*day-1, "")},
		{name: "SaysSoAgainTheNextDay", given: held, when: timeOut(2*day, ""), then: []Payload{RotationTimedOut{rot1, key2, at(3 * day)}}},
		{name: "RollsBack", given: waiting, when: timeOut(day, TimeoutRollback), then: []Payload{
			RotationCancelled{RotationID: rot1, KeyID: key2, Reason: "timed_out", NextRotationAt: &missed},
		}},
		{name: "ExpiresTheOldKeyWithItsGrace", given: waiting, when: timeOut(day, TimeoutExpireOld), then: []Payload{RotationAcknowledged{
			RotationID: rot1, PreviousKeyID: key1, KeyID: key2, Level: AckForced, GraceExpiresAt: at(day + 30*time.Minute), NextRotationAt: &missed,
		}}},
		{name: "DecidesNothingBeforeItsTime", given: waiting, when: timeOut(day-1, TimeoutExpireOld)},
		{name: "DecidesNothingOnceItArrived", given: inState(RotationOverlap), when: timeOut(day, TimeoutExpireOld)},
		{name: "DecidesNothingOnceCancelled", given: inState(RotationAbandoned), when: timeOut(day, TimeoutExpireOld)},
		{name: "DecidesNothingOfOneWithoutADeadline", given: []fact{created(hourly), bySlot()}, when: timeOut(99*day, TimeoutExpireOld)},
	})
}

func TestRollBack(t *testing.T) {
	t.Parallel()
	const now = slot1 + 20*time.Minute
	rollBack := on(func(l *Lineage, now time.Time) ([]Decided, error) { return l.RollBack(rot1, Policy{}, now) }, now)
	overlap := inState(RotationOverlap)
	runDecisions(t, []decision{
		{name: "SwapsTheKeys", given: overlap, when: rollBack, then: []Payload{RotationRolledBack{rot1, key1, key2, at(now + 30*time.Minute), new(at(slot(2)))}}},
		{
			name: "GivesNoGraceBeyondTheLife", given: append([]fact{created(hourly, ending(now+time.Minute))}, overlap[1:]...), when: rollBack,
			then: []Payload{RotationRolledBack{rot1, key1, key2, at(now + time.Minute), new(at(slot(2)))}},
		}, {
			name: "IsRefusedOnceTheGraceHasRunOut", given: overlap, code: CodeRotationState, details: map[string]any{"state": RotationOverlap},
			when: on(func(l *Lineage, now time.Time) ([]Decided, error) { return l.RollBack(rot1, Policy{}, now) }, slot1+31*time.Minute),
		}, {
			name: "IsRefusedOfOneThatWasFollowedByAnother", given: append(overlap[:3:3], byHand(now, 2, hour)), when: rollBack,
			code: CodeRotationState, details: map[string]any{"state": RotationOverlap},
		}, {
			name: "IsRefusedWhileTheNextOneWaits", given: append(overlap[:3:3], fact{now, Rotated{
				RotationID: rot2, Trigger: TriggerInterval, PreviousKeyID: key2, KeyID: key3, Generation: 3, SecretFacts: facts(3),
			}}), when: rollBack, code: CodeRotationInProgress, details: map[string]any{"rotation_id": rot2},
		},
	})
}

func TestChangeGrace(t *testing.T) {
	t.Parallel()
	const now, acknowledged = slot1 + 20*time.Minute, slot1 + time.Minute
	until := func(end time.Duration, p Policy) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.ChangeGrace(rot1, at(end), p, at(now)) }
	}
	to := func(end time.Duration) []Payload { return []Payload{GraceChanged{rot1, key1, at(end)}} }
	overlap := inState(RotationOverlap)
	mortal := append([]fact{created(hourly, ending(2*hour))}, overlap[1:]...)
	runDecisions(t, []decision{
		{name: "Extends", given: overlap, when: until(day, Policy{}), then: to(day)},
		{name: "Shortens", given: overlap, when: until(now+time.Microsecond, Policy{}), then: to(now + time.Microsecond)},
		{name: "UpToTheLongestOverlap", given: overlap, when: until(acknowledged+7*day, Policy{}), then: to(acknowledged + 7*day)},
		{name: "NotBeyondTheLongestOverlap", given: overlap, when: until(acknowledged+7*day+time.Microsecond, Policy{}), code: CodeValidation, field: "grace_expires_at"},
		{name: "UpToTheLongestOverlapOfThePolicy", given: overlap, when: until(acknowledged+hour+time.Microsecond, Policy{MaxOverlapSeconds: 3600}), code: CodeValidation, field: "grace_expires_at"},
		{name: "UpToTheLongestGraceOfThePolicy", given: overlap, when: until(acknowledged+2*hour+time.Microsecond, Policy{MaxGraceSeconds: new(int64(7200))}), code: CodeValidation, field: "grace_expires_at"},
		{name: "UpToTheEndOfTheLife", given: mortal, when: until(2*hour, Policy{}), then: to(2 * hour)},
		{name: "NotBeyondTheLife", given: mortal, when: until(2*hour+time.Microsecond, Policy{}), code: CodeValidation, field: "grace_expires_at"},
		{name: "NotToNow", given: overlap, when: until(now, Policy{}), code: CodeValidation, field: "grace_expires_at"},
		{name: "ToTheSameDecidesNothing", given: overlap, when: until(acknowledged+30*time.Minute, Policy{MaxOverlapSeconds: 3600, MaxGraceSeconds: new(int64(1))})},
	})
}

func TestCancelAndForceAndEnd(t *testing.T) {
	t.Parallel()
	const now = slot1 + 20*time.Minute
	cancel := func(reason string) func(*Lineage) ([]Decided, error) {
		return func(l *Lineage) ([]Decided, error) { return l.CancelRotation(rot1, reason, Policy{}, at(now)) }
	}
	runDecisions(t, []decision{
		{name: "CancelDiscardsTheNewKey", given: inState(RotationDelivering), when: cancel("not now"), then: []Payload{cancelled(new(at(slot(2))))}},
		{name: "CancelRefusesALongReason", given: inState(RotationDelivering), when: cancel(strings.Repeat("a", 501)), code: CodeValidation, field: "reason"},
		{
			name: "ForceBeginsTheGrace", given: append([]fact{created(hourly)}, timed(AckFirstUse)),
			when: on(func(l *Lineage, now time.Time) ([]Decided, error) { return l.Force(rot1, now) }, now),
			then: []Payload{RotationAcknowledged{RotationID: rot1, PreviousKeyID: key1, KeyID: key2, Level: AckForced, GraceExpiresAt: at(now + 30*time.Minute), NextRotationAt: new(at(slot(2)))}},
		}, {
			name: "EndGraceEndsTheOldKey", given: inState(RotationOverlap),
			when: on(func(l *Lineage, now time.Time) ([]Decided, error) { return l.EndGrace(rot1, now) }, now),
			then: []Payload{GraceExpired{KeyID: key1, Early: true}},
		},
	})
}

// A grace that was ended early, or moved, is shown as it was in the end, by the key and by its rotation.
func TestApplyKeepsTheDeadlineThatWas(t *testing.T) {
	t.Parallel()
	const now = slot1 + 20*time.Minute
	for name, c := range map[string]struct {
		event Payload
		want  time.Duration
	}{
		"ended":    {GraceExpired{KeyID: key1, Early: true}, now},
		"ran out":  {GraceExpired{KeyID: key1}, slot1 + 31*time.Minute},
		"extended": {GraceChanged{rot1, key1, at(day)}, day},
	} {
		l := given(t, append(inState(RotationOverlap), fact{now, c.event})...)
		if g, r := l.Generation(key1), l.rotation(rot1); !g.GraceExpiresAt.Equal(at(c.want)) || !r.GraceExpiresAt.Equal(at(c.want)) {
			t.Errorf("%s: the key ends at %v, its rotation says %v, want %v", name, g.GraceExpiresAt, r.GraceExpiresAt, at(c.want))
		}
	}
}
