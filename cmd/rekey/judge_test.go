package main

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// TestJudgedByOthers has everything that a running rekey says to receivers judged by what others wrote: npm's
// standardwebhooks and svix verify each message over HTTP and from NATS, through a change of the signing secret,
// node's own ed25519 verifies v1a, and @hpke/core opens what is sealed.
func TestJudgedByOthers(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	o := startOutsider(t, start(t))
	plain := o.register(t, "/plain", nil)
	sealed := o.register(t, "/sealed", map[string]any{"secret_mode": "sealed", "receiver_public_key": o.publicKey, "ack_level": "proof"})
	claim := o.register(t, "/claim", map[string]any{"secret_mode": "claim"})
	stream := o.key(t, "/plain", plain, 1, 0)
	end := o.rotateSigning(t, "/plain", plain)
	o.provoke(t)
	o.sealedSecret(t, sealed)
	o.claimedSecret(t, claim)
	maintain(t, o.r)
	o.everyType(t)
	o.past(t, stream.LineageID, end)
	o.settle(t, stream)
	o.sameOnBoth(t)
	o.verdicts(t)
}

// rotateSigning replaces the signing secret while messages are sent all the time, and returns when the old one ends.
func (o *outsider) rotateSigning(t *testing.T, path string, endpoint endpointInfo) time.Time {
	t.Helper()
	var rotated struct {
		SigningSecret     string    `json:"signing_secret"`
		SigningPublicKey  string    `json:"signing_public_key"`
		PreviousExpiresAt time.Time `json:"previous_signing_secret_expires_at"`
	}
	began := time.Now()
	o.r.call(t, "POST", "/v1/webhook-endpoints/"+endpoint.ID+"/rotate-secret", map[string]any{"grace_seconds": 8}, http.StatusOK, &rotated)
	for i := range o.keys {
		if o.keys[i].path == path {
			o.keys[i].until = rotated.PreviousExpiresAt
		}
	}
	successor := signingKey{path: path, from: began, since: time.Now()}
	successor.name = path + " next v1"
	o.trust(t, successor, rotated.SigningSecret)
	successor.name = path + " next v1a"
	o.trust(t, successor, rotated.SigningPublicKey)
	return rotated.PreviousExpiresAt
}

// past waits for new secrets that were sent in the certain part of the overlap and after it.
func (o *outsider) past(t *testing.T, lineage string, end time.Time) {
	t.Helper()
	for _, via := range []string{"http", "nats"} {
		for _, phase := range []struct {
			what      string
			old, next bool
		}{{"in the overlap", true, true}, {"after the overlap", false, true}} {
			o.await(t, "a new secret over "+via+" "+phase.what, func(m cameInfo) bool {
				old, _ := o.named("/plain v1").live(m.At)
				next, _ := o.named("/plain next v1").live(m.At)
				_, ended := o.named("/plain v1").live(m.At)
				return m.Via == via && m.Type == "key.rotation.created" && m.Data.LineageID == lineage && next == phase.next && old == phase.old && ended != phase.old
			})
		}
	}
	if time.Now().Before(end) {
		t.Error("the overlap has not ended")
	}
}

func (o *outsider) named(name string) signingKey {
	return o.keys[slices.IndexFunc(o.keys, func(k signingKey) bool { return k.name == name })]
}

// provoke lets happen whatever there is a message for.
func (o *outsider) provoke(t *testing.T) {
	t.Helper()
	r := o.r
	o.ask(t, map[string]any{"status": "/gone", "code": http.StatusGone})
	o.ownKey(t, "/gone")
	o.register(t, "/failing", nil)
	o.ask(t, map[string]any{"status": "/failing", "code": http.StatusForbidden}) // whatever it is told of
	unverified := r.registerEndpoint(t, o.url+"/unverified", nil)
	o.key(t, "/unverified", unverified, 1, 0) // blocked
	o.ask(t, map[string]any{"hold": "/slow"})
	slow := o.ownKey(t, "/slow")

	deferred := r.create(t, "used in grace", map[string]any{"rotation_interval_seconds": 2, "grace_period_seconds": 1})
	for newest := deferred.ID; len(r.lineage(t, deferred.LineageID)) < 4; { // no more than three are in grace at once
		newest = r.rotate(t, newest, 60).NewKeyID
	}
	if v := r.verify(t, deferred.Key); !v.Valid {
		t.Errorf("in grace it answers %s", v)
	}
	r.create(t, "expiring", map[string]any{"expires_at": time.Now().Add(24*time.Hour + 2*time.Second).UTC().Format(time.RFC3339)})
	r.create(t, "ending", map[string]any{"expires_at": time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339Nano)}) // retired
	revoked := r.create(t, "revoked", nil)
	r.revoke(t, revoked.ID)

	waiting := o.created(t, "http", slow.LineageID)
	r.call(t, "POST", "/v1/rotations/"+waiting.Data.RotationID+"/cancel", nil, http.StatusOK, nil)
	o.ask(t, map[string]any{"release": "/slow"})
	o.settle(t, slow)
}

// maintain has the work of each minute done now.
func maintain(t *testing.T, r *instance) {
	t.Helper()
	conn := operatorConn(t, r.dataDir)
	eventually(t, "the count of the use in grace", func() bool {
		var counted bool
		if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM grace_usage)`).Scan(&counted); err != nil {
			t.Fatal(err)
		}
		return counted
	})
	tag, err := conn.Exec(t.Context(), `INSERT INTO river.river_job (kind, args, max_attempts, queue, priority, state, scheduled_at)
		SELECT kind, args, max_attempts, queue, priority, 'available', now() FROM river.river_job WHERE kind = 'maintain' LIMIT 1`)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("%s, %v", tag, err)
	}
}

// sealedSecret follows a secret that only the receiver can open: it is the same from NATS, proves itself, and is the new key.
func (o *outsider) sealedSecret(t *testing.T, endpoint endpointInfo) {
	t.Helper()
	o.ask(t, map[string]any{"hold": "/sealed"}) // while it waits, NATS has it too
	key := o.key(t, "/sealed", endpoint, 2, 1)
	sent := o.created(t, "http", key.LineageID)
	published := o.created(t, "nats", key.LineageID)
	if sent.Data.Secret.Mode != "sealed" || published.Data.Secret.Mode != "sealed" || sent.ID != published.ID || sent.Secret == "" || sent.Secret != published.Secret {
		t.Errorf("HTTP brought %+v, NATS %+v", sent, published)
	}
	o.settle(t, key)
	o.ask(t, map[string]any{"release": "/sealed"})
	if level := o.r.acknowledged(t, sent.Data.RotationID); level != "proof" {
		t.Errorf("acknowledged by %s", level)
	}
	o.isTheNewKey(t, sent, sent.Secret)
}

// claimedSecret fetches a secret, once, long after the answer to the message that says where. A second time raises an alarm.
func (o *outsider) claimedSecret(t *testing.T, endpoint endpointInfo) {
	t.Helper()
	key := o.key(t, "/claim", endpoint, 2, 1)
	sent := o.created(t, "http", key.LineageID)
	o.settle(t, key)
	eventually(t, "the delivery of the address", func() bool {
		var found []struct {
			WebhookID string `json:"webhook_id"`
		}
		o.r.call(t, "GET", "/v1/deliveries?state=delivered&endpoint_id="+endpoint.ID, nil, http.StatusOK, &found)
		for _, d := range found {
			if d.WebhookID == sent.ID {
				return true
			}
		}
		return false
	})
	address, err := url.Parse(sent.Data.Secret.ClaimURL)
	if err != nil || !strings.HasPrefix(sent.Data.Secret.ClaimURL, o.r.url+"/") {
		t.Fatalf("the secret is at %q, not at %s", sent.Data.Secret.ClaimURL, o.r.url)
	}
	stranger := o.r.with("")
	var claimed struct{ Key string }
	stranger.call(t, "POST", address.Path, nil, http.StatusOK, &claimed)
	stranger.call(t, "POST", address.Path, nil, http.StatusNotFound, nil)
	if level := o.r.acknowledged(t, sent.Data.RotationID); level != "claim" {
		t.Errorf("acknowledged by %s", level)
	}
	o.isTheNewKey(t, sent, claimed.Key)
}

func (o *outsider) isTheNewKey(t *testing.T, sent cameInfo, secret string) {
	t.Helper()
	if v := o.r.verify(t, secret); !v.Valid || v.KeyID != sent.Data.KeyID || v.Generation != sent.Data.Generation {
		t.Errorf("the %s secret of %s verifies as %+v", sent.Data.Secret.Mode, sent.Data.KeyID, v)
	}
}

// rowOfType finds the types of messages in docs/webhooks.md.
var (
	rowOfType     = regexp.MustCompile("(?m)^\\| `((?:key|endpoint)\\.[a-z_.]+)` \\|")
	headingOfType = regexp.MustCompile("(?m)^##.*`((?:key|endpoint)\\.[a-z_.]+)`")
)

// everyType requires each documented type of message over HTTP and, unless it is of a single endpoint, on NATS.
func (o *outsider) everyType(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := append(rowOfType.FindAllStringSubmatch(string(raw), -1), headingOfType.FindAllStringSubmatch(string(raw), -1)...)
	if len(rows) < 11 {
		t.Fatalf("docs/webhooks.md names %d types only", len(rows))
	}
	for _, row := range rows {
		for _, via := range []string{"http", "nats"} {
			if via == "nats" && (row[1] == "endpoint.verification" || row[1] == "endpoint.test") {
				continue
			}
			o.await(t, row[1]+" over "+via, func(m cameInfo) bool { return m.Via == via && m.Type == row[1] })
		}
	}
}

// sameOnBoth waits until each message has come both ways, those that are asked of one endpoint aside.
func (o *outsider) sameOnBoth(t *testing.T) {
	t.Helper()
	var missing []string
	within(t, patience, "every message both ways", func() bool {
		ways := map[string]map[string]bool{}
		for _, m := range o.came(t, func(m cameInfo) bool { return m.Type != "endpoint.verification" && m.Type != "endpoint.test" }) {
			if ways[m.ID] == nil {
				ways[m.ID] = map[string]bool{}
			}
			ways[m.ID][m.Via] = true
		}
		missing = missing[:0]
		for id, way := range ways {
			if len(way) < 2 {
				missing = append(missing, id)
			}
		}
		return len(missing) == 0
	})
}

// verdicts looks at what the judges say to each message under each key.
func (o *outsider) verdicts(t *testing.T) {
	t.Helper()
	o.ask(t, map[string]any{"judge": true})
	done := awaitSaid(t, o.node, "the verdicts", 1, func(l outsiderLine) bool { return l.Done > 0 })[0].Done
	lines := said(t, o.node, func(l outsiderLine) bool { return l.Judged != nil })
	if len(lines) != done {
		t.Fatalf("%d of %d messages were judged", len(lines), done)
	}
	sent := map[string][]byte{}
	seen := map[string]int{}
	for _, l := range lines {
		o.signedAsMeant(t, l.Judged, seen)
		if l.Judged.Via == "http" {
			sent[l.Judged.Headers["webhook-id"]] = l.Judged.Body
		}
	}
	for _, l := range lines {
		if l.Judged.Via == "nats" {
			sameBody(t, l.Judged, sent[l.Judged.Headers["webhook-id"]])
		}
	}
	for _, k := range o.keys {
		ofNoKey := k.path == "/failing" // so nothing on NATS is signed for it
		if k.path != "/unverified" && (seen[k.name+" http"] == 0 || seen[k.name+" nats"] == 0 && !ofNoKey || !k.until.IsZero() && seen[k.name+" ended"] == 0) {
			t.Errorf("%s has shown too little: %v", k.name, seen)
		}
	}
	t.Logf("%d messages were judged: %v", done, seen)
}

// signedAsMeant requires the signatures of the endpoints that a message is for, and of no key before its begin or after
// its end.
func (o *outsider) signedAsMeant(t *testing.T, m *judgedInfo, seen map[string]int) {
	t.Helper()
	at, err := strconv.ParseInt(m.Headers["webhook-timestamp"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, forged := range m.Forged {
		t.Errorf("%s passes although it was changed: %s", m.Headers["webhook-id"], forged)
	}
	for _, k := range o.keys {
		by := m.Verified[k.name]
		all := len(by) == 2 || len(by) == 1 && strings.HasSuffix(k.name, "v1a") // judges
		must, mustNot := k.live(at)
		mine, others := o.signers(t, m, k)
		switch {
		case mine && must && !all:
			t.Errorf("%s over %s is not verified by %s under %s: %s", m.Headers["webhook-id"], m.Via, "all judges", k.name, m.Body)
		case (others || mustNot) && len(by) > 0:
			t.Errorf("%s over %s is verified under %s", m.Headers["webhook-id"], m.Via, k.name)
		case mine && must:
			seen[k.name+" "+m.Via]++
		case mine && mustNot && !k.until.IsZero():
			seen[k.name+" ended"]++
		}
	}
}

// signers says whether a key is one that signs a message: all of its path's, and on NATS those of the endpoint that a
// secret is for, or of all that are told.
func (o *outsider) signers(t *testing.T, m *judgedInfo, k signingKey) (mine, others bool) {
	if m.Via == "http" {
		return m.Path == k.path, m.Path != k.path
	}
	if message := messageOf(t, m.Body); message.Type == "key.rotation.created" {
		path := o.paths[message.Data.LineageID]
		return path == k.path, path != k.path
	}
	return slices.Contains([]string{"/plain", "/sealed", "/claim"}, k.path), false
}

var secretField = regexp.MustCompile(`"secret":\{[^}]*\}`)

// sameBody requires the same bytes over NATS as over HTTP, but for a secret that is not sealed.
func sameBody(t *testing.T, m *judgedInfo, sent []byte) {
	t.Helper()
	message := messageOf(t, m.Body)
	want := sent
	if message.Type == "key.rotation.created" && message.Data.Secret.Mode != "sealed" {
		want = secretField.ReplaceAll(sent, []byte(`"secret":{"mode":"omitted"}`))
	}
	if !bytes.Equal(m.Body, want) {
		t.Errorf("over NATS came %s, over HTTP %s", m.Body, sent)
	}
	if !strings.HasPrefix(m.Subject, "rekey.webhooks.org_") || !strings.Contains(m.Subject, ".proj_") {
		t.Errorf("it is on %s", m.Subject)
	}
}
