package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/rekeyhq/rekey/internal/seal"
)

func newSealer(t *testing.T) *seal.Sealer {
	t.Helper()
	s, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	t.Parallel()
	s := newSealer(t)
	plaintext := []byte("rk_live_a-secret-nobody-may-see")
	sealed := s.Seal("rotation rot_1", plaintext)

	t.Run("OpensInItsContext", func(t *testing.T) {
		got, err := s.Open("rotation rot_1", sealed)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("HidesThePlaintext", func(t *testing.T) {
		if bytes.Contains(sealed, plaintext[:8]) {
			t.Fatal("the sealed form contains the plaintext")
		}
		if bytes.Equal(sealed, s.Seal("rotation rot_1", plaintext)) {
			t.Fatal("sealing twice gives the same bytes: equal secrets could be told")
		}
	})
	t.Run("RefusesAnotherRow", func(t *testing.T) {
		if _, err := s.Open("rotation rot_2", sealed); err == nil {
			t.Fatal("a ciphertext opened in another context")
		}
	})
	t.Run("RefusesAnyChangedByte", func(t *testing.T) {
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			if _, err := s.Open("rotation rot_1", changed); err == nil {
				t.Fatalf("opened with byte %d changed", i)
			}
		}
	})
	t.Run("NamesAWrongMasterKey", func(t *testing.T) {
		if _, err := newSealer(t).Open("rotation rot_1", sealed); !errors.Is(err, seal.ErrWrongKey) {
			t.Fatalf("got %v, want ErrWrongKey", err)
		}
	})
	t.Run("RefusesGarbage", func(t *testing.T) {
		for _, garbage := range [][]byte{nil, {}, {1}, {2, 0, 0, 0, 0}, sealed[:10]} {
			if _, err := s.Open("rotation rot_1", garbage); err == nil {
				t.Fatalf("opened %v", garbage)
			}
		}
	})
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(seal.NewKey())
	if key, err := seal.ParseKey(good); err != nil || len(key) != seal.KeySize {
		t.Fatalf("got %d bytes, %v", len(key), err)
	}
	for _, bad := range []string{"", "x", base64.StdEncoding.EncodeToString(make([]byte, 16)), good + "!"} {
		if _, err := seal.ParseKey(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
