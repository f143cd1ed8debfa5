package domain

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files that are missing")

// samples has every type with every field set. A golden file is written from it once and never again: to change the form
// of a type, raise its revision, add an upcast, and run the tests with -update.
func samples() []Payload {
	settings := Settings{
		Name: "ci", Scopes: Scopes{"keys:read", "a:*"}, Resources: Resources{"app": {"com.demo.app"}, "org": {"acme", "demo"}},
		ExpiresAt: new(at(90 * day)), RotationIntervalSeconds: 86400, GraceSeconds: 3600, EndpointID: ep1,
		WebhookURL: "https://example.com/hook?a=1&b=2", Metadata: json.RawMessage(`{"team":"billing"}`),
		Disabled: true, AllowedIPs: Networks{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8::/32")},
		RateLimit: &RateLimit{Requests: 100, WindowSeconds: 60}, UsageLimit: &UsageLimit{Uses: 1000, Period: UsageMonth},
	}
	next, end := new(at(day+1500*time.Microsecond)), new(at(2*hour+123456*time.Microsecond))
	policy := Policy{
		MaxLifetimeSeconds: 7776000, RequireExpiry: true, DefaultGraceSeconds: new(int64(0)), MaxGraceSeconds: new(int64(3600)),
		AllowedScopes: Scopes{"orders:*", "keys:read"}, OnLeak: LeakNotify, MaxOverlapSeconds: 86400, RotationTimeout: TimeoutExpireOld,
		RotationWindow: &Window{Days: []string{"sat", "sun"}, Start: "02:00", LengthMinutes: 120, TimeZone: "Europe/Berlin"}, EarlyRetireSeconds: 86400,
	}
	target := Target{
		URL: "https://example.com/hook", SecretMode: SecretSealed,
		ReceiverKey: &ReceiverKey{ID: "0123456789abcdef", PublicKey: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="},
	}
	return []Payload{
		Created{
			KeyID: key1, SecretFacts: facts(1), EnvironmentID: env1, Environment: "live", Brand: "rk", Settings: settings,
			Operator: true, Imported: true, NextRotationAt: next,
		},
		Updated{Changed: []string{"name", "scopes"}, Settings: settings, NextRotationAt: next},
		Rotated{
			RotationID: rot1, Trigger: TriggerManual, PreviousKeyID: key1, KeyID: key2, Generation: 2, SecretFacts: facts(2),
			GraceSeconds: 3600, EndpointID: ep1, Demand: AckProof, Deadline: end, Acknowledged: AckAnswer, GraceExpiresAt: end,
			RevokedKeyIDs: []KeyID{key1, key3}, NextRotationAt: next,
		},
		RotationAcknowledged{
			RotationID: rot1, PreviousKeyID: key1, KeyID: key2, Level: AckAccepted, GraceExpiresAt: *end, NextRotationAt: next,
		},
		RotationCancelled{RotationID: rot1, KeyID: key2, Reason: "superseded", SupersededBy: rot2, NextRotationAt: next},
		RotationStalled{RotationID: rot1, KeyID: key2, Reason: "410 Gone"},
		RotationRedelivered{RotationID: rot1, KeyID: key2},
		RotationTimedOut{RotationID: rot1, KeyID: key2, NextAt: *next},
		RotationRolledBack{RotationID: rot1, KeyID: key1, ReplacedKeyID: key2, GraceExpiresAt: *end, NextRotationAt: next},
		RotationDeferred{KeyID: key1, SlotAt: *next, Until: *end, Reason: DeferredByGraces},
		RotationBlocked{KeyID: key1, EndpointID: ep1, SlotAt: *next, Reason: "paused"},
		GraceChanged{RotationID: rot1, KeyID: key1, GraceExpiresAt: *end},
		GraceExpired{KeyID: key1, Early: true, Reason: ReasonUnused, UnusedSince: new(at(hour))},
		Expired{KeyIDs: []KeyID{key1, key2}},
		Revoked{KeyID: key1, KeyIDs: []KeyID{key1, key2}, Reason: "leaked"},
		Used{
			Flush: 7, Hour: at(hour).Truncate(hour), KeyIDs: []KeyID{key1, key2}, LineageIDs: []LineageID{lin1, lin1}, Generations: []int{1, 2},
			UseCounts: []int64{12, 0}, LastUsed: []int64{3599999999, 0}, LastUsedIPs: []string{"2001:db8::7", ""},
			DeniedCounts: []int64{3, 1}, InGrace: []KeyID{key1},
		},
		LeakReported{KeyID: key1, Source: "github_commit", URL: "https://github.com/acme/demo/blob/main/.env", Action: LeakNotify},
		KeyExpiring{KeyID: key1, ExpiresAt: *end, DaysLeft: 7},
		UsedInGrace{
			RotationID: rot1, KeyID: key1, ReplacedByKeyID: key2, GraceExpiresAt: *end, Address: "203.0.113.7", Agent: "curl/8.5.0", Count: 12,
			FirstSeenAt: at(hour), LastSeenAt: at(2 * hour),
		},
		RotationClaimedAgain{RotationID: rot1},
		RedeliveryRequested{DeliveryID: "dlv_01jz8q0v6me5et8b3k2c9d4x7a", From: new(at(hour)), To: end, Delivered: true},
		OrganizationCreated{Name: "Acme"},
		OrganizationUpdated{Changed: []string{"name", "disabled_surfaces"}, Name: "Acme", DisabledSurfaces: []string{"account-keys", "apikey"}},
		ProjectCreated{Name: "Demo", Brand: "acme", Policy: policy},
		ProjectUpdated{Changed: []string{"brand", "policy.require_expiry"}, Name: "Demo", Brand: "acme", Policy: policy},
		ProjectDeleted{},
		EnvironmentCreated{EnvironmentID: env1, Name: "live"},
		EndpointCreated{
			URL: "https://example.com/hook", LineageID: lin1, SecretMode: SecretSealed, AckLevel: AckFirstUse,
			ReceiverKey: &ReceiverKey{ID: "0123456789abcdef", PublicKey: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="}, SigningPublicKey: "whpk_AA==",
			EventTypes: []MessageType{MessageRotationStalled, MessageKeyRevoked}, ClientCertificate: &certificate,
		},
		EndpointVerified{target},
		EndpointUpdated{Changed: []string{"url"}, Target: target, AckLevel: AckAccepted, Proposed: &target, EventTypes: []MessageType{MessageRotationStalled}, ClientCertificate: &certificate},
		EndpointStateChanged{State: EndpointDisabled, Reason: "gone"},
		SigningSecretRotated{ExpiresAt: *end, SigningPublicKey: "whpk_AA=="},
		EndpointDeleted{},
		EndpointFailing{Status: 401, Failures: 3},
	}
}

func goldenFile(t Type, revision int) string {
	return filepath.Join("testdata", "events", fmt.Sprintf("%s.v%d.json", t, revision))
}

// readGolden returns the frozen wire form. With -update a missing one of the current revision is written.
func readGolden(t *testing.T, kind Type, revision int, current Payload) []byte {
	t.Helper()
	path := goldenFile(kind, revision)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *update && current != nil {
		if raw, _, err = Encode(current); err == nil {
			raw = append(raw, '\n')
			err = os.WriteFile(path, raw, 0o644)
		}
	}
	if err != nil {
		t.Fatalf("read golden file of %s revision %d (a new one is written by -update): %v", kind, revision, err)
	}
	return []byte(strings.TrimSuffix(string(raw), "\n"))
}

// Every revision of every type that was ever stored stays readable, and what is read is what was written.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	byType := map[Type]Payload{}
	for _, p := range samples() {
		byType[p.Type()] = p
	}
	for _, kind := range Types() {
		for revision := 1; revision <= codecs[kind].revision; revision++ {
			t.Run(fmt.Sprintf("%s/v%d", kind, revision), func(t *testing.T) {
				t.Parallel()
				var current Payload
				if revision == codecs[kind].revision {
					current = byType[kind]
				}
				golden := readGolden(t, kind, revision, current)
				read, err := Decode(kind, revision, golden)
				if err != nil {
					t.Fatal(err)
				}
				if read.Type() != kind {
					t.Fatalf("%s is read as %s", kind, read.Type())
				}
				if current == nil {
					return // an older revision: it is read, but never written again
				}
				same(t, "payloads", read, current)
				written, wroteRevision, err := Encode(read)
				if err != nil || wroteRevision != revision || string(written) != string(golden) {
					t.Fatalf("revision %d (%v); the form changed, which needs a new revision and an upcast:\n got %s\nwant %s", wroteRevision, err, written, golden)
				}
			})
		}
	}
}

func TestGoldenFilesBelongToKnownRevisions(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for kind, c := range codecs {
		for revision := 1; revision <= c.revision; revision++ {
			known[goldenFile(kind, revision)] = true
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "events", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[file] {
			t.Errorf("%s is of no known type and revision; stored events of it cannot be read", file)
		}
	}
}

// A field that no golden file has could change its form unseen.
func TestSamplesSetEveryField(t *testing.T) {
	t.Parallel()
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if v.IsZero() && v.Type().Size() > 0 {
			t.Errorf("%s is not set", path)
			return
		}
		if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]() {
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		}
	}
	for _, p := range samples() {
		walk(string(p.Type()), reflect.ValueOf(p))
	}
}

func TestTypesAreTheDeclaredOnes(t *testing.T) {
	t.Parallel()
	var known, sampled []string
	for _, kind := range Types() {
		known = append(known, string(kind))
	}
	for _, p := range samples() {
		sampled = append(sampled, string(p.Type()))
	}
	slices.Sort(known)
	slices.Sort(sampled)
	declared := constants(t, "Type")
	if len(declared) < 13 {
		t.Fatalf("found only %d types in the source", len(declared))
	}
	same(t, "types with a codec", known, declared)
	same(t, "types with a sample", sampled, declared)
	for kind, c := range codecs {
		if len(c.upcasts) != c.revision-1 {
			t.Errorf("%s is at revision %d and has %d upcasts", kind, c.revision, len(c.upcasts))
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		kind     Type
		revision int
		raw      string
	}{
		{"AnUnknownType", "Exploded", 1, `{}`},
		{"NoType", "", 1, `{}`},
		{"AnotherSpelling", "created", 1, `{}`},
		{"ANewerRevision", TypeCreated, codecs[TypeCreated].revision + 1, `{}`},
		{"RevisionZero", TypeCreated, 0, `{}`},
		{"ANegativeRevision", TypeCreated, -1, `{}`},
		{"BrokenJSON", TypeCreated, 1, `{"key_id":`},
		{"NoJSON", TypeCreated, 1, ``},
		{"AWrongKind", TypeCreated, 1, `{"key_id":1}`},
		{"AShortDigest", TypeCreated, 1, `{"secret_sha256":"00"}`},
		{"AShortColumn", TypeUsed, 1, `{"key_ids":["key_1"],"lineage_ids":["lin_1"],"generations":[1],"use_counts":[1],"last_used":[1],"last_used_ips":[]}`},
		{"AShortColumnOfDenials", TypeUsed, 1, `{"key_ids":["key_1"],"lineage_ids":["lin_1"],"generations":[1],"use_counts":[1],"last_used":[1],"last_used_ips":[""],"denied_counts":[]}`},
		{"ABadTime", TypeRotationAcknowledged, 1, `{"grace_expires_at":"yesterday"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if p, err := Decode(c.kind, c.revision, json.RawMessage(c.raw)); err == nil || p != nil {
				t.Fatalf("read as %#v (%v)", p, err)
			}
		})
	}
}

type unknownPayload struct{}

func (unknownPayload) Type() Type { return "Exploded" }

func TestEncodeRefusesAnUnknownType(t *testing.T) {
	t.Parallel()
	if raw, _, err := Encode(unknownPayload{}); err == nil {
		t.Fatalf("written as %s", raw)
	}
}

// A type brought from revision 1 over 2 to 3 goes through both upcasts, in order; one stored at 2 only through the last.
// It is not parallel, because it adds a type to the table.
func TestDecodeUpcastsOneRevisionAtATime(t *testing.T) {
	appending := func(text string) func(json.RawMessage) (json.RawMessage, error) {
		return func(raw json.RawMessage) (json.RawMessage, error) {
			var p OrganizationCreated
			err := json.Unmarshal(raw, &p)
			return json.RawMessage(fmt.Sprintf(`{"name":%q}`, p.Name+text)), err
		}
	}
	const kind Type = "Upcast"
	codecs[kind] = codec{3, decodeAs[OrganizationCreated], []func(json.RawMessage) (json.RawMessage, error){appending("b"), appending("c")}}
	defer delete(codecs, kind)
	for revision, want := range map[int]string{1: "abc", 2: "ac", 3: "a"} {
		p, err := Decode(kind, revision, json.RawMessage(`{"name":"a"}`))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "payloads", p, Payload(OrganizationCreated{Name: want}))
	}
	if _, err := Decode(kind, 1, json.RawMessage(`{"name":1}`)); err == nil {
		t.Fatal("an upcast that failed was passed over")
	}
}

// A reader of the log must not need to know what an event does not say.
func TestEncodeLeavesOutWhatIsAbsent(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]Payload{
		`{"key_id":"","secret_sha256":"` + strings.Repeat("0", 64) + `","key_prefix":"","last_four":"","environment_id":"","environment":"","brand":"","name":"","scopes":["*"],"grace_seconds":0}`: Created{
			Settings: Settings{Scopes: Scopes{"*"}},
		},
		`{"key_id":"","key_ids":["` + string(key1) + `"]}`: Revoked{KeyIDs: []KeyID{key1}},
		`{"rotation_id":"","key_id":"","reason":""}`:       RotationCancelled{},
		`{"url":"","secret_mode":"","ack_level":""}`:       EndpointCreated{},
	} {
		raw, _, err := Encode(p)
		if err != nil || string(raw) != want {
			t.Errorf("%T is written as\n%s (%v), want\n%s", p, raw, err, want)
		}
	}
}

func TestSnake(t *testing.T) {
	t.Parallel()
	want := map[Type]string{
		TypeCreated: "created", TypeUpdated: "updated", TypeRotated: "rotated", TypeRotationAcknowledged: "rotation_acknowledged",
		TypeRotationCancelled: "rotation_cancelled", TypeRotationStalled: "rotation_stalled",
		TypeRotationRedelivered: "rotation_redelivered", TypeRotationTimedOut: "rotation_timed_out", TypeRotationRolledBack: "rotation_rolled_back",
		TypeRotationDeferred: "rotation_deferred", TypeRotationBlocked: "rotation_blocked", TypeGraceChanged: "grace_changed", TypeGraceExpired: "grace_expired",
		TypeExpired: "expired", TypeRevoked: "revoked", TypeLeakReported: "leak_reported", TypeOrganizationCreated: "organization_created",
		TypeOrganizationUpdated: "organization_updated", TypeProjectCreated: "project_created", TypeProjectUpdated: "project_updated",
		TypeProjectDeleted: "project_deleted", TypeEnvironmentCreated: "environment_created", TypeEndpointCreated: "endpoint_created",
		TypeEndpointVerified: "endpoint_verified", TypeEndpointUpdated: "endpoint_updated", TypeEndpointStateChanged: "endpoint_state_changed",
		TypeSigningSecretRotated: "signing_secret_rotated", TypeEndpointDeleted: "endpoint_deleted",
		TypeKeyExpiring: "key_expiring", TypeEndpointFailing: "endpoint_failing", TypeUsedInGrace: "used_in_grace", TypeRotationClaimedAgain: "rotation_claimed_again",
		TypeRedeliveryRequested: "redelivery_requested", TypeUsed: "used",
	}
	for _, kind := range Types() {
		if got := kind.Snake(); got != want[kind] {
			t.Errorf("%s is %q in subjects, want %q", kind, got, want[kind])
		}
	}
}
