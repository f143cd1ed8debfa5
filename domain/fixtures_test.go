package domain

import (
	"io"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Fixed names and times that the tables of decisions are written with.
const (
	org1  OrganizationID = "org_00000000000000000000000001"
	proj1 ProjectID      = "proj_00000000000000000000000001"
	env1  EnvironmentID  = "env_00000000000000000000000001"
	env2  EnvironmentID  = "env_00000000000000000000000002"
	lin1  LineageID      = "lin_00000000000000000000000001"
	key1  KeyID          = "key_00000000000000000000000001"
	key2  KeyID          = "key_00000000000000000000000002"
	key3  KeyID          = "key_00000000000000000000000003"
	key4  KeyID          = "key_00000000000000000000000004"
	key5  KeyID          = "key_00000000000000000000000005"
	key6  KeyID          = "key_00000000000000000000000006"
	rot1  RotationID     = "rot_00000000000000000000000001"
	rot2  RotationID     = "rot_00000000000000000000000002"
	rot9  RotationID     = "rot_00000000000000000000000009"
	ep1   EndpointID     = "ep_00000000000000000000000001"
	ep2   EndpointID     = "ep_00000000000000000000000002"
	actor Actor          = "key_0000000000000000000000000a"
)

const (
	hour = time.Hour
	day  = 24 * time.Hour
	// hourPhase is the phase of lin1 with an interval of one hour, written out: it must never change, since it would move
	// the due times of stored keys.
	hourPhase = 286525750 * time.Microsecond
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// slot is the n-th rotation slot of a lineage that began at start with an interval of an hour.
func slot(n int) time.Duration { return time.Duration(n)*hour + hourPhase }

// seeded is a source of randomness that gives the same bytes in every run.
func seeded(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// mintFixed makes the same secret every time.
func mintFixed(brand, environment string) (Secret, error) {
	return MintSecret(seeded(7), brand, environment)
}

// mintedFacts are what is kept of the secret that mintFixed makes for brand rk and environment live.
func mintedFacts(t testing.TB) SecretFacts {
	t.Helper()
	secret, err := mintFixed("rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	return FactsOf(secret)
}

// facts are what is kept of the secret of the n-th generation.
func facts(n byte) SecretFacts {
	return SecretFacts{Digest: Digest{n}, Prefix: "rk_live_aaa" + string('0'+n), LastFour: "bbb" + string('0'+n)}
}

// fact is a payload and how long after start it happened.
type fact struct {
	after time.Duration
	data  Payload
}

// given folds facts into a lineage.
func given(t testing.TB, history ...fact) *Lineage {
	t.Helper()
	events := make([]Event, len(history))
	for i, f := range history {
		events[i] = Event{
			ID: "evt_x", StreamID: string(lin1), Version: int64(i + 1), OrganizationID: org1, ProjectID: proj1,
			Actor: actor, OccurredAt: at(f.after), Data: f.data,
		}
	}
	state, err := Fold(string(lin1), events)
	if err != nil {
		t.Fatal(err)
	}
	return state.(*Lineage)
}

// created begins a lineage without rotation; change alters it.
func created(change ...func(*Created)) fact {
	c := Created{
		KeyID: key1, SecretFacts: facts(1), EnvironmentID: env1, Environment: "live", Brand: "rk",
		Settings: Settings{Name: "ci", Scopes: Scopes{"*"}, GraceSeconds: 3600},
	}
	for _, f := range change {
		f(&c)
	}
	return fact{0, c}
}

// hourly rotates each hour, sent to ep1, with half an hour of grace.
func hourly(c *Created) {
	c.RotationIntervalSeconds, c.GraceSeconds = 3600, 1800
	c.EndpointID, c.WebhookURL = ep1, "https://example.com/hook"
	c.NextRotationAt = new(at(slot(1)))
}

// ending gives the lineage a life of d.
func ending(d time.Duration) func(*Created) {
	return func(c *Created) { c.ExpiresAt = new(at(d)) }
}

// byHand is an acknowledged rotation from generation n to n+1.
func byHand(after time.Duration, n int, grace time.Duration) fact {
	return fact{after, Rotated{
		RotationID: RotationID("rot_0000000000000000000000001" + string(rune('0'+n))), Trigger: TriggerManual,
		PreviousKeyID: keyNumber(n), KeyID: keyNumber(n + 1), Generation: n + 1, SecretFacts: facts(byte(n + 1)),
		GraceSeconds: int64(grace / time.Second), Acknowledged: AckAnswer, GraceExpiresAt: new(at(after + grace)),
	}}
}

// bySlot is the rotation rot1 of an hourly lineage from key1 to key2 at its first slot, waiting for ep1.
func bySlot() fact {
	return fact{slot(1), Rotated{
		RotationID: rot1, Trigger: TriggerInterval, PreviousKeyID: key1, KeyID: key2, Generation: 2, SecretFacts: facts(2),
		GraceSeconds: 1800, EndpointID: ep1, NextRotationAt: new(at(slot(2))),
	}}
}

// arrived acknowledges rot1.
func arrived(after time.Duration) fact {
	return fact{after, RotationAcknowledged{
		RotationID: rot1, PreviousKeyID: key1, KeyID: key2, Level: AckAccepted,
		GraceExpiresAt: at(after + 30*time.Minute), NextRotationAt: new(at(slot(2))),
	}}
}

func keyNumber(n int) KeyID { return []KeyID{"", key1, key2, key3, key4, key5, key6}[n] }

// refused checks that err is a refusal with this code and, if one is named, about this field.
func refused(t *testing.T, err error, code Code, field string) *Error {
	t.Helper()
	refusal, ok := err.(*Error)
	if !ok {
		t.Fatalf("error is %v (%T), want a refusal %s", err, err, code)
	}
	if refusal.Code != code {
		t.Fatalf("code is %s (%v), want %s", refusal.Code, err, code)
	}
	got := ""
	if len(refusal.Fields) > 0 {
		got = refusal.Fields[0].Field
	}
	if got != field {
		t.Fatalf("refused field is %q (%v), want %q", got, err, field)
	}
	if refusal.Message == "" || (field != "" && refusal.Fields[0].Remedy == "") {
		t.Fatalf("%#v has no message or no remedy", refusal)
	}
	return refusal
}

// same fails with a difference. An empty list and none are the same: they are stored alike.
func same(t interface {
	Helper()
	Fatalf(string, ...any)
}, what string, got, want any,
) {
	t.Helper()
	if reflect.DeepEqual(got, want) { // a hundred times faster, and stricter
		return
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s differ (-want +got):\n%s", what, diff)
	}
}

// decision is a row of a table: given facts, when a command is decided, then these payloads follow, or a refusal.
type decision struct {
	name    string
	given   []fact
	when    func(*Lineage) ([]Decided, error)
	then    []Payload // none: nothing is decided
	code    Code      // set: refused
	field   string
	details map[string]any
}

func runDecisions(t *testing.T, table []decision) {
	t.Helper()
	for _, d := range table {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			d.run(t)
		})
	}
}

func (d decision) run(t *testing.T) {
	l := given(t, d.given...)
	before, err := EncodeState(l)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.when(l)
	if after, _ := EncodeState(l); string(after) != string(before) {
		t.Fatalf("deciding changed the state:\n%s\n%s", before, after)
	}
	if d.code != "" {
		if len(got) != 0 {
			t.Fatalf("a refusal came with events: %v", got)
		}
		same(t, "details", refused(t, err, d.code, d.field).Details, d.details)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", payloads(t, got), d.then)
}

// payloads returns what was decided and checks the addresses: each event in its own stream, all of one tenant.
func payloads(t *testing.T, decided []Decided) []Payload {
	t.Helper()
	var out []Payload
	for _, d := range decided {
		stream := string(lin1)
		switch d.Data.(type) {
		case EndpointCreated:
			stream = ""
			if StreamKind(d.StreamID) != PrefixEndpoint {
				t.Fatalf("%T goes to stream %s", d.Data, d.StreamID)
			}
		}
		if (stream != "" && d.StreamID != stream) || d.OrganizationID != org1 || d.ProjectID != proj1 {
			t.Fatalf("%T is addressed to %s of %s, %s", d.Data, d.StreamID, d.OrganizationID, d.ProjectID)
		}
		out = append(out, d.Data)
	}
	return out
}
