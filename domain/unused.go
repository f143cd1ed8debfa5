package domain

import "time"

// Bounds of how long an old key must have been unused before it may end early. A shorter span would end a key between two
// uses of a client that only comes each hour.
const (
	MinEarlyRetire = time.Hour
	MaxEarlyRetire = 30 * 24 * time.Hour
)

// EarlyRetire is for how long nobody may have used an old key before it ends ahead of its grace; 0: it never does.
func (p Policy) EarlyRetire() time.Duration { return seconds(p.EarlyRetireSeconds) }

func (p Policy) validateEarlyRetire() error {
	if s := p.EarlyRetireSeconds; s != 0 && (s < int64(MinEarlyRetire/time.Second) || s > int64(MaxEarlyRetire/time.Second)) {
		return InvalidField("policy.early_retire_seconds", "is out of range", "choose 3600 to 2592000 (30 days), or leave it out to keep old keys until their grace ends")
	}
	return nil
}

// ReasonUnused is why a grace ended, and its rotation with it, that nobody ended by hand.
const ReasonUnused = "unused"

// KnownUse is what is known of the use of one key. Outside of the span that it names there may be uses that nobody has
// counted, or not yet.
type KnownUse struct {
	LastUsedAt *time.Time // nil: no use is known
	// From and Until bound the span in which the counts of all replicas are complete.
	From, Until time.Time
}

// MaxUseLag is how far what is known of a key's use may be behind. Usually that is a second; what is further behind means
// that replicas cannot write what they count, and then a use may have been answered that nobody knows of.
const MaxUseLag = 5 * time.Minute

// unusedSince is since when a key is known to be unused, at the earliest since a moment, and for how long.
func (u KnownUse) unusedSince(moment, now time.Time) (since time.Time, unused time.Duration) {
	since = moment
	if u.From.After(since) {
		since = u.From
	}
	if u.LastUsedAt != nil && u.LastUsedAt.After(since) {
		since = *u.LastUsedAt
	}
	until := u.Until
	if until.After(now) {
		until = now
	}
	if now.Sub(until) > MaxUseLag {
		return since, 0
	}
	return since, until.Sub(since)
}

// RetireUnused decides that the old key of a rotation ends ahead of its grace, because nobody has used it for as long as
// the policy says since its successor arrived. It is a sign that may come late: whatever happened to the rotation meanwhile,
// it decides nothing then.
func (l *Lineage) RetireUnused(id RotationID, use KnownUse, p Policy, now time.Time) []Decided {
	r, old, err := l.overlapping(id, "end its grace", now)
	if err != nil || p.EarlyRetire() == 0 {
		return nil
	}
	since, unused := use.unusedSince(*r.AcknowledgedAt, now)
	if unused < p.EarlyRetire() {
		return nil
	}
	since = since.UTC()
	return []Decided{l.decided(GraceExpired{KeyID: old.KeyID, Early: true, Reason: ReasonUnused, UnusedSince: &since})}
}
