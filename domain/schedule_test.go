package domain

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lineagesOfOneInstant are ids that differ in nothing but their random part.
func lineagesOfOneInstant(n int) []LineageID {
	ids, made := make([]LineageID, n), IDs{Random: seeded(1)}
	for i := range ids {
		ids[i] = LineageID(made.New(PrefixLineage, start))
	}
	return ids
}

// Ten thousand keys that were set up at one instant with one interval must not all be due at one instant.
func TestScheduleSpreadsLineagesOfOneInstant(t *testing.T) {
	t.Parallel()
	ids := lineagesOfOneInstant(10000)
	for _, c := range []struct {
		name     string
		interval time.Duration
		span     time.Duration // in which the slots lie
		bucket   time.Duration
	}{
		{"EachMonth", 30 * day, day, 10 * time.Minute},
		{"EachDay", day, day / 10, time.Minute},
		{"EachTenHours", 10 * hour, hour, time.Minute},
		{"EachHour", hour, 6 * time.Minute, time.Minute},
		{"EachMinute", time.Minute, 6 * time.Second, 100 * time.Millisecond},
		{"EachSecond", time.Second, 100 * time.Millisecond, time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			buckets := make([]int, c.span/c.bucket)
			for _, id := range ids {
				late := nextSlot(id, start, c.interval, start).Sub(start) - c.interval
				if late < 0 || late >= c.span {
					t.Fatalf("%s is due %v after its interval, want less than %v", id, late, c.span)
				}
				buckets[late/c.bucket]++
			}
			mean := float64(len(ids)) / float64(len(buckets))
			for i, n := range buckets {
				if float64(n) > 3*mean {
					t.Errorf("%d lineages are due in bucket %d of %v, the mean is %.1f", n, i, c.bucket, mean)
				}
				if mean > 50 && float64(n) < mean/3 {
					t.Errorf("only %d lineages are due in bucket %d of %v, the mean is %.1f", n, i, c.bucket, mean)
				}
			}
		})
	}
}

func anyInterval(t *rapid.T) time.Duration {
	seconds := rapid.OneOf(rapid.Int64Range(1, 120), rapid.Int64Range(1, int64(MaxRotationInterval/time.Second)))
	return time.Duration(seconds.Draw(t, "interval")) * time.Second
}

func TestPhaseIsLessThanATenthOfTheInterval(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id, interval := LineageID(rapid.String().Draw(t, "id")), anyInterval(t)
		got := phase(id, interval)
		if got < 0 || got >= interval/10 || got >= day {
			t.Fatalf("phase of %v is %v", interval, got)
		}
		if got != got.Truncate(time.Microsecond) {
			t.Fatalf("phase %v is finer than a stored time", got)
		}
		if again := phase(id, interval); again != got {
			t.Fatalf("phase is %v, then %v", got, again)
		}
	})
}

// The phase decides when stored keys are due; a change would move a whole installation's due times at the next release.
func TestPhaseIsTheSameInEveryRelease(t *testing.T) {
	t.Parallel()
	for interval, want := range map[time.Duration]time.Duration{
		hour: hourPhase, day: 3166525750 * time.Microsecond, 365 * day: 11806525750 * time.Microsecond, time.Second: 25750 * time.Microsecond,
	} {
		if got := phase(lin1, interval); got != want {
			t.Errorf("phase of %v is %d µs, was %d µs", interval, got.Microseconds(), want.Microseconds())
		}
	}
}

// A slot is a function of the anchor alone: whenever it is asked for, also by a process that was just started, it is the
// first one after now, and what was missed collapses into it.
func TestNextSlot(t *testing.T) {
	t.Parallel()

	t.Run("IsTheFirstSlotAfterNow", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			id := LineageID(rapid.StringMatching(`lin_[0-9a-z]{26}`).Draw(t, "id"))
			interval, shift := anyInterval(t), time.Duration(0)
			shift = phase(id, interval)
			elapsed := time.Duration(rapid.Int64Range(0, int64(20*365*day/time.Microsecond)).Draw(t, "elapsed")) * time.Microsecond
			if rapid.Bool().Draw(t, "at a slot") {
				elapsed = elapsed/interval*interval + shift
			}
			now := start.Add(elapsed)
			got := nextSlot(id, start, interval, now)
			if !got.After(now) || got.Before(start.Add(interval)) {
				t.Fatalf("next slot is %v, now is %v", got, now)
			}
			if (got.Sub(start)-shift)%interval != 0 {
				t.Fatalf("%v is no slot of the anchor", got)
			}
			if before := got.Add(-interval); before.After(now) && got.Sub(start) > 2*interval {
				t.Fatalf("%v is after now %v and before %v", before, now, got)
			}
			if again := nextSlot(id, start, interval, got.Add(-time.Microsecond)); !again.Equal(got) {
				t.Fatalf("just before %v the next slot is %v", got, again)
			}
		})
	})

	t.Run("CollapsesWhatWasMissed", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct{ now, want time.Duration }{
			{0, slot(1)},
			{hour - 1, slot(1)},
			{slot(1) - time.Microsecond, slot(1)},
			{slot(1), slot(2)},
			{slot(1) + 1, slot(2)},
			{slot(7) + 59*time.Minute, slot(8)},
			{slot(87600) - time.Microsecond, slot(87600)},
		} {
			if got := nextSlot(lin1, start, hour, at(c.now)); !got.Equal(at(c.want)) {
				t.Errorf("after %v the next slot is after %v, want %v", c.now, got.Sub(start), c.want)
			}
		}
	})

	t.Run("StaysWithinTheFirstIntervalsOfAnAnchorAhead", func(t *testing.T) {
		t.Parallel() // a replica's clock may be behind that of the one which set the anchor
		if got := nextSlot(lin1, start, hour, at(-5*time.Second)); !got.Equal(at(slot(1))) {
			t.Fatalf("next slot is after %v", got.Sub(start))
		}
	})
}

func TestDefaultGrace(t *testing.T) {
	t.Parallel()
	for interval, want := range map[time.Duration]time.Duration{
		0: hour, time.Second: 0, 2 * time.Second: time.Second, 5 * time.Second: 2 * time.Second, hour: 30 * time.Minute,
		2 * hour: hour, day: hour, MaxRotationInterval: hour,
	} {
		if got := defaultGraceFor(interval); got != want {
			t.Errorf("grace of an interval of %v is %v, want %v", interval, got, want)
		}
	}
}

func TestDue(t *testing.T) {
	t.Parallel()
	full := func(extra ...fact) []fact {
		return append([]fact{created(hourly, ending(10*hour)), byHand(time.Minute, 1, hour), byHand(2*time.Minute, 2, 2*hour)}, extra...)
	}
	next := func(f fact, at time.Time) fact {
		r := f.data.(Rotated)
		r.NextRotationAt = &at
		return fact{f.after, r}
	}
	for _, c := range []struct {
		name  string
		given []fact
		want  []Due
	}{
		{"NothingWithoutIntervalOrEnd", []fact{created()}, nil},
		{"ARotationAtItsSlot", []fact{created(hourly)}, []Due{{DueRotate, key1, at(slot(1))}}},
		{"NoRotationWhileOneWaits", []fact{created(hourly), bySlot()}, nil},
		{"NoDeadlineOfTheOldKeyWhileItsRotationIsStalled", []fact{
			created(hourly), bySlot(), {2 * hour, RotationStalled{RotationID: rot1, KeyID: key2, Reason: "gone"}},
		}, nil},
		{"TheDeadlineOfOneThatWaits", []fact{created(hourly), {slot(1), Rotated{
			RotationID: rot1, Trigger: TriggerInterval, PreviousKeyID: key1, KeyID: key2, Generation: 2, Deadline: new(at(7 * day)),
		}}}, []Due{{DueTimeout, key2, at(7 * day)}}},
		{"TheGraceOnceItArrived", []fact{created(hourly), bySlot(), arrived(slot(1) + time.Minute)}, []Due{
			{DueRotate, key2, at(slot(2))}, {DueGrace, key1, at(slot(1) + 31*time.Minute)},
		}},
		{"TheEndOfTheLife", []fact{created(ending(hour))}, []Due{{DueExpire, key1, at(hour)}}},
		{"AllKindsInOrder", full(next(byHand(3*time.Minute, 3, 10*time.Minute), at(slot(1)))), []Due{
			{DueRotate, key4, at(slot(1))},
			{DueGrace, key1, at(61 * time.Minute)}, {DueGrace, key2, at(122 * time.Minute)}, {DueGrace, key3, at(13 * time.Minute)},
			{DueExpire, key1, at(10 * hour)},
		}},
		{"ADeferredRotationAtTheTimeThatWasNamed", full(next(byHand(3*time.Minute, 3, 3*hour), at(30*time.Minute)),
			fact{30 * time.Minute, RotationDeferred{key4, at(30 * time.Minute), at(61 * time.Minute), DeferredByGraces}}), []Due{
			{DueRotate, key4, at(61 * time.Minute)},
			{DueGrace, key1, at(61 * time.Minute)}, {DueGrace, key2, at(122 * time.Minute)}, {DueGrace, key3, at(183 * time.Minute)},
			{DueExpire, key1, at(10 * hour)},
		}},
		{"NothingOnceRevoked", []fact{created(hourly, ending(hour)), {time.Minute, Revoked{KeyID: key1, KeyIDs: []KeyID{key1}}}}, nil},
		{"NothingOnceExpired", []fact{created(hourly, ending(hour)), {hour, Expired{KeyIDs: []KeyID{key1}}}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			same(t, "due work", given(t, c.given...).Due(), c.want)
		})
	}
}
