package domain

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Window is when interval rotations may begin: on some days of the week, from a time on the clocks of a zone, for a
// length that is absolute. It names its zone, so it follows what the zone does with its clocks in years to come.
type Window struct {
	Days          []string `json:"days,omitempty"` // mon to sun, in that order; none: every day
	Start         string   `json:"start"`          // 02:00
	LengthMinutes int64    `json:"length_minutes"`
	TimeZone      string   `json:"time_zone"` // a name of the IANA database: Europe/Berlin
}

// Bounds of the length of a window, in minutes. A shorter one could pass between two sweeps of a machine that is busy.
const (
	MinWindow = 60
	MaxWindow = 24 * 60
)

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

const windowStart = "15:04"

// validate checks a window and returns it in canonical form.
func (w *Window) validate(field string) (*Window, error) {
	if w == nil {
		return nil, nil
	}
	out := *w
	for _, day := range w.Days {
		if !slices.Contains(weekdays, day) {
			return nil, InvalidField(field+".days", "are not days of the week", "choose from "+strings.Join(weekdays, ", "))
		}
	}
	out.Days = slices.DeleteFunc(slices.Clone(weekdays), func(day string) bool { return !slices.Contains(w.Days, day) })
	if len(out.Days) == 0 || len(out.Days) == len(weekdays) {
		out.Days = nil
	}
	if _, err := time.Parse(windowStart, w.Start); err != nil || len(w.Start) != len(windowStart) {
		return nil, InvalidField(field+".start", "is not a time of the day", "write it as 02:00, from 00:00 to 23:59")
	}
	if w.LengthMinutes < MinWindow || w.LengthMinutes > MaxWindow {
		return nil, InvalidField(field+".length_minutes", "is out of range", "choose 60 to 1440")
	}
	if zone(w.TimeZone) == nil {
		return nil, InvalidField(field+".time_zone", "is not a time zone", "use a name of the IANA database, such as Europe/Berlin or UTC")
	}
	return &out, nil
}

// zone returns a zone by its name, or nil.
func zone(name string) *time.Location {
	if name == "" || name == "Local" { // which mean something, but not the same everywhere
		return nil
	}
	loaded, err := time.LoadLocation(name)
	if err != nil {
		return nil
	}
	return loaded
}

// move returns a time that lies in the window as it is, and any other as a time in the next window: near its start, spread
// over up to nine tenths of it by the lineage's own phase, so that the last ones are not too late for it. Without a
// window all times are fine.
func (w *Window) move(id LineageID, t time.Time) time.Time {
	if w == nil {
		return t
	}
	start, ok := w.next(t)
	if !ok || !start.After(t) {
		return t
	}
	return start.Add(phase(id, time.Duration(w.LengthMinutes)*9*time.Minute)).UTC()
}

// next returns the start of the window that a time lies in, or else of the first one after it. It reports false for a
// window that cannot be found, because this machine does not know its zone.
func (w *Window) next(t time.Time) (time.Time, bool) {
	loc := zone(w.TimeZone)
	clock, err := time.Parse(windowStart, w.Start)
	if loc == nil || err != nil {
		return time.Time{}, false
	}
	year, month, day := t.In(loc).Date()
	for ahead := -2; ahead <= 9; ahead++ { // a window is at most a day long, and a week has all days
		date := time.Date(year, month, day+ahead, 0, 0, 0, 0, time.UTC)
		if len(w.Days) > 0 && !slices.Contains(w.Days, weekdays[(int(date.Weekday())+6)%7]) {
			continue
		}
		start := onClock(date.Add(time.Duration(clock.Hour())*time.Hour+time.Duration(clock.Minute())*time.Minute), loc)
		if start.Add(time.Duration(w.LengthMinutes) * time.Minute).After(t) {
			return start, true
		}
	}
	return time.Time{}, false
}

// onClock returns when the clocks of a zone show a time, which is given as if they showed UTC. Of a time that they show
// twice it is the first; for one that they leap over, the instant of the leap.
func onClock(shown time.Time, loc *time.Location) time.Time {
	offset := func(near time.Time) time.Duration {
		_, seconds := near.In(loc).Zone()
		return time.Duration(seconds) * time.Second
	}
	before, after := shown.Add(-offset(shown.Add(-36*time.Hour))), shown.Add(-offset(shown.Add(36*time.Hour)))
	first, second := before, after
	if second.Before(first) {
		first, second = second, first
	}
	for _, candidate := range []time.Time{first, second} {
		if candidate.Add(offset(candidate)).Equal(shown) {
			return candidate.UTC()
		}
	}
	leap, _ := second.In(loc).ZoneBounds()
	return leap.UTC()
}

// TimeoutAction says what becomes of a rotation whose secret did not arrive within the longest overlap.
type TimeoutAction string

// Actions on a timeout.
const (
	TimeoutHold      TimeoutAction = "hold"       // the old key stays, and it is recorded each day
	TimeoutRollback  TimeoutAction = "rollback"   // the rotation is cancelled; the next one comes at its slot
	TimeoutExpireOld TimeoutAction = "expire_old" // the old key gets its grace and ends, whoever has the new one
)

// Bounds of how long a rotation may wait for its secret to arrive.
const (
	DefaultMaxOverlap = 7 * 24 * time.Hour
	MinMaxOverlap     = time.Hour
	MaxMaxOverlap     = 30 * 24 * time.Hour
)

// MaxOverlap is how long a rotation may wait for its secret to arrive, and how far a grace may be extended.
func (p Policy) MaxOverlap() time.Duration {
	return cmp.Or(seconds(p.MaxOverlapSeconds), DefaultMaxOverlap)
}

// TimeoutAction is what the policy says about rotations that wait for too long, with its default.
func (p Policy) TimeoutAction() TimeoutAction { return cmp.Or(p.RotationTimeout, TimeoutHold) }

// validateRotation checks the terms that concern rotations and returns them in canonical form.
func (p Policy) validateRotation() (Policy, error) {
	if p.MaxOverlapSeconds != 0 && (seconds(p.MaxOverlapSeconds) < MinMaxOverlap || p.MaxOverlapSeconds > int64(MaxMaxOverlap/time.Second)) {
		return p, InvalidField("policy.max_overlap_seconds", "is out of range", "choose 3600 to 2592000 (30 days), or leave it out for 7 days")
	}
	if err := p.validateEarlyRetire(); err != nil {
		return p, err
	}
	switch p.RotationTimeout {
	case TimeoutHold:
		p.RotationTimeout = ""
	case "", TimeoutRollback, TimeoutExpireOld:
	default:
		return p, InvalidField("policy.rotation_timeout", "is not an action", "choose hold, rollback or expire_old")
	}
	window, err := p.RotationWindow.validate("policy.rotation_window")
	p.RotationWindow = window
	return p, err
}
