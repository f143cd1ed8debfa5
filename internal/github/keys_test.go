package github

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

// listed is one entry of GitHub's list of keys.
type listed struct {
	Identifier string `json:"key_identifier"`
	Key        string `json:"key"`
	IsCurrent  bool   `json:"is_current"`
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func inPEM(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func document(t *testing.T, keys ...listed) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"public_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func sign(t *testing.T, key *ecdsa.PrivateKey, body []byte) string {
	t.Helper()
	digest := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

// A batch is believed only if exactly its bytes were signed by exactly the key it names.
func TestCheck(t *testing.T) {
	t.Parallel()
	current, former, stranger := newKey(t, elliptic.P256()), newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	keys, err := ParseKeys(document(t,
		listed{"current", inPEM(t, current.Public()), true}, listed{"former", inPEM(t, former.Public()), false}))
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`[{"token":"a","type":"b","url":"","source":"commit"}]`)
	good := sign(t, current, body)
	raw, _ := base64.StdEncoding.DecodeString(good)
	mirrored := sign(t, newKey(t, elliptic.P384()), body)
	for _, c := range []struct {
		name, identifier, signature string
		body                        []byte
		ok                          bool
	}{
		{"Good", "current", good, body, true},
		{"GoodByAFormerKey", "former", sign(t, former, body), body, true},
		{"NoSignature", "current", "", body, false},
		{"NoIdentifier", "", good, body, false},
		{"UnknownIdentifier", "other", good, body, false},
		{"TheIdentifierOfAnotherKey", "former", good, body, false},
		{"AStrangersSignature", "current", sign(t, stranger, body), body, false},
		{"AnotherCurve", "current", mirrored, body, false},
		{"AnotherBody", "current", good, []byte(strings.Replace(string(body), "a", "b", 1)), false},
		{"TheBodyWithOneSpaceMore", "current", good, append([]byte(" "), body...), false},
		{"AnEmptyBody", "current", good, nil, false},
		{"Truncated", "current", base64.StdEncoding.EncodeToString(raw[:len(raw)-1]), body, false},
		{"WithMoreBehind", "current", base64.StdEncoding.EncodeToString(append(raw, 0)), body, false},
		{"NotBase64", "current", "!" + good[1:], body, false},
		{"Base64ForURLs", "current", base64.RawURLEncoding.EncodeToString(raw), body, false},
		{"Huge", "current", strings.Repeat(good, 1000), body, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := keys.Check(c.identifier, c.signature, c.body)
			if c.ok && err != nil || !c.ok && !errors.Is(err, ErrNotGitHub) {
				t.Fatalf("got %v", err)
			}
		})
	}
	for i := range raw {
		flipped := append([]byte{}, raw...)
		flipped[i] ^= 1
		if keys.Check("current", base64.StdEncoding.EncodeToString(flipped), body) == nil {
			t.Errorf("a signature with a flipped bit in byte %d was taken", i)
		}
	}
}

// The example that GitHub's documentation of the program gave for years, with its test key: what GitHub signs is taken.
func TestCheckTakesGitHubsOwnExample(t *testing.T) {
	t.Parallel()
	const (
		identifier = "f9525bf080f75b3506ca1ead061add62b8633a346606dc5fe544e29231c6ee0d"
		signature  = "MEUCIFLZzeK++IhS+y276SRk2Pe5LfDrfvTXu6iwKKcFGCrvAiEAhHN2kDOhy2I6eGkOFmxNkOJ+L2y8oQ9A2T9GGJo6WJY="
		body       = `[{"token":"some_token","type":"some_type","url":"some_url","source":"some_source"}]`
		key        = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsz9ugWDj5jK5ELBK42ynytbo38gP\n" +
			"HzZFI03Exwz8Lh/tCfL3YxwMdLjB+bMznsanlhK0RwcGP3IDb34kQDIo3Q==\n-----END PUBLIC KEY-----\n"
	)
	keys, err := ParseKeys(document(t, listed{identifier, key, true}))
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Check(identifier, signature, []byte(body)); err != nil {
		t.Error(err)
	}
	if err := keys.Check(identifier, signature, []byte(body+"\n")); err == nil {
		t.Error("another body was taken")
	}
}

// A file that cannot be used must stop the start: later it would only look like forged batches.
func TestParseKeysRefuses(t *testing.T) {
	t.Parallel()
	good := inPEM(t, newKey(t, elliptic.P256()).Public())
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		document []byte
		want     string
	}{
		"Nothing":          {nil, "read the list"},
		"NotJSON":          {[]byte(good), "read the list"},
		"AnotherDocument":  {[]byte(`{"keys":[]}`), "public_keys is missing"},
		"NoKeys":           {document(t), "public_keys is missing"},
		"NoIdentifier":     {document(t, listed{"", good, true}), "public_keys[0]: key_identifier"},
		"ARepeated":        {document(t, listed{"a", good, true}, listed{"a", good, true}), "public_keys[1]: key_identifier"},
		"NotPEM":           {document(t, listed{"a", good, true}, listed{"b", "AAAA", true}), "public_keys[1]: key is not in PEM form"},
		"BrokenPEM":        {document(t, listed{"a", strings.Replace(good, "MFkw", "MFkx", 1), true}), "public_keys[0]: read key"},
		"AnotherCurve":     {document(t, listed{"a", inPEM(t, newKey(t, elliptic.P384()).Public()), true}), "curve P-256"},
		"AnotherAlgorithm": {document(t, listed{"a", inPEM(t, edwards), true}), "curve P-256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, err := ParseKeys(c.document)
			if err == nil || keys != nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v; want an error about %q", keys, err, c.want)
			}
		})
	}
}
