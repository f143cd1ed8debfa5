package webhook

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

const testID = "msg_01kc8f4yq5e6d9f3w7x2z0abcd"

var testBody = []byte(`{"type":"key.rotation.created","data":{"name":"<é\u2028😀>"}}`)

// The example that the specification itself gives.
func TestSign_KnownAnswer(t *testing.T) {
	t.Parallel()
	secret := parseSecret(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	got := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), secret)
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// R-1, with the reference library for Go on the other side, in both directions.
func TestSign_ReferenceLibrary(t *testing.T) {
	t.Parallel()
	current, previous, other := newSecret(t), newSecret(t), newSecret(t)
	now := time.Now()
	headers := Headers(testID, now, testBody, current, previous)

	for name, secret := range map[string]Secret{"current": current, "previous": previous} {
		if err := reference(t, secret).Verify(testBody, headers); err != nil {
			t.Errorf("%s secret: the library refuses our signature: %v", name, err)
		}
	}
	if err := reference(t, other).Verify(testBody, headers); !errors.Is(err, standardwebhooks.ErrNoMatchingSignature) {
		t.Errorf("other secret: the library says %v", err)
	}

	theirs, err := reference(t, current).Sign(testID, now, testBody)
	if err != nil {
		t.Fatal(err)
	}
	if ours := Sign(testID, now, testBody, current); ours != theirs {
		t.Errorf("we sign %q, the library %q", ours, theirs)
	}
	if err := Verify(headersWith(headers, HeaderSignature, theirs), testBody, now, current); err != nil {
		t.Errorf("we refuse the library's signature: %v", err)
	}
}

func reference(t *testing.T, secret Secret) *standardwebhooks.Webhook {
	t.Helper()
	webhook, err := standardwebhooks.NewWebhook(secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return webhook
}

var signatureHeader = regexp.MustCompile(`^v1a?,[A-Za-z0-9+/]+=*( v1a?,[A-Za-z0-9+/]+=*)*$`)

// whatever the secrets, the header has the one form that every library reads; R-1: each of them verifies it.
func TestSign_HeaderForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), minSecretBytes, maxSecretBytes), 1, 5).Draw(t, "keys")
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		at := time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "at"), 0)
		var secrets []Secret
		for _, key := range keys {
			secrets = append(secrets, secretOf(key))
			if rapid.Bool().Draw(t, "zero secret beside") {
				secrets = append(secrets, Secret{})
			}
		}
		headers := Headers(testID, at, body, secrets...)
		value := headers.Get(HeaderSignature)
		if !signatureHeader.MatchString(value) || strings.Count(value, ",") != len(keys) {
			t.Fatalf("%d secrets: header %q", len(keys), value)
		}
		for i, key := range keys {
			if err := Verify(headers, body, at, secretOf(key)); err != nil {
				t.Fatalf("secret %d: %v", i, err)
			}
			if want := Sign(testID, at, body, secretOf(key)); strings.Split(value, " ")[i] != want {
				t.Fatalf("entry %d is not the signature by secret %d", i, i)
			}
		}
	})
}

func TestSign_NothingWithoutSecret(t *testing.T) {
	t.Parallel()
	if got := Sign(testID, time.Now(), testBody); got != "" {
		t.Errorf("no secret: %q", got)
	}
	if got := Sign(testID, time.Now(), testBody, Secret{}); got != "" {
		t.Errorf("zero secret: %q", got)
	}
}

// any one changed bit of what is signed breaks the signature.
func TestVerify_AnyChangeBreaksIt(t *testing.T) {
	t.Parallel()
	secret, now := newSecret(t), time.Now()
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		headers := Headers(testID, now, body, secret)
		if err := Verify(headers, body, now, secret); err != nil {
			t.Fatalf("unchanged: %v", err)
		}
		at := rapid.IntRange(0, len(body)-1).Draw(t, "at")
		changed := append([]byte(nil), body...)
		changed[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := Verify(headers, changed, now, secret); !errors.Is(err, ErrNoMatchingSignature) {
			t.Fatalf("changed body: %v", err)
		}
	})
}

func TestVerify(t *testing.T) {
	t.Parallel()
	secret, other, now := newSecret(t), newSecret(t), time.Unix(1_790_000_000, 0)
	good := Headers(testID, now, testBody, secret)
	signature := good.Get(HeaderSignature)
	with := func(name, value string) http.Header { return headersWith(good, name, value) }
	twice := func(name string) http.Header {
		h := good.Clone()
		h.Add(name, h.Get(name))
		return h
	}
	signedAt := func(at time.Time) http.Header { return Headers(testID, at, testBody, secret) }

	tests := map[string]struct {
		headers http.Header
		want    error
	}{
		"unchanged":               {good, nil},
		"oldest allowed":          {signedAt(now.Add(-5 * time.Minute)), nil},
		"newest allowed":          {signedAt(now.Add(5 * time.Minute)), nil},
		"too old":                 {signedAt(now.Add(-5*time.Minute - time.Second)), ErrTimestampTooOld},
		"too new":                 {signedAt(now.Add(5*time.Minute + time.Second)), ErrTimestampTooNew},
		"epoch":                   {signedAt(time.Unix(0, 0)), ErrTimestampTooOld},
		"far future":              {signedAt(time.Unix(99_999_999_999, 0)), ErrTimestampTooNew},
		"signed by another":       {Headers(testID, now, testBody, other), ErrNoMatchingSignature},
		"another id":              {with(HeaderID, testID+"x"), ErrNoMatchingSignature},
		"a second later":          {with(HeaderTimestamp, "1790000001"), ErrNoMatchingSignature},
		"a second earlier":        {with(HeaderTimestamp, "1789999999"), ErrNoMatchingSignature},
		"old and forged":          {with(HeaderTimestamp, "1"), ErrNoMatchingSignature},
		"id with full stop":       {with(HeaderID, "msg_1.1790000000"), ErrMalformedID},
		"id with space":           {with(HeaderID, "msg 1"), ErrMalformedID},
		"id with NUL":             {with(HeaderID, "msg\x00"), ErrMalformedID},
		"id not ASCII":            {with(HeaderID, "msg_é"), ErrMalformedID},
		"id too long":             {with(HeaderID, strings.Repeat("m", 257)), ErrMalformedID},
		"timestamp signed":        {with(HeaderTimestamp, "+1790000000"), ErrMalformedTimestamp},
		"timestamp negative":      {with(HeaderTimestamp, "-1790000000"), ErrMalformedTimestamp},
		"timestamp leading zero":  {with(HeaderTimestamp, "01790000000"), ErrMalformedTimestamp},
		"timestamp fraction":      {with(HeaderTimestamp, "1790000000.5"), ErrMalformedTimestamp},
		"timestamp hex":           {with(HeaderTimestamp, "0x6ab13b80"), ErrMalformedTimestamp},
		"timestamp overflow":      {with(HeaderTimestamp, "9223372036854775808"), ErrMalformedTimestamp},
		"timestamp text":          {with(HeaderTimestamp, "now"), ErrMalformedTimestamp},
		"no headers":              {http.Header{}, ErrMissingHeader},
		"nil headers":             {nil, ErrMissingHeader},
		"empty id":                {with(HeaderID, ""), ErrMissingHeader},
		"two ids":                 {twice(HeaderID), ErrMissingHeader},
		"two timestamps":          {twice(HeaderTimestamp), ErrMissingHeader},
		"two signature headers":   {twice(HeaderSignature), ErrMissingHeader},
		"empty signature":         {with(HeaderSignature, ""), ErrMissingHeader},
		"junk before":             {with(HeaderSignature, "junk ,, v1 v1, v1a,AAAA "+signature), nil},
		"double space and after":  {with(HeaderSignature, "  "+signature+"  v9,x"), nil},
		"only another version":    {with(HeaderSignature, "v1a"+strings.TrimPrefix(signature, "v1")), ErrNoMatchingSignature},
		"no version":              {with(HeaderSignature, strings.TrimPrefix(signature, "v1,")), ErrNoMatchingSignature},
		"truncated":               {with(HeaderSignature, signature[:len(signature)-1]), ErrNoMatchingSignature},
		"with more after it":      {with(HeaderSignature, signature+"A"), ErrNoMatchingSignature},
		"unpadded":                {with(HeaderSignature, strings.TrimRight(signature, "=")), ErrNoMatchingSignature},
		"many entries":            {with(HeaderSignature, strings.Repeat("v1,AAAA ", 10_000)+signature), nil},
		"empty secret's own hmac": {with(HeaderSignature, "v1,"+mac(secretOf(nil), testID, "1790000000", testBody)), ErrNoMatchingSignature},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := Verify(test.headers, testBody, now, Secret{}, other, secret); test.want == nil && err != nil {
				t.Errorf("with two secrets: %v", err)
			}
			if err := Verify(test.headers, testBody, now, secret); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	for _, secrets := range [][]Secret{nil, {Secret{}}} {
		if err := Verify(good, testBody, now, secrets...); !errors.Is(err, ErrNoSecret) {
			t.Errorf("without a secret: %v", err)
		}
	}
}

// Nothing that arrives makes Verify panic, and nothing gets through that was not signed.
func FuzzVerify(f *testing.F) {
	secret := parseSecret(f, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	now := time.Unix(1614265330, 0)
	good := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	f.Add("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", good, []byte(`{"test": 2432232314}`))
	f.Add("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265331", good, []byte(`{"test": 2432232314}`))
	f.Add("", "", "", []byte(nil))
	f.Add("a.b", "-1", ",", []byte{0xff})
	f.Add("a", "99999999999999999999", " v1,", []byte("."))
	f.Add("a", "0", "v1,v1,v1", []byte("\x00"))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		headers := http.Header{HeaderID: {id}, HeaderTimestamp: {timestamp}, HeaderSignature: {signature}}
		if Verify(headers, body, now, secret) != nil {
			return
		}
		at, err := parseTimestamp(timestamp)
		if err != nil || !strings.Contains(signature, Sign(id, at, body, secret)) {
			t.Errorf("accepted without a signature: %q %q %q %q", id, timestamp, signature, body)
		}
	})
}
