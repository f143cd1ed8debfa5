package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The types of messages.
const (
	// TypeRotationCreated brings a receiver its new secret.
	TypeRotationCreated = "key.rotation.created"
	// TypeRotationAcknowledged says that the new secret is known to have arrived, and until when the old one works.
	TypeRotationAcknowledged = "key.rotation.acknowledged"
	// TypeRotationStalled says that the new secret did not arrive. The old one keeps working.
	TypeRotationStalled = "key.rotation.stalled"
	// TypeRotationBlocked says that a rotation was due and could not begin.
	TypeRotationBlocked = "key.rotation.blocked"
	// TypeRotationDeferred says that a rotation was due and begins later.
	TypeRotationDeferred = "key.rotation.deferred"
	// TypeRotationCompleted says that the old secret has ended.
	TypeRotationCompleted = "key.rotation.completed"
	// TypeRotationCancelled says that the new secret will never count: the receiver forgets it.
	TypeRotationCancelled = "key.rotation.cancelled"
	// TypeUsedInGrace says who still uses a secret that is about to end.
	TypeUsedInGrace = "key.version.used_in_grace"
	// TypeVersionRetired says that secrets have ended by time, and not in the course of a rotation.
	TypeVersionRetired = "key.version.retired"
	// TypeKeyRevoked says that somebody ended secrets at once.
	TypeKeyRevoked = "key.revoked"
	// TypeKeyExpiring says that a key ends soon.
	TypeKeyExpiring = "key.expiring"
	// TypeEndpointVerification asks a receiver to show that it holds the signing secret.
	TypeEndpointVerification = "endpoint.verification"
	// TypeEndpointDisabled says that nothing is sent to an endpoint any more.
	TypeEndpointDisabled = "endpoint.disabled"
	// TypeEndpointFailing says that a receiver refuses everything in the same way.
	TypeEndpointFailing = "endpoint.failing"
	// TypeEndpointTest is a message that means nothing.
	TypeEndpointTest = "endpoint.test"
)

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
