package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrNotRotation says that a body is not a key.rotation.created that can be used.
var ErrNotRotation = errors.New("webhook message is not a usable " + TypeRotationCreated)

// Rotation is what a receiver learns about a hand-over, the secret aside. Its JSON is the contract with receivers: names,
// order and types are frozen in testdata.
type Rotation struct {
	OrganizationID string `json:"organization_id,omitempty"`
	KeyID          string `json:"key_id"`
	PreviousKeyID  string `json:"previous_key_id"`
	LineageID      string `json:"lineage_id"`
	// Generation is the new key's. Receivers ignore one that is lower than what they hold.
	Generation   int64  `json:"generation"`
	RotationID   string `json:"rotation_id"`
	GraceSeconds int64  `json:"grace_seconds"`
	// Trigger is why: interval, manual, compromise.
	Trigger string `json:"trigger,omitempty"`
	// AckLevel is what the receiver has to do: accepted, proof, first_use.
	AckLevel string `json:"ack_level,omitempty"`
	// ExpiresAt is when the new key ends by itself; the zero time is never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// rotationWire is the data of key.rotation.created.
type rotationWire struct {
	Rotation
	Secret keySecretWire `json:"secret"`
}

// RotationCreated gives the body of key.rotation.created. The same rotation gives the same bytes each time, the secret's
// mode aside.
func RotationCreated(at time.Time, r Rotation, secret KeySecret) ([]byte, error) {
	if err := errors.Join(r.validate(), secret.validate(r)); err != nil {
		return nil, fmt.Errorf("encode %s: %w", TypeRotationCreated, err)
	}
	return Message{Type: TypeRotationCreated, At: at, Data: rotationWire{r.utc(), secret.wire()}}.Encode()
}

// ReadRotation reads a key.rotation.created whose signature was checked. What it does not know is skipped, since messages
// may gain fields.
func ReadRotation(body []byte) (Rotation, KeySecret, error) {
	var message struct {
		Type string       `json:"type"`
		Data rotationWire `json:"data"`
	}
	if err := json.Unmarshal(body, &message); err != nil || message.Type != TypeRotationCreated {
		return Rotation{}, KeySecret{}, ErrNotRotation
	}
	wire := message.Data.Secret
	secret := KeySecret{wire: func() keySecretWire { return wire }}
	if err := message.Data.Rotation.validate(); err != nil {
		return Rotation{}, KeySecret{}, fmt.Errorf("%w: %w", ErrNotRotation, err)
	}
	return message.Data.Rotation, secret, nil
}

// validate refuses what would leave a receiver with a secret it cannot place.
func (r Rotation) validate() error {
	switch {
	case r.KeyID == "" || r.PreviousKeyID == "" || r.LineageID == "" || r.RotationID == "":
		return fmt.Errorf("%w: every id is required", ErrIncompleteMessage)
	case r.Generation < 1 || r.GraceSeconds < 0:
		return fmt.Errorf("%w: generation counts from 1 and grace from 0", ErrIncompleteMessage)
	}
	return nil
}

func (r Rotation) utc() Rotation {
	if !r.ExpiresAt.IsZero() {
		r.ExpiresAt = r.ExpiresAt.UTC()
	}
	return r
}

// sealInfo is what a sealed secret is bound to beside the message's id: moved to another organization, key, rotation or
// generation, it does not open.
func (r Rotation) sealInfo() ([]byte, error) {
	return sealInfo(r.OrganizationID, r.KeyID, r.RotationID, strconv.FormatInt(r.Generation, 10))
}

// sealInfo joins parts by NUL. No part is empty or holds one, so that two different lists never give the same bytes.
func sealInfo(parts ...string) ([]byte, error) {
	info := "rekey/v1"
	for _, part := range parts {
		if part == "" || strings.ContainsRune(part, 0) {
			return nil, fmt.Errorf("%w: sealing needs the organization and every id", ErrIncompleteMessage)
		}
		info += "\x00" + part
	}
	return []byte(info), nil
}
