package domain

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// decodeID reads the 128 bits of an id by another way than the code under test: as one big number in base 32.
func decodeID(t interface{ Fatalf(string, ...any) }, id string) [16]byte {
	_, suffix, _ := strings.Cut(id, "_")
	n := new(big.Int)
	for _, r := range suffix {
		digit := strings.IndexRune("0123456789abcdefghjkmnpqrstvwxyz", r)
		if digit < 0 {
			t.Fatalf("id %q holds %q, which is not base32", id, r)
		}
		n.Add(n.Lsh(n, 5), big.NewInt(int64(digit)))
	}
	if n.BitLen() > 128 {
		t.Fatalf("id %q holds %d bits", id, n.BitLen())
	}
	var u [16]byte
	n.FillBytes(u[:])
	return u
}

func TestNewID(t *testing.T) {
	t.Parallel()

	t.Run("HoldsTheTimeAndTheBitsOfAVersion7UUID", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(t *rapid.T) {
			ms := rapid.Int64Range(0, 1<<48-1).Draw(t, "ms")
			id := IDs{}.New(PrefixKey, time.UnixMilli(ms))
			if len(id) != len("key_")+26 || !strings.HasPrefix(id, "key_") || !ValidID(PrefixKey, id) {
				t.Fatalf("id %q is not a TypeID of a key", id)
			}
			u := decodeID(t, id)
			if got := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, u[:6]...))); got != ms {
				t.Fatalf("id %q holds the time %d, want %d", id, got, ms)
			}
			if u[6]>>4 != 7 || u[8]>>6 != 2 {
				t.Fatalf("id %q has version %d and variant bits %b", id, u[6]>>4, u[8]>>6)
			}
		})
	})

	t.Run("IsTheKnownTextForKnownBits", func(t *testing.T) {
		t.Parallel()
		// 01890a5d-ac96-774b-bcce-b302099a8057, the example of the TypeID specification.
		random := []byte{0x77, 0x4b, 0xbc, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80, 0x57}
		id := IDs{Random: bytes.NewReader(random)}.New("prefix", time.UnixMilli(0x01890a5dac96))
		if want := "prefix_01h455vb4pex5vsknk084sn02q"; id != want {
			t.Fatalf("id is %q, want %q", id, want)
		}
	})

	t.Run("SortsByTheMillisecondItWasMadeIn", func(t *testing.T) {
		t.Parallel()
		var ids []string
		for ms := range 2000 {
			ids = append(ids, IDs{}.New(PrefixKey, start.Add(time.Duration(ms)*time.Millisecond)))
		}
		ids = append(ids, IDs{}.New(PrefixKey, start.Add(100*365*day)))
		if !slices.IsSorted(ids) {
			t.Fatal("ids made one after the other are not in order")
		}
	})

	t.Run("IsDifferentEachTime", func(t *testing.T) {
		t.Parallel()
		seen := map[string]bool{}
		for range 10000 {
			seen[IDs{}.New(PrefixEvent, start)] = true
		}
		if len(seen) != 10000 {
			t.Fatalf("10000 ids of one millisecond hold only %d different ones", len(seen))
		}
	})

	t.Run("IsTheSameFromTheSameRandomness", func(t *testing.T) {
		t.Parallel()
		a, b := IDs{Random: seeded(1)}, IDs{Random: seeded(1)}
		for range 10 {
			if x, y := a.New(PrefixKey, start), b.New(PrefixKey, start); x != y {
				t.Fatalf("%s and %s differ", x, y)
			}
		}
	})

	// An id that could be guessed is worse than none.
	t.Run("PanicsWithoutRandomness", func(t *testing.T) {
		t.Parallel()
		defer func() {
			if recover() == nil {
				t.Fatal("an id was made of no randomness")
			}
		}()
		IDs{Random: io.LimitReader(seeded(1), 9)}.New(PrefixKey, start)
	})
}

func TestValidID(t *testing.T) {
	t.Parallel()
	good := "key_01h455vb4pex5vsknk084sn02q"
	for _, c := range []struct {
		name string
		id   string
		want bool
	}{
		{"AcceptsTheCanonicalForm", good, true},
		{"AcceptsTheGreatestValue", "key_7zzzzzzzzzzzzzzzzzzzzzzzzz", true},
		{"AcceptsZero", "key_00000000000000000000000000", true},
		{"RefusesMoreThan128Bits", "key_80000000000000000000000000", false},
		{"RefusesAnotherPrefix", "lin_01h455vb4pex5vsknk084sn02q", false},
		{"RefusesALongerPrefix", "key_key_01h455vb4pex5vsknk084sn02q", false},
		{"RefusesNoPrefix", "01h455vb4pex5vsknk084sn02q", false},
		{"RefusesUpperCase", strings.ToUpper(good), false},
		{"RefusesUpperCaseDigits", "key_01H455VB4PEX5VSKNK084SN02Q", false},
		{"RefusesLettersOutsideTheAlphabet", "key_01h455vb4pex5vsknk084sn02i", false},
		{"RefusesTheLetterL", "key_01h455vb4pex5vsknk084sn02l", false},
		{"RefusesTooFewCharacters", good[:len(good)-1], false},
		{"RefusesTooManyCharacters", good + "0", false},
		{"RefusesATrailingSpace", good[:len(good)-1] + " ", false},
		{"RefusesNUL", good[:len(good)-1] + "\x00", false},
		{"RefusesOtherScripts", "key_01h455vb4pex5vsknk084sn0é", false},
		{"RefusesNothing", "", false},
		{"RefusesThePrefixAlone", "key_", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := ValidID(PrefixKey, c.id); got != c.want {
				t.Fatalf("ValidID(%q) = %v", c.id, got)
			}
		})
	}
}

func TestStreamKindIsThePrefix(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		string(lin1): PrefixLineage, string(org1): PrefixOrganization, string(proj1): PrefixProject, string(ep1): PrefixEndpoint, "": "",
	} {
		if got := StreamKind(id); got != want {
			t.Errorf("StreamKind(%q) = %q, want %q", id, got, want)
		}
	}
}
