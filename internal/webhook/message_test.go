package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var (
	testAt       = time.Date(2026, 11, 21, 21, 30, 0, 120_000_000, time.FixedZone("", 3600))
	testRotation = Rotation{
		KeyID: "key_01kc8f4yq5e6d9f3w7x2z0abcd", PreviousKeyID: "key_01kc8f4yq5e6d9f3w7x2z0abcc",
		LineageID: "lin_01kc8f4yq5e6d9f3w7x2z0abca", Generation: 2,
		RotationID: "rot_01kc8f4yq5e6d9f3w7x2z0abce", GraceSeconds: 3600,
	}
)

// The bodies are a contract with receivers: a change here breaks theirs.
func TestRotationCreated_Golden(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string]KeySecret{
		"rotation_plain.json":   PlainSecret("rk_live_0123456789<&>ABCDEFGHIJKLMNOPQRSTUV0a1B2c"),
		"rotation_omitted.json": OmittedSecret(),
	} {
		got, err := RotationCreated(testAt, testRotation, secret)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimSuffix(string(want), "\n"), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		again, err := RotationCreated(testAt, testRotation, secret)
		if err != nil || !bytes.Equal(got, again) {
			t.Errorf("%s: a second encoding differs: %v", name, err)
		}
	}
}

func TestRotationCreated_RefusesWhatReceiversCannotUse(t *testing.T) {
	t.Parallel()
	plain := PlainSecret("rk_live_canary")
	tests := map[string]struct {
		change func(*Rotation)
		secret KeySecret
	}{
		"no key id":           {func(r *Rotation) { r.KeyID = "" }, plain},
		"no previous key id":  {func(r *Rotation) { r.PreviousKeyID = "" }, plain},
		"no lineage id":       {func(r *Rotation) { r.LineageID = "" }, plain},
		"no rotation id":      {func(r *Rotation) { r.RotationID = "" }, plain},
		"generation 0":        {func(r *Rotation) { r.Generation = 0 }, plain},
		"negative grace":      {func(r *Rotation) { r.GraceSeconds = -1 }, plain},
		"no secret":           {func(*Rotation) {}, KeySecret{}},
		"empty plain secret":  {func(*Rotation) {}, PlainSecret("")},
		"secret is not UTF-8": {func(*Rotation) {}, PlainSecret("canary\xff")},
	}
	for name, test := range tests {
		rotation := testRotation
		test.change(&rotation)
		_, err := RotationCreated(testAt, rotation, test.secret)
		if !errors.Is(err, ErrIncompleteMessage) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error holds the secret", name)
		}
	}
	if _, err := RotationCreated(time.Time{}, testRotation, plain); !errors.Is(err, ErrIncompleteMessage) {
		t.Errorf("no time: %v", err)
	}
}

// a key in a cloud KMS signs at most 4096 bytes, so a rotation stays below with every field at its longest.
func TestRotationCreated_FitsIntoAKMS(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("x", 90) // the longest TypeID
	body, err := RotationCreated(testAt.Add(123456789), Rotation{KeyID: id, PreviousKeyID: id, LineageID: id, RotationID: id,
		Generation: math.MaxInt64, GraceSeconds: math.MaxInt64}, PlainSecret(strings.Repeat("s", 1024)))
	if err != nil {
		t.Fatal(err)
	}
	if signed := len(id) + 1 + maxTimestampDigits + 1 + len(body); signed > 4096 {
		t.Errorf("%d bytes are signed", signed)
	}
}

// whatever text is in a message, its body is UTF-8 that says the same; bytes that are no text are replaced.
func TestMessage_Encode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"<a href=\"x\">&": "<a href=\"x\">&", "\u2028\u2029": "\u2028\u2029", "😀": "😀", "\x00\x1f": "\x00\x1f",
		"\xed\xa0\x80": "\ufffd\ufffd\ufffd", "a\xff": "a\ufffd",
	} {
		body, err := Message{Type: "endpoint.test", At: testAt, Data: map[string]string{"name": in}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var decoded struct {
			Type, Timestamp string
			Data            struct{ Name string }
		}
		if err := json.Unmarshal(body, &decoded); err != nil || !utf8.Valid(body) {
			t.Fatalf("%q gives %q: %v", in, body, err)
		}
		if decoded.Data.Name != want || decoded.Type != "endpoint.test" || decoded.Timestamp != "2026-11-21T20:30:00.12Z" {
			t.Errorf("%q arrives as %+v", in, decoded)
		}
	}
	for _, bad := range []Message{
		{At: testAt, Data: 1}, {Type: "a..b", At: testAt, Data: 1}, {Type: "a b", At: testAt, Data: 1},
		{Type: ".a", At: testAt, Data: 1}, {Type: "é", At: testAt, Data: 1}, {Type: "a", Data: 1}, {Type: "a", At: testAt},
	} {
		if _, err := bad.Encode(); !errors.Is(err, ErrIncompleteMessage) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := (Message{Type: "a", At: testAt, Data: make(chan int)}).Encode(); err == nil {
		t.Error("a channel was encoded")
	}
}
