package domain

import "time"

// CreateKey asks for a new lineage.
type CreateKey struct {
	LineageID   LineageID
	KeyID       KeyID
	Environment EnvironmentID // empty: the project's first
	// Settings.EndpointID names an endpoint that the same command makes, if WebhookURL is set, and else Endpoint's.
	Settings         Settings
	Endpoint         *Endpoint // a registered one that is to be told of rotations; nil: none
	SigningPublicKey string    // of the endpoint that is made
	GraceSet         bool      // GraceSeconds was named; else it gets a default
	Operator         bool
	Caller           Caller
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
	if c.Endpoint != nil {
		if err := c.Endpoint.ForKey(p.ID, c.LineageID); err != nil {
			return nil, err
		}
		c.Settings.EndpointID = c.Endpoint.ID
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
		NextRotationAt: firstSlot(c.LineageID, settings, p.Policy.RotationWindow, now),
	}
	at := Decided{OrganizationID: p.OrganizationID, ProjectID: p.ID}
	var out []Decided
	if settings.WebhookURL != "" {
		endpoint := at
		endpoint.StreamID, endpoint.Data = string(settings.EndpointID), onTheFly(settings.WebhookURL, c.LineageID, c.SigningPublicKey)
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
			RotationID: r.ID, KeyID: id, Reason: reason, NextRotationAt: l.slotAfter(nil, now),
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
