package domain

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// TypeUsed is the type of the event that says how often keys were used.
const TypeUsed Type = "Used"

// ActorUsage counts uses.
const ActorUsage Actor = "system:usage"

// Used says how often keys of one project were used, within one hour, since their replica said so last. It is in the lane
// for usage, in a stream of the replica's life: no command has anything to do with that stream, and versions count what the
// replica has said. One event is for many keys, column by column: there may be tens of thousands each second.
type Used struct {
	Flush int64     `json:"flush"` // the number, in the replica's life, of what was written together
	Hour  time.Time `json:"hour"`  // its start, UTC
	// KeyIDs are the keys. The columns that follow have one element for each.
	KeyIDs      []KeyID     `json:"key_ids"`
	LineageIDs  []LineageID `json:"lineage_ids"`
	Generations []int       `json:"generations"`
	UseCounts   []int64     `json:"use_counts"`
	// LastUsed are the latest uses, in microseconds since the start of the hour; of a key with denials only it is 0.
	LastUsed []int64 `json:"last_used"`
	// LastUsedIPs are where those came from; empty is not known.
	LastUsedIPs []string `json:"last_used_ips"`
	// DeniedCounts are verifies that found the key and did not say valid. The column is absent where there were none.
	DeniedCounts []int64 `json:"denied_counts,omitempty"`
	// InGrace are those of the keys that were in grace at one of these uses at least.
	InGrace []KeyID `json:"in_grace,omitempty"`
}

// Type returns the stable name.
func (Used) Type() Type { return TypeUsed }

// Denied is how often the i-th key was denied.
func (u *Used) Denied(i int) int64 {
	if u.DeniedCounts == nil {
		return 0
	}
	return u.DeniedCounts[i]
}

// LastUsedAt is when the i-th key was used last; it has a meaning if the key was used.
func (u *Used) LastUsedAt(i int) time.Time {
	return u.Hour.Add(time.Duration(u.LastUsed[i]) * time.Microsecond)
}

// decodeUsed makes sure that all columns are as long as they must be.
func decodeUsed(raw json.RawMessage) (Payload, error) {
	var u Used
	if err := json.Unmarshal(raw, &u); err != nil {
		return nil, err
	}
	n := len(u.KeyIDs)
	for _, rows := range [...]int{len(u.LineageIDs), len(u.Generations), len(u.UseCounts), len(u.LastUsed), len(u.LastUsedIPs)} {
		if rows != n {
			return nil, fmt.Errorf("%d keys have a column of %d", n, rows)
		}
	}
	if denied := len(u.DeniedCounts); u.DeniedCounts != nil && denied != n {
		return nil, fmt.Errorf("%d keys have a column of %d", n, denied)
	}
	return u, nil
}

// UsedKey is one key's part of a Used event.
type UsedKey struct {
	Key, Lineage UUID
	Generation   uint32
	UseCount     int64
	DeniedCount  int64
	LastUsed     int64 // in microseconds since the start of the hour
	LastUsedIP   netip.Addr
	InGrace      bool
}

// UsedText writes the wire form of one Used event, key by key. It is what Encode would write, at a small part of the cost:
// a flush may have tens of thousands of keys, and shares its processor with verifies.
type UsedText struct {
	keys, lineages, generations, counts, last, ips, denied, grace []byte

	rows      int
	anyDenied bool
}

// Len is how many keys were added.
func (t *UsedText) Len() int { return t.rows }

// Add adds a key.
func (t *UsedText) Add(k *UsedKey) {
	t.rows++
	t.keys = appendID(t.keys, PrefixKey, k.Key)
	t.lineages = appendID(t.lineages, PrefixLineage, k.Lineage)
	t.generations = append(strconv.AppendUint(t.generations, uint64(k.Generation), 10), ',')
	t.counts = append(strconv.AppendInt(t.counts, k.UseCount, 10), ',')
	t.last = append(strconv.AppendInt(t.last, k.LastUsed, 10), ',')
	t.ips = append(t.ips, '"')
	if k.LastUsedIP.IsValid() {
		t.ips = k.LastUsedIP.AppendTo(t.ips)
	}
	t.ips = append(t.ips, '"', ',')
	t.denied = append(strconv.AppendInt(t.denied, k.DeniedCount, 10), ',')
	t.anyDenied = t.anyDenied || k.DeniedCount != 0
	if k.InGrace {
		t.grace = appendID(t.grace, PrefixKey, k.Key)
	}
}

func appendID(out []byte, prefix string, id UUID) []byte {
	return append(id.AppendID(append(out, '"'), prefix), '"', ',')
}

// Close returns the payload and its revision. The UsedText is empty then, and keeps its memory for the next event.
func (t *UsedText) Close(flush int64, hour time.Time) (payload string, revision int) {
	size := len(t.keys) + len(t.lineages) + len(t.generations) + len(t.counts) + len(t.last) + len(t.ips) + len(t.denied) + len(t.grace)
	var out strings.Builder
	out.Grow(size + 256)
	out.WriteString(`{"flush":` + strconv.FormatInt(flush, 10) + `,"hour":"` + hour.UTC().Format(time.RFC3339) + `"`)
	column := func(name string, values []byte) {
		out.WriteString(`,"` + name + `":[`)
		out.Write(values[:len(values)-1]) // without the last comma
		out.WriteByte(']')
	}
	column("key_ids", t.keys)
	column("lineage_ids", t.lineages)
	column("generations", t.generations)
	column("use_counts", t.counts)
	column("last_used", t.last)
	column("last_used_ips", t.ips)
	if t.anyDenied {
		column("denied_counts", t.denied)
	}
	if len(t.grace) > 0 {
		column("in_grace", t.grace)
	}
	for _, b := range []*[]byte{&t.keys, &t.lineages, &t.generations, &t.counts, &t.last, &t.ips, &t.denied, &t.grace} {
		*b = (*b)[:0]
	}
	t.rows, t.anyDenied = 0, false
	out.WriteByte('}')
	return out.String(), codecs[TypeUsed].revision
}
