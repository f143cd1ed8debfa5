package domain

import (
	"encoding/json"
	"time"
)

// Type names a kind of event. The names are past tense, stable for ever, and part of the public wire form.
type Type string

// Types of events. Each has a payload below and a golden file per revision.
const (
	TypeCreated              Type = "Created"
	TypeUpdated              Type = "Updated"
	TypeRotated              Type = "Rotated"
	TypeRotationAcknowledged Type = "RotationAcknowledged"
	TypeRotationCancelled    Type = "RotationCancelled"
	TypeRotationStalled      Type = "RotationStalled"
	TypeRotationRedelivered  Type = "RotationRedelivered"
	TypeRotationTimedOut     Type = "RotationTimedOut"
	TypeRotationRolledBack   Type = "RotationRolledBack"
	TypeRotationDeferred     Type = "RotationDeferred"
	TypeRotationBlocked      Type = "RotationBlocked"
	TypeGraceChanged         Type = "GraceChanged"
	TypeGraceExpired         Type = "GraceExpired"
	TypeExpired              Type = "Expired"
	TypeRevoked              Type = "Revoked"
	TypeOrganizationCreated  Type = "OrganizationCreated"
	TypeOrganizationUpdated  Type = "OrganizationUpdated"
	TypeProjectCreated       Type = "ProjectCreated"
	TypeProjectUpdated       Type = "ProjectUpdated"
	TypeProjectDeleted       Type = "ProjectDeleted"
	TypeEnvironmentCreated   Type = "EnvironmentCreated"
)

// Payload is what one type of event says beyond what all events carry.
type Payload interface{ Type() Type }

// Event is one fact in a stream: the payload and what every event carries.
type Event struct {
	ID             EventID
	StreamID       string
	Version        int64 // 1 for the first event of the stream
	OrganizationID OrganizationID
	ProjectID      ProjectID // empty for events of an organization
	Actor          Actor
	RequestID      string // empty for work nobody asked for over HTTP
	OccurredAt     time.Time
	Data           Payload
}

// Actor says who caused an event: the id of the caller's key, or "system:" and the part of rekey that acted by itself.
type Actor string

// Actors that are no key.
const (
	ActorSetup   Actor = "system:setup"   // the first start
	ActorSweep   Actor = "system:sweep"   // time: a due rotation, a grace or a life that ran out
	ActorDeliver Actor = "system:deliver" // a receiver's answer, or its absence
)

// Settings are what an owner chooses for a key; all generations of a lineage share them.
type Settings struct {
	Name                    string          `json:"name"`
	Scopes                  Scopes          `json:"scopes"`
	Resources               Resources       `json:"resources,omitempty"`
	ExpiresAt               *time.Time      `json:"expires_at,omitempty"`
	RotationIntervalSeconds int64           `json:"rotation_interval_seconds,omitempty"`
	GraceSeconds            int64           `json:"grace_seconds"` // of interval rotations
	EndpointID              EndpointID      `json:"endpoint_id,omitempty"`
	WebhookURL              string          `json:"rotation_webhook_url,omitempty"`
	Metadata                json.RawMessage `json:"metadata,omitempty"`
	// What limits the use of all generations together. This and what follows: since revision 3 of Created and 2 of Updated.
	Disabled   bool        `json:"disabled,omitempty"`
	AllowedIPs Networks    `json:"allowed_ips,omitempty"`
	RateLimit  *RateLimit  `json:"rate_limit,omitempty"`
	UsageLimit *UsageLimit `json:"usage_limit,omitempty"`
}

// SecretFacts are what is kept of a secret: enough to find it and to show which one it is, not to use it.
type SecretFacts struct {
	Digest   Digest `json:"secret_sha256"`
	Prefix   string `json:"key_prefix"`
	LastFour string `json:"last_four"`
}

// FactsOf returns what may be kept of a secret.
func FactsOf(s Secret) SecretFacts {
	return SecretFacts{Digest: s.Digest(), Prefix: s.Prefix(), LastFour: s.LastFour()}
}

// Created begins a lineage with its first generation.
type Created struct {
	KeyID KeyID `json:"key_id"`
	SecretFacts
	EnvironmentID EnvironmentID `json:"environment_id"`
	Environment   string        `json:"environment"` // its name, part of each secret
	Brand         string        `json:"brand"`       // the project's, part of each secret
	Settings
	Operator       bool       `json:"operator,omitempty"`
	Imported       bool       `json:"imported,omitempty"` // another system issued the secret
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// Updated replaces the settings; Changed names the fields that differ.
type Updated struct {
	Changed []string `json:"changed"`
	Settings
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// Trigger says why a rotation began.
type Trigger string

// Triggers of rotations.
const (
	TriggerInterval Trigger = "interval"
	TriggerManual   Trigger = "manual"
	// TriggerCompromise is asked for because somebody else may have the secret: the old key ends at once.
	TriggerCompromise Trigger = "compromise"
)

// AckLevel says how a new secret is known to have arrived.
type AckLevel string

// Levels of acknowledgment.
const (
	AckAnswer   AckLevel = "answer"    // returned to the caller who asked for the rotation
	AckAccepted AckLevel = "accepted"  // 2xx from the receiver
	AckProof    AckLevel = "proof"     // 2xx from the receiver, with a proof that it has the secret
	AckFirstUse AckLevel = "first_use" // the new key verified
	AckClaim    AckLevel = "claim"     // fetched by the old key
	AckForced   AckLevel = "forced"    // nobody knows; somebody decided to go on
)

// ackOrder is how strong a sign is. What was handed over, or decided, meets every demand.
var ackOrder = map[AckLevel]int{AckAccepted: 0, AckProof: 1, AckFirstUse: 2, AckClaim: 3, AckAnswer: 3, AckForced: 3}

// Meets reports whether a sign is as strong as the one demanded. No demand is that of AckAccepted.
func (a AckLevel) Meets(demand AckLevel) bool { return ackOrder[a] >= ackOrder[demand] }

// Rotated adds a generation. If Acknowledged is set the hand-over is already known to have arrived (the secret was the
// answer of the request), and the previous generation has its deadline; else the new one is pending.
type Rotated struct {
	RotationID    RotationID `json:"rotation_id"`
	Trigger       Trigger    `json:"trigger"`
	PreviousKeyID KeyID      `json:"previous_key_id"`
	KeyID         KeyID      `json:"key_id"`
	Generation    int        `json:"generation"`
	SecretFacts
	GraceSeconds   int64      `json:"grace_seconds"`
	EndpointID     EndpointID `json:"endpoint_id,omitempty"` // who is sent the secret; none: it is claimed by the old key
	Demand         AckLevel   `json:"ack_demand,omitempty"`  // what counts as arrived; none: AckAccepted. Since revision 2
	Deadline       *time.Time `json:"deadline,omitempty"`    // when the waiting is too long, and the policy says what then. Since revision 2
	Acknowledged   AckLevel   `json:"acknowledged,omitempty"`
	GraceExpiresAt *time.Time `json:"grace_expires_at,omitempty"`
	RevokedKeyIDs  []KeyID    `json:"revoked_key_ids,omitempty"` // older keys that end with it, because the secret is compromised. Since revision 2
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// RotationAcknowledged makes the pending generation the active one and gives the previous one its deadline.
type RotationAcknowledged struct {
	RotationID     RotationID `json:"rotation_id"`
	PreviousKeyID  KeyID      `json:"previous_key_id"`
	KeyID          KeyID      `json:"key_id"`
	Level          AckLevel   `json:"level"`
	GraceExpiresAt time.Time  `json:"grace_expires_at"`
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// RotationCancelled discards the pending generation; the previous one stays active.
type RotationCancelled struct {
	RotationID     RotationID `json:"rotation_id"`
	KeyID          KeyID      `json:"key_id"`
	Reason         string     `json:"reason"`
	SupersededBy   RotationID `json:"superseded_by,omitempty"` // another rotation takes its place. Since revision 2
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// RotationStalled records that delivery was given up for now; both generations stay as they are.
type RotationStalled struct {
	RotationID RotationID `json:"rotation_id"`
	KeyID      KeyID      `json:"key_id"`
	Reason     string     `json:"reason"`
}

// RotationRedelivered asks for the same secret to be delivered again, with new attempts.
type RotationRedelivered struct {
	RotationID RotationID `json:"rotation_id"`
	KeyID      KeyID      `json:"key_id"`
}

// RotationTimedOut records that a new secret has not arrived within the longest overlap, and that the old key is kept all
// the same. It is recorded again at NextAt, if the rotation still waits then.
type RotationTimedOut struct {
	RotationID RotationID `json:"rotation_id"`
	KeyID      KeyID      `json:"key_id"`
	NextAt     time.Time  `json:"next_at"`
}

// RotationRolledBack makes the previous generation, which was in grace, the active one again. The newer one gets a deadline.
type RotationRolledBack struct {
	RotationID     RotationID `json:"rotation_id"`
	KeyID          KeyID      `json:"key_id"`          // active again
	ReplacedKeyID  KeyID      `json:"replaced_key_id"` // the newer one
	GraceExpiresAt time.Time  `json:"grace_expires_at"`
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
}

// RotationDeferred records that an interval rotation cannot begin at its slot, and when it will.
type RotationDeferred struct {
	KeyID  KeyID          `json:"key_id"`
	SlotAt time.Time      `json:"slot_at"`
	Until  time.Time      `json:"until"`
	Reason DeferralReason `json:"reason"`
}

// DeferralReason says why an interval rotation has to wait.
type DeferralReason string

// Reasons of deferrals.
const (
	DeferredByGraces DeferralReason = "too_many_in_grace" // older generations have not run out
	DeferredByWindow DeferralReason = "outside_window"    // it may only begin in the policy's window
)

// RotationBlocked records that an interval rotation is due and nobody can be sent the new secret. It begins once somebody
// can; it is recorded again only at the next slot.
type RotationBlocked struct {
	KeyID      KeyID      `json:"key_id"`
	EndpointID EndpointID `json:"endpoint_id"`
	SlotAt     time.Time  `json:"slot_at"`
	Reason     string     `json:"reason"` // what is wrong with the receiver
}

// GraceChanged moves the deadline of a generation in grace.
type GraceChanged struct {
	RotationID     RotationID `json:"rotation_id"`
	KeyID          KeyID      `json:"key_id"`
	GraceExpiresAt time.Time  `json:"grace_expires_at"`
}

// GraceExpired records that a generation's grace ran out, or was ended.
type GraceExpired struct {
	KeyID       KeyID      `json:"key_id"`
	Early       bool       `json:"early,omitempty"`        // it was ended before its deadline. Since revision 2
	Reason      string     `json:"reason,omitempty"`       // why, if nobody ended it by hand: ReasonUnused. Since revision 3
	UnusedSince *time.Time `json:"unused_since,omitempty"` // the latest use, or since when all uses are known. Since revision 3
}

// Expired records that the lineage's life ran out.
type Expired struct {
	KeyIDs []KeyID `json:"key_ids"`
}

// Revoked ends generations at once: the named key, and when it was the active one all live ones beside it.
type Revoked struct {
	KeyID  KeyID   `json:"key_id"`
	KeyIDs []KeyID `json:"key_ids"`
	Reason string  `json:"reason,omitempty"`
}

// OrganizationCreated begins a tenant.
type OrganizationCreated struct {
	Name string `json:"name"`
}

// OrganizationUpdated replaces what can be chosen of a tenant; Changed names the fields that differ.
type OrganizationUpdated struct {
	Changed          []string `json:"changed"`
	Name             string   `json:"name"`
	DisabledSurfaces []string `json:"disabled_surfaces,omitempty"`
}

// ProjectCreated begins a product of a tenant.
type ProjectCreated struct {
	Name   string `json:"name"`
	Brand  string `json:"brand"`
	Policy Policy `json:"policy,omitzero"` // since revision 2
}

// ProjectUpdated replaces what can be chosen of a project; Changed names the fields that differ.
type ProjectUpdated struct {
	Changed []string `json:"changed"`
	Name    string   `json:"name"`
	Brand   string   `json:"brand"`
	Policy  Policy   `json:"policy,omitzero"`
}

// ProjectDeleted ends a project that has no live keys.
type ProjectDeleted struct{}

// EnvironmentCreated adds an environment to a project.
type EnvironmentCreated struct {
	EnvironmentID EnvironmentID `json:"environment_id"`
	Name          string        `json:"name"`
}

// Type returns the stable name.
func (Created) Type() Type { return TypeCreated }

// Type returns the stable name.
func (Updated) Type() Type { return TypeUpdated }

// Type returns the stable name.
func (Rotated) Type() Type { return TypeRotated }

// Type returns the stable name.
func (RotationAcknowledged) Type() Type { return TypeRotationAcknowledged }

// Type returns the stable name.
func (RotationCancelled) Type() Type { return TypeRotationCancelled }

// Type returns the stable name.
func (RotationStalled) Type() Type { return TypeRotationStalled }

// Type returns the stable name.
func (RotationRedelivered) Type() Type { return TypeRotationRedelivered }

// Type returns the stable name.
func (RotationTimedOut) Type() Type { return TypeRotationTimedOut }

// Type returns the stable name.
func (RotationRolledBack) Type() Type { return TypeRotationRolledBack }

// Type returns the stable name.
func (RotationDeferred) Type() Type { return TypeRotationDeferred }

// Type returns the stable name.
func (RotationBlocked) Type() Type { return TypeRotationBlocked }

// Type returns the stable name.
func (GraceChanged) Type() Type { return TypeGraceChanged }

// Type returns the stable name.
func (GraceExpired) Type() Type { return TypeGraceExpired }

// Type returns the stable name.
func (Expired) Type() Type { return TypeExpired }

// Type returns the stable name.
func (Revoked) Type() Type { return TypeRevoked }

// Type returns the stable name.
func (OrganizationCreated) Type() Type { return TypeOrganizationCreated }

// Type returns the stable name.
func (OrganizationUpdated) Type() Type { return TypeOrganizationUpdated }

// Type returns the stable name.
func (ProjectCreated) Type() Type { return TypeProjectCreated }

// Type returns the stable name.
func (ProjectUpdated) Type() Type { return TypeProjectUpdated }

// Type returns the stable name.
func (ProjectDeleted) Type() Type { return TypeProjectDeleted }

// Type returns the stable name.
func (EnvironmentCreated) Type() Type { return TypeEnvironmentCreated }
