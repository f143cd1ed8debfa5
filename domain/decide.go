package domain

import (
	"slices"
	"time"
)

// CreateKey asks for a new lineage.
type CreateKey struct {
	LineageID   LineageID
	KeyID       KeyID
	Environment EnvironmentID // empty: the project's first
	Settings    Settings      // EndpointID names an endpoint that the same command makes, if WebhookURL is set
	GraceSet    bool          // GraceSeconds was named; else it gets a default
	Operator    bool
	Caller      Caller
	// Mint makes the secret once brand and environment are known.
	Mint func(brand, environment string) (Secret, error)
	// Given, if not nil, is what is known of a secret that another system issued; then none is made.
	Given *SecretFacts
}

// CreateKeyIn decides a new lineage in a project.
func (p *Project) CreateKeyIn(c CreateKey, limits Limits, now time.Time) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	environment, ok := p.environment(c.Environment)
	if !ok {
		return nil, NotFound("environment in this project")
	}
	settings, err := p.settingsFor(c, limits, now)
	if err != nil {
		return nil, err
	}
	facts, err := c.facts(p.Brand, environment.Name)
	if err != nil {
		return nil, err
	}
	created := Created{
		KeyID: c.KeyID, SecretFacts: facts, Imported: c.Given != nil, EnvironmentID: environment.ID, Environment: environment.Name,
		Brand: p.Brand, Settings: settings, Operator: c.Operator,
		NextRotationAt: firstSlot(c.LineageID, settings, now),
	}
	at := Decided{OrganizationID: p.OrganizationID, ProjectID: p.ID}
	var out []Decided
	if settings.EndpointID != "" {
		endpoint := at
		endpoint.StreamID, endpoint.Data = string(settings.EndpointID), EndpointCreated{URL: settings.WebhookURL, LineageID: c.LineageID}
		out = append(out, endpoint)
	}
	at.StreamID, at.Data = string(c.LineageID), created
	return append(out, at), nil
}

// facts are those of the given secret, or of one that is made now.
func (c CreateKey) facts(brand, environment string) (SecretFacts, error) {
	if c.Given != nil {
		return *c.Given, nil
	}
	secret, err := c.Mint(brand, environment)
	if err != nil {
		return SecretFacts{}, err
	}
	return FactsOf(secret), nil
}

// settingsFor is what a new key gets: what the request names, the rest from the caller's own rights and the project's
// policy, and all of it within both.
func (p *Project) settingsFor(c CreateKey, limits Limits, now time.Time) (Settings, error) {
	settings := c.Settings
	if !c.GraceSet {
		settings.GraceSeconds = int64(p.Policy.defaultGrace(seconds(settings.RotationIntervalSeconds)) / time.Second)
	}
	c.Caller.cutDown(&settings)
	if err := p.Policy.fill(&settings, c.Settings, now); err != nil {
		return settings, err
	}
	settings, err := settings.validate(settingsFields, limits, now)
	if err != nil {
		return settings, err
	}
	if err := p.Policy.check(settings, settingsFields, now); err != nil {
		return settings, err
	}
	return settings, c.Caller.covers(settings, c.Operator)
}

// firstSlot is the first interval rotation counted from now, or nil without an interval.
func firstSlot(id LineageID, s Settings, now time.Time) *time.Time {
	if s.RotationIntervalSeconds == 0 {
		return nil
	}
	at := nextSlot(id, now, seconds(s.RotationIntervalSeconds), now)
	return &at
}

// RotateKey asks for the next generation.
type RotateKey struct {
	KeyID      KeyID // the generation that the caller takes for the active one
	NewKeyID   KeyID
	RotationID RotationID
	Trigger    Trigger
	Grace      *time.Duration // of a manual rotation, nil: by the policy; interval rotations use the settings
	Supersede  bool           // cancel a rotation that still waits for its receiver
	Caller     Caller
	Policy     Policy // of the key's project; it binds manual rotations
	Mint       func(brand, environment string) (Secret, error)
}

// Rotate decides a rotation. A manual one is acknowledged by its own answer; one by interval leaves the new generation
// pending until it is acknowledged. An interval rotation that is not due (any more) decides nothing.
func (l *Lineage) Rotate(c RotateKey, now time.Time) ([]Decided, error) {
	active := l.Active()
	if c.Trigger == TriggerInterval && !l.rotationDue(now) {
		return nil, nil
	}
	grace, err := c.grace()
	if err != nil {
		return nil, err
	}
	if active == nil || active.KeyID != c.KeyID || !l.StatusAt(active, now).Valid() {
		return nil, l.notActive(c.KeyID)
	}
	if err := c.Caller.covers(l.Settings, l.Operator); err != nil {
		return nil, err
	}
	cancelled, err := l.supersede(c, grace)
	if err != nil {
		return nil, err
	}
	if free := l.graceFreeAt(); grace > 0 && free.After(now) {
		return nil, Refuse(CodeTooManyInGrace, "%d older generations are still in grace", MaxInGrace).
			With("possible_at", free.Format(time.RFC3339Nano))
	}
	secret, err := c.Mint(l.Brand, l.Environment)
	if err != nil {
		return nil, err
	}
	rotated := l.rotated(c, grace, FactsOf(secret), now)
	return append(cancelled, l.decided(rotated)), nil
}

// grace is the grace that begins with the rotation. That of an interval rotation begins later, when it is acknowledged.
func (c RotateKey) grace() (time.Duration, error) {
	if c.Trigger == TriggerInterval {
		return 0, nil
	}
	return c.Policy.graceOf(c.Grace)
}

// rotationDue reports whether the sweep's idea of a due rotation still holds.
func (l *Lineage) rotationDue(now time.Time) bool {
	return slices.ContainsFunc(l.Due(), func(d Due) bool { return d.Kind == DueRotate && !d.At.After(now) }) &&
		l.StatusAt(l.Active(), now).Valid()
}

// supersede refuses while a rotation waits for its receiver, or cancels that one if the caller said so or wants the old
// key gone at once.
func (l *Lineage) supersede(c RotateKey, grace time.Duration) ([]Decided, error) {
	waiting := l.WaitingRotation()
	if waiting == nil {
		return nil, nil
	}
	if !c.Supersede && grace > 0 {
		return nil, Refuse(CodeRotationInProgress, "a rotation of this key waits for its receiver; send supersede=true to replace it").
			With("rotation_id", waiting.ID)
	}
	return []Decided{l.decided(RotationCancelled{
		RotationID: waiting.ID, KeyID: waiting.ToKeyID, Reason: "superseded", NextRotationAt: l.NextRotationAt,
	})}, nil
}

func (l *Lineage) rotated(c RotateKey, grace time.Duration, facts SecretFacts, now time.Time) Rotated {
	r := Rotated{
		RotationID: c.RotationID, Trigger: c.Trigger, PreviousKeyID: c.KeyID, KeyID: c.NewKeyID,
		Generation: l.LastGeneration + 1, SecretFacts: facts, NextRotationAt: l.NextRotationAt,
	}
	if c.Trigger == TriggerManual {
		deadline := l.graceEnd(now, grace)
		r.Acknowledged, r.GraceExpiresAt = AckAnswer, &deadline
		r.GraceSeconds = int64(grace / time.Second)
		r.NextRotationAt = firstSlot(l.ID, l.Settings, now)
		return r
	}
	r.GraceSeconds, r.EndpointID = l.Settings.GraceSeconds, l.Settings.EndpointID
	r.NextRotationAt = l.slotAfter(now)
	return r
}

// slotAfter is the next interval rotation after now on the lineage's own slots.
func (l *Lineage) slotAfter(now time.Time) *time.Time {
	if l.Settings.RotationIntervalSeconds == 0 {
		return nil
	}
	at := nextSlot(l.ID, l.Anchor, seconds(l.Settings.RotationIntervalSeconds), now)
	return &at
}

// graceEnd is now plus the grace, never past the lineage's own expiry.
func (l *Lineage) graceEnd(now time.Time, grace time.Duration) time.Time {
	end := now.Add(grace)
	if l.Settings.ExpiresAt != nil && l.Settings.ExpiresAt.Before(end) {
		return *l.Settings.ExpiresAt
	}
	return end
}

// Acknowledge decides that the new secret of a waiting rotation arrived. Any later sign for the same rotation decides
// nothing: the first one counts.
func (l *Lineage) Acknowledge(id RotationID, level AckLevel, now time.Time) ([]Decided, error) {
	r := l.rotation(id)
	if r == nil || !r.State.Live() {
		return nil, Refuse(CodeNoRotation, "this rotation has ended")
	}
	if !r.State.Waiting() {
		return nil, nil
	}
	next := l.NextRotationAt
	if next != nil && !next.After(now) { // slots that passed while the receiver was away collapse into the next one
		next = l.slotAfter(now)
	}
	return []Decided{l.decided(RotationAcknowledged{
		RotationID: id, PreviousKeyID: r.FromKeyID, KeyID: r.ToKeyID, Level: level,
		GraceExpiresAt: l.graceEnd(now, seconds(r.GraceSeconds)), NextRotationAt: next,
	})}, nil
}

// Stall decides that delivery is given up for now. The old key keeps working without a deadline.
func (l *Lineage) Stall(id RotationID, reason string) ([]Decided, error) {
	r := l.rotation(id)
	if r == nil || r.State != RotationDelivering {
		return nil, nil
	}
	return []Decided{l.decided(RotationStalled{RotationID: id, KeyID: r.ToKeyID, Reason: reason})}, nil
}

// Revoke decides the end of a key. The active key takes everything live of its lineage with it, so that nothing revives
// it; an older one in grace ends alone; a pending one is cancelled with its rotation. Revoking what has ended decides
// nothing: the caller's wish is fulfilled.
func (l *Lineage) Revoke(id KeyID, reason string, now time.Time) ([]Decided, error) {
	if err := validateReason(reason); err != nil {
		return nil, err
	}
	g := l.Generation(id)
	if g == nil || !g.State.Live() {
		return nil, nil
	}
	ids := []KeyID{id}
	switch g.State {
	case GenerationPending:
		r := l.WaitingRotation()
		return []Decided{l.decided(RotationCancelled{
			RotationID: r.ID, KeyID: id, Reason: reason, NextRotationAt: l.slotAfter(now),
		})}, nil
	case GenerationActive:
		ids = l.live()
	}
	return []Decided{l.decided(Revoked{KeyID: id, KeyIDs: ids, Reason: reason})}, nil
}

// ExpireGrace decides the recorded end of a grace that time has ended.
func (l *Lineage) ExpireGrace(id KeyID, now time.Time) ([]Decided, error) {
	g := l.Generation(id)
	if g == nil || g.State != GenerationGrace || g.GraceExpiresAt == nil || now.Before(*g.GraceExpiresAt) {
		return nil, nil
	}
	return []Decided{l.decided(GraceExpired{KeyID: id})}, nil
}

// Expire decides the recorded end of a lineage whose time is over.
func (l *Lineage) Expire(now time.Time) ([]Decided, error) {
	if l.Settings.ExpiresAt == nil || now.Before(*l.Settings.ExpiresAt) {
		return nil, nil
	}
	ids := l.live()
	if len(ids) == 0 {
		return nil, nil
	}
	return []Decided{l.decided(Expired{KeyIDs: ids})}, nil
}

// live lists the key ids of the live generations.
func (l *Lineage) live() []KeyID {
	var ids []KeyID
	for _, g := range l.Generations {
		if g.State.Live() {
			ids = append(ids, g.KeyID)
		}
	}
	return ids
}

// notActive explains why a key cannot be rotated or edited.
func (l *Lineage) notActive(id KeyID) *Error {
	e := Refuse(CodeKeyNotActive, "this key has ended or is not the current one of its lineage")
	if active := l.Active(); active != nil && active.KeyID != id {
		return e.With("active_key_id", active.KeyID)
	}
	return e
}

func (l *Lineage) decided(p Payload) Decided {
	return Decided{StreamID: string(l.ID), OrganizationID: l.OrganizationID, ProjectID: l.ProjectID, Data: p}
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
