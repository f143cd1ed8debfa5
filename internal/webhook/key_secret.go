package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"
)

// The ways in which a message carries a secret.
const (
	ModePlain   = "plain"
	ModeSealed  = "sealed"
	ModeClaim   = "claim"
	ModeOmitted = "omitted"

	// SuiteHPKE is RFC 9180 in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM: the ids 0x0020,
	// 0x0001 and 0x0002.
	SuiteHPKE = "hpke-x25519-sha256-aes256gcm"

	maxSealedBytes = 4 << 10
)

// ErrNotCarried says that a message does not carry the secret itself.
var ErrNotCarried = errors.New("the message does not carry the secret")

// KeySecret is the new key's secret as one message carries it. It prints as [redacted]; the zero value is not valid.
type KeySecret struct {
	wire func() keySecretWire // a function for the reason given at Secret
	// bound is the sealInfo of a secret that was sealed here: a body with other facts would never open.
	bound string
}

type keySecretWire struct {
	Mode           string     `json:"mode"`
	Value          string     `json:"value,omitempty"`
	Suite          string     `json:"suite,omitempty"`
	Recipient      string     `json:"recipient,omitempty"`
	Enc            string     `json:"enc,omitempty"`
	Ciphertext     string     `json:"ct,omitempty"`
	ClaimURL       string     `json:"claim_url,omitempty"`
	ClaimExpiresAt *time.Time `json:"claim_expires_at,omitempty"`
}

// PlainSecret carries the secret readable, for a body that is sent over TLS and stored nowhere unsealed.
func PlainSecret(value string) KeySecret {
	return KeySecret{wire: func() keySecretWire { return keySecretWire{Mode: ModePlain, Value: value} }}
}

// OmittedSecret says that there is a new secret, and not which: for NATS, where many may read.
func OmittedSecret() KeySecret {
	return KeySecret{wire: func() keySecretWire { return keySecretWire{Mode: ModeOmitted} }}
}

// ClaimSecret carries an address at which the secret is fetched, once. The address is as good as the secret until then.
func ClaimSecret(url string, expiresAt time.Time) KeySecret {
	expiresAt = expiresAt.UTC()
	return KeySecret{wire: func() keySecretWire {
		return keySecretWire{Mode: ModeClaim, ClaimURL: url, ClaimExpiresAt: &expiresAt}
	}}
}

// SealSecret carries the secret so that only the owner of a receiver key can read it, in the message with this id about
// this rotation and nowhere else. Sealing twice gives different bytes: seal once and keep the body.
func SealSecret(to ReceiverKey, r Rotation, messageID, secret string) (KeySecret, error) {
	info, err := r.sealInfo()
	if err != nil {
		return KeySecret{}, err
	}
	if secret == "" || !utf8.ValidString(secret) {
		return KeySecret{}, fmt.Errorf("%w: the secret is required, as text", ErrIncompleteMessage)
	}
	wire, err := sealWire(to, info, messageID, secret)
	if err != nil {
		return KeySecret{}, err
	}
	return KeySecret{wire: func() keySecretWire { return wire }, bound: string(info)}, nil
}

func sealWire(to ReceiverKey, info []byte, messageID, secret string) (keySecretWire, error) {
	if !validID(messageID) {
		return keySecretWire{}, ErrMalformedID
	}
	enc, ciphertext, err := to.seal([]byte(secret), info, []byte(messageID))
	if err != nil {
		return keySecretWire{}, err
	}
	return keySecretWire{
		Mode: ModeSealed, Suite: SuiteHPKE, Recipient: to.ID(),
		Enc: base64.StdEncoding.EncodeToString(enc), Ciphertext: base64.StdEncoding.EncodeToString(ciphertext),
	}, nil
}

// Mode says how the secret is carried.
func (k KeySecret) Mode() string {
	if k.wire == nil {
		return ""
	}
	return k.wire().Mode
}

// Claim gives the address of a secret that has to be fetched, and when it ends.
func (k KeySecret) Claim() (url string, expiresAt time.Time, ok bool) {
	if k.Mode() != ModeClaim || k.wire().ClaimURL == "" {
		return "", time.Time{}, false
	}
	if expires := k.wire().ClaimExpiresAt; expires != nil {
		expiresAt = *expires
	}
	return k.wire().ClaimURL, expiresAt, true
}

// Open gives the secret of a plain message, or of a sealed one with the one of the keys that it was sealed to.
func (k KeySecret) Open(r Rotation, messageID string, keys ...ReceiverPrivateKey) (string, error) {
	switch {
	case k.Mode() == ModePlain && k.wire().Value != "":
		return k.wire().Value, nil
	case k.Mode() != ModeSealed:
		return "", ErrNotCarried
	}
	info, err := r.sealInfo()
	if err != nil {
		return "", err
	}
	return k.wire().open(info, messageID, keys)
}

func (w keySecretWire) open(info []byte, messageID string, keys []ReceiverPrivateKey) (string, error) {
	enc, ok := decodeBase64(w.Enc, x25519Size, x25519Size)
	ciphertext, okCiphertext := decodeBase64(w.Ciphertext, 1, maxSealedBytes)
	if w.Suite != SuiteHPKE || !ok || !okCiphertext {
		return "", ErrCannotOpen
	}
	for _, key := range keys {
		if key.Public().ID() != w.Recipient {
			continue
		}
		plaintext, err := key.open(enc, ciphertext, info, []byte(messageID))
		return string(plaintext), err
	}
	return "", ErrCannotOpen
}

// validate refuses what would leave a receiver without the secret, or with another one.
func (k KeySecret) validate(r Rotation) error {
	switch k.Mode() {
	case ModeOmitted:
		return nil
	case ModePlain:
		// encoding/json would replace bytes that are no text and deliver another secret.
		if value := k.wire().Value; value != "" && utf8.ValidString(value) {
			return nil
		}
	case ModeClaim:
		if url, expiresAt, ok := k.Claim(); ok && len(url) <= maxURLLength && utf8.ValidString(url) && !expiresAt.IsZero() {
			return nil
		}
	case ModeSealed:
		if info, err := r.sealInfo(); err == nil && k.bound == string(info) {
			return nil
		}
		return fmt.Errorf("%w: the secret was sealed for another rotation", ErrIncompleteMessage)
	}
	return fmt.Errorf("%w: the secret is required, as text", ErrIncompleteMessage)
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
