package domain

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// history is the life of one lineage under random commands: a driver that decides, gives the events their envelopes and
// applies them, as the event store does. Beside the state it keeps what it saw happen, so that the checks do not have to
// believe the state.
type history struct {
	*rapid.T
	now    time.Time
	state  *Lineage
	events []Event
	made   int // ids given out

	last      map[KeyID]Generation   // each generation as it was last seen
	waiting   map[RotationID]Rotated // scheduled, and no end of the waiting was seen
	replaced  map[KeyID]bool         // its successor was acknowledged
	killed    map[KeyID]bool         // revoked or discarded by a command, or expired
	rotations []RotationID
	deferred  map[time.Time]time.Time // slots, and until when
	policy    Policy
	receiver  Receiver
	refusals  map[Code]int
	anew      bool // a rotation takes the place of one that waits
	checked   int  // events that fresh has returned true for
}

// begin makes a lineage with random settings.
func begin(t *rapid.T) *history {
	h := &history{
		T: t, now: start, state: &Lineage{}, last: map[KeyID]Generation{}, waiting: map[RotationID]Rotated{},
		replaced: map[KeyID]bool{}, killed: map[KeyID]bool{}, refusals: map[Code]int{}, deferred: map[time.Time]time.Time{},
	}
	c := CreateKey{LineageID: lin1, KeyID: h.keyID(), Caller: System(), Mint: h.mint, GraceSet: true, Settings: Settings{
		Name: "first", RotationIntervalSeconds: h.interval(), ExpiresAt: h.expiry(), GraceSeconds: h.graceSeconds(),
	}}
	c.Settings.GraceSeconds = min(c.Settings.GraceSeconds, max(c.Settings.RotationIntervalSeconds-1, 0))
	if rapid.Bool().Draw(t, "receiver") {
		c.Settings.EndpointID, c.Settings.WebhookURL = ep1, "https://example.com/hook"
	}
	h.do((&Project{ID: proj1, OrganizationID: org1, Brand: "rk", Environments: []Environment{liveEnvironment}}).CreateKeyIn(c, historyLimits, h.now))
	return h
}

// fresh reports whether there are events since it was last asked: checks of the state alone need not be repeated.
func (h *history) fresh() bool {
	before := h.checked
	h.checked = len(h.events)
	return h.checked > before
}

var historyLimits = Limits{MinRotationInterval: time.Second}

func (h *history) keyID() KeyID {
	h.made++
	return KeyID(fmt.Sprintf("key_%026d", h.made))
}

func (h *history) mint(brand, environment string) (Secret, error) {
	return MintSecret(seeded(byte(h.made)), brand, environment)
}

func (h *history) interval() int64 {
	return rapid.SampledFrom([]int64{0, 1, 60, 60, 600, 3600}).Draw(h.T, "interval")
}

func (h *history) graceSeconds() int64 {
	return rapid.SampledFrom([]int64{0, 1, 30, 59, 1800}).Draw(h.T, "grace seconds")
}

func (h *history) expiry() *time.Time {
	life := rapid.SampledFrom([]time.Duration{0, 0, 0, 0, 0, time.Minute, hour, 30 * day}).Draw(h.T, "life")
	if life == 0 {
		return nil
	}
	return new(h.now.Add(life))
}

// key draws one of the keys that ever were, or an unknown one.
func (h *history) key() KeyID {
	return KeyID(fmt.Sprintf("key_%026d", rapid.IntRange(max(1, h.made-5), h.made+1).Draw(h.T, "key")))
}

// do takes the outcome of a decision over.
func (h *history) do(decided []Decided, err error) {
	h.Helper()
	if err != nil {
		code := CodeOf(err)
		if h.refusals[code]++; code == CodeInternal || len(decided) > 0 {
			h.Fatalf("decided %v: %v", decided, err)
		}
		return
	}
	for _, d := range decided {
		if d.StreamID != string(lin1) {
			continue // the endpoint of a new receiver
		}
		e := Event{
			ID: "evt_x", StreamID: d.StreamID, Version: h.state.Version + 1, OrganizationID: d.OrganizationID, ProjectID: d.ProjectID,
			Actor: actor, OccurredAt: h.now, Data: d.Data,
		}
		h.state.Apply(e)
		h.events = append(h.events, e)
		h.saw(e)
	}
}

// saw notes what an event says and checks that nothing that has ended lives again.
func (h *history) saw(e Event) {
	h.Helper()
	switch d := e.Data.(type) {
	case Rotated:
		h.rotations = append(h.rotations, d.RotationID)
		if d.Acknowledged == "" {
			h.waiting[d.RotationID] = d
			h.mayBegin(e)
		} else {
			h.replaced[d.PreviousKeyID] = true
		}
		h.kill(d.RevokedKeyIDs)
	case RotationAcknowledged:
		delete(h.waiting, d.RotationID)
		h.replaced[d.PreviousKeyID] = true
	case RotationCancelled:
		delete(h.waiting, d.RotationID)
		h.killed[d.KeyID] = true
	case RotationRolledBack:
		delete(h.replaced, d.KeyID)
		h.replaced[d.ReplacedKeyID] = true
	case RotationDeferred:
		if before, again := h.deferred[d.SlotAt]; again && !d.Until.After(before) || !d.Until.After(e.OccurredAt) {
			h.Fatalf("slot %v is deferred until %v, and before until %v", d.SlotAt, d.Until, before)
		}
		h.deferred[d.SlotAt] = d.Until
	case Revoked:
		h.kill(d.KeyIDs)
	case Expired:
		h.kill(d.KeyIDs)
	}
	for _, g := range h.state.Generations {
		if before, known := h.last[g.KeyID]; known && !before.State.Live() && g.State.Live() {
			h.Fatalf("%s was %s and is %s again", g.KeyID, before.State, g.State)
		}
	}
	for id, before := range h.last {
		if before.State.Live() && h.state.Generation(id) == nil {
			h.Fatalf("%s was %s and is forgotten", id, before.State)
		}
	}
	for _, g := range h.state.Generations {
		h.last[g.KeyID] = g
	}
}

// mayBegin: an interval rotation begins only with a receiver that can be sent the secret, with room for another grace, and
// in the window. One that was begun anew in the place of another needs no window.
func (h *history) mayBegin(e Event) {
	d, inGrace := e.Data.(Rotated), 0
	for i := range h.state.Generations {
		if h.state.StatusAt(&h.state.Generations[i], e.OccurredAt) == StatusGrace {
			inGrace++
		}
	}
	if inGrace >= MaxInGrace || d.EndpointID != "" && h.receiver.Problem != "" {
		h.Fatalf("%s began with %d in grace and a receiver that is %q", d.RotationID, inGrace, h.receiver.Problem)
	}
	if at := h.policy.RotationWindow.move(lin1, e.OccurredAt); !at.Equal(e.OccurredAt) && !h.anew {
		h.Fatalf("%s began at %v, and the window is at %v", d.RotationID, e.OccurredAt, at)
	}
}

func (h *history) kill(ids []KeyID) {
	for _, id := range ids {
		h.killed[id] = true
	}
	for id, r := range h.waiting {
		if slices.Contains(ids, r.PreviousKeyID) {
			delete(h.waiting, id)
		}
	}
}

// actions are the random commands, with check after each.
func (h *history) actions(check func(*history)) map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":                   func(*rapid.T) { check(h) },
		"wait":               func(*rapid.T) { h.wait() },
		"wait for due work":  func(*rapid.T) { h.waitForDue() },
		"update":             func(*rapid.T) { h.update() },
		"rotate by hand":     func(*rapid.T) { h.rotate(h.activeOr(h.key())) },
		"rotate any by hand": func(*rapid.T) { h.rotate(h.key()) },
		"rotate quickly":     func(*rapid.T) { h.rotateQuickly() },
		"sweep":              func(*rapid.T) { h.sweep() },
		"sweep again":        func(*rapid.T) { h.sweep() },
		"acknowledge":        func(*rapid.T) { h.acknowledge() },
		"acknowledge any":    func(*rapid.T) { h.acknowledgeAny() },
		"stall":              func(*rapid.T) { h.stall() },
		"rotate and stall":   func(*rapid.T) { h.rotateByInterval(); h.stall() },
		"rotate by interval": func(*rapid.T) { h.rotateByInterval() },
		"revoke":             func(*rapid.T) { h.revoke() },
		"report a leak":      func(*rapid.T) { h.reportLeak() },
		"expire grace":       func(*rapid.T) { h.do(h.state.ExpireGrace(h.key(), h.now)) },
		"expire":             func(*rapid.T) { h.do(h.state.Expire(h.now)) },
		"force":              func(*rapid.T) { h.do(h.state.Force(h.rotation(), h.now)) },
		"cancel":             func(*rapid.T) { h.do(h.state.CancelRotation(h.rotation(), "not now", h.policy, h.now)) },
		"roll back":          func(*rapid.T) { h.do(h.state.RollBack(h.rotation(), h.policy, h.now)) },
		"hand over and back": func(*rapid.T) { h.handOverAndBack() },
		"end grace":          func(*rapid.T) { h.do(h.state.EndGrace(h.rotation(), h.now)) },
		"retire unused":      func(*rapid.T) { h.retireUnused() },
		"change grace":       func(*rapid.T) { h.changeGrace() },
		"redeliver":          func(*rapid.T) { h.redeliver() },
		"time out":           func(*rapid.T) { h.timeOut() },
		"policy":             func(*rapid.T) { h.choosePolicy() },
		"receiver":           func(*rapid.T) { h.chooseReceiver() },
	}
}

func (h *history) activeOr(id KeyID) KeyID {
	if active := h.state.Active(); active != nil {
		return active.KeyID
	}
	return id
}

// rotation draws one of the rotations that ever were; mostly the last.
func (h *history) rotation() RotationID {
	if n := len(h.rotations); n > 0 {
		return h.rotations[max(0, n-1-rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(h.T, "back"))]
	}
	return rot9
}

func (h *history) wait() {
	step := rapid.SampledFrom([]time.Duration{0, time.Microsecond, 1500 * time.Microsecond, time.Second, 30 * time.Second, 2 * time.Minute, hour, day})
	h.now = h.now.Add(step.Draw(h.T, "step"))
}

// waitForDue goes to the very instant at which a piece of work falls due, or a microsecond before.
func (h *history) waitForDue() {
	due := h.state.Due()
	if len(due) == 0 {
		return
	}
	at := rapid.SampledFrom(due).Draw(h.T, "due").At
	if rapid.Bool().Draw(h.T, "just before") {
		at = at.Add(-time.Microsecond)
	}
	if at.After(h.now) {
		h.now = at
	}
}

func (h *history) update() {
	c := UpdateKey{KeyID: h.activeOr(key1), NewEndpointID: ep2, Caller: System()}
	switch rapid.IntRange(0, 4).Draw(h.T, "field") {
	case 0:
		c.Name = ChangeTo(rapid.SampledFrom([]string{"a", "b"}).Draw(h.T, "name"))
	case 1:
		c.RotationIntervalSeconds = ChangeTo(h.interval())
	case 2:
		c.GraceSeconds = ChangeTo(h.graceSeconds())
	case 3:
		c.ExpiresAt = ChangeTo(h.expiry())
	case 4:
		c.WebhookURL = ChangeTo(rapid.SampledFrom([]string{"", "https://example.com/hook", "https://example.org"}).Draw(h.T, "url"))
		c.Scopes = ChangeTo(Scopes(rapid.SliceOfN(anyScope, 0, 2).Draw(h.T, "scopes")))
	}
	h.do(h.state.Update(c, historyLimits, h.now))
}

func (h *history) rotate(id KeyID) {
	graces := []time.Duration{0, time.Millisecond, time.Minute, hour, 30 * day}
	h.do(h.state.Rotate(RotateKey{
		KeyID: id, NewKeyID: h.keyID(), RotationID: RotationID(fmt.Sprintf("rot_%026d", h.made)), Mint: h.mint, Policy: h.policy,
		Trigger: rapid.SampledFrom([]Trigger{TriggerManual, TriggerManual, TriggerManual, TriggerCompromise}).Draw(h.T, "trigger"),
		Grace:   new(rapid.SampledFrom(graces).Draw(h.T, "grace")), Supersede: rapid.Bool().Draw(h.T, "supersede"), Caller: System(),
	}, h.now))
}

// rotateQuickly fills the graces, which random waiting alone would rarely do, and lets some of them run out unrecorded.
func (h *history) rotateQuickly() {
	for range MaxInGrace {
		h.do(h.state.Rotate(RotateKey{
			KeyID: h.activeOr(key1), NewKeyID: h.keyID(), RotationID: RotationID(fmt.Sprintf("rot_%026d", h.made)), Trigger: TriggerManual, Mint: h.mint,
			Grace: new(rapid.SampledFrom([]time.Duration{time.Minute, hour, day}).Draw(h.T, "grace")), Supersede: true, Caller: System(),
		}, h.now))
		h.now = h.now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(h.T, "step"))
	}
}

// sweep carries out what is due, as the worker does.
func (h *history) sweep() {
	for _, d := range h.state.Due() {
		if !d.At.After(h.now) {
			h.do(h.carryOut(h.state, d, h.now))
		}
	}
}

// rotateByInterval lets time pass until the next interval rotation, and sweeps.
func (h *history) rotateByInterval() {
	for _, d := range h.state.Due() {
		if d.Kind == DueRotate && d.At.After(h.now) {
			h.now = d.At
		}
	}
	h.sweep()
}

func (h *history) carryOut(l *Lineage, d Due, now time.Time) ([]Decided, error) {
	switch d.Kind {
	case DueRotate:
		return l.Rotate(RotateKey{
			KeyID: d.KeyID, NewKeyID: h.keyID(), RotationID: RotationID(fmt.Sprintf("rot_%026d", h.made)), Trigger: TriggerInterval,
			Caller: System(), Mint: h.mint, Policy: h.policy, Receiver: h.receiver,
		}, now)
	case DueTimeout:
		return l.TimeOut(d.KeyID, h.policy, now)
	case DueWarn:
		return l.Warn(now)
	case DueGrace:
		return l.ExpireGrace(d.KeyID, now)
	}
	return l.Expire(now)
}

func (h *history) acknowledge() {
	if r := h.state.WaitingRotation(); r != nil {
		h.do(h.state.Acknowledge(r.ID, rapid.SampledFrom([]AckLevel{AckAccepted, AckProof, AckFirstUse, AckClaim}).Draw(h.T, "level"), h.now))
	}
}

// handOverAndBack acknowledges what waits, and undoes it while the old key is in grace.
func (h *history) handOverAndBack() {
	h.acknowledge()
	h.do(h.state.RollBack(h.rotation(), h.policy, h.now))
}

func (h *history) changeGrace() {
	step := rapid.SampledFrom([]time.Duration{-time.Second, time.Second, time.Minute, hour, 3 * day, 8 * day, 40 * day}).Draw(h.T, "grace")
	h.do(h.state.ChangeGrace(h.rotation(), h.now.Add(step), h.policy, h.now))
}

// retireUnused asks for the end of an old key, of which more or less is known.
func (h *history) retireUnused() {
	h.policy.EarlyRetireSeconds = rapid.SampledFrom([]int64{0, 3600, 3600, 3600}).Draw(h.T, "early retire")
	h.now = h.now.Add(rapid.SampledFrom([]time.Duration{0, hour}).Draw(h.T, "later"))
	rotation := h.rotation()
	if i := slices.IndexFunc(h.state.Rotations, func(r Rotation) bool { return r.State == RotationOverlap }); i >= 0 && rapid.Bool().Draw(h.T, "in overlap") {
		rotation = h.state.Rotations[i].ID
	}
	use := KnownUse{From: start.Add(-day), Until: h.now.Add(rapid.SampledFrom([]time.Duration{0, 0, -time.Minute, -hour, hour}).Draw(h.T, "known until"))}
	if rapid.Bool().Draw(h.T, "used") {
		use.LastUsedAt = new(h.now.Add(-rapid.SampledFrom([]time.Duration{0, hour, day}).Draw(h.T, "ago")))
	}
	h.do(h.state.RetireUnused(rotation, use, h.policy, h.now), nil)
}

func (h *history) redeliver() {
	h.anew = true
	h.do(h.state.Redeliver(Redeliver{RotationID: h.rotation(), Fresh: rapid.Bool().Draw(h.T, "fresh"), With: RotateKey{
		NewKeyID: h.keyID(), RotationID: RotationID(fmt.Sprintf("rot_%026d", h.made)), Caller: System(), Mint: h.mint,
		Policy: h.policy, Receiver: h.receiver,
	}}, h.now))
	h.anew = false
}

// timeOut lets time pass until what waits has waited for too long, and sweeps.
func (h *history) timeOut() {
	if r := h.state.WaitingRotation(); r != nil && r.Deadline.After(h.now) {
		h.now = *r.Deadline
	}
	h.sweep()
}

func (h *history) choosePolicy() {
	h.policy = Policy{
		MaxOverlapSeconds:  rapid.SampledFrom([]int64{0, 3600, 86400}).Draw(h.T, "overlap"),
		EarlyRetireSeconds: rapid.SampledFrom([]int64{0, 3600, 3600}).Draw(h.T, "early retire"),
		RotationTimeout:    rapid.SampledFrom([]TimeoutAction{"", "", TimeoutRollback, TimeoutExpireOld}).Draw(h.T, "timeout"),
		RotationWindow: rapid.SampledFrom([]*Window{nil, nil, {Start: "02:00", LengthMinutes: 60, TimeZone: "Europe/Berlin"},
			{Days: []string{"sun"}, Start: "23:30", LengthMinutes: 90, TimeZone: "America/New_York"}}).Draw(h.T, "window"),
	}
}

func (h *history) chooseReceiver() {
	h.receiver = Receiver{
		Problem: rapid.SampledFrom([]string{"", "", "", "disabled"}).Draw(h.T, "problem"),
		Demand:  rapid.SampledFrom([]AckLevel{"", AckProof, AckFirstUse}).Draw(h.T, "demand"),
	}
}

func (h *history) stall() {
	id := h.rotation()
	if r := h.state.WaitingRotation(); r != nil {
		id = r.ID
	}
	h.do(h.state.Stall(id, "gone"))
}

func (h *history) acknowledgeAny() {
	h.do(h.state.Acknowledge(h.rotation(), AckFirstUse, h.now))
}

// revoke spares the active key mostly, or few histories would be long.
func (h *history) revoke() {
	id := h.key()
	if r := h.state.WaitingRotation(); r != nil && rapid.Bool().Draw(h.T, "pending") {
		id = r.ToKeyID
	}
	if id == h.activeOr("") && rapid.SampledFrom([]bool{true, true, true, true, true, true, true, false}).Draw(h.T, "spare") {
		return
	}
	h.do(h.state.Revoke(id, rapid.SampledFrom([]string{"", "leaked"}).Draw(h.T, "reason"), h.now))
}

// reportLeak tells of a leak, mostly to a project that only wants to know.
func (h *history) reportLeak() {
	id, action := h.key(), rapid.SampledFrom([]LeakAction{LeakNotify, LeakNotify, LeakRevoke}).Draw(h.T, "action")
	if id == h.activeOr("") {
		action = LeakNotify
	}
	place := fmt.Sprint("https://example.com/", rapid.IntRange(0, 3).Draw(h.T, "place"))
	h.do(h.state.ReportLeak(ReportLeak{KeyID: id, Source: "test", URL: place, Action: action}, h.now))
}
