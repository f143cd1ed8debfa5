package domain

import (
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func utc(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t
}

// TestR66WindowsFollowTheClocksOfTheirZone: a start that the clocks leap over is the instant of the leap, one that they
// show twice counts the first time, and the length is absolute.
func TestR66WindowsFollowTheClocksOfTheirZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, zone, start string
		minutes           int64
		asked, want, end  string // in UTC; the end is the first instant after the window
	}{
		{"BerlinInWinter", "Europe/Berlin", "02:00", 60, "2026-01-10 12:00", "2026-01-11 01:00", "2026-01-11 02:00"},
		{"BerlinInSummer", "Europe/Berlin", "02:00", 60, "2026-07-10 12:00", "2026-07-11 00:00", "2026-07-11 01:00"},
		{"BerlinInTheGap", "Europe/Berlin", "02:30", 60, "2026-03-28 12:00", "2026-03-29 01:00", "2026-03-29 02:00"},
		{"BerlinInTheDoubleHour", "Europe/Berlin", "02:30", 60, "2026-10-24 12:00", "2026-10-25 00:30", "2026-10-25 01:30"},
		{"NewYorkInTheGap", "America/New_York", "02:30", 90, "2026-03-08 00:00", "2026-03-08 07:00", "2026-03-08 08:30"},
		{"NewYorkInTheDoubleHour", "America/New_York", "01:30", 60, "2026-11-01 00:00", "2026-11-01 05:30", "2026-11-01 06:30"},
		{"NewYorkOverTheDoubleHour", "America/New_York", "00:30", 120, "2026-11-01 00:00", "2026-11-01 04:30", "2026-11-01 06:30"},
		{"LordHoweInItsHalfHourGap", "Australia/Lord_Howe", "02:15", 60, "2026-10-03 12:00", "2026-10-03 15:30", "2026-10-03 16:30"},
		{"LordHoweInItsDoubleHalfHour", "Australia/Lord_Howe", "01:45", 60, "2026-04-04 12:00", "2026-04-04 14:45", "2026-04-04 15:45"},
		{"AZoneWithoutChanges", "Asia/Kathmandu", "02:00", 60, "2026-03-28 12:00", "2026-03-28 20:15", "2026-03-28 21:15"},
		{"OverMidnight", "UTC", "23:30", 1440, "2026-03-02 12:00", "2026-03-01 23:30", "2026-03-02 23:30"},
		{"FarEast", "Pacific/Kiritimati", "00:00", 60, "2026-03-01 11:00", "2026-03-02 10:00", "2026-03-02 11:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &Window{Start: c.start, LengthMinutes: c.minutes, TimeZone: c.zone}
			if got, ok := w.next(utc(c.asked)); !ok || !got.Equal(utc(c.want)) {
				t.Fatalf("after %s it starts at %v, want %s", c.asked, got, c.want)
			}
			if got, _ := w.next(utc(c.end).Add(-time.Microsecond)); !got.Equal(utc(c.want)) {
				t.Fatalf("just before its end the window is that of %v", got)
			}
			if got, _ := w.next(utc(c.end)); !got.After(utc(c.want)) {
				t.Fatalf("at its end the window is still that of %v", got)
			}
		})
	}
}

func TestWindowHasItsDays(t *testing.T) {
	t.Parallel()
	w := &Window{Days: []string{"sat", "mon"}, Start: "22:00", LengthMinutes: 180, TimeZone: "America/New_York"}
	// 2026-03-02 is a Monday; the window of the evening lies on Tuesday in UTC.
	for asked, want := range map[string]string{
		"2026-03-01 12:00": "2026-03-03 03:00", "2026-03-03 05:59": "2026-03-03 03:00", "2026-03-03 06:00": "2026-03-08 03:00",
	} {
		if got, ok := w.next(utc(asked)); !ok || !got.Equal(utc(want)) {
			t.Errorf("after %s it starts at %v, want %s", asked, got, want)
		}
	}
}

// What is in the window stays; all else moves into the next one, spread over it, and for one lineage to the same place.
func TestMoveIntoTheWindow(t *testing.T) {
	t.Parallel()
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"}
	rapid.Check(t, func(t *rapid.T) {
		w, err := (&Window{
			Days:  rapid.SliceOfN(rapid.SampledFrom(weekdays), 0, 7).Draw(t, "days"),
			Start: time.Time{}.Add(time.Duration(rapid.IntRange(0, 1439).Draw(t, "start")) * time.Minute).Format(windowStart), LengthMinutes: rapid.Int64Range(60, 1440).Draw(t, "length"),
			TimeZone: rapid.SampledFrom(zones).Draw(t, "zone"),
		}).validate("window")
		if err != nil {
			t.Fatal(err)
		}
		at := start.Add(time.Duration(rapid.Int64Range(0, int64(3*365*day/time.Second)).Draw(t, "at")) * time.Second)
		moved := w.move(lin1, at)
		begins, ok := w.next(moved)
		if !ok || begins.After(moved) || moved.Before(at) || moved.Sub(at) > 8*day {
			t.Fatalf("%v is moved to %v, and the window begins at %v", at, moved, begins)
		}
		if inside, _ := w.next(at); !inside.After(at) != moved.Equal(at) {
			t.Fatalf("%v is moved to %v, its window begins at %v", at, moved, inside)
		}
		if again := w.move(lin1, moved); !again.Equal(moved) {
			t.Fatalf("%v is moved again to %v", moved, again)
		}
	})
}

func TestSlotsLieInTheWindow(t *testing.T) {
	t.Parallel()
	p := Policy{RotationWindow: &Window{Days: []string{"sun"}, Start: "02:00", LengthMinutes: 60, TimeZone: "Europe/Berlin"}}
	spread := phase(lin1, 9*hour)
	first, second := utc("2026-03-08 01:00").Add(spread), utc("2026-03-15 01:00").Add(spread)
	l := given(t, created(hourly))
	l.NextRotationAt = &first
	decided, err := rotate(TriggerInterval, first.Sub(start), func(c *RotateKey) { c.Policy = p })(l)
	if err != nil || len(decided) != 1 {
		t.Fatalf("decided %v (%v)", decided, err)
	}
	// The lineage rotates each hour, and the window is open for one: the next slot lies in it too, or in that of next week.
	next := *decided[0].Data.(Rotated).NextRotationAt
	if want := first.Add(hour); next.After(second) || next.Before(first) || next.Before(second) && next.After(want) {
		t.Fatalf("next rotation is at %v", next)
	}
	// Outside of the window, as when all workers were down while it was open, the rotation waits for the next one.
	decided, err = rotate(TriggerInterval, first.Add(3*hour).Sub(start), func(c *RotateKey) { c.Policy = p })(l)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", payloads(t, decided), []Payload{RotationDeferred{key1, first, second, DeferredByWindow}})
}

func TestWindowIsRefused(t *testing.T) {
	t.Parallel()
	good := Window{Days: []string{"sun", "mon", "mon"}, Start: "02:00", LengthMinutes: 60, TimeZone: "Europe/Berlin"}
	for _, c := range []struct {
		field  string
		change func(*Window)
	}{
		{"w.days", func(w *Window) { w.Days = []string{"monday"} }},
		{"w.start", func(w *Window) { w.Start = "24:00" }},
		{"w.start", func(w *Window) { w.Start = "2:00" }},
		{"w.start", func(w *Window) { w.Start = "" }},
		{"w.length_minutes", func(w *Window) { w.LengthMinutes = 59 }},
		{"w.length_minutes", func(w *Window) { w.LengthMinutes = 1441 }},
		{"w.time_zone", func(w *Window) { w.TimeZone = "Europe/Atlantis" }},
		{"w.time_zone", func(w *Window) { w.TimeZone = "Local" }},
		{"w.time_zone", func(w *Window) { w.TimeZone = "../../etc/passwd" }},
		{"w.time_zone", func(w *Window) { w.TimeZone = "" }},
	} {
		w := good
		c.change(&w)
		_, err := w.validate("w")
		refused(t, err, CodeValidation, c.field)
	}
	got, err := good.validate("w")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "days", got.Days, []string{"mon", "sun"})
	good.Days = append(good.Days, weekdays...)
	if got, _ = good.validate("w"); got.Days != nil {
		t.Fatalf("all days are %v", got.Days)
	}
}

func TestPolicyOfRotationsIsRefused(t *testing.T) {
	t.Parallel()
	for field, p := range map[string]Policy{
		"policy.max_overlap_seconds":       {MaxOverlapSeconds: 3599},
		"policy.rotation_timeout":          {RotationTimeout: "panic"},
		"policy.rotation_window.time_zone": {RotationWindow: &Window{Start: "02:00", LengthMinutes: 60}},
	} {
		_, err := p.validate()
		refused(t, err, CodeValidation, field)
	}
	_, err := Policy{MaxOverlapSeconds: 2592001}.validate()
	refused(t, err, CodeValidation, "policy.max_overlap_seconds")
	got, err := Policy{MaxOverlapSeconds: 3600, RotationTimeout: TimeoutHold}.validate()
	if err != nil || got.RotationTimeout != "" || got.MaxOverlap() != hour || got.TimeoutAction() != TimeoutHold {
		t.Fatalf("policy is %+v (%v)", got, err)
	}
}
