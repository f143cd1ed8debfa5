package domain

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// histories runs rounds of a hundred random lives of a lineage and checks each life after every step.
func histories(t *testing.T, rounds int, check func(*history)) {
	t.Helper()
	t.Parallel()
	for range rounds {
		rapid.Check(t, func(t *rapid.T) {
			h := begin(t)
			t.Repeat(h.actions(check))
		})
	}
}

// TestG4FoldIsDeterministic: the log alone gives the state, whether the events come from memory or from their stored form.
func TestG4FoldIsDeterministic(t *testing.T) {
	histories(t, 5, func(h *history) {
		if !h.fresh() {
			return
		}
		folded, err := Fold(string(lin1), h.events)
		if err != nil {
			h.Fatal(err)
		}
		same(h, "states", folded, State(h.state))

		stored := slices.Clone(h.events)
		for i, e := range stored {
			raw, revision, err := Encode(e.Data)
			if err != nil {
				h.Fatal(err)
			}
			if stored[i].Data, err = Decode(e.Data.Type(), revision, raw); err != nil {
				h.Fatal(err)
			}
		}
		if folded, err = Fold(string(lin1), stored); err != nil {
			h.Fatal(err)
		}
		same(h, "states folded from stored events", folded, State(h.state))
	})
}

// TestG4SnapshotsGoOnLikeTheFold: a state that was stored and read back is the same, and decides the same of everything.
func TestG4SnapshotsGoOnLikeTheFold(t *testing.T) {
	histories(t, 1, func(h *history) {
		restored := restore(h)
		same(h, "states", restored, h.state)
		same(h, "due work", restored.Due(), h.state.Due())
		for _, now := range []time.Time{h.now, h.now.Add(time.Minute), h.now.Add(2 * hour)} {
			same(h, "decisions", decideAll(h, restored, now), decideAll(h, h.state, now))
		}
	})
}

func restore(h *history) *Lineage {
	raw, err := EncodeState(h.state)
	if err != nil {
		h.Fatal(err)
	}
	state, err := DecodeState(string(lin1), raw)
	if err != nil {
		h.Fatal(err)
	}
	return state.(*Lineage)
}

// outcome is what a decision led to, in a form that compares.
type outcome struct {
	Decided []Decided
	Error   string
}

// decideAll asks a state for every decision there is, without taking any.
func decideAll(h *history, l *Lineage, now time.Time) []outcome {
	var out []outcome
	note := func(decided []Decided, err error) {
		o := outcome{Decided: decided}
		if err != nil {
			o.Error = err.Error()
		}
		out = append(out, o)
	}
	active := h.activeOr(key1)
	rotate := RotateKey{KeyID: active, NewKeyID: key6, RotationID: rot9, Trigger: TriggerManual, Grace: new(hour), Caller: System(), Mint: mintFixed}
	note(l.Rotate(rotate, now))
	rotate.Supersede = true
	note(l.Rotate(rotate, now))
	rotate.Trigger = TriggerInterval
	note(l.Rotate(rotate, now))
	rotate.Receiver.Problem = "paused"
	note(l.Rotate(rotate, now))
	note(l.Update(UpdateKey{KeyID: active, Name: ChangeTo("other"), Caller: System()}, historyLimits, now))
	note(l.Update(UpdateKey{KeyID: active, RotationIntervalSeconds: ChangeTo[int64](120), Caller: System()}, historyLimits, now))
	note(l.Update(UpdateKey{KeyID: active, Caller: System()}, historyLimits, now))
	for _, id := range slices.Sorted(maps.Keys(h.last)) {
		note(l.Revoke(id, "leaked", now))
		note(l.ReportLeak(ReportLeak{KeyID: id, URL: "https://example.com/1", Action: LeakNotify}, now))
		note(l.ExpireGrace(id, now))
	}
	for _, id := range h.rotations {
		note(l.Acknowledge(id, AckClaim, now))
		note(l.Stall(id, "gone"))
		note(l.Force(id, now))
		note(l.CancelRotation(id, "not now", h.policy, now))
		note(l.RollBack(id, h.policy, now))
		note(l.EndGrace(id, now))
		note(l.ChangeGrace(id, now.Add(hour), h.policy, now))
		note(l.Redeliver(Redeliver{RotationID: id, With: rotate}, now))
	}
	if r := l.WaitingRotation(); r != nil {
		note(l.TimeOut(r.ToKeyID, h.policy, now))
	}
	note(l.Expire(now))
	return out
}

// TestG2NoLockOut: no key ever stops working but for a cause: it was revoked, its life ran out, or its successor is known
// to have arrived. And while a scheduled rotation waits, however long, the old key has no deadline at all.
func TestG2NoLockOut(t *testing.T) {
	histories(t, 20, func(h *history) {
		over := h.state.Settings.ExpiresAt
		for id, g := range h.last {
			if h.state.StatusAt(&g, h.now).Valid() || h.killed[id] || h.replaced[id] || (over != nil && !h.now.Before(*over)) {
				continue
			}
			h.Fatalf("%s stopped working without a cause: %+v", id, g)
		}
		for _, r := range h.waiting {
			old, successor := h.state.Generation(r.PreviousKeyID), h.state.Generation(r.KeyID)
			if old == nil || old.State != GenerationActive || old.GraceExpiresAt != nil {
				h.Fatalf("%s waits, and the old key is %+v", r.RotationID, old)
			}
			if successor == nil || successor.State != GenerationPending {
				h.Fatalf("%s waits, and the new key is %+v", r.RotationID, successor)
			}
			for _, later := range []time.Duration{0, hour, 100 * 365 * day} {
				at := h.now.Add(later)
				if alive := over == nil || at.Before(*over); alive != h.state.StatusAt(old, at).Valid() || alive != h.state.StatusAt(successor, at).Valid() {
					h.Fatalf("%s waits, and after %v the old key is %s, the new one %s", r.RotationID, later, h.state.StatusAt(old, at), h.state.StatusAt(successor, at))
				}
			}
		}
	})
}

// TestLineageInvariants: what doc.go promises, after every step. The counts at the end show that the random lives reach
// all that there is to reach.
func TestLineageInvariants(t *testing.T) {
	lives, reached := 0, map[string]bool{}
	t.Cleanup(func() {
		for _, want := range []string{
			"Created", "Updated", "Rotated", "RotationAcknowledged", "RotationCancelled", "RotationStalled", "GraceExpired", "Expired", "Revoked",
			"RotationRedelivered", "RotationTimedOut", "RotationRolledBack", "RotationDeferred", "RotationBlocked", "GraceChanged",
			"key_not_active", "rotation_in_progress", "too_many_in_grace", "rotation_not_found", "rotation_state", "waiting", "three in grace",
			"accepted", "proof", "first_use", "claim", "forced", "superseded", "cancelled", "timed_out", "compromised", "early end", ReasonUnused,
		} {
			if lives > 1000 && !reached[want] {
				t.Errorf("no history reached %s", want)
			}
		}
	})
	histories(t, 20, func(h *history) {
		lives++
		for _, e := range h.events {
			reached[string(e.Data.Type())] = true
			reachedIn(e, reached)
		}
		reached["waiting"] = reached["waiting"] || len(h.waiting) > 0
		for code := range h.refusals {
			reached[string(code)] = true
		}
		checkGenerations(h, reached)
		checkRotations(h)
		checkNextRotation(h)
	})
}

// reachedIn notes the variants of an event.
func reachedIn(e Event, reached map[string]bool) {
	switch d := e.Data.(type) {
	case RotationAcknowledged:
		reached[string(d.Level)] = true
	case RotationCancelled:
		reached[map[bool]string{true: "superseded", false: "cancelled"}[d.SupersededBy != ""]] = true
		reached[d.Reason] = true
	case Rotated:
		reached["compromised"] = reached["compromised"] || len(d.RevokedKeyIDs) > 0
	case GraceExpired:
		reached["early end"] = reached["early end"] || d.Early
		reached[d.Reason] = true
	}
}

func checkGenerations(h *history, reached map[string]bool) {
	l, count, inGrace := h.state, map[GenerationState]int{}, 0
	if l.Version != int64(len(h.events)) || l.ID != lin1 || l.OrganizationID != org1 || l.ProjectID != proj1 {
		h.Fatalf("state is %+v", l)
	}
	for i := range l.Generations {
		g := &l.Generations[i]
		count[g.State]++
		if l.StatusAt(g, h.now) == StatusGrace {
			inGrace++
		}
		if g.Number > l.LastGeneration || (i > 0 && g.Number <= l.Generations[i-1].Number) {
			h.Fatalf("generation %d stands after %+v of %d", g.Number, l.Generations[:i], l.LastGeneration)
		}
		if (g.GraceExpiresAt != nil || g.ReplacedBy != "") != h.replaced[g.KeyID] {
			h.Fatalf("%+v, while its successor has arrived: %v", g, h.replaced[g.KeyID])
		}
		if g.State == GenerationGrace && g.GraceExpiresAt == nil {
			h.Fatalf("grace without an end: %+v", g)
		}
		if end, over := g.GraceExpiresAt, l.Settings.ExpiresAt; end != nil && over != nil && end.After(*over) && g.State.Live() {
			h.Fatalf("grace until %v, life until %v", end, over)
		}
	}
	if count[GenerationActive] > 1 || count[GenerationPending] > 1 || inGrace > MaxInGrace {
		h.Fatalf("%d active, %d pending, %d in grace: %+v", count[GenerationActive], count[GenerationPending], inGrace, l.Generations)
	}
	if count[GenerationActive] == 0 && count[GenerationPending]+count[GenerationGrace] > 0 {
		h.Fatalf("keys live on without an active one: %+v", l.Generations)
	}
	reached["three in grace"] = reached["three in grace"] || inGrace == MaxInGrace
}

func checkRotations(h *history) {
	l, waiting := h.state, 0
	for i := range l.Rotations {
		r := &l.Rotations[i]
		from, to := l.Generation(r.FromKeyID), l.Generation(r.ToKeyID)
		switch {
		case r.State.Waiting():
			if waiting++; from == nil || to == nil || from.State != GenerationActive || to.State != GenerationPending || r.AcknowledgedAt != nil {
				h.Fatalf("%+v waits between %+v and %+v", r, from, to)
			}
			if _, known := h.waiting[r.ID]; !known {
				h.Fatalf("%+v waits, which no event says", r)
			}
		case r.State == RotationOverlap:
			if from == nil || from.State != GenerationGrace || r.AcknowledgedAt == nil || r.AckLevel == "" || r.Reason != "" ||
				!r.AckLevel.Meets(r.Demand) || !sameTime(r.GraceExpiresAt, from.GraceExpiresAt) {
				h.Fatalf("%+v overlaps with %+v", r, from)
			}
		case r.EndedAt == nil || !r.EndedAt.Equal(h.events[len(h.events)-1].OccurredAt):
			h.Fatalf("%+v has ended, and not by the last event", r)
		}
	}
	if pending := h.state.live(); waiting > 1 || waiting != len(h.waiting) || (waiting == 1) != slices.ContainsFunc(pending, func(id KeyID) bool {
		return l.Generation(id).State == GenerationPending
	}) {
		h.Fatalf("%d rotations wait, events say %d: %+v of %+v", waiting, len(h.waiting), l.Rotations, l.Generations)
	}
}

// checkNextRotation: a lineage with an interval always has a next slot, and it lies ahead of the event that set it, so
// that no slot is served twice.
func checkNextRotation(h *history) {
	l := h.state
	if wanted := l.Active() != nil && l.Settings.RotationIntervalSeconds > 0; wanted != (l.NextRotationAt != nil) {
		h.Fatalf("interval %d, next rotation %v of %+v", l.Settings.RotationIntervalSeconds, l.NextRotationAt, l.Generations)
	}
	e := h.events[len(h.events)-1]
	switch e.Data.(type) {
	case Created, Rotated, RotationAcknowledged, RotationRolledBack:
		if l.NextRotationAt != nil && !l.NextRotationAt.After(e.OccurredAt) {
			h.Fatalf("%T at %v set the next rotation to %v", e.Data, e.OccurredAt, l.NextRotationAt)
		}
	}
}

// TestDueWorkIsRight: what is listed can be done at its time and not before, is done by doing it, and nothing is missing.
func TestDueWorkIsRight(t *testing.T) {
	histories(t, 1, func(h *history) {
		order := []DueKind{DueRotate, DueTimeout, DueGrace, DueWarn, DueExpire}
		due, kinds := h.state.Due(), map[DueKind]int{}
		for i, d := range due {
			if g := h.state.Generation(d.KeyID); g == nil || !g.State.Live() {
				h.Fatalf("%+v is of a key that has ended: %+v", d, g)
			}
			if i > 0 && slices.Index(order, due[i-1].Kind) > slices.Index(order, d.Kind) {
				h.Fatalf("due work is out of order: %+v", due)
			}
			kinds[d.Kind]++
			checkDue(h, d)
		}
		graces := 0
		for _, g := range h.state.Generations {
			if g.State == GenerationGrace {
				graces++
			}
		}
		alive := len(h.state.live()) > 0
		_, warned := h.state.warningDue()
		same(h, "kinds of due work", kinds, without(map[DueKind]int{
			DueRotate:  one(alive && h.state.NextRotationAt != nil && len(h.waiting) == 0),
			DueTimeout: len(h.waiting),
			DueGrace:   graces,
			DueWarn:    one(warned),
			DueExpire:  one(alive && h.state.Settings.ExpiresAt != nil),
		}))
	})
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// without drops what is not there at all.
func without(kinds map[DueKind]int) map[DueKind]int {
	for kind, n := range kinds {
		if n == 0 {
			delete(kinds, kind)
		}
	}
	return kinds
}

// checkDue carries a piece of due work out on a copy of the state.
func checkDue(h *history, d Due) {
	if early, err := h.carryOut(restore(h), d, d.At.Add(-time.Microsecond)); err != nil || len(early) > 0 {
		h.Fatalf("%+v is possible before its time: %v (%v)", d, early, err)
	}
	l := restore(h)
	if d.Kind == DueRotate {
		if want := later(*l.NextRotationAt, l.DeferredUntil); !d.At.Equal(want) {
			h.Fatalf("%+v is not due at %v", d, want)
		}
		if !l.StatusAt(l.Active(), d.At).Valid() || l.QuietUntil != nil && h.receiver.Problem != "" {
			return // the life ends before it, or it was recorded that it cannot be
		}
	}
	decided, err := h.carryOut(l, d, d.At)
	if err != nil || len(decided) != 1 {
		h.Fatalf("%+v is not possible at its time: %v (%v)", d, decided, err)
	}
	l.Apply(Event{StreamID: string(lin1), Version: l.Version + 1, OccurredAt: d.At, Data: decided[0].Data})
	if _, blocked := decided[0].Data.(RotationBlocked); blocked {
		return // it is due until it can be
	}
	if slices.ContainsFunc(l.Due(), func(again Due) bool { return again.Kind == d.Kind && again.KeyID == d.KeyID && !again.At.After(d.At) }) {
		h.Fatalf("%+v is still due once it was done: %+v", d, l.Due())
	}
}

func later(at time.Time, other *time.Time) time.Time {
	if other != nil && other.After(at) {
		return *other
	}
	return at
}
