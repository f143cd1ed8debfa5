package domain

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// warned is the announcement that key1 ends at end.
func warned(after, end time.Duration, days int) fact {
	return fact{after, KeyExpiring{KeyID: key1, ExpiresAt: at(end), DaysLeft: days}}
}

// A key is announced to end seven, three and one day before, once each; what was missed collapses into one.
func TestWarn(t *testing.T) {
	t.Parallel()
	const end = 30 * day
	for _, c := range []struct {
		name    string
		history []fact
		now     time.Duration
		left    int           // of the announcement; 0: none
		due     time.Duration // of the next one; 0: none
	}{
		{"NotYet", []fact{created(ending(end))}, end - 7*day - 1, 0, end - 7*day},
		{"SevenDays", []fact{created(ending(end))}, end - 7*day, 7, end - 7*day},
		{"Told", []fact{created(ending(end)), warned(end-7*day, end, 7)}, end - 7*day, 0, end - 3*day},
		{"ThreeDays", []fact{created(ending(end)), warned(end-7*day, end, 7)}, end - 3*day, 3, end - 3*day},
		{"LastDay", []fact{created(ending(end)), warned(end-3*day, end, 3)}, end - day, 1, end - day},
		{"AllTold", []fact{created(ending(end)), warned(end-day, end, 1)}, end - hour, 0, 0},
		{"MissedOnesCollapse", []fact{created(ending(end))}, end - hour, 1, end - 7*day},
		{"TooLate", []fact{created(ending(end))}, end, 0, end - 7*day},
		{"ShortLife", []fact{created(ending(2 * day))}, day, 1, day},
		{"VeryShortLife", []fact{created(ending(hour))}, hour / 2, 0, 0},
		{"NoEnd", []fact{created()}, end, 0, 0},
		{"Ended", []fact{created(ending(end)), {day, Revoked{KeyID: key1, KeyIDs: []KeyID{key1}}}}, end - day, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := given(t, c.history...)
			decided, err := l.Warn(at(c.now))
			if err != nil {
				t.Fatal(err)
			}
			left := 0
			if len(decided) == 1 {
				left = decided[0].Data.(KeyExpiring).DaysLeft
			}
			if left != c.left || len(decided) > 1 {
				t.Errorf("announces %+v, want %d days left", decided, c.left)
			}
			var due time.Duration
			for _, d := range l.Due() {
				if d.Kind == DueWarn {
					due = d.At.Sub(start)
				}
			}
			if due != c.due {
				t.Errorf("the next one is due after %v, want %v", due, c.due)
			}
		})
	}
}

// Who uses a key in grace is told of as long as the grace lasts, with the rotation that gave it.
func TestNoteGraceUse(t *testing.T) {
	t.Parallel()
	l := given(t, created(), byHand(hour, 1, hour))
	use := GraceUse{KeyID: key1, Address: "203.0.113.7", Count: 3, FirstSeenAt: at(hour), LastSeen: at(hour + time.Minute)}
	got := l.NoteGraceUse(use, at(hour+2*time.Minute))
	want := []Decided{{StreamID: string(lin1), OrganizationID: org1, ProjectID: proj1, Data: UsedInGrace{
		RotationID: "rot_00000000000000000000000011", KeyID: key1, ReplacedByKeyID: key2, GraceExpiresAt: at(2 * hour),
		Address: "203.0.113.7", Count: 3, FirstSeenAt: at(hour), LastSeenAt: at(hour + time.Minute),
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for what, none := range map[string][]Decided{
		"the end of the grace": l.NoteGraceUse(use, at(2*hour)),
		"the active key":       l.NoteGraceUse(GraceUse{KeyID: key2}, at(hour+time.Minute)),
		"an unknown key":       l.NoteGraceUse(GraceUse{KeyID: key4}, at(hour+time.Minute)),
	} {
		if len(none) > 0 {
			t.Errorf("%s: %+v", what, none)
		}
	}
}

// a span has a from before its to, and nothing is asked of an endpoint that takes nothing.
func TestRedeliverMessages(t *testing.T) {
	t.Parallel()
	endpoint := func(state EndpointState) *Endpoint { return &Endpoint{ID: ep1, State: state} }
	from, to := new(at(0)), new(at(hour))
	for _, c := range []struct {
		name string
		of   *Endpoint
		ask  RedeliveryRequested
		code Code
	}{
		{"One", endpoint(EndpointActive), RedeliveryRequested{DeliveryID: "dlv_x"}, ""},
		{"Span", endpoint(EndpointActive), RedeliveryRequested{From: from, To: to}, ""},
		{"Backwards", endpoint(EndpointActive), RedeliveryRequested{From: to, To: from}, CodeValidation},
		{"HalfASpan", endpoint(EndpointActive), RedeliveryRequested{From: from}, CodeValidation},
		{"TooLong", endpoint(EndpointActive), RedeliveryRequested{From: from, To: new(at(MaxRedeliverySpan + 1))}, CodeValidation},
		{"Paused", endpoint(EndpointPaused), RedeliveryRequested{DeliveryID: "dlv_x"}, CodeEndpointState},
		{"Disabled", endpoint(EndpointDisabled), RedeliveryRequested{DeliveryID: "dlv_x"}, CodeEndpointState},
		{"Deleted", &Endpoint{ID: ep1, State: EndpointActive, DeletedAt: from}, RedeliveryRequested{DeliveryID: "dlv_x"}, CodeNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			decided, err := c.of.Redeliver(c.ask)
			if c.code == "" && (err != nil || len(decided) != 1) {
				t.Errorf("decides %+v, %v", decided, err)
			}
			if c.code != "" && CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

// Ids of a time lie between the lowest one of its millisecond and that of the next.
func TestLowestID(t *testing.T) {
	t.Parallel()
	made := IDs{Random: seeded(3)}.New(PrefixDelivery, start)
	if low, next := LowestID(PrefixDelivery, start), LowestID(PrefixDelivery, start.Add(time.Millisecond)); made < low || made >= next {
		t.Errorf("%s does not lie between %s and %s", made, low, next)
	}
}
