package domain

import (
	"hash/fnv"
	"slices"
	"time"
)

// Limits are bounds an installation sets for its keys.
type Limits struct {
	MinRotationInterval time.Duration
}

// Bounds of the durations that a request may name.
const (
	MaxRotationInterval = 10 * 365 * 24 * time.Hour
	MaxGrace            = 30 * 24 * time.Hour
	DefaultGrace        = time.Hour
	// MaxInGrace bounds how many older generations of one lineage may be valid beside the active one.
	MaxInGrace = 3
	// maxPhase bounds the spread of rotations that were set up at one instant.
	maxPhase = 24 * time.Hour
)

// nextSlot returns when an interval rotation is due next: the slots are multiples of the interval from the anchor, each
// moved by the lineage's own phase, so that a million keys made at once are not due at once. Slots that were missed
// collapse into the next one.
func nextSlot(id LineageID, anchor time.Time, interval time.Duration, now time.Time) time.Time {
	shift := phase(id, interval)
	passed := now.Sub(anchor) - shift
	slot := int64(1)
	if passed > 0 {
		slot = max(1, int64(passed/interval)+1)
	}
	return anchor.Add(time.Duration(slot)*interval + shift).Truncate(time.Microsecond)
}

// phase is a stable share of up to a tenth of the interval, at most a day. It is in whole microseconds, as stored times
// are: else a sweep at the very instant of a slot would still see that slot before it, and rotate twice.
func phase(id LineageID, interval time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // a hash never fails to write
	span := uint64(min(interval/10, maxPhase))
	if span == 0 {
		return 0
	}
	return time.Duration(mix(h.Sum64()) % span).Truncate(time.Microsecond)
}

// mix spreads the bits of the hash, because ids made in one millisecond differ in few of them.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

// defaultGraceFor is the grace of interval rotations when none is named: an hour, but never so long that one grace runs
// into the next rotation.
func defaultGraceFor(interval time.Duration) time.Duration {
	if interval == 0 {
		return DefaultGrace
	}
	return min(DefaultGrace, (interval / 2).Truncate(time.Second))
}

// DueKind names work that falls due by time.
type DueKind string

// Kinds of due work.
const (
	DueRotate  DueKind = "rotate"  // an interval rotation
	DueTimeout DueKind = "timeout" // a new secret has not arrived in time
	DueGrace   DueKind = "grace"   // the end of a grace
	DueExpire  DueKind = "expire"  // the end of the lineage's life
)

// Due is one piece of work of a lineage and when it falls due.
type Due struct {
	Kind  DueKind
	KeyID KeyID
	At    time.Time
}

// Due lists the work that falls due by time, in the order rotate, timeout, grace, warn, expire. A lineage whose rotation still
// waits for its receiver has no next one, nor has one that is disabled; one that was deferred waits for the time that was
// named then.
func (l *Lineage) Due() []Due {
	var due []Due
	active := l.Active()
	if active != nil && l.NextRotationAt != nil && l.WaitingRotation() == nil && !l.Settings.Disabled {
		at := *l.NextRotationAt
		if l.DeferredUntil != nil && l.DeferredUntil.After(at) {
			at = *l.DeferredUntil
		}
		due = append(due, Due{DueRotate, active.KeyID, at})
	}
	if r := l.WaitingRotation(); r != nil && r.Deadline != nil {
		due = append(due, Due{DueTimeout, r.ToKeyID, *r.Deadline})
	}
	var anyLive KeyID
	for _, g := range l.Generations {
		if g.State == GenerationGrace && g.GraceExpiresAt != nil {
			due = append(due, Due{DueGrace, g.KeyID, *g.GraceExpiresAt})
		}
		if g.State.Live() && anyLive == "" {
			anyLive = g.KeyID
		}
	}
	if at, ok := l.warningDue(); ok {
		due = append(due, Due{DueWarn, l.Active().KeyID, at})
	}
	if l.Settings.ExpiresAt != nil && anyLive != "" {
		due = append(due, Due{DueExpire, anyLive, *l.Settings.ExpiresAt})
	}
	return due
}

// firstSlot is the first interval rotation counted from now, or nil without an interval.
func firstSlot(id LineageID, s Settings, w *Window, now time.Time) *time.Time {
	return slotFrom(id, s, w, now, now)
}

// slotAfter is the next interval rotation after now on the lineage's own slots. Who does not know the window leaves it
// out: a rotation that is due outside of it is deferred into it.
func (l *Lineage) slotAfter(w *Window, now time.Time) *time.Time {
	return slotFrom(l.ID, l.Settings, w, l.Anchor, now)
}

func slotFrom(id LineageID, s Settings, w *Window, anchor, now time.Time) *time.Time {
	if s.RotationIntervalSeconds == 0 {
		return nil
	}
	at := w.move(id, nextSlot(id, anchor, seconds(s.RotationIntervalSeconds), now))
	return &at
}

// graceFreeAt is when another generation may enter grace: the zero time if at once, else the deadline after which fewer
// than MaxInGrace are left. Graces that have run out unrecorded count too, so it need not be the earliest deadline.
func (l *Lineage) graceFreeAt() time.Time {
	var ends []time.Time
	for _, g := range l.Generations {
		if g.State == GenerationGrace && g.GraceExpiresAt != nil {
			ends = append(ends, *g.GraceExpiresAt)
		}
	}
	if len(ends) < MaxInGrace {
		return time.Time{}
	}
	slices.SortFunc(ends, time.Time.Compare)
	return ends[len(ends)-MaxInGrace]
}
