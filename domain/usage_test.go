package domain

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What is written by hand is, byte for byte, what the codec would write, and is read as what was meant.
func TestUsedTextIsWhatTheCodecWrites(t *testing.T) {
	t.Parallel()
	var text UsedText // one for all: it is used again after each event
	rapid.Check(t, func(rt *rapid.T) {
		id := func(name string) (u UUID) {
			copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, name))
			return u
		}
		want := Used{Flush: rapid.Int64().Draw(rt, "flush"), Hour: time.Unix(rapid.Int64Range(-17_000_000, 70_000_000).Draw(rt, "hour")*3600, 0).UTC()}
		denied, anyDenied := []int64{}, false
		for range rapid.IntRange(1, 5).Draw(rt, "keys") {
			k := UsedKey{
				Key: id("key"), Lineage: id("lineage"), Generation: rapid.Uint32().Draw(rt, "generation"), UseCount: rapid.Int64().Draw(rt, "count"),
				LastUsed: rapid.Int64Range(0, 3_599_999_999).Draw(rt, "last"), InGrace: rapid.Bool().Draw(rt, "grace"),
				DeniedCount: rapid.SampledFrom([]int64{0, 0, 0, 1, 1 << 62}).Draw(rt, "denied"),
				LastUsedIP:  rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("::")}).Draw(rt, "ip"),
			}
			text.Add(&k)
			key, ip := KeyID(k.Key.ID(PrefixKey)), ""
			if k.LastUsedIP.IsValid() {
				ip = k.LastUsedIP.String()
			}
			want.KeyIDs, want.LineageIDs = append(want.KeyIDs, key), append(want.LineageIDs, LineageID(k.Lineage.ID(PrefixLineage)))
			want.Generations, want.UseCounts = append(want.Generations, int(k.Generation)), append(want.UseCounts, k.UseCount)
			want.LastUsed, want.LastUsedIPs = append(want.LastUsed, k.LastUsed), append(want.LastUsedIPs, ip)
			if denied = append(denied, k.DeniedCount); k.DeniedCount != 0 {
				anyDenied = true
			}
			if k.InGrace {
				want.InGrace = append(want.InGrace, key)
			}
		}
		if anyDenied {
			want.DeniedCounts = denied
		}
		if text.Len() != len(want.KeyIDs) {
			rt.Fatalf("it has %d keys, want %d", text.Len(), len(want.KeyIDs))
		}
		got, revision := text.Close(want.Flush, want.Hour)
		encoded, wantRevision, err := Encode(want)
		if err != nil || got != string(encoded) || revision != wantRevision {
			rt.Fatalf("%v, revision %d\n got %s\nwant %s", err, revision, got, encoded)
		}
		read, err := Decode(TypeUsed, revision, json.RawMessage(got))
		if diff := cmp.Diff(Payload(want), read); err != nil || diff != "" {
			rt.Fatal(err, diff)
		}
	})
}

func BenchmarkUsedText(b *testing.B) {
	ids := make([]UUID, 1000)
	for i := range ids {
		ids[i], _ = UUIDOf(PrefixKey, IDs{}.New(PrefixKey, time.Now()))
	}
	ip := netip.MustParseAddr("198.51.100.1")
	var text UsedText
	bytes := 0
	b.ReportAllocs()
	for b.Loop() {
		for i, id := range ids {
			text.Add(&UsedKey{Key: id, Lineage: id, Generation: 1, UseCount: 1, LastUsed: int64(i) * 1e6, LastUsedIP: ip})
		}
		payload, _ := text.Close(7, time.Now())
		bytes += len(payload)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/key")
	b.ReportMetric(float64(bytes)/float64(b.N)/1000, "B/key")
}
