package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// received is what receiver.mjs prints of a request.
type received struct {
	URL      string          `json:"url"`
	ID       string          `json:"id"`
	Verified bool            `json:"verified"`
	Error    string          `json:"error"`
	Payload  json.RawMessage `json:"payload"`
}

// heard is what subscriber.mjs prints of a message.
type heard struct {
	Connected string            `json:"connected"`
	Stream    string            `json:"stream"`
	Sequence  int64             `json:"sequence"`
	Subject   string            `json:"subject"`
	Headers   map[string]string `json:"headers"`
	Body      string            `json:"body"`
	Verified  bool              `json:"verified"`
	Error     string            `json:"error"`
}

// TestLifecycle is the main job, seen from outside: a key is made, verified, rotated on its interval, handed over signed,
// replaced, and revoked, while an auditor reads along. The receiver and the auditor are programs in JavaScript with the
// libraries that users take.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	r := start(t)
	receiver := startNode(t, "receiver.mjs")
	url := awaitSaid(t, receiver, "the receiver's address", 1, func(m received) bool { return m.URL != "" })[0].URL
	// The grace is longer than any pause of a busy machine, so that somebody who looks all the time must see it.
	first := r.create(t, "customer", map[string]any{
		"rotation_interval_seconds": 3, "grace_period_seconds": 2, "rotation_webhook_url": url, "scopes": []string{"read"},
	})
	if !strings.HasPrefix(first.WebhookSecret, "whsec_") || !strings.HasPrefix(first.Key, "rk_live_") {
		t.Fatalf("the new key is %q, its signing secret %q", first.Key, first.WebhookSecret)
	}
	receiver.say(t, first.WebhookSecret)
	subscriber := startSubscriber(t, r, first)

	seen := r.follow(t, first.Key, "GRACE_EXPIRED")
	message := awaitSaid(t, receiver, "a webhook", 1, func(m received) bool { return m.ID != "" })[0]
	if !message.Verified {
		t.Fatalf("the judge refuses the signature: %s", message.Error)
	}
	handOver(t, r, first, message.Payload, seen)
	history(t, r, first)
	revoke(t, r, receiver, first)
	auditEvents(t, r, subscriber)
	auditWebhook(t, subscriber, message)
}

func startSubscriber(t *testing.T, r *instance, key keyInfo) *node {
	t.Helper()
	auditor := r.create(t, "auditor", map[string]any{"scopes": []string{"events:read"}})
	if _, err := nats.Connect(r.nats, nats.Token(key.Key), nats.MaxReconnects(0)); err == nil {
		t.Error("NATS lets a key in that lacks events:read")
	}
	limited := r.create(t, "limited", map[string]any{"scopes": []string{"events:read"}, "resources": map[string]any{"project": []string{key.ProjectID}}})
	if _, err := nats.Connect(r.nats, nats.Token(limited.Key), nats.MaxReconnects(0)); err == nil {
		t.Error("NATS shows a key that is limited to a project its whole organization")
	}
	subscriber := startNode(t, "subscriber.mjs", "NATS_URL="+r.nats, "NATS_TOKEN="+auditor.Key, "ORGANIZATION="+auditor.OrganizationID)
	awaitSaid(t, subscriber, "a connection", 1, func(m heard) bool { return m.Connected != "" })
	subscriber.say(t, key.WebhookSecret)
	return subscriber
}

// follow verifies a secret until it gets a code, and returns each verdict that differs from the one before.
func (a rest) follow(t testing.TB, secret, last string) []verdictInfo {
	t.Helper()
	var seen []verdictInfo
	eventually(t, "the verdict "+last, func() bool {
		v := a.verify(t, secret)
		if len(seen) == 0 || seen[len(seen)-1].String() != v.String() {
			seen = append(seen, v)
		}
		return v.Code == last
	})
	return seen
}

// handOver checks the message of the first rotation against what the key and its successor answered meanwhile.
func handOver(t *testing.T, r *instance, first keyInfo, payload []byte, seen []verdictInfo) {
	t.Helper()
	var m rotationMessage
	if err := json.Unmarshal(payload, &m); err != nil {
		t.Fatal(err)
	}
	d := m.Data
	if m.Type != "key.rotation.created" || d.PreviousKeyID != first.ID || d.LineageID != first.LineageID || d.Generation != 2 ||
		d.GraceSeconds != 2 || !strings.HasPrefix(d.RotationID, "rot_") || d.Secret.Mode != "plain" || d.KeyID == first.ID {
		t.Errorf("the payload is %s", payload)
	}
	var told []string
	for _, v := range seen {
		told = append(told, v.String())
	}
	want := []string{"VALID active", "VALID grace", "GRACE_EXPIRED retired"}
	if diff := gocmp.Diff(want, told); diff != "" {
		t.Fatalf("the old key answered (-want +got):\n%s", diff)
	}
	grace := seen[1]
	if !grace.Valid || grace.KeyID != first.ID || grace.ReplacedBy != d.KeyID || grace.GraceExpiresAt == nil || seen[2].Valid {
		t.Errorf("in grace it answered %+v", grace)
	}
	v := r.verify(t, d.Secret.Value)
	if v.KeyID != d.KeyID || v.LineageID != first.LineageID || v.Generation != 2 {
		t.Errorf("the delivered secret verifies as %+v", v)
	}
	if first, newest := r.lineage(t, first.LineageID)[0], d; first.Generation < newest.Generation {
		t.Errorf("the list shows generation %d after %d was delivered", first.Generation, newest.Generation)
	}
}

// history checks that a key's history tells of its rotation, in order and without a hole.
func history(t *testing.T, r *instance, key keyInfo) {
	t.Helper()
	var types []string
	eventually(t, "GraceExpired in the history", func() bool {
		types = nil
		for i, e := range r.history(t, key.ID) {
			if e.Version != int64(i+1) || e.StreamID != key.LineageID {
				t.Fatalf("event %d of the history is version %d of %s", i+1, e.Version, e.StreamID)
			}
			types = append(types, e.Type)
		}
		return slices.Contains(types, "GraceExpired")
	})
	if want := []string{"Created", "Rotated", "RotationAcknowledged"}; !slices.Equal(types[:3], want) {
		t.Errorf("the history begins with %v", types)
	}
}

// revoke ends the current key. The very next verify must say so, of the newest secret that was delivered too.
func revoke(t *testing.T, r *instance, receiver *node, key keyInfo) {
	t.Helper()
	keys := r.lineage(t, key.LineageID)
	current := keys[slices.IndexFunc(keys, func(k keyInfo) bool { return k.Status == "active" })]
	secret := secretOf(t, receiver, current.ID)
	if v := r.verify(t, secret); !v.Valid || v.KeyID != current.ID {
		t.Errorf("before the revocation the key answers %s", v)
	}
	r.revoke(t, current.ID)
	if v := r.verify(t, secret); v.Valid || v.Code != "REVOKED" {
		t.Errorf("after the revocation the key answers %s", v)
	}
	r.call(t, "POST", "/v1/api-keys/"+current.ID+"/rotate", map[string]any{}, http.StatusConflict, nil)
}

// secretOf is the secret of a key as the receiver got it.
func secretOf(t *testing.T, receiver *node, id string) string {
	t.Helper()
	var m rotationMessage
	awaitSaid(t, receiver, "the secret of "+id, 1, func(r received) bool {
		var candidate rotationMessage
		if r.ID == "" || !r.Verified || json.Unmarshal(r.Payload, &candidate) != nil || candidate.Data.KeyID != id {
			return false
		}
		m = candidate
		return true
	})
	return m.Data.Secret.Value
}

var upperCase = regexp.MustCompile(`([a-z])([A-Z])`)

func snake(eventType string) string {
	return strings.ToLower(upperCase.ReplaceAllString(eventType, "${1}_${2}"))
}

// auditEvents compares what the auditor heard with the audit feed: every position once, in order, as a CloudEvent.
func auditEvents(t *testing.T, r *instance, subscriber *node) {
	t.Helper()
	events := r.allEvents(t)
	messages := awaitSaid(t, subscriber, "all events on NATS", len(events), func(m heard) bool { return m.Stream == "REKEY_EVENTS" })
	for i, e := range events {
		m := messages[i]
		if e.Position != int64(i+1) || m.Sequence != e.Position {
			t.Fatalf("event %d has the position %d and the sequence %d", i+1, e.Position, m.Sequence)
		}
		want := map[string]string{
			"Nats-Msg-Id": e.ID, "ce-id": e.ID, "ce-specversion": "1.0", "ce-source": "rekey", "ce-type": "rekey." + snake(e.Type),
			"ce-subject": e.StreamID, "ce-datacontenttype": "application/json",
		}
		for name, value := range want {
			if m.Headers[name] != value {
				t.Errorf("event %d has %s: %q, not %q", i+1, name, m.Headers[name], value)
			}
		}
		if at, err := time.Parse(time.RFC3339Nano, m.Headers["ce-time"]); err != nil || at.UTC().Format(time.RFC3339Nano) != e.OccurredAt {
			t.Errorf("event %d has ce-time %s, not %s", i+1, m.Headers["ce-time"], e.OccurredAt)
		}
		if subject := "rekey.events." + e.OrganizationID + "." + cmp.Or(e.ProjectID, "-") + "." + snake(e.Type); m.Subject != subject {
			t.Errorf("event %d is on %s, not %s", i+1, m.Subject, subject)
		}
		if !sameJSON(t, e.Data, []byte(m.Body)) {
			t.Errorf("event %d is %s in the feed and %s on NATS", i+1, e.Data, m.Body)
		}
	}
}

// sameJSON compares the text without the spaces between its parts: order and spelling count.
func sameJSON(t testing.TB, a, b []byte) bool {
	t.Helper()
	var compact [2]bytes.Buffer
	for i, raw := range [][]byte{a, b} {
		if err := json.Compact(&compact[i], raw); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
	}
	return compact[0].String() == compact[1].String()
}

// auditWebhook checks the webhook's copy on NATS: the same id, a signature of its own, and everything but the secret.
func auditWebhook(t *testing.T, subscriber *node, message received) {
	t.Helper()
	copied := awaitSaid(t, subscriber, "the webhook on NATS", 1, func(m heard) bool { return m.Stream == "REKEY_WEBHOOKS" })[0]
	if !copied.Verified {
		t.Errorf("the judge refuses the signature of the copy: %s", copied.Error)
	}
	if copied.Headers["webhook-id"] != message.ID {
		t.Errorf("the copy has the id %s, not %s", copied.Headers["webhook-id"], message.ID)
	}
	var plain, omitted rotationMessage
	if err := json.Unmarshal(message.Payload, &plain); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(copied.Body), &omitted); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(copied.Body, plain.Data.Secret.Value) || omitted.Data.Secret.Mode != "omitted" {
		t.Errorf("the copy's secret is in mode %q", omitted.Data.Secret.Mode)
	}
	plain.Data.Secret = omitted.Data.Secret
	if diff := gocmp.Diff(plain, omitted); diff != "" {
		t.Errorf("the copy differs by more than the secret (-sent +copied):\n%s", diff)
	}
}
