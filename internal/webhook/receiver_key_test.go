package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newReceiverKey(t testing.TB) ReceiverPrivateKey {
	t.Helper()
	key, err := NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sealableRotation has the organization that testRotation, being older, has not.
func sealableRotation() Rotation {
	r := testRotation
	r.OrganizationID = "org_01kc8f4yq5e6d9f3w7x2z0abcf"
	return r
}

func TestReceiverKey_Texts(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t)
	public := key.Public()
	if got, err := ParseReceiverKey(public.String()); err != nil || got.String() != public.String() || got.ID() != public.ID() || len(public.ID()) != 16 {
		t.Errorf("parsing a public key gives %v, %v", got, err)
	}
	if got, err := ParseReceiverPrivateKey(key.Reveal()); err != nil || got.Public().String() != public.String() || got.Reveal() != key.Reveal() {
		t.Errorf("parsing a private key gives another: %v", err)
	}
	if newReceiverKey(t).Reveal() == key.Reveal() {
		t.Error("two keys are equal")
	}
	if _, err := NewReceiverKey(strings.NewReader("too short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short randomness: %v", err)
	}
	text := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n)) }
	for name, bad := range map[string]string{"empty": "", "31 bytes": text(31), "33 bytes": text(33), "unpadded": strings.TrimRight(text(32), "="),
		"URL-safe": strings.ReplaceAll(text(32), "+", "-"), "line break": text(32) + "\n", "prefix": "whpk_" + text(32), "huge": text(1 << 20)} {
		if _, err := ParseReceiverKey(bad); !errors.Is(err, ErrMalformedReceiverKey) {
			t.Errorf("public, %s: %v", name, err)
		}
		if _, err := ParseReceiverPrivateKey(bad); !errors.Is(err, ErrMalformedReceiverKey) {
			t.Errorf("private, %s: %v", name, err)
		}
	}
	var public0 ReceiverKey
	var private0 ReceiverPrivateKey
	if !public0.IsZero() || public0.String() != "" || public0.ID() != "" || !private0.IsZero() || private0.Reveal() != "" || !private0.Public().IsZero() {
		t.Error("a zero key holds something")
	}
}

// Points of low order: everybody can compute what is exchanged with them.
func TestParseReceiverKey_LowOrder(t *testing.T) {
	t.Parallel()
	one := make([]byte, 32)
	one[0] = 1
	order8 := []byte{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00}
	for name, raw := range map[string][]byte{"zero": make([]byte, 32), "one": one, "order 8": order8} {
		if _, err := ParseReceiverKey(base64.StdEncoding.EncodeToString(raw)); !errors.Is(err, ErrMalformedReceiverKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReceiverPrivateKey_NeverPrints(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t)
	private := struct{ key ReceiverPrivateKey }{key}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, key, private, &private)
	}
	encoded, err := json.Marshal(map[string]any{"a": key, "b": private})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", key, "private", private)
	raw := key.key().Bytes()
	for _, canary := range []string{key.Reveal()[:20], fmt.Sprintf("%x", raw[:8]), fmt.Sprintf("%X", raw[:8]), strings.Trim(fmt.Sprint(raw[:8]), "[]")} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("the output holds the key as %s", canary)
		}
	}
}

// what is sealed opens with the registered key, in its message about its rotation, and in no other way.
func TestSealSecret(t *testing.T) {
	t.Parallel()
	key, other := newReceiverKey(t), newReceiverKey(t)
	r := sealableRotation()
	const secret = "rk_live_canary0123456789"
	sealed, err := SealSecret(key.Public(), r, testID, secret)
	if err != nil {
		t.Fatal(err)
	}
	body, err := RotationCreated(testAt, r, sealed)
	if err != nil || bytes.Contains(body, []byte("canary")) {
		t.Fatalf("%s, %v", body, err)
	}
	read, carried, err := ReadRotation(body)
	if err != nil || carried.Mode() != ModeSealed {
		t.Fatal(err)
	}
	if got, err := carried.Open(read, testID, other, key); err != nil || got != secret {
		t.Errorf("opened %q, %v", got, err)
	}
	change := func(f func(*Rotation)) Rotation {
		moved := read
		f(&moved)
		return moved
	}
	for name, test := range map[string]struct {
		r    Rotation
		id   string
		keys []ReceiverPrivateKey
	}{
		"another key":          {read, testID, []ReceiverPrivateKey{other}},
		"no key":               {read, testID, nil},
		"the zero key":         {read, testID, []ReceiverPrivateKey{{}}},
		"another message":      {read, testID + "x", []ReceiverPrivateKey{key}},
		"another organization": {change(func(r *Rotation) { r.OrganizationID += "x" }), testID, []ReceiverPrivateKey{key}},
		"another key id":       {change(func(r *Rotation) { r.KeyID += "x" }), testID, []ReceiverPrivateKey{key}},
		"another rotation":     {change(func(r *Rotation) { r.RotationID += "x" }), testID, []ReceiverPrivateKey{key}},
		"another generation":   {change(func(r *Rotation) { r.Generation++ }), testID, []ReceiverPrivateKey{key}},
		"shifted boundary": {change(func(r *Rotation) {
			r.OrganizationID, r.KeyID = r.OrganizationID+r.KeyID[:1], r.KeyID[1:]
		}), testID, []ReceiverPrivateKey{key}},
	} {
		if got, err := carried.Open(test.r, test.id, test.keys...); !errors.Is(err, ErrCannotOpen) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := RotationCreated(testAt, change(func(r *Rotation) { r.Generation++ }), sealed); !errors.Is(err, ErrIncompleteMessage) {
		t.Errorf("a body about another rotation than it was sealed for: %v", err)
	}
	again, err := SealSecret(key.Public(), r, testID, secret)
	if err != nil || again.wire().Ciphertext == sealed.wire().Ciphertext {
		t.Errorf("two sealings are alike: %v", err)
	}
}

func TestSealSecret_Refuses(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t).Public()
	r := sealableRotation()
	for name, seal := range map[string]func() (KeySecret, error){
		"no organization": func() (KeySecret, error) { return SealSecret(key, testRotation, testID, "canary") },
		"NUL in an id": func() (KeySecret, error) {
			bad := r
			bad.KeyID = "key\x00a"
			return SealSecret(key, bad, testID, "canary")
		},
		"no secret":  func() (KeySecret, error) { return SealSecret(key, r, testID, "") },
		"no text":    func() (KeySecret, error) { return SealSecret(key, r, testID, "canary\xff") },
		"no message": func() (KeySecret, error) { return SealSecret(key, r, "", "canary") },
		"no key":     func() (KeySecret, error) { return SealSecret(ReceiverKey{}, r, testID, "canary") },
	} {
		if sealed, err := seal(); err == nil || sealed.Mode() != "" || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A message that an earlier rekey sealed opens for ever: this one is kept in testdata with its key.
func TestSealSecret_Golden(t *testing.T) {
	t.Parallel()
	const file = "testdata/rotation_sealed.json"
	key, err := receiverKeyOf(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		sealed, err := SealSecret(key.Public(), sealableRotation(), testID, "rk_live_sealed_for_ever")
		if err != nil {
			t.Fatal(err)
		}
		body, err := RotationCreated(testAt, sealableRotation(), sealed)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(body, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, carried, err := ReadRotation(body)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := carried.Open(r, testID, key); err != nil || got != "rk_live_sealed_for_ever" {
		t.Errorf("opened %q, %v", got, err)
	}
	for _, want := range []string{`"mode":"sealed","suite":"hpke-x25519-sha256-aes256gcm","recipient":"` + key.Public().ID() + `","enc":"`, `","ct":"`} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("the body has no %s", want)
		}
	}
}

// Whatever a message claims to be, reading and opening it neither panics nor gives a secret that was not sealed.
func TestReadRotation_Hostile(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t)
	sealed, err := SealSecret(key.Public(), sealableRotation(), testID, "rk_live_canary")
	if err != nil {
		t.Fatal(err)
	}
	body, err := RotationCreated(testAt, sealableRotation(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		changed := append([]byte(nil), body...)
		at := rapid.IntRange(bytes.Index(body, []byte(`"secret"`)), len(body)-1).Draw(t, "at")
		changed[at] = rapid.Byte().Draw(t, "byte")
		r, carried, err := ReadRotation(changed)
		if err != nil {
			return
		}
		if got, err := carried.Open(r, testID, key); err == nil && got != "rk_live_canary" {
			t.Fatalf("opened %q", got)
		}
	})
	for _, text := range []string{"", "null", "[]", `{"type":"key.rotation.created"}`, `{"type":"key.rotation.created","data":{}}`, `{"type":"key.rotation.created","data":[]}`} {
		if _, _, err := ReadRotation([]byte(text)); !errors.Is(err, ErrNotRotation) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, carried := range []KeySecret{{}, OmittedSecret(), ClaimSecret("https://a.example.com", time.Now())} {
		if got, err := carried.Open(testRotation, testID, key); !errors.Is(err, ErrNotCarried) || got != "" {
			t.Errorf("%s: %q, %v", carried.Mode(), got, err)
		}
	}
}
