package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// TypeRotationCreated is the type of the message that brings a receiver its new secret.
const TypeRotationCreated = "key.rotation.created"

// ErrIncompleteMessage says that a message lacks a part its receivers rely on.
var ErrIncompleteMessage = errors.New("webhook message is incomplete")

// Message is the body of every webhook.
type Message struct {
	// Type is a dotted name such as key.rotation.created.
	Type string
	// At is when the event happened, not when the message is sent.
	At time.Time
	// Data is what encoding/json makes of it; a struct, so that the order of its fields is stable.
	Data any
}

// Encode gives the bytes to sign, to store and to send. Encode once and keep them: the signature is over bytes, and a
// second encoding need not give the same ones.
func (m Message) Encode() ([]byte, error) {
	if !validType(m.Type) || m.At.IsZero() || m.Data == nil {
		return nil, fmt.Errorf("encode webhook message: %w: type, time and data are required", ErrIncompleteMessage)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	// A webhook is not embedded in HTML, and an escaped < only confuses people who read it.
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{m.Type, m.At.UTC(), m.Data})
	if err != nil {
		return nil, fmt.Errorf("encode webhook message: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), nil
}

// validType holds for words of letters, digits and underscores, joined by full stops.
func validType(s string) bool {
	for word := range strings.SplitSeq(s, ".") {
		if word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return false
		}
	}
	return true
}

// Rotation is what a receiver learns about a hand-over, the secret aside.
type Rotation struct {
	KeyID         string
	PreviousKeyID string
	LineageID     string
	// Generation is the new key's. Receivers ignore one that is lower than what they hold.
	Generation   int64
	RotationID   string
	GraceSeconds int64
}

// KeySecret is the new key's secret as one message carries it. It prints as [redacted]; the zero value is not valid.
type KeySecret struct {
	wire func() keySecretWire // a function for the reason given at Secret
}

type keySecretWire struct {
	Mode  string `json:"mode"`
	Value string `json:"value,omitempty"`
}

// PlainSecret carries the secret readable, for a body that is sent over TLS and stored nowhere unsealed.
func PlainSecret(value string) KeySecret {
	return KeySecret{func() keySecretWire { return keySecretWire{Mode: "plain", Value: value} }}
}

// OmittedSecret says that there is a new secret, and not which: for NATS, where many may read.
func OmittedSecret() KeySecret {
	return KeySecret{func() keySecretWire { return keySecretWire{Mode: "omitted"} }}
}

// String hides the secret.
func (KeySecret) String() string { return redacted }

// GoString hides the secret from %#v.
func (KeySecret) GoString() string { return redacted }

// Format hides the secret from every verb of fmt.
func (KeySecret) Format(f fmt.State, verb rune) { Secret{}.Format(f, verb) }

// LogValue hides the secret from log/slog.
func (KeySecret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the secret; RotationCreated is the one way to put it into a message.
func (KeySecret) MarshalJSON() ([]byte, error) { return Secret{}.MarshalJSON() }

// MarshalText hides the secret from every encoder that works with text.
func (KeySecret) MarshalText() ([]byte, error) { return Secret{}.MarshalText() }

// RotationCreated gives the body of key.rotation.created. The same rotation gives the same bytes each time, the secret's
// mode aside.
func RotationCreated(at time.Time, r Rotation, secret KeySecret) ([]byte, error) {
	if err := r.validate(secret); err != nil {
		return nil, fmt.Errorf("encode %s: %w", TypeRotationCreated, err)
	}
	return Message{Type: TypeRotationCreated, At: at, Data: rotationWire{
		KeyID:         r.KeyID,
		PreviousKeyID: r.PreviousKeyID,
		LineageID:     r.LineageID,
		Generation:    r.Generation,
		RotationID:    r.RotationID,
		GraceSeconds:  r.GraceSeconds,
		Secret:        secret.wire(),
	}}.Encode()
}

// validate refuses what would leave a receiver with a secret it cannot place, or without one.
func (r Rotation) validate(secret KeySecret) error {
	switch {
	case r.KeyID == "" || r.PreviousKeyID == "" || r.LineageID == "" || r.RotationID == "":
		return fmt.Errorf("%w: every id is required", ErrIncompleteMessage)
	case r.Generation < 1 || r.GraceSeconds < 0:
		return fmt.Errorf("%w: generation counts from 1 and grace from 0", ErrIncompleteMessage)
	case secret.wire == nil || secret.wire() == (keySecretWire{Mode: "plain"}):
		return fmt.Errorf("%w: the secret is required", ErrIncompleteMessage)
	case !utf8.ValidString(secret.wire().Value):
		// encoding/json would replace the bytes and deliver another secret.
		return fmt.Errorf("%w: the secret is not text", ErrIncompleteMessage)
	}
	return nil
}

// rotationWire is the contract with receivers: names, order and types are frozen in testdata.
type rotationWire struct {
	KeyID         string        `json:"key_id"`
	PreviousKeyID string        `json:"previous_key_id"`
	LineageID     string        `json:"lineage_id"`
	Generation    int64         `json:"generation"`
	RotationID    string        `json:"rotation_id"`
	GraceSeconds  int64         `json:"grace_seconds"`
	Secret        keySecretWire `json:"secret"`
}
