package webhook

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	privateKeyPrefix = "whsk_"
	publicKeyPrefix  = "whpk_"
)

// ErrMalformedPublicKey says that a text is not the public half of a signing key.
var ErrMalformedPublicKey = errors.New("public signing key is malformed: want whpk_ and an ed25519 public key of 32 bytes in standard base64")

// NewSigningKey makes a key pair for signatures of version v1a; nil means crypto/rand. Receivers get its PublicKey:
// many of them can then verify, and none can sign.
func NewSigningKey(random io.Reader) (Secret, error) {
	if random == nil {
		random = rand.Reader
	}
	// The seed is read here, because ed25519.GenerateKey does not promise to take the same bytes from a reader twice.
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return Secret{}, fmt.Errorf("read randomness for signing key: %w", err)
	}
	return signingKeyOf(ed25519.NewKeyFromSeed(seed)), nil
}

func signingKeyOf(key ed25519.PrivateKey) Secret {
	return Secret{key: func() []byte { return key }, asymmetric: true}
}

func parseSigningKey(s string) (Secret, error) {
	decoded, ok := decodeBase64(strings.TrimPrefix(s, privateKeyPrefix), ed25519.PrivateKeySize, ed25519.PrivateKeySize)
	if !ok {
		return Secret{}, ErrMalformedSecret
	}
	key := ed25519.NewKeyFromSeed(decoded[:ed25519.SeedSize])
	// Signing under another public key than the seed's own gives the private key away.
	if !key.Equal(ed25519.PrivateKey(decoded)) {
		return Secret{}, ErrMalformedSecret
	}
	return signingKeyOf(key), nil
}

// PublicKey verifies what the private half of a key pair has signed. It is no secret. The zero value verifies nothing.
type PublicKey struct {
	key [ed25519.PublicKeySize]byte
	set bool
}

// PublicKey gives the half of a key pair that receivers verify with, and false for a shared secret.
func (s Secret) PublicKey() (PublicKey, bool) {
	if s.IsZero() || !s.asymmetric {
		return PublicKey{}, false
	}
	return PublicKey{key: [ed25519.PublicKeySize]byte(s.key()[ed25519.SeedSize:]), set: true}, true
}

// ParsePublicKey reads the form that String gives, and that form only.
func ParsePublicKey(s string) (PublicKey, error) {
	encoded, ok := strings.CutPrefix(s, publicKeyPrefix)
	if !ok {
		return PublicKey{}, ErrMalformedPublicKey
	}
	decoded, ok := decodeBase64(encoded, ed25519.PublicKeySize, ed25519.PublicKeySize)
	if !ok {
		return PublicKey{}, ErrMalformedPublicKey
	}
	return PublicKey{key: [ed25519.PublicKeySize]byte(decoded), set: true}, nil
}

// String gives the text for receivers: whpk_ and the key in base64. The zero PublicKey gives "".
func (p PublicKey) String() string {
	if !p.set {
		return ""
	}
	return publicKeyPrefix + base64.StdEncoding.EncodeToString(p.key[:])
}

// Verify is the function Verify for a receiver that knows a public key instead of a secret.
func (p PublicKey) Verify(h http.Header, body []byte, now time.Time) error {
	return verify(h, body, now, nil, []PublicKey{p})
}

// signed says whether a v1a entry of the header is this key's.
func (p PublicKey) signed(content []byte, signature string) bool {
	decoded, ok := decodeBase64(signature, ed25519.SignatureSize, ed25519.SignatureSize)
	return ok && p.set && ed25519.Verify(p.key[:], content, decoded)
}
