package webhook

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newSigningKey(t testing.TB) Secret {
	t.Helper()
	key, err := NewSigningKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicOf(t testing.TB, key Secret) PublicKey {
	t.Helper()
	public, ok := key.PublicKey()
	if !ok {
		t.Fatal("no public key")
	}
	return public
}

// The vector that the server of Svix tests its v1a with.
func TestSign_KnownAnswerV1a(t *testing.T) {
	t.Parallel()
	key := parseSecret(t, "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
	got := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), key)
	if want := "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := publicOf(t, key).String(), "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="; got != want {
		t.Errorf("public key %q, want %q", got, want)
	}
}

func TestSigningKey_Texts(t *testing.T) {
	t.Parallel()
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	key, err := NewSigningKey(bytes.NewReader(seed))
	if err != nil || !key.Asymmetric() {
		t.Fatal(err)
	}
	if got := parseSecret(t, key.Reveal()); got.Reveal() != key.Reveal() || !got.Asymmetric() {
		t.Error("parsing a key gives another one")
	}
	public := publicOf(t, key)
	if got, err := ParsePublicKey(public.String()); err != nil || got != public {
		t.Errorf("parsing a public key gives %v, %v", got, err)
	}
	if one, other := newSigningKey(t), newSigningKey(t); one.Reveal() == other.Reveal() {
		t.Error("two keys are equal")
	}
	if _, err := NewSigningKey(strings.NewReader("too short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short randomness: %v", err)
	}
	if _, ok := newSecret(t).PublicKey(); ok {
		t.Error("a shared secret has a public key")
	}
	if _, ok := (Secret{}).PublicKey(); ok || (PublicKey{}).String() != "" {
		t.Error("the zero key holds something")
	}

	raw := func(prefix string, n int) string { return prefix + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	mixed := append(append([]byte(nil), seed...), bytes.Repeat([]byte{8}, ed25519.PublicKeySize)...)
	for name, text := range map[string]string{
		"seed only": raw(privateKeyPrefix, 32), "63 bytes": raw(privateKeyPrefix, 63), "65 bytes": raw(privateKeyPrefix, 65), "nothing": "whsk_",
		"another public half": privateKeyPrefix + base64.StdEncoding.EncodeToString(mixed), "line break": key.Reveal() + "\n",
		"shared prefix": strings.Replace(key.Reveal(), "whsk_", "whsec_", 1) + "AAAA", "public": public.String(),
	} {
		if _, err := ParseSecret(text); !errors.Is(err, ErrMalformedSecret) {
			t.Errorf("private %s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"31 bytes": raw(publicKeyPrefix, 31), "33 bytes": raw(publicKeyPrefix, 33), "nothing": "whpk_", "no prefix": raw("", 32),
		"private": key.Reveal(), "unpadded": strings.TrimRight(public.String(), "="), "space": " " + public.String(),
	} {
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrMalformedPublicKey) {
			t.Errorf("public %s: %v", name, err)
		}
	}
}

// A private key must not get out by an accident of printing.
func TestSigningKey_NeverPrints(t *testing.T) {
	t.Parallel()
	key := newSigningKey(t)
	private := struct{ key Secret }{key}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, key, private, []Secret{key})
	}
	for _, canary := range []string{key.Reveal(), key.Reveal()[5:25], strings.Trim(fmt.Sprint(key.key()[:8]), "[]"), fmt.Sprintf("%x", key.key()[:8]), fmt.Sprintf("%X", key.key()[:8])} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("the output holds the key as %s", canary)
		}
	}
}

// keys of both kinds in any order give the one form of the header, an entry each in the order given, and each
// verifies by itself; the public halves too.
func TestSign_BothKinds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		at := time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "at"), 0)
		var secrets []Secret
		for range rapid.IntRange(1, 6).Draw(t, "keys") {
			if rapid.Bool().Draw(t, "asymmetric") {
				seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
				secrets = append(secrets, signingKeyOf(ed25519.NewKeyFromSeed(seed)))
			} else {
				secrets = append(secrets, secretOf(rapid.SliceOfN(rapid.Byte(), minSecretBytes, maxSecretBytes).Draw(t, "key")))
			}
		}
		headers := Headers(testID, at, body, secrets...)
		value := headers.Get(HeaderSignature)
		entries := strings.Split(value, " ")
		if !signatureHeader.MatchString(value) || len(entries) != len(secrets) {
			t.Fatalf("%d keys: header %q", len(secrets), value)
		}
		for i, secret := range secrets {
			if strings.HasPrefix(entries[i], "v1a,") != secret.asymmetric || entries[i] != Sign(testID, at, body, secret) {
				t.Fatalf("entry %d is not the signature by key %d", i, i)
			}
			if err := Verify(headers, body, at, secret); err != nil {
				t.Fatalf("key %d: %v", i, err)
			}
			if public, ok := secret.PublicKey(); ok {
				if err := public.Verify(headers, body, at); err != nil {
					t.Fatalf("public key %d: %v", i, err)
				}
			}
		}
	})
}

func TestPublicKey_Verify(t *testing.T) {
	t.Parallel()
	key, other, shared, now := newSigningKey(t), newSigningKey(t), newSecret(t), time.Unix(1_790_000_000, 0)
	good := Headers(testID, now, testBody, key)
	signature := good.Get(HeaderSignature)
	with := func(name, value string) http.Header { return headersWith(good, name, value) }
	tests := map[string]struct {
		headers http.Header
		body    []byte
		want    error
	}{
		"unchanged":          {good, testBody, nil},
		"beside v1":          {Headers(testID, now, testBody, shared, key), testBody, nil},
		"before v1":          {Headers(testID, now, testBody, key, shared), testBody, nil},
		"second of two":      {Headers(testID, now, testBody, other, key), testBody, nil},
		"by another":         {Headers(testID, now, testBody, other), testBody, ErrNoMatchingSignature},
		"by a shared secret": {Headers(testID, now, testBody, shared), testBody, ErrNoMatchingSignature},
		"called v1":          {with(HeaderSignature, "v1"+strings.TrimPrefix(signature, "v1a")), testBody, ErrNoMatchingSignature},
		"changed body":       {good, []byte("{}"), ErrNoMatchingSignature},
		"changed id":         {with(HeaderID, testID+"x"), testBody, ErrNoMatchingSignature},
		"a second later":     {with(HeaderTimestamp, "1790000001"), testBody, ErrNoMatchingSignature},
		"old":                {Headers(testID, now.Add(-5*time.Minute-time.Second), testBody, key), testBody, ErrTimestampTooOld},
		"new":                {Headers(testID, now.Add(5*time.Minute+time.Second), testBody, key), testBody, ErrTimestampTooNew},
		"unpadded":           {with(HeaderSignature, strings.TrimRight(signature, "=")), testBody, ErrNoMatchingSignature},
		"truncated":          {with(HeaderSignature, signature[:20]), testBody, ErrNoMatchingSignature},
		"after junk":         {with(HeaderSignature, "v1a,AAAA v1,x "+signature), testBody, nil},
		"after a flood":      {with(HeaderSignature, strings.Repeat("v1a,AAAA ", maxPublicEntries)+signature), testBody, ErrNoMatchingSignature},
	}
	for name, test := range tests {
		if err := publicOf(t, key).Verify(test.headers, test.body, now); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		if err := Verify(test.headers, test.body, now, key); !errors.Is(err, test.want) {
			t.Errorf("%s, by the private half: got %v, want %v", name, err, test.want)
		}
	}
	if err := (PublicKey{}).Verify(good, testBody, now); !errors.Is(err, ErrNoSecret) {
		t.Errorf("the zero key: %v", err)
	}
}

// A receiver that knows the public key only takes what was signed for it, beside one that knows a secret.
func TestReceiver_PublicKey(t *testing.T) {
	t.Parallel()
	key, shared := newSigningKey(t), newSecret(t)
	var box inbox
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle})
	send := func(id string, secrets ...Secret) int {
		return post(receiver, Headers(id, time.Now(), testBody, secrets...), testBody).Code
	}
	if code := send("a", key); code != 401 {
		t.Errorf("before the key is known: %d", code)
	}
	receiver.AddPublicKey(publicOf(t, key))
	for id, secrets := range map[string][]Secret{"a": {key}, "b": {shared, key}, "c": {key, shared}} {
		if code := send(id, secrets...); code != 204 {
			t.Errorf("%s: %d", id, code)
		}
	}
	if code := send("d", shared); code != 401 || len(box.received) != 3 {
		t.Errorf("signed by an unknown secret: %d, %d messages", code, len(box.received))
	}
	for _, message := range box.received {
		if !message.SignedBy.IsZero() {
			t.Error("a public key is no secret")
		}
	}
}
