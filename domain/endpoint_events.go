package domain

import (
	"encoding/json"
	"time"
)

// Types of events in the life of a webhook endpoint.
const (
	TypeEndpointCreated      Type = "EndpointCreated"
	TypeEndpointVerified     Type = "EndpointVerified"
	TypeEndpointUpdated      Type = "EndpointUpdated"
	TypeEndpointStateChanged Type = "EndpointStateChanged"
	TypeSigningSecretRotated Type = "SigningSecretRotated"
	TypeEndpointDeleted      Type = "EndpointDeleted"
	TypeEndpointFailing      Type = "EndpointFailing"
)

// SecretMode says how a new secret travels to a receiver.
type SecretMode string

// Modes of secrets.
const (
	SecretPlain  SecretMode = "plain"  // readable in a body that is signed and sent over TLS
	SecretSealed SecretMode = "sealed" // encrypted to the receiver's public key
	SecretClaim  SecretMode = "claim"  // not in the body: fetched once, at an address that is
)

// ReceiverKey is the public key that secrets for a receiver are sealed to.
type ReceiverKey struct {
	ID        string `json:"id"`         // stands in sealed messages; it follows from the key
	PublicKey string `json:"public_key"` // base64 of 32 bytes, X25519
}

// Target is where secrets go and how: what a receiver has to prove it is before it gets any.
type Target struct {
	URL         string       `json:"url"`
	SecretMode  SecretMode   `json:"secret_mode"`
	ReceiverKey *ReceiverKey `json:"receiver_key,omitempty"`
}

// EndpointCreated registers a webhook receiver. Its signing secret is kept sealed outside the log.
type EndpointCreated struct {
	URL              string       `json:"url"`
	LineageID        LineageID    `json:"lineage_id,omitempty"` // made on the fly for this lineage
	SecretMode       SecretMode   `json:"secret_mode"`          // this and what follows: since revision 2
	AckLevel         AckLevel     `json:"ack_level"`
	ReceiverKey      *ReceiverKey `json:"receiver_key,omitempty"`
	SigningPublicKey string       `json:"signing_public_key,omitempty"`
	// EventTypes are the messages that it is told things with; none: all. Since revision 3.
	EventTypes []MessageType `json:"event_types,omitempty"`
	// ClientCertificate is what may be known of the one shown to the receiver; nil: none. Since revision 4.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`
}

// EndpointVerified records that the receiver answered the challenge. What it proved is in use from now on.
type EndpointVerified struct {
	Target
}

// EndpointUpdated replaces what can be chosen of an endpoint; Changed names the fields that differ. Proposed is a target
// that the receiver has yet to prove; until then the endpoint's own stays in use.
type EndpointUpdated struct {
	Changed []string `json:"changed"`
	Target
	AckLevel AckLevel `json:"ack_level"`
	Proposed *Target  `json:"proposed,omitempty"`
	// EventTypes is as in EndpointCreated. Since revision 2.
	EventTypes []MessageType `json:"event_types,omitempty"`
	// ClientCertificate is as in EndpointCreated. Since revision 3.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`
}

// EndpointStateChanged records that an endpoint was paused, resumed, disabled or enabled.
type EndpointStateChanged struct {
	State  EndpointState `json:"state"`
	Reason string        `json:"reason,omitempty"`
}

// SigningSecretRotated gives the endpoint a new signing secret and key pair. Those before sign too until ExpiresAt; if that
// is the time of the event, none of them does any more.
type SigningSecretRotated struct {
	ExpiresAt        time.Time `json:"expires_at"`
	SigningPublicKey string    `json:"signing_public_key"`
}

// EndpointDeleted ends an endpoint that no live key uses.
type EndpointDeleted struct{}

// Type returns the stable name.
func (EndpointCreated) Type() Type { return TypeEndpointCreated }

// Type returns the stable name.
func (EndpointVerified) Type() Type { return TypeEndpointVerified }

// Type returns the stable name.
func (EndpointUpdated) Type() Type { return TypeEndpointUpdated }

// Type returns the stable name.
func (EndpointStateChanged) Type() Type { return TypeEndpointStateChanged }

// Type returns the stable name.
func (SigningSecretRotated) Type() Type { return TypeSigningSecretRotated }

// EndpointFailing is the early alarm that a receiver refused several messages in a row with the same 4xx: that is rarely
// an outage, and attempts alone will not mend it. Nothing of the endpoint changes by it.
type EndpointFailing struct {
	Status   int `json:"http_status"`
	Failures int `json:"failures"` // in a row, with that status
}

// Type returns the stable name.
func (EndpointFailing) Type() Type { return TypeEndpointFailing }

// Type returns the stable name.
func (EndpointDeleted) Type() Type { return TypeEndpointDeleted }

// endpointModes takes EndpointCreated to revision 2: all that there were before took plain secrets, and a 2xx was enough.
func endpointModes(raw json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	fields["secret_mode"], fields["ack_level"] = json.RawMessage(`"plain"`), json.RawMessage(`"accepted"`)
	return json.Marshal(fields)
}
