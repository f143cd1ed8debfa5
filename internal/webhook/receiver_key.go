package webhook

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const x25519Size = 32

var (
	// ErrMalformedReceiverKey says that a text is not a receiver's key. The text itself is never part of the error.
	ErrMalformedReceiverKey = errors.New("receiver key is malformed: want the 32 bytes of an X25519 key in standard base64")
	// ErrCannotOpen says that a sealed secret was sealed for another key, another rotation or another message, or that it
	// was changed on its way.
	ErrCannotOpen = errors.New("sealed secret cannot be opened")
)

// ReceiverKey is the public key that a receiver registers, so that new secrets are sealed to it. It is no secret.
type ReceiverKey struct{ public *ecdh.PublicKey }

// ParseReceiverKey reads 32 bytes in standard base64, and refuses keys to which nothing can be sealed.
func ParseReceiverKey(s string) (ReceiverKey, error) {
	decoded, ok := decodeBase64(s, x25519Size, x25519Size)
	if !ok {
		return ReceiverKey{}, ErrMalformedReceiverKey
	}
	public, err := ecdh.X25519().NewPublicKey(decoded)
	if err != nil {
		return ReceiverKey{}, ErrMalformedReceiverKey
	}
	// With a point of low order, everybody knows the shared secret. An exchange shows it, with whichever key; without
	// this it would show when the first secret has to be sealed.
	probe, err := ecdh.X25519().NewPrivateKey(append(make([]byte, x25519Size-1), 1))
	if err != nil {
		return ReceiverKey{}, fmt.Errorf("make probe key: %w", err)
	}
	if _, err := probe.ECDH(public); err != nil {
		return ReceiverKey{}, ErrMalformedReceiverKey
	}
	return ReceiverKey{public}, nil
}

// IsZero says whether there is no key in it.
func (k ReceiverKey) IsZero() bool { return k.public == nil }

// String gives the text that ParseReceiverKey reads. The zero key gives "".
func (k ReceiverKey) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k.public.Bytes())
}

// ID names the key in messages, so that a receiver with several knows which one to open with: the first 8 bytes of the
// SHA-256 of the key, in hex.
func (k ReceiverKey) ID() string {
	if k.IsZero() {
		return ""
	}
	sum := sha256.Sum256(k.public.Bytes())
	return hex.EncodeToString(sum[:8])
}

// ReceiverPrivateKey opens what was sealed to its public half. However it is printed, logged or marshalled, it shows as
// [redacted]; only Reveal gives the text.
type ReceiverPrivateKey struct {
	key func() *ecdh.PrivateKey // a function for the reason given at Secret
}

// NewReceiverKey makes a receiver's key pair; nil means crypto/rand.
func NewReceiverKey(random io.Reader) (ReceiverPrivateKey, error) {
	if random == nil {
		random = rand.Reader
	}
	seed := make([]byte, x25519Size)
	if _, err := io.ReadFull(random, seed); err != nil {
		return ReceiverPrivateKey{}, fmt.Errorf("read randomness for receiver key: %w", err)
	}
	return receiverKeyOf(seed)
}

// ParseReceiverPrivateKey reads the form that Reveal gives, and that form only.
func ParseReceiverPrivateKey(s string) (ReceiverPrivateKey, error) {
	decoded, ok := decodeBase64(s, x25519Size, x25519Size)
	if !ok {
		return ReceiverPrivateKey{}, ErrMalformedReceiverKey
	}
	return receiverKeyOf(decoded)
}

func receiverKeyOf(seed []byte) (ReceiverPrivateKey, error) {
	key, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		return ReceiverPrivateKey{}, ErrMalformedReceiverKey
	}
	return ReceiverPrivateKey{func() *ecdh.PrivateKey { return key }}, nil
}

// IsZero says whether there is no key in it.
func (k ReceiverPrivateKey) IsZero() bool { return k.key == nil }

// Public gives the half to register.
func (k ReceiverPrivateKey) Public() ReceiverKey {
	if k.IsZero() {
		return ReceiverKey{}
	}
	return ReceiverKey{k.key().PublicKey()}
}

// Reveal gives the text to keep in a file. The zero key gives "".
func (k ReceiverPrivateKey) Reveal() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k.key().Bytes())
}

// open decrypts what seal made; every failure is ErrCannotOpen, whatever the ciphertext.
func (k ReceiverPrivateKey) open(enc, ciphertext, info, aad []byte) ([]byte, error) {
	if k.IsZero() {
		return nil, ErrCannotOpen
	}
	private, err := hpke.NewDHKEMPrivateKey(k.key())
	if err != nil {
		return nil, fmt.Errorf("use receiver key: %w", err)
	}
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil, ErrCannotOpen
	}
	plaintext, err := recipient.Open(aad, ciphertext)
	if err != nil {
		return nil, ErrCannotOpen
	}
	return plaintext, nil
}

// seal encrypts to the key by RFC 9180, base mode, with an ephemeral key of its own each time.
func (k ReceiverKey) seal(plaintext, info, aad []byte) (enc, ciphertext []byte, err error) {
	if k.IsZero() {
		return nil, nil, ErrMalformedReceiverKey
	}
	public, err := hpke.NewDHKEMPublicKey(k.public)
	if err != nil {
		return nil, nil, fmt.Errorf("use receiver key: %w", err)
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil, nil, fmt.Errorf("seal to receiver key: %w", err)
	}
	if ciphertext, err = sender.Seal(aad, plaintext); err != nil {
		return nil, nil, fmt.Errorf("seal to receiver key: %w", err)
	}
	return enc, ciphertext, nil
}

// String hides the key.
func (ReceiverPrivateKey) String() string { return redacted }

// GoString hides the key from %#v.
func (ReceiverPrivateKey) GoString() string { return redacted }

// Format hides the key from every verb of fmt.
func (ReceiverPrivateKey) Format(f fmt.State, verb rune) { Secret{}.Format(f, verb) }

// LogValue hides the key from log/slog.
func (ReceiverPrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the key from encoding/json.
func (ReceiverPrivateKey) MarshalJSON() ([]byte, error) { return Secret{}.MarshalJSON() }

// MarshalText hides the key from every encoder that works with text.
func (ReceiverPrivateKey) MarshalText() ([]byte, error) { return Secret{}.MarshalText() }
