package webhook

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	secretPrefix = "whsec_"
	// 48 bytes are a multiple of three, so the base64 form has no padding, which some receivers' libraries refuse and
	// others demand.
	newSecretBytes = 48
	minSecretBytes = 24
	maxSecretBytes = 64

	redacted = "[redacted]"
)

// ErrMalformedSecret says that a text is not a signing secret. The text itself is never part of the error.
var ErrMalformedSecret = errors.New("signing secret is malformed: want whsec_ and 24 to 64 bytes, or whsk_ and an ed25519 key of 64 bytes, in standard base64")

// Secret signs messages: a secret that rekey shares with one receiver (whsec_, signature v1), or the private half of a
// key pair of which the receivers know the public one (whsk_, signature v1a). However it is printed, logged or
// marshalled, it shows as [redacted]; only Reveal gives the text. The zero value signs nothing and verifies nothing.
type Secret struct {
	// A function, because fmt cannot call our methods on an unexported field of somebody else's struct. There it would
	// print the bytes of a slice, and with a verb that does not fit also what a pointer points at; of a function it
	// only ever prints the address.
	key func() []byte
	// asymmetric says that key is an ed25519 private key.
	asymmetric bool
}

func secretOf(key []byte) Secret { return Secret{key: func() []byte { return key }} }

// NewSecret makes a signing secret from 48 bytes of random; nil means crypto/rand.
func NewSecret(random io.Reader) (Secret, error) {
	if random == nil {
		random = rand.Reader
	}
	key := make([]byte, newSecretBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return Secret{}, fmt.Errorf("read randomness for signing secret: %w", err)
	}
	return secretOf(key), nil
}

// ParseSecret reads the form that Reveal gives, and that form only: one secret has one spelling.
func ParseSecret(s string) (Secret, error) {
	if strings.HasPrefix(s, privateKeyPrefix) {
		return parseSigningKey(s)
	}
	encoded, ok := strings.CutPrefix(s, secretPrefix)
	if !ok {
		return Secret{}, ErrMalformedSecret
	}
	key, ok := decodeBase64(encoded, minSecretBytes, maxSecretBytes)
	if !ok {
		return Secret{}, ErrMalformedSecret
	}
	return secretOf(key), nil
}

// decodeBase64 reads standard base64 of so many bytes, in its one spelling.
func decodeBase64(s string, least, most int) ([]byte, bool) {
	if len(s) > base64.StdEncoding.EncodedLen(most) {
		return nil, false
	}
	decoded, err := base64.StdEncoding.DecodeString(s)
	// The decoder skips line breaks and stray trailing bits; encoding again shows them.
	if err != nil || base64.StdEncoding.EncodeToString(decoded) != s {
		return nil, false
	}
	return decoded, len(decoded) >= least && len(decoded) <= most
}

// Reveal gives the text: of a shared secret, to hand to the receiver's owner, once; of a private key, to store sealed.
// The zero Secret gives "".
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	prefix := secretPrefix
	if s.asymmetric {
		prefix = privateKeyPrefix
	}
	return prefix + base64.StdEncoding.EncodeToString(s.key())
}

// Asymmetric says whether it is the private half of a key pair, which never leaves rekey.
func (s Secret) Asymmetric() bool { return s.asymmetric }

// IsZero says whether there is no secret in it.
func (s Secret) IsZero() bool { return s.key == nil }

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// Format hides the secret from every verb of fmt, %x and %d included.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the secret from log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the secret from encoding/json.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText hides the secret from every encoder that works with text.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
