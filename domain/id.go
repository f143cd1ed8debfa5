package domain

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"strings"
	"time"
)

// Ids are TypeIDs: a prefix that names the type, an underscore, and a UUIDv7 in 26 characters of lower-case base32. They
// sort by the millisecond they were made in, so "newest first" is an order by id.
type (
	// KeyID names one key, that is one generation of a lineage.
	KeyID string
	// LineageID names a key and its successors; it is the id of their event stream.
	LineageID string
	// RotationID names one hand-over between two generations.
	RotationID string
	// OrganizationID names a tenant.
	OrganizationID string
	// ProjectID names a product of a tenant.
	ProjectID string
	// EnvironmentID names a part of a project, such as live or test.
	EnvironmentID string
	// EndpointID names a webhook receiver.
	EndpointID string
	// EventID names one event; it is also the message id on NATS.
	EventID string
)

// Prefixes of the ids, without the underscore.
const (
	PrefixKey          = "key"
	PrefixLineage      = "lin"
	PrefixRotation     = "rot"
	PrefixOrganization = "org"
	PrefixProject      = "proj"
	PrefixEnvironment  = "env"
	PrefixEndpoint     = "ep"
	PrefixEvent        = "evt"
	PrefixDelivery     = "dlv"
	PrefixMessage      = "msg"
	PrefixUsage        = "usage" // a start of a replica, which counts: it is the id of an event stream
)

// idAlphabet is Crockford's base32 in lower case, as the TypeID specification has it.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// idSuffixLength is the number of base32 characters that hold 128 bits.
const idSuffixLength = 26

// IDs makes ids. The zero value reads the operating system's randomness.
type IDs struct {
	// Random is the source of the random part; nil means crypto/rand.
	Random io.Reader
}

// New returns a fresh id with the given prefix for the given time. It panics only if the source of randomness fails,
// because no id is better than a guessable one.
func (g IDs) New(prefix string, now time.Time) string {
	var u [16]byte
	source := g.Random
	if source == nil {
		source = rand.Reader
	}
	if _, err := io.ReadFull(source, u[6:]); err != nil {
		panic("domain: read randomness: " + err.Error())
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6] = 0x70 | u[6]&0x0f // version 7
	u[8] = 0x80 | u[8]&0x3f // RFC 9562 variant
	return string(UUID(u).AppendID(make([]byte, 0, len(prefix)+1+idSuffixLength), prefix))
}

// UUID is an id without its prefix, in the form that takes the least memory.
type UUID [16]byte

// AppendID appends the id that the UUID is under a prefix: 26 base32 characters, most significant first; the first
// character holds only three bits.
func (u UUID) AppendID(out []byte, prefix string) []byte {
	hi, lo := binary.BigEndian.Uint64(u[:8]), binary.BigEndian.Uint64(u[8:])
	var suffix [idSuffixLength]byte
	for i := idSuffixLength - 1; i >= 0; i-- {
		suffix[i] = idAlphabet[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return append(append(append(out, prefix...), '_'), suffix[:]...)
}

// ID returns the id that the UUID is under a prefix.
func (u UUID) ID(prefix string) string { return string(u.AppendID(nil, prefix)) }

// UUIDOf returns a well-formed id without its prefix; of another text it returns false.
func UUIDOf(prefix, id string) (UUID, bool) {
	if !ValidID(prefix, id) {
		return UUID{}, false
	}
	var hi, lo uint64
	for _, c := range []byte(id[len(prefix)+1:]) {
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(strings.IndexByte(idAlphabet, c))
	}
	var u UUID
	binary.BigEndian.PutUint64(u[:8], hi)
	binary.BigEndian.PutUint64(u[8:], lo)
	return u, true
}

// ValidID reports whether s is a well-formed id with this prefix. It is strict, so that one thing has one spelling.
func ValidID(prefix, s string) bool {
	rest, ok := strings.CutPrefix(s, prefix+"_")
	if !ok || len(rest) != idSuffixLength || rest[0] > '7' {
		return false
	}
	for i := range len(rest) {
		if strings.IndexByte(idAlphabet, rest[i]) < 0 {
			return false
		}
	}
	return true
}

// KeyNumber is the number of a key where ids must be numbers: the first 53 bits of the id's SHA-256, which is what a number
// of JavaScript holds. It never changes, cannot be guessed, and does not tell how many keys there are.
func KeyNumber(id KeyID) int64 {
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 11)
}

// StreamKind returns the prefix of a stream id, which says what kind of state the stream folds into.
func StreamKind(streamID string) string {
	prefix, _, _ := strings.Cut(streamID, "_")
	return prefix
}
