package domain

import (
	"slices"
	"strings"
	"time"
)

// ackDemands are the acknowledgments that an endpoint can be asked for, weakest first.
var ackDemands = []AckLevel{AckAccepted, AckProof, AckFirstUse}

func validateDemand(level AckLevel) error {
	if slices.Contains(ackDemands, level) {
		return nil
	}
	return InvalidField("ack_level", "is not a level", "choose accepted, proof or first_use")
}

// RegisterEndpoint asks for a webhook endpoint that keys of the project can use.
type RegisterEndpoint struct {
	ID               EndpointID
	Target           Target
	AckLevel         AckLevel
	EventTypes       []MessageType // none: all
	SigningPublicKey string
	Certificate      *ClientCertificate // shown to the receiver; nil: none
}

// RegisterEndpoint decides the first event of an endpoint. It gets no secret before its receiver has answered a challenge.
func (p *Project) RegisterEndpoint(c RegisterEndpoint) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	for _, err := range []error{c.Target.validate(), validateDemand(c.AckLevel), validateCertificate(c.Certificate, c.Target)} {
		if err != nil {
			return nil, err
		}
	}
	types, err := validateMessageTypes(c.EventTypes)
	if err != nil {
		return nil, err
	}
	created := p.decided(EndpointCreated{
		URL: c.Target.URL, SecretMode: c.Target.SecretMode, AckLevel: c.AckLevel, ReceiverKey: c.Target.ReceiverKey,
		SigningPublicKey: c.SigningPublicKey, EventTypes: types, ClientCertificate: c.Certificate,
	})
	created.StreamID = string(c.ID)
	return []Decided{created}, nil
}

// onTheFly is the endpoint that a key's own rotation_webhook_url is.
func onTheFly(url string, lineage LineageID, signingPublicKey string) EndpointCreated {
	return EndpointCreated{
		URL: url, LineageID: lineage, SecretMode: SecretPlain, AckLevel: AckAccepted, SigningPublicKey: signingPublicKey,
	}
}

// gone refuses whatever is asked of an endpoint that was deleted, like of one that never was.
func (p *Endpoint) gone() error {
	if p.DeletedAt != nil {
		return NotFound("webhook endpoint")
	}
	return nil
}

// ForKey says whether a key of a project may be told of its rotations here. An endpoint of another project, and one that
// was made for another key, are not found, like one that never was.
func (p *Endpoint) ForKey(project ProjectID, lineage LineageID) error {
	if p.ProjectID != project || p.LineageID != "" && p.LineageID != lineage {
		return NotFound("webhook endpoint")
	}
	return p.gone()
}

// UpdateEndpoint asks for another target, or another demand.
type UpdateEndpoint struct {
	ID          EndpointID
	URL         Change[string]
	SecretMode  Change[SecretMode]
	ReceiverKey Change[*ReceiverKey]
	AckLevel    Change[AckLevel]
	EventTypes  Change[[]MessageType] // to nothing: all
	Certificate Change[*ClientCertificate]
}

// Moves reports whether the edit would send secrets elsewhere, or seal them for somebody else.
func (p *Endpoint) Moves(c UpdateEndpoint) bool { return !p.Wanted().samePlace(c.over(p.Wanted())) }

func (c UpdateEndpoint) over(t Target) Target {
	return Target{c.URL.over(t.URL), c.SecretMode.over(t.SecretMode), c.ReceiverKey.over(t.ReceiverKey)}
}

// Update decides an edit. A new address or key is only proposed: no secret goes there before the receiver has answered a
// challenge, and meanwhile the one that was in use stays so.
func (p *Endpoint) Update(c UpdateEndpoint) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	before, wanted, level := p.Wanted(), c.over(p.Wanted()), c.AckLevel.over(p.AckLevel)
	certificate := c.Certificate.over(p.ClientCertificate)
	for _, err := range []error{wanted.validate(), validateDemand(level), validateCertificate(certificate, p.Target, wanted)} {
		if err != nil {
			return nil, err
		}
	}
	types, err := validateMessageTypes(c.EventTypes.over(p.EventTypes))
	if err != nil {
		return nil, err
	}
	changed := changedTarget(before, wanted)
	if level != p.AckLevel {
		changed = append(changed, "ack_level")
	}
	if !slices.Equal(types, p.EventTypes) {
		changed = append(changed, "event_types")
	}
	// One that is given takes the place of what is stored even if it is the same: that is how what was stored is mended.
	if c.Certificate.Set && (certificate != nil || p.ClientCertificate != nil) {
		changed = append(changed, "client_certificate")
	}
	if len(changed) == 0 {
		return nil, nil
	}
	if p.LineageID != "" && slices.Contains(changed, "url") {
		return nil, InvalidField("url", "belongs to a key", "change the key's rotation_webhook_url")
	}
	if p.LineageID != "" && slices.Contains(changed, "event_types") {
		return nil, InvalidField("event_types", "cannot be chosen: a key's own address gets its secrets and nothing else",
			"register an endpoint to be told of more")
	}
	updated := EndpointUpdated{Changed: changed, Target: wanted, AckLevel: level, EventTypes: types, ClientCertificate: certificate}
	if p.State != EndpointUnverified && !wanted.samePlace(p.Target) {
		updated.Target, updated.Proposed = p.Target, &wanted
	}
	return []Decided{p.decided(updated)}, nil
}

func changedTarget(before, after Target) []string {
	var changed []string
	if before.URL != after.URL {
		changed = append(changed, "url")
	}
	if before.SecretMode != after.SecretMode {
		changed = append(changed, "secret_mode")
	}
	if !sameKey(before.ReceiverKey, after.ReceiverKey) {
		changed = append(changed, "receiver_public_key")
	}
	return changed
}

// Challenged returns the target that a receiver has to prove, or says why none is to be asked now.
func (p *Endpoint) Challenged() (Target, error) {
	if err := p.gone(); err != nil {
		return Target{}, err
	}
	if p.State == EndpointDisabled {
		return Target{}, p.notNow("verified", "enable it first")
	}
	return p.Wanted(), nil
}

// Verify decides that the receiver answered the challenge for a target. One that is in use already changes nothing.
func (p *Endpoint) Verify(answered Target) ([]Decided, error) {
	wanted, err := p.Challenged()
	if err != nil {
		return nil, err
	}
	if !wanted.Equal(answered) {
		return nil, Refuse(CodeVersionConflict, "the endpoint was changed while its receiver was asked; verify it again")
	}
	if p.Proposed == nil && p.State != EndpointUnverified && p.VerifiedAt != nil {
		return nil, nil
	}
	return []Decided{p.decided(EndpointVerified{Target: answered})}, nil
}

// Pause decides that nothing is sent until the endpoint is resumed.
func (p *Endpoint) Pause(reason string) ([]Decided, error) {
	return p.move(EndpointPaused, reason, "paused", EndpointActive)
}

// Resume decides that what was held is sent.
func (p *Endpoint) Resume() ([]Decided, error) {
	return p.move(EndpointActive, "", "resumed", EndpointPaused)
}

// Disable decides that nothing is sent until the endpoint is enabled, and no rotation begins that it would be told of.
func (p *Endpoint) Disable(reason string) ([]Decided, error) {
	return p.move(EndpointDisabled, reason, "disabled", EndpointUnverified, EndpointActive, EndpointPaused)
}

// Enable decides that a disabled endpoint begins anew: its receiver has to answer a challenge again, unless the endpoint
// is a key's own.
func (p *Endpoint) Enable() ([]Decided, error) {
	if err := p.gone(); err != nil || p.State != EndpointDisabled {
		return nil, err
	}
	return p.move(p.initialState(), "", "enabled", EndpointDisabled)
}

// move decides another state, from certain ones. What is in that state already stays there.
func (p *Endpoint) move(to EndpointState, reason, verb string, from ...EndpointState) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	if err := validateReason(reason); err != nil {
		return nil, err
	}
	switch {
	case p.State == to:
		return nil, nil
	case !slices.Contains(from, p.State):
		return nil, p.notNow(verb, "it must be "+joined(from))
	}
	return []Decided{p.decided(EndpointStateChanged{State: to, Reason: reason})}, nil
}

func joined(states []EndpointState) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = string(s)
	}
	return strings.Join(words, " or ")
}

// notNow is the refusal of what the state does not allow.
func (p *Endpoint) notNow(verb, remedy string) *Error {
	return Refuse(CodeEndpointState, "this webhook endpoint is %s and cannot be %s; %s", p.State, verb, remedy).With("state", p.State)
}

// RotateSecret decides a new signing secret and key pair. Those before sign too for a grace, so that receivers can be
// given the new ones without missing a message; without one, all of them end now.
func (p *Endpoint) RotateSecret(grace time.Duration, signingPublicKey string, now time.Time) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	if grace < 0 || grace > MaxSigningGrace {
		return nil, InvalidField("grace_seconds", "is out of range", "choose 0 to 604800 (7 days)")
	}
	if old := p.OldSecretsAt(now); grace > 0 && len(old) >= MaxOldSecrets {
		return nil, Refuse(CodeTooManyInGrace, "%d older signing secrets still sign; wait, or end them all with a grace of 0", len(old)).
			With("possible_at", slices.MinFunc(old, time.Time.Compare).Format(time.RFC3339Nano))
	}
	return []Decided{p.decided(SigningSecretRotated{ExpiresAt: now.Add(grace), SigningPublicKey: signingPublicKey})}, nil
}

// OldSecretsAt lists the ends of the replaced signing secrets that still sign at a time.
func (p *Endpoint) OldSecretsAt(now time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(p.OldSecrets), func(end time.Time) bool { return !end.After(now) })
}

// EndpointAlarm is when it was last said that an endpoint refuses everything, and with which status.
type EndpointAlarm struct {
	Status int       `json:"status"`
	At     time.Time `json:"at"`
}

const (
	// FailingAfter is after how many equal refusals in a row its owner is told.
	FailingAfter = 3
	// FailingEvery is how often the same is told while it lasts.
	FailingEvery = 24 * time.Hour
)

// NoteFailing decides to tell that the receiver refuses everything with the same 4xx; of the same status once a day.
func (p *Endpoint) NoteFailing(status, failures int, now time.Time) ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	told := p.Failing != nil && p.Failing.Status == status && now.Sub(p.Failing.At) < FailingEvery
	if told || status < 400 || status > 499 || failures < FailingAfter || p.State != EndpointActive {
		return nil, nil
	}
	return []Decided{p.decided(EndpointFailing{Status: status, Failures: failures})}, nil
}

// Delete decides the end of the endpoint. That no live key uses it is not its own state: whoever decides this must see to
// it, in the same transaction, and refuse with EndpointInUse.
func (p *Endpoint) Delete() ([]Decided, error) {
	if err := p.gone(); err != nil {
		return nil, err
	}
	return []Decided{p.decided(EndpointDeleted{})}, nil
}

// EndpointInUse is the refusal to delete an endpoint that live keys use.
func EndpointInUse() *Error {
	return Refuse(CodeEndpointInUse, "live keys use this webhook endpoint; point them to another one first")
}

func (p *Endpoint) decided(data Payload) Decided {
	return Decided{StreamID: string(p.ID), OrganizationID: p.OrganizationID, ProjectID: p.ProjectID, Data: data}
}
