package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrNotVerification says that a body is not an endpoint.verification that can be answered.
var ErrNotVerification = errors.New("webhook message is not a usable " + TypeEndpointVerification)

// Verification asks a receiver to show that it is the right one. Where it registered a key, the challenge is sealed to
// it, so that the answer also shows that secrets sealed to this key will be readable.
type Verification struct {
	OrganizationID string
	EndpointID     string
	Challenge      string
	// SealTo is the receiver's key, or zero.
	SealTo ReceiverKey
}

type verificationWire struct {
	OrganizationID string         `json:"organization_id"`
	EndpointID     string         `json:"endpoint_id"`
	Challenge      string         `json:"challenge,omitempty"`
	Sealed         *keySecretWire `json:"sealed_challenge,omitempty"`
}

// EndpointVerification gives the body of endpoint.verification, for the message with this id.
func EndpointVerification(at time.Time, v Verification, messageID string) ([]byte, error) {
	wire := verificationWire{OrganizationID: v.OrganizationID, EndpointID: v.EndpointID, Challenge: v.Challenge}
	if !v.SealTo.IsZero() {
		info, err := verificationInfo(v.OrganizationID, v.EndpointID)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", TypeEndpointVerification, err)
		}
		sealed, err := sealWire(v.SealTo, info, messageID, v.Challenge)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", TypeEndpointVerification, err)
		}
		wire.Challenge, wire.Sealed = "", &sealed
	}
	return encodeComplete(TypeEndpointVerification, at, v.OrganizationID != "" && v.EndpointID != "" && v.Challenge != "", wire)
}

// ReadVerification gives the challenge of an endpoint.verification whose signature was checked, with a key if it is
// sealed.
func ReadVerification(body []byte, messageID string, keys ...ReceiverPrivateKey) (challenge string, err error) {
	var message struct {
		Type string           `json:"type"`
		Data verificationWire `json:"data"`
	}
	if err := json.Unmarshal(body, &message); err != nil || message.Type != TypeEndpointVerification {
		return "", ErrNotVerification
	}
	if message.Data.Sealed == nil {
		return message.Data.Challenge, nil
	}
	info, err := verificationInfo(message.Data.OrganizationID, message.Data.EndpointID)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotVerification, err)
	}
	return message.Data.Sealed.open(info, messageID, keys)
}

// verificationInfo binds a sealed challenge. Its last part keeps it apart from a sealed secret, whose last part is a
// number.
func verificationInfo(organizationID, endpointID string) ([]byte, error) {
	return sealInfo(organizationID, endpointID, "verification")
}
