package domain

import (
	"encoding/binary"
	"strings"
	"time"
)

// MessageID is the webhook-id of the message that tells of an event. It follows from the event, so that every path that
// tells of it, now, again, or after a rebuild, uses the same.
func MessageID(id EventID) string {
	return PrefixMessage + strings.TrimPrefix(string(id), PrefixEvent)
}

// LowestID comes before every id of a kind that is made at a time or later, and after every one made before, to the
// millisecond.
func LowestID(prefix string, at time.Time) string {
	var u [16]byte
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(u[:6], ms[2:])
	return UUID(u).ID(prefix)
}
