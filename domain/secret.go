package domain

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"unsafe"
)

// The form of a secret is <brand>_<environment>_<random><checksum>.
const (
	secretRandomLength   = 33 // base62 characters, over 196 bits
	secretChecksumLength = 6  // base62 digits of the CRC-32 (IEEE) of everything before them
	secretTailLength     = secretRandomLength + secretChecksumLength

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Bounds on what is looked up at all. Secrets of other systems can be imported, so the lower bound is theirs: what is
// shorter than 16 characters is no secret in any of them.
const (
	MinPresentedLength = 16
	MaxSecretLength    = 512
)

// MinSecretLength is that of a secret that is chosen now, such as a root key: 128 bits in hexadecimal. A text of this
// length that stands where none belongs is taken for a secret put there by mistake, and not repeated.
const MinSecretLength = 32

// redacted is what a secret shows of itself whenever it is printed, logged or marshalled by accident.
const redacted = "[redacted]"

// Secret is the plaintext of a key. Only Reveal returns it; every other way of printing shows [redacted].
//
// The text lies behind a pointer, because package fmt asks no method of a value in an unexported field, or under a verb
// that it refuses (%p, %w): it then prints what the value is made of, and that must be an address, not the secret.
type Secret struct{ value *string }

// MintSecret makes a new secret. A nil source means crypto/rand.
func MintSecret(source io.Reader, brand, environment string) (Secret, error) {
	if source == nil {
		source = rand.Reader
	}
	body, err := randomBase62(source, secretRandomLength)
	if err != nil {
		return Secret{}, fmt.Errorf("read randomness: %w", err)
	}
	head := brand + "_" + environment + "_" + body
	value := head + checksum(head)
	return Secret{&value}, nil
}

// randomBase62 draws uniformly: six bits at a time, and values above the alphabet are thrown away, not folded.
func randomBase62(source io.Reader, length int) (string, error) {
	out := make([]byte, 0, length)
	var buf [48]byte
	for {
		if _, err := io.ReadFull(source, buf[:]); err != nil {
			return "", err
		}
		for _, b := range buf {
			if v := b & 63; v < 62 {
				if out = append(out, base62[v]); len(out) == length {
					return string(out), nil
				}
			}
		}
	}
}

// checksum returns the CRC-32 of s as six base62 digits, most significant first.
func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [secretChecksumLength]byte
	for i := secretChecksumLength - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// ParseSecret takes what a caller presented. It refuses, without any lookup, what cannot be a key: wrong length or
// characters, and text in our own form whose checksum is wrong. Text in another form is let through, because keys of
// other systems can be imported.
func ParseSecret(s string) (Secret, bool) {
	if !plausible(s) {
		return Secret{}, false
	}
	return Secret{&s}, true // so short that it is inlined, and then the pointer costs no allocation
}

func plausible(s string) bool {
	if len(s) < MinPresentedLength || len(s) > MaxSecretLength {
		return false
	}
	if isOurForm(s) { // all of its characters are good
		return hasChecksum(s)
	}
	return consistsOf(s, inSecrets)
}

// isOurForm reports whether s has the exact form that MintSecret gives.
func isOurForm(s string) bool {
	head := len(s) - secretTailLength - 1
	if head < 0 || s[head] != '_' {
		return false
	}
	brand, environment, ok := strings.Cut(s[:head], "_")
	return ok && validSlug(brand) && validSlug(environment) && consistsOf(s[head+1:], inTails)
}

// hasChecksum reports whether a text in our form ends with the checksum of what is before it.
func hasChecksum(s string) bool {
	end := len(s) - secretChecksumLength
	sum := crc32.ChecksumIEEE(bytesOf(s[:end]))
	for i := len(s) - 1; i >= end; i-- {
		if s[i] != base62[sum%62] {
			return false
		}
		sum /= 62
	}
	return true
}

// withinKeys finds the long part of keys, with all that it hangs together with.
var withinKeys = regexp.MustCompile(`[0-9A-Za-z_-]*[0-9A-Za-z]{` + strconv.Itoa(secretTailLength) + `}[0-9A-Za-z_-]*`)

// WithoutKeys returns a text in which everything that may be a key is replaced, for texts of callers that are kept: one may
// have slipped into them.
func WithoutKeys(text string) string { return withinKeys.ReplaceAllString(text, redacted) }

// What a character may be in; one look at a table for each character, because every verify looks at all of them.
const (
	inSecrets = 1 << iota // printable ASCII without the space
	inTails               // base62
)

var characters = func() (table [256]uint8) {
	for c := '!'; c <= '~'; c++ {
		table[c] = inSecrets
	}
	for _, c := range base62 {
		table[c] |= inTails
	}
	return table
}()

// consistsOf looks at all characters, whatever the first ones are: most texts are good, and then it is faster so.
func consistsOf(s string, class uint8) bool {
	for i := range len(s) {
		class &= characters[s[i]]
	}
	return class != 0
}

// bytesOf is a text without a copy. Whoever gets it only reads it.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == nil }

// Reveal returns the plaintext, for the answer to its owner and for sealing. Nothing else may call it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Digest is the SHA-256 of the secret, the only form that is stored.
func (s Secret) Digest() Digest { return DigestOf(s.Reveal()) }

// DigestOf is the SHA-256 of what was presented, whether it can be a secret or not.
func DigestOf(presented string) Digest { return sha256.Sum256(bytesOf(presented)) }

// Prefix is the part that may be shown: brand, environment and four random characters; of a secret in another form the
// first eight characters, or of a short one an eighth.
func (s Secret) Prefix() string {
	value := s.Reveal()
	switch {
	case isOurForm(value):
		return value[:len(value)-secretTailLength+4]
	case len(value) < MinSecretLength:
		return value[:len(value)/8]
	}
	return value[:8]
}

// LastFour is the other part that may be shown; of a short secret it is less.
func (s Secret) LastFour() string {
	value := s.Reveal()
	return value[len(value)-min(4, len(value)/8):]
}

// String redacts.
func (s Secret) String() string { return redacted }

// GoString redacts %#v.
func (s Secret) GoString() string { return redacted }

// Format redacts every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue redacts in structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON redacts in JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText redacts in everything that takes text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Digest is the SHA-256 of a secret. It is written in hexadecimal.
type Digest [sha256.Size]byte

// String writes the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*len(d) {
		return fmt.Errorf("digest has %d characters, not %d", len(text), 2*len(d))
	}
	_, err := hex.Decode(d[:], text)
	return err
}
