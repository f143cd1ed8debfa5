package domain

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds of an import.
const (
	MaxImport      = 1000
	maxFaults      = 20 // that one refusal names
	maxShownPrefix = 16 // of a secret that only its owner has
	maxShownTail   = 4
)

// ForeignSecret is what its owner tells of a secret that another system issued: the secret itself, or its SHA-256 and
// what may be shown of it.
type ForeignSecret struct {
	Key       string
	SHA256    string // in hexadecimal or base64
	KeyPrefix string
	LastFour  string
}

// Field names the field that says which secret it is.
func (s ForeignSecret) Field() string {
	if s.Key == "" && s.SHA256 != "" {
		return "sha256"
	}
	return "key"
}

// Facts returns what is kept of the secret. No refusal repeats anything of it.
func (s ForeignSecret) Facts() (SecretFacts, error) {
	switch {
	case s.Key == "" && s.SHA256 == "":
		return SecretFacts{}, InvalidField("key", "is missing", "send the secret as key, or its SHA-256 as sha256")
	case s.Key != "" && s.SHA256 != "":
		return SecretFacts{}, InvalidField("sha256", "is given beside key", "send one of the two")
	case s.Key == "":
		return s.hashed()
	case s.KeyPrefix != "":
		return SecretFacts{}, InvalidField("key_prefix", "is given beside key", "leave it out; it is taken from the key")
	case s.LastFour != "":
		return SecretFacts{}, InvalidField("last_four", "is given beside key", "leave it out; it is taken from the key")
	case len(s.Key) < MinPresentedLength:
		return SecretFacts{}, InvalidField("key", "is too short to be a safe secret",
			fmt.Sprintf("issue a new key in its place; what is shorter than %d characters can be guessed", MinPresentedLength))
	}
	secret, ok := ParseSecret(s.Key)
	if !ok {
		return SecretFacts{}, CannotBeImported("key")
	}
	return FactsOf(secret), nil
}

// CannotBeImported is the one refusal of a secret that can never be a key here: its characters, its checksum, or that it
// belongs to somebody else, who must not be told apart.
func CannotBeImported(field string) *Error {
	return InvalidField(field, "cannot be imported", "issue a new key in its place")
}

// hashed are the facts of a secret that only its owner has.
func (s ForeignSecret) hashed() (SecretFacts, error) {
	digest, ok := readDigest(s.SHA256)
	if !ok {
		return SecretFacts{}, InvalidField("sha256", "is not a SHA-256 digest", "send 64 hexadecimal digits, or base64 of the 32 bytes")
	}
	facts := SecretFacts{Digest: digest, Prefix: s.KeyPrefix, LastFour: s.LastFour}
	switch {
	case !visible(s.KeyPrefix) || len(s.KeyPrefix) > maxShownPrefix && !isOurPrefix(s.KeyPrefix) || s.shows(digest):
		return SecretFacts{}, InvalidField("key_prefix", "cannot be shown",
			fmt.Sprintf("send the first characters of the secret, at most %d; they are shown in lists", maxShownPrefix))
	case !visible(s.LastFour) || len(s.LastFour) > maxShownTail:
		return SecretFacts{}, InvalidField("last_four", "cannot be shown", "send the last characters of the secret, at most four; they are shown in lists")
	}
	return facts, nil
}

// shows reports whether what is meant to be shown is the secret itself.
func (s ForeignSecret) shows(digest Digest) bool {
	return sha256.Sum256([]byte(s.KeyPrefix)) == digest || sha256.Sum256([]byte(s.KeyPrefix+s.LastFour)) == digest
}

// isOurPrefix reports whether a text is what Secret.Prefix shows of a secret in our own form.
func isOurPrefix(s string) bool {
	return len(s) > 4 && isOurForm(s+strings.Repeat("0", secretTailLength-4))
}

func visible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}

// readDigest reads the spellings of a SHA-256 that other systems store.
func readDigest(text string) (digest Digest, ok bool) {
	if len(text) == 2*len(digest) {
		err := digest.UnmarshalText([]byte(text))
		return digest, err == nil
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	const unpadded = (len(digest)*8 + 5) / 6
	if len(text) == unpadded+1 {
		text = strings.TrimSuffix(text, "=")
	}
	if len(text) != unpadded {
		return digest, false
	}
	n, err := encoding.Strict().Decode(digest[:], []byte(text))
	return digest, err == nil && n == len(digest) // less if it skipped line ends
}

// ImportKey is one entry of an import.
type ImportKey struct {
	CreateKey
	Field  string // names the field of its secret
	Exists bool   // it is a key of this project already: nothing is to be done
	Fault  error  // what was wrong with it before it came to its settings
}

// ImportKeysIn decides lineages for secrets that other systems issued, each by the rules of any new key. It decides all of
// them or none: the refusal names the first fault of each entry.
func (p *Project) ImportKeysIn(keys []ImportKey, limits Limits, now time.Time) ([]Decided, error) {
	var out []Decided
	var wrong faults
	for i, key := range keys {
		if key.Exists {
			continue
		}
		var decided []Decided
		err := key.Fault
		if err == nil {
			decided, err = p.CreateKeyIn(key.CreateKey, limits, now)
		}
		if !wrong.add(i, err) {
			return nil, err
		}
		out = append(out, decided...)
	}
	if err := wrong.refusal(); err != nil {
		return nil, err
	}
	return out, nil
}

// Repeated gives every entry whose secret stands in an earlier one its fault.
func Repeated(keys []ImportKey) {
	first := make(map[Digest]int, len(keys))
	for i := range keys {
		if keys[i].Fault != nil {
			continue
		}
		digest := keys[i].Given.Digest
		if earlier, again := first[digest]; again {
			keys[i].Fault = InvalidField(keys[i].Field, fmt.Sprintf("is the secret of keys[%d] too", earlier), "name each secret once")
			continue
		}
		first[digest] = i
	}
}

// faults gathers what is wrong with the entries of a list, to say it at once.
type faults struct {
	fields []FieldError
	code   Code // of all of them, if it is one
	count  int
}

// add takes an entry's fault. It reports false for what is no fault of one entry.
func (f *faults) add(i int, err error) bool {
	if err == nil {
		return true
	}
	refusal, ok := errors.AsType[*Error](err)
	if !ok || len(refusal.Fields) == 0 {
		return false
	}
	if f.code = cmp.Or(f.code, refusal.Code); f.code != refusal.Code {
		f.code = CodeValidation
	}
	f.count++
	for _, field := range refusal.Fields {
		if len(f.fields) < maxFaults {
			field.Field = fmt.Sprintf("keys[%d].%s", i, field.Field)
			f.fields = append(f.fields, field)
		}
	}
	return true
}

func (f *faults) refusal() error {
	if f.count == 0 {
		return nil
	}
	message := f.fields[0].Field + " " + f.fields[0].Message
	if f.count > 1 {
		message += fmt.Sprintf("; %d of the keys are wrong, nothing was imported", f.count)
	}
	return &Error{Code: f.code, Message: message, Fields: f.fields}
}
