package domain

import (
	"slices"
	"time"
)

// EndpointState says whether webhooks are sent to an endpoint.
type EndpointState string

// States of an endpoint. What is not sent is held.
const (
	EndpointUnverified EndpointState = "unverified" // the receiver has not answered a challenge yet: it gets no secret
	EndpointActive     EndpointState = "active"
	EndpointPaused     EndpointState = "paused"   // its owner wants nothing sent for now
	EndpointDisabled   EndpointState = "disabled" // by its owner, or because the receiver answered 410
)

// Limits on signing secrets.
const (
	DefaultSigningGrace = 24 * time.Hour // how long a replaced signing secret signs too, if nobody says
	MaxSigningGrace     = 7 * 24 * time.Hour
	MaxOldSecrets       = 2 // replaced ones that still sign; each makes every message longer
)

// Endpoint is the state of a webhook receiver.
type Endpoint struct {
	ID             EndpointID     `json:"id"`
	Version        int64          `json:"version"`
	OrganizationID OrganizationID `json:"organization_id"`
	ProjectID      ProjectID      `json:"project_id"`
	LineageID      LineageID      `json:"lineage_id,omitempty"` // made on the fly: the rotation_webhook_url of this lineage
	Target                        // in use
	Proposed       *Target        `json:"proposed,omitempty"` // to be proven before it is
	AckLevel       AckLevel       `json:"ack_level"`
	EventTypes     []MessageType  `json:"event_types,omitempty"` // what it is told of; none: everything
	State          EndpointState  `json:"state"`
	Reason         string         `json:"reason,omitempty"` // of the last change of the state
	// SigningPublicKey verifies the signatures of version v1a; empty for an endpoint that has only ever had a shared secret.
	SigningPublicKey string      `json:"signing_public_key,omitempty"`
	OldSecrets       []time.Time `json:"old_secrets,omitempty"` // ends of replaced signing secrets, in the order of the replacements
	CreatedAt        time.Time   `json:"created_at"`
	UpdatedAt        time.Time   `json:"updated_at"` // when it was made or changed last
	VerifiedAt       *time.Time  `json:"verified_at,omitempty"`
	DeletedAt        *time.Time  `json:"deleted_at,omitempty"`
	// Failing is the last alarm that its receiver refuses everything.
	Failing *EndpointAlarm `json:"failing,omitempty"`
	// ClientCertificate is shown to whoever answers at the address, the proposed one too: it says who rekey is, and not where
	// secrets go, so it needs no proof of its own.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`
}

// StreamVersion is the number of events applied.
func (p *Endpoint) StreamVersion() int64 { return p.Version }

// Apply folds one event into the state.
func (p *Endpoint) Apply(e Event) {
	if p.Version = e.Version; e.Data.Type() != TypeEndpointFailing { // an alarm changes nothing of what was chosen
		p.UpdatedAt = e.OccurredAt
	}
	switch d := e.Data.(type) {
	case EndpointCreated:
		p.ID, p.OrganizationID, p.ProjectID = EndpointID(e.StreamID), e.OrganizationID, e.ProjectID
		p.LineageID, p.CreatedAt, p.AckLevel, p.SigningPublicKey = d.LineageID, e.OccurredAt, d.AckLevel, d.SigningPublicKey
		p.Target, p.EventTypes = Target{d.URL, d.SecretMode, d.ReceiverKey}, d.EventTypes
		p.ClientCertificate = d.ClientCertificate
		p.State = p.initialState()
	case EndpointVerified:
		p.Target, p.Proposed, p.VerifiedAt = d.Target, nil, &e.OccurredAt
		if p.State == EndpointUnverified {
			p.State, p.Reason = EndpointActive, ""
		}
	case EndpointUpdated:
		p.Target, p.Proposed, p.AckLevel, p.EventTypes = d.Target, d.Proposed, d.AckLevel, d.EventTypes
		p.ClientCertificate = d.ClientCertificate
	case EndpointStateChanged:
		p.State, p.Reason = d.State, d.Reason
	case SigningSecretRotated:
		p.SigningPublicKey = d.SigningPublicKey
		p.OldSecrets = slices.DeleteFunc(slices.Clone(p.OldSecrets), func(end time.Time) bool { return !end.After(e.OccurredAt) })
		if p.OldSecrets = append(p.OldSecrets, d.ExpiresAt); !d.ExpiresAt.After(e.OccurredAt) {
			p.OldSecrets = nil
		}
	case EndpointDeleted:
		p.DeletedAt, p.Proposed, p.OldSecrets, p.ClientCertificate = &e.OccurredAt, nil, nil, nil
	case EndpointFailing:
		p.Failing = &EndpointAlarm{d.Status, e.OccurredAt}
	}
}

// initialState is where an endpoint begins, and begins again when it is enabled. A key's own address is taken at its word:
// clients that only know rotation_webhook_url know no challenge.
func (p *Endpoint) initialState() EndpointState {
	if p.LineageID != "" {
		return EndpointActive
	}
	return EndpointUnverified
}

// Usable reports whether a rotation may begin that is to be told to this endpoint. To a paused one it is told later.
func (p *Endpoint) Usable() bool {
	return p.DeletedAt == nil && (p.State == EndpointActive || p.State == EndpointPaused)
}

// Demand is what counts as the arrival of a secret here. Of one that is fetched a 2xx answer shows only that the address
// arrived: if that counted, the secret would be shredded before anybody has it.
func (p *Endpoint) Demand() AckLevel {
	if p.SecretMode == SecretClaim {
		return AckFirstUse
	}
	return p.AckLevel
}

// Wanted is the target that its owner has chosen: the proposed one, if there is one.
func (p *Endpoint) Wanted() Target {
	if p.Proposed != nil {
		return *p.Proposed
	}
	return p.Target
}

// Equal reports whether two targets are the same.
func (t Target) Equal(other Target) bool {
	return t.SecretMode == other.SecretMode && t.samePlace(other)
}

// samePlace reports whether who has proven one target has proven the other: only address and key are proven.
func (t Target) samePlace(other Target) bool {
	return t.URL == other.URL && sameKey(t.ReceiverKey, other.ReceiverKey)
}

func sameKey(a, b *ReceiverKey) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// validate refuses a mode that does not exist, or that needs a key which is not there. The address and the key themselves
// are judged where the network and the cryptography are.
func (t Target) validate() error {
	switch t.SecretMode {
	case SecretPlain, SecretClaim:
		return nil
	case SecretSealed:
		if t.ReceiverKey == nil {
			return InvalidField("receiver_public_key", "is missing", "register the receiver's X25519 public key, which the mode sealed needs")
		}
		return nil
	}
	return InvalidField("secret_mode", "is not a mode", "choose plain, sealed or claim")
}
