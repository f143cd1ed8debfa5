// Package seal encrypts what must wait in the database: signing secrets and client certificates of endpoints, and new
// secrets on their way to a receiver. It is AES-256-GCM with a random nonce under the installation's master key, bound to a
// context, so that a ciphertext moved to another row does not open. It does not protect against whoever holds the master
// key.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// KeySize is the size of the master key in bytes.
const KeySize = 32

// The sealed form is: version, key id, nonce, ciphertext with tag.
const (
	version    = 1
	keyIDSize  = 4
	headerSize = 1 + keyIDSize
)

// ErrWrongKey says that a value was sealed with another master key.
var ErrWrongKey = errors.New("sealed with another master key than REKEY_MASTER_KEY")

// Sealer seals and opens with one master key.
type Sealer struct {
	aead  cipher.AEAD
	keyID [keyIDSize]byte
}

// ParseKey reads a master key: base64 of 32 bytes.
func ParseKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != KeySize {
		return nil, errors.New("the master key must be base64 of 32 bytes; make one with `openssl rand -base64 32`")
	}
	return key, nil
}

// NewKey makes a master key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // never fails: it ends the program instead
	return key
}

// New returns a Sealer for a master key of 32 bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the master key has %d bytes, not %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	s := &Sealer{aead: aead}
	sum := sha256.Sum256(append([]byte("rekey key id "), key...))
	copy(s.keyID[:], sum[:])
	return s, nil
}

// Seal encrypts plaintext for a context, such as the kind and id of the row it is kept in.
func (s *Sealer) Seal(context string, plaintext []byte) []byte {
	header := append([]byte{version}, s.keyID[:]...)
	return s.aead.Seal(header, nil, plaintext, s.bound(header, context))
}

// Open decrypts what Seal made for the same context.
func (s *Sealer) Open(context string, sealed []byte) ([]byte, error) {
	if len(sealed) < headerSize || sealed[0] != version {
		return nil, errors.New("not a sealed value of a known version")
	}
	header := sealed[:headerSize]
	if string(header[1:]) != string(s.keyID[:]) {
		return nil, ErrWrongKey
	}
	plaintext, err := s.aead.Open(nil, nil, sealed[headerSize:], s.bound(header, context))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", context, err)
	}
	return plaintext, nil
}

// bound is what the ciphertext is bound to.
func (s *Sealer) bound(header []byte, context string) []byte {
	return append(append([]byte(nil), header...), context...)
}
