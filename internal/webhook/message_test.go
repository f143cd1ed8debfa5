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

// golden compares a body with the file that froze it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
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
}

// The bodies are a contract with receivers: a change here breaks theirs. What an older sender left out stays out.
func TestRotationCreated_Golden(t *testing.T) {
	t.Parallel()
	whole := testRotation
	whole.OrganizationID, whole.Trigger, whole.AckLevel, whole.ExpiresAt = "org_01kc8f4yq5e6d9f3w7x2z0abcf", "interval", "proof", testAt.Add(24*time.Hour)
	for name, test := range map[string]struct {
		rotation Rotation
		secret   KeySecret
	}{
		"rotation_plain.json":   {testRotation, PlainSecret("rk_live_0123456789<&>ABCDEFGHIJKLMNOPQRSTUV0a1B2c")},
		"rotation_omitted.json": {testRotation, OmittedSecret()},
		"rotation_claim.json":   {whole, ClaimSecret("https://keys.example.com/v1/claims/clm_0123?a=b&c", testAt.Add(time.Hour))},
	} {
		got, err := RotationCreated(testAt, test.rotation, test.secret)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, got)
		again, err := RotationCreated(testAt, test.rotation, test.secret)
		if err != nil || !bytes.Equal(got, again) {
			t.Errorf("%s: a second encoding differs: %v", name, err)
		}
		read, _, err := ReadRotation(got)
		if diff := cmp.Diff(test.rotation, read); diff != "" || err != nil {
			t.Errorf("%s is read as another (-want +got), %v:\n%s", name, err, diff)
		}
	}
}

// What says nothing of a secret.
func TestNotices_Golden(t *testing.T) {
	t.Parallel()
	key := Key{OrganizationID: "org_1", ProjectID: "proj_1", KeyID: "key_1", LineageID: "lin_1", Generation: 1, Name: "billing <é>"}
	endpoint := Endpoint{OrganizationID: "org_1", ProjectID: "proj_1", EndpointID: "ep_1"}
	use := GraceUse{RotationID: "rot_1", ReplacedByKeyID: "key_2", GraceExpiresAt: testAt.Add(time.Hour), Address: "203.0.113.0", UserAgent: "curl/8",
		Count: 3, FirstSeen: testAt.Add(-time.Minute), LastSeen: testAt}
	for name, encode := range map[string]func(time.Time) ([]byte, error){
		"rotation_acknowledged.json": func(at time.Time) ([]byte, error) {
			return RotationAcknowledged(at, testRotation, "proof", at.Add(time.Hour))
		},
		"rotation_acknowledged_no_end.json": func(at time.Time) ([]byte, error) {
			return RotationAcknowledged(at, testRotation, "claim", time.Time{})
		},
		"rotation_stalled.json": func(at time.Time) ([]byte, error) { return RotationStalled(at, testRotation, string(TimedOut)) },
		"rotation_blocked.json": func(at time.Time) ([]byte, error) {
			return RotationBlocked(at, key, "endpoint_disabled", testAt.Add(-time.Hour))
		},
		"rotation_deferred.json": func(at time.Time) ([]byte, error) {
			return RotationDeferred(at, key, "outside_window", testAt.Add(-time.Hour), testAt.Add(time.Hour))
		},
		"version_retired.json": func(at time.Time) ([]byte, error) {
			return VersionRetired(at, key, []string{"key_1", "key_2"}, "expired")
		},
		"key_revoked.json":           func(at time.Time) ([]byte, error) { return KeyRevoked(at, key, []string{"key_1"}, "left <the> team") },
		"key_revoked_no_reason.json": func(at time.Time) ([]byte, error) { return KeyRevoked(at, key, []string{"key_1"}, "") },
		"endpoint_disabled.json":     func(at time.Time) ([]byte, error) { return EndpointDisabled(at, endpoint, "gone") },
		"endpoint_failing.json":      func(at time.Time) ([]byte, error) { return EndpointFailing(at, endpoint, 401, 3) },
		"rotation_completed.json":    func(at time.Time) ([]byte, error) { return RotationCompleted(at, testRotation) },
		"rotation_cancelled.json":    func(at time.Time) ([]byte, error) { return RotationCancelled(at, testRotation, "superseded") },
		"used_in_grace.json":         func(at time.Time) ([]byte, error) { return UsedInGrace(at, key, use) },
		"key_expiring.json":          func(at time.Time) ([]byte, error) { return KeyExpiring(at, key, testAt.Add(time.Hour)) },
		"endpoint_test.json":         func(at time.Time) ([]byte, error) { return EndpointTest(at, "ep_1") },
		"endpoint_verification.json": func(at time.Time) ([]byte, error) {
			return EndpointVerification(at, Verification{OrganizationID: "org_1", EndpointID: "ep_1", Challenge: "chl_0123"}, testID)
		},
	} {
		got, err := encode(testAt)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		golden(t, name, got)
		if _, err := encode(time.Time{}); !errors.Is(err, ErrIncompleteMessage) {
			t.Errorf("%s without a time: %v", name, err)
		}
		if _, _, err := ReadRotation(got); !errors.Is(err, ErrNotRotation) {
			t.Errorf("%s is taken for a rotation: %v", name, err)
		}
	}
}

func TestNotices_RefuseWhatIsIncomplete(t *testing.T) {
	t.Parallel()
	key := Key{OrganizationID: "org_1", ProjectID: "proj_1", KeyID: "key_1", LineageID: "lin_1", Generation: 1}
	use := GraceUse{RotationID: "rot_1", ReplacedByKeyID: "key_2", Count: 1, LastSeen: testAt}
	for name, encode := range map[string]func() ([]byte, error){
		"acknowledged by nothing": func() ([]byte, error) { return RotationAcknowledged(testAt, testRotation, "", testAt) },
		"acknowledged, no ids":    func() ([]byte, error) { return RotationAcknowledged(testAt, Rotation{}, "proof", testAt) },
		"stalled for no reason":   func() ([]byte, error) { return RotationStalled(testAt, testRotation, "") },
		"completed, no ids":       func() ([]byte, error) { return RotationCompleted(testAt, Rotation{}) },
		"cancelled, no state":     func() ([]byte, error) { return RotationCancelled(testAt, testRotation, "") },
		"blocked, no reason":      func() ([]byte, error) { return RotationBlocked(testAt, key, "", testAt) },
		"blocked, never due":      func() ([]byte, error) { return RotationBlocked(testAt, key, "x", time.Time{}) },
		"deferred, no end":        func() ([]byte, error) { return RotationDeferred(testAt, key, "x", testAt, time.Time{}) },
		"deferred, no reason":     func() ([]byte, error) { return RotationDeferred(testAt, key, "", testAt, testAt) },
		"deferred, no key":        func() ([]byte, error) { return RotationDeferred(testAt, Key{}, "x", testAt, testAt) },
		"retired, nothing":        func() ([]byte, error) { return VersionRetired(testAt, key, nil, "expired") },
		"retired, no reason":      func() ([]byte, error) { return VersionRetired(testAt, key, []string{"key_1"}, "") },
		"revoked, nothing":        func() ([]byte, error) { return KeyRevoked(testAt, key, nil, "") },
		"revoked, no key":         func() ([]byte, error) { return KeyRevoked(testAt, Key{}, []string{"key_1"}, "") },
		"no endpoint is disabled": func() ([]byte, error) { return EndpointDisabled(testAt, Endpoint{}, "gone") },
		"no endpoint fails":       func() ([]byte, error) { return EndpointFailing(testAt, Endpoint{}, 401, 3) },
		"an endpoint fails not":   func() ([]byte, error) { return EndpointFailing(testAt, Endpoint{"org_1", "proj_1", "ep_1"}, 0, 3) },
		"expiring, no key":        func() ([]byte, error) { return KeyExpiring(testAt, Key{}, testAt) },
		"expiring never":          func() ([]byte, error) { return KeyExpiring(testAt, key, time.Time{}) },
		"used, no key":            func() ([]byte, error) { return UsedInGrace(testAt, Key{}, use) },
		"used by nobody":          func() ([]byte, error) { return UsedInGrace(testAt, key, GraceUse{}) },
		"test of no endpoint":     func() ([]byte, error) { return EndpointTest(testAt, "") },
		"verification of nothing": func() ([]byte, error) { return EndpointVerification(testAt, Verification{}, testID) },
		"verification, no question": func() ([]byte, error) {
			return EndpointVerification(testAt, Verification{OrganizationID: "org_1", EndpointID: "ep_1"}, testID)
		},
	} {
		if _, err := encode(); !errors.Is(err, ErrIncompleteMessage) {
			t.Errorf("%s: %v", name, err)
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
		"claim without URL":   {func(*Rotation) {}, ClaimSecret("", testAt)},
		"claim without end":   {func(*Rotation) {}, ClaimSecret("https://canary.example.com", time.Time{})},
		"claim URL too long":  {func(*Rotation) {}, ClaimSecret("https://canary.example.com/"+strings.Repeat("x", maxURLLength), testAt)},
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

// a key in a cloud KMS signs at most 4096 bytes, so a rotation stays below with every field at its longest, in each
// mode.
func TestRotationCreated_FitsIntoAKMS(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("x", 90) // the longest TypeID
	r := Rotation{OrganizationID: id, KeyID: id, PreviousKeyID: id, LineageID: id, RotationID: id, Generation: math.MaxInt64, GraceSeconds: math.MaxInt64,
		Trigger: strings.Repeat("t", 32), AckLevel: strings.Repeat("a", 32), ExpiresAt: testAt.Add(123456789)}
	sealed, err := SealSecret(newReceiverKey(t).Public(), r, id, strings.Repeat("s", 1024))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []KeySecret{PlainSecret(strings.Repeat("s", 1024)), ClaimSecret(strings.Repeat("u", maxURLLength), testAt), sealed, OmittedSecret()} {
		body, err := RotationCreated(testAt.Add(123456789), r, secret)
		if err != nil {
			t.Fatal(err)
		}
		if signed := len(signedContent(id, strings.Repeat("9", maxTimestampDigits), body)); signed > 4096 {
			t.Errorf("%s: %d bytes are signed", secret.Mode(), signed)
		}
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
