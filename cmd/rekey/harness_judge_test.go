package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// outsider is judge.mjs: a receiver and subscriber that shares no code with rekey.
type outsider struct {
	*node
	r         *instance
	url       string
	publicKey string
	keys      []signingKey
	paths     map[string]string // where the secrets of a lineage are sent
}

// signingKey is a key that messages to a path are signed with.
type signingKey struct {
	name, path string
	// It was made between two moments; zero: before there was any message.
	from, since time.Time
	until       time.Time // zero: it has no end
}

// judgeSlack is how far the choice of the keys and the time in the header may lie apart on a busy machine.
const judgeSlack = 2

// live reports whether a message of a second must be signed by the key, or must not be; around the begin and the end of
// a key neither is certain.
func (k signingKey) live(at int64) (must, mustNot bool) {
	began := k.since.IsZero() || at >= k.since.Unix()+judgeSlack
	goesOn := k.until.IsZero() || at+judgeSlack <= k.until.Unix()
	ended := !k.until.IsZero() && at > k.until.Unix()+judgeSlack
	return began && goesOn, ended || !k.from.IsZero() && at < k.from.Unix()
}

// cameInfo is a message as it came.
type cameInfo struct {
	Via    string `json:"via"`
	Path   string `json:"path"`
	ID     string `json:"id"`
	At     int64  `json:"at"`
	Type   string `json:"type"`
	Secret string `json:"secret"` // as the receiver read it
	Data   struct {
		KeyID      string `json:"key_id"`
		LineageID  string `json:"lineage_id"`
		Generation int    `json:"generation"`
		RotationID string `json:"rotation_id"`
		Secret     struct {
			Mode     string `json:"mode"`
			ClaimURL string `json:"claim_url"`
		} `json:"secret"`
	} `json:"data"`
}

// judgedInfo is a message with what each library says to it.
type judgedInfo struct {
	Via      string              `json:"via"`
	Path     string              `json:"path"`
	Subject  string              `json:"subject"`
	Headers  map[string]string   `json:"headers"`
	Body     []byte              `json:"body"`
	Verified map[string][]string `json:"verified"` // by name of the key: who verifies
	Forged   []string            `json:"forged"`   // changes that nobody noticed
}

type outsiderLine struct {
	URL       string      `json:"url"`
	PublicKey string      `json:"public_key"`
	Came      *cameInfo   `json:"came"`
	Judged    *judgedInfo `json:"judged"`
	Refused   string      `json:"refused"`
	Done      int         `json:"done"`
}

func startOutsider(t *testing.T, r *instance) *outsider {
	t.Helper()
	auditor := r.create(t, "auditor", map[string]any{"scopes": []string{"events:read"}})
	openStream(t, strings.Replace(r.nats, "://", "://"+natsToken(t, r.dataDir)+"@", 1), "REKEY_WEBHOOKS")
	n := startNode(t, "judge.mjs", "NATS_URL="+r.nats, "NATS_TOKEN="+auditor.Key, "ORGANIZATION="+auditor.OrganizationID)
	ready := awaitSaid(t, n, "the outsider", 1, func(l outsiderLine) bool { return l.URL != "" })[0]
	return &outsider{node: n, r: r, url: ready.URL, publicKey: ready.PublicKey, paths: map[string]string{}}
}

// ask gives it a command.
func (o *outsider) ask(t *testing.T, command map[string]any) {
	t.Helper()
	raw, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	o.say(t, string(raw))
}

func (o *outsider) trust(t *testing.T, k signingKey, key string) {
	t.Helper()
	o.keys = append(o.keys, k)
	o.ask(t, map[string]any{"trust": map[string]string{"name": k.name, "path": k.path, "key": key}})
}

// came lists what has come, and fails the test if something was refused.
func (o *outsider) came(t *testing.T, keep func(cameInfo) bool) []cameInfo {
	t.Helper()
	var all []cameInfo
	for _, line := range said(t, o.node, func(outsiderLine) bool { return true }) {
		if line.Refused != "" {
			t.Fatalf("the receiver refused: %s", line.Refused)
		}
		if line.Came != nil && keep(*line.Came) {
			all = append(all, *line.Came)
		}
	}
	return all
}

func (o *outsider) await(t *testing.T, what string, keep func(cameInfo) bool) cameInfo {
	t.Helper()
	var all []cameInfo
	eventually(t, what, func() bool {
		all = o.came(t, keep)
		return len(all) > 0
	})
	return all[0]
}

// created waits for the new secret of a lineage, over HTTP or NATS.
func (o *outsider) created(t *testing.T, via, lineage string) cameInfo {
	t.Helper()
	return o.await(t, "a new secret over "+via, func(m cameInfo) bool {
		return m.Via == via && m.Type == "key.rotation.created" && m.Data.LineageID == lineage
	})
}

// endpointInfo is what the tests look at of a webhook endpoint.
type endpointInfo struct {
	ID               string `json:"id"`
	State            string `json:"state"`
	SigningSecret    string `json:"signing_secret"`
	SigningPublicKey string `json:"signing_public_key"`
}

// probeInfo is the answer to a verification or a test.
type probeInfo struct {
	Delivered bool   `json:"delivered"`
	Code      string `json:"code"`
	Status    int    `json:"http_status"`
}

func (a rest) registerEndpoint(t testing.TB, url string, fields map[string]any) endpointInfo {
	t.Helper()
	body := map[string]any{"project_id": a.project(t), "url": url}
	for field, value := range fields {
		body[field] = value
	}
	var endpoint endpointInfo
	a.call(t, "POST", "/v1/webhook-endpoints", body, http.StatusCreated, &endpoint)
	return endpoint
}

// probe verifies or tests an endpoint.
func (a rest) probe(t testing.TB, id, what string) probeInfo {
	t.Helper()
	var probe probeInfo
	a.call(t, "POST", "/v1/webhook-endpoints/"+id+"/"+what, nil, http.StatusOK, &probe)
	return probe
}

// register makes a path an endpoint that has proven itself, with a challenge that only the judge can have answered.
func (o *outsider) register(t *testing.T, path string, fields map[string]any) endpointInfo {
	t.Helper()
	endpoint := o.r.registerEndpoint(t, o.url+path, fields)
	o.trust(t, signingKey{name: path + " v1", path: path}, endpoint.SigningSecret)
	o.trust(t, signingKey{name: path + " v1a", path: path}, endpoint.SigningPublicKey)
	for _, what := range []string{"verify", "test"} {
		if probe := o.r.probe(t, endpoint.ID, what); !probe.Delivered {
			t.Fatalf("%s: the receiver did not pass: %+v", what, probe)
		}
	}
	return endpoint
}

// key makes a key whose secrets go to a registered endpoint.
func (o *outsider) key(t *testing.T, path string, endpoint endpointInfo, interval, grace int) keyInfo {
	t.Helper()
	key := o.r.create(t, "to "+path, map[string]any{
		"webhook_endpoint_id": endpoint.ID, "rotation_interval_seconds": interval, "grace_period_seconds": grace,
	})
	o.paths[key.LineageID] = path
	return key
}

// ownKey makes a key with an address of its own.
func (o *outsider) ownKey(t *testing.T, path string) keyInfo {
	t.Helper()
	key := o.r.create(t, "own "+path, map[string]any{
		"rotation_webhook_url": o.url + path, "rotation_interval_seconds": 1, "grace_period_seconds": 0,
	})
	o.trust(t, signingKey{name: path + " v1", path: path}, key.WebhookSecret)
	o.paths[key.LineageID] = path
	return key
}

// settle lets a lineage keep the key that it has.
func (o *outsider) settle(t *testing.T, key keyInfo) {
	t.Helper()
	eventually(t, "a lineage that keeps its key", func() bool {
		for _, k := range o.r.lineage(t, key.LineageID) {
			if k.Status != "active" {
				continue
			}
			got, err := o.r.send(t.Context(), "PATCH", "/v1/api-keys/"+k.ID, map[string]any{"rotation_interval_seconds": nil})
			if err != nil || got.status != http.StatusOK && got.status != http.StatusConflict { // it was replaced just now
				t.Fatalf("answered %d: %s, %v", got.status, got.body, err)
			}
			return got.status == http.StatusOK
		}
		return false
	})
}

// rotationInfo is what the tests look at of a rotation.
type rotationInfo struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	AckLevel string `json:"ack_level"`
	Reason   string `json:"reason"`
}

// acknowledged waits until a rotation is known to have arrived, and returns how.
func (a rest) acknowledged(t testing.TB, rotation string) string {
	t.Helper()
	var r rotationInfo
	eventually(t, "an acknowledgment", func() bool {
		a.call(t, "GET", "/v1/rotations/"+rotation, nil, http.StatusOK, &r)
		return r.AckLevel != ""
	})
	return r.AckLevel
}
