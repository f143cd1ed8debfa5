package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// The flag may be another test file's too.
func init() {
	if flag.Lookup("update") == nil {
		flag.Bool("update", false, "write golden files anew")
	}
}

func relayTestRecord(t *testing.T) eventstore.Record {
	t.Helper()
	data := domain.GraceExpired{KeyID: "key_01jd7mxxxxf0r9a2v3b4c5d6e7"}
	raw, revision, err := domain.Encode(data)
	if err != nil {
		t.Fatal(err)
	}
	return eventstore.Record{
		Event: domain.Event{
			ID: "evt_01jd7my000f0r9a2v3b4c5d6e7", StreamID: "lin_01jd7mwwwwf0r9a2v3b4c5d6e7", Version: 3,
			OrganizationID: "org_01jd7mtttt00000000000000aa", ProjectID: "proj_01jd7mvvvv0000000000000bbb",
			Actor: "system:sweep", RequestID: "wächter \"7\" 100%",
			OccurredAt: time.Date(2026, 11, 21, 20, 30, 15, 123456000, time.UTC), Data: data,
		},
		Lane: eventstore.Lifecycle, Position: 42, Revision: revision, Raw: raw,
	}
}

// relayTestMessage is the message of a record as the relay sends it alone.
func relayTestMessage(t *testing.T, record eventstore.Record) *nats.Msg {
	t.Helper()
	s := &relaySession{feedRelay: newFeedRelay(RelayConfig{}, EventsFeed()), sequence: uint64(record.Position - 1)}
	messages, err := s.messages(t.Context(), []eventstore.Record{record})
	if err != nil {
		t.Fatal(err)
	}
	return messages[0]
}

// The form is part of the public contract: a difference here breaks those who read the stream.
func TestEventMessageGolden(t *testing.T) {
	m := relayTestMessage(t, relayTestRecord(t))
	var got bytes.Buffer
	fmt.Fprintln(&got, m.Subject)
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		fmt.Fprintf(&got, "%s: %s\n", name, strings.Join(m.Header[name], ", "))
	}
	fmt.Fprintf(&got, "\n%s\n", m.Data)
	const file = "testdata/relay_event.golden"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestEventMessage(t *testing.T) {
	t.Run("BodyIsTheStoredPayload", func(t *testing.T) {
		record := relayTestRecord(t)
		record.Raw = json.RawMessage("{ \"key_id\" : \"key_1\",\n \"unknown\":1.0}")
		if m := relayTestMessage(t, record); string(m.Data) != string(record.Raw) {
			t.Errorf("got %s", m.Data)
		}
	})
	t.Run("LeavesOutWhatAnEventDoesNotHave", func(t *testing.T) {
		record := relayTestRecord(t)
		record.Data, record.ProjectID, record.RequestID = domain.OrganizationCreated{Name: "x"}, "", ""
		m := relayTestMessage(t, record)
		if want := "rekey.events.org_01jd7mtttt00000000000000aa.-.organization_created"; m.Subject != want {
			t.Errorf("got subject %s", m.Subject)
		}
		for _, name := range []string{"Rekey-Key", "Rekey-Request"} {
			if v, ok := m.Header[name]; ok {
				t.Errorf("%s is %q", name, v)
			}
		}
	})
	// A name that leads out of its place in the subject would show an event to another organization.
	t.Run("RefusesIDsThatAreNoSubjectToken", func(t *testing.T) {
		for _, id := range []string{"", "*", ">", "org.a", "org a", "org\ta", "örg"} {
			record := relayTestRecord(t)
			record.OrganizationID = domain.OrganizationID(id)
			if m, err := eventMessage(&record); err == nil {
				t.Errorf("%q gave subject %s", id, m.Subject)
			}
		}
	})
	t.Run("NamesTheKeyOfEachTypeThatHasOne", func(t *testing.T) {
		for _, typ := range domain.Types() {
			payload, err := domain.Decode(typ, 1, json.RawMessage(`{"key_id":"key_x"}`))
			if err != nil {
				t.Fatal(err)
			}
			raw, _, err := domain.Encode(payload)
			if err != nil {
				t.Fatal(err)
			}
			if has := bytes.Contains(raw, []byte(`"key_id":"key_x"`)); has != (keyOf(payload) == "key_x") {
				t.Errorf("%s: key %q, payload %s", typ, keyOf(payload), raw)
			}
		}
	})
}

// cloudEvent lets the CloudEvents SDK read a NATS message in binary mode, attribute by attribute.
type cloudEvent struct{ *nats.Msg }

var cloudEventVersions = spec.WithPrefix("ce-")

func (cloudEvent) ReadEncoding() binding.Encoding { return binding.EncodingBinary }
func (cloudEvent) Finish(error) error             { return nil }
func (cloudEvent) ReadStructured(context.Context, binding.StructuredWriter) error {
	return binding.ErrNotStructured
}

func (c cloudEvent) GetExtension(name string) any { return c.Header.Get("ce-" + name) }
func (c cloudEvent) GetAttribute(kind spec.Kind) (spec.Attribute, any) {
	attribute := cloudEventVersions.Version(c.Header.Get("ce-specversion")).AttributeFromKind(kind)
	return attribute, c.Header.Get(attribute.PrefixedName())
}

func (c cloudEvent) ReadBinary(_ context.Context, w binding.BinaryWriter) error {
	version := cloudEventVersions.Version(c.Header.Get(cloudEventVersions.PrefixedSpecVersionName()))
	if version == nil {
		return binding.ErrNotBinary
	}
	for name, values := range c.Header {
		value, err := url.PathUnescape(values[0])
		if err != nil {
			return fmt.Errorf("decode %s: %w", name, err)
		}
		switch attribute := version.Attribute(name); {
		case attribute != nil:
			err = w.SetAttribute(attribute, value)
		case strings.HasPrefix(name, "ce-"):
			err = w.SetExtension(strings.TrimPrefix(name, "ce-"), value)
		case name == "content-type":
			err = w.SetAttribute(version.AttributeFromKind(spec.DataContentType), value)
		}
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return w.SetData(bytes.NewReader(c.Data))
}

func TestEventMessageIsACloudEvent(t *testing.T) {
	record := relayTestRecord(t)
	event, err := binding.ToEvent(t.Context(), cloudEvent{relayTestMessage(t, record)})
	if err != nil {
		t.Fatal(err)
	}
	if err := event.Validate(); err != nil {
		t.Fatal(err)
	}
	got := []string{event.SpecVersion(), event.ID(), event.Source(), event.Type(), event.Subject(), event.DataContentType(),
		event.Time().Format(time.RFC3339Nano), string(event.Data())}
	want := []string{"1.0", string(record.ID), "rekey", "rekey.grace_expired", record.StreamID, "application/json",
		record.OccurredAt.Format(time.RFC3339Nano), string(record.Raw)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPercentEncode(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"key_01jd":            "key_01jd",
		"system:sweep":        "system:sweep",
		"Euro € 😀":            "Euro%20%E2%82%AC%20%F0%9F%98%80",
		`"100%"`:              "%22100%25%22",
		"a\r\nNats-Msg-Id: b": "a%0D%0ANats-Msg-Id:%20b",
		"\x7f\xff":            "%7F%FF",
	} {
		if got := percentEncode(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "value"))
		encoded := percentEncode(in)
		if strings.ContainsFunc(encoded, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
			t.Fatalf("%q has what a header must not have", encoded)
		}
		if out, err := url.PathUnescape(encoded); err != nil || out != in {
			t.Fatalf("%q came back as %q, error %v", in, out, err)
		}
	})
}
