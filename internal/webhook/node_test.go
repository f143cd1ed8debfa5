package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

const nodeFolder = "testdata/node"

// The judges: two libraries for v1, and node's own ed25519 for v1a, which no library knows yet.
const (
	judgeStandard = "standardwebhooks"
	judgeSvix     = "svix"
	judgeEd25519  = "ed25519"
)

// nodeCase is one message for a judge.
type nodeCase struct {
	Name    string            `json:"name"`
	Judge   string            `json:"judge"`
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	want    bool
}

func newNodeCase(name string, secret Secret, headers http.Header, body []byte, want bool) nodeCase {
	return nodeCase{name, judgeStandard, secret.Reveal(), nodeHeaders(headers), base64.StdEncoding.EncodeToString(body), want}
}

// nodeHeaders gives the names as they arrive in node, and as the libraries want them: in lower case.
func nodeHeaders(headers http.Header) map[string]string {
	lower := make(map[string]string)
	for name := range headers {
		lower[strings.ToLower(name)] = headers.Get(name)
	}
	return lower
}

// with npm's standardwebhooks and svix as the judges: other implementations in another language,
// and those that most receivers use.
func TestNode_LibrariesJudge(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	current, previous, other := newSecret(t), newSecret(t), newSecret(t)
	shortest, odd := parseSecret(t, "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 24))),
		parseSecret(t, "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 25)))
	now := time.Now()
	rotation, err := RotationCreated(now, testRotation, PlainSecret("rk_live_canary"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Message{Type: "endpoint.test", At: now.Add(-2 * time.Hour), Data: map[string]string{
		"name": "<é&\u2028\u2029😀\x00\xed\xa0\x80>"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := Headers(testID, now, rotation, current, previous)
	changed := bytes.Replace(rotation, []byte("canary"), []byte("Canary"), 1)
	moved := func(seconds int64) http.Header {
		return headersWith(good, HeaderTimestamp, strconv.FormatInt(now.Unix()+seconds, 10))
	}
	cases := []nodeCase{
		newNodeCase("current secret", current, good, rotation, true),
		newNodeCase("previous secret", previous, good, rotation, true),
		newNodeCase("shortest secret", shortest, Headers(testID, now, rotation, shortest), rotation, true),
		newNodeCase("padded secret", odd, Headers(testID, now, rotation, odd), rotation, true),
		newNodeCase("odd characters", current, Headers(testID, now, text, current), text, true),
		newNodeCase("retry two hours after the event", current, Headers(testID, now, text, current), text, true),
		newNodeCase("wrong secret", other, good, rotation, false),
		newNodeCase("previous secret after its end", previous, Headers(testID, now, rotation, current), rotation, false),
		newNodeCase("changed id", current, headersWith(good, HeaderID, testID+"x"), rotation, false),
		newNodeCase("a second later", current, moved(1), rotation, false),
		newNodeCase("a second earlier", current, moved(-1), rotation, false),
		newNodeCase("changed body", current, good, changed, false),
		newNodeCase("signed six minutes ago", current, Headers(testID, now.Add(-6*time.Minute), rotation, current), rotation, false),
		newNodeCase("signed in six minutes", current, Headers(testID, now.Add(6*time.Minute), rotation, current), rotation, false),
		newNodeCase("no signature", current, headersWith(good, HeaderSignature, ""), rotation, false),
	}
	cases = append(cases, asymmetricCases(t, current, previous, now, rotation)...)
	for _, c := range cases {
		c.Judge = judgeSvix
		cases = append(cases, c)
	}
	agree(t, cases)
}

// asymmetricCases are v1 with v1a beside it, which these libraries must skip, in every order.
func asymmetricCases(t *testing.T, current, previous Secret, now time.Time, body []byte) []nodeCase {
	t.Helper()
	newKey, oldKey := newSigningKey(t), newSigningKey(t)
	var cases []nodeCase
	for name, secrets := range map[string][]Secret{
		"v1 before v1a": {current, previous, newKey, oldKey}, "v1a before v1": {newKey, oldKey, current, previous}, "mixed": {newKey, current, oldKey, previous},
	} {
		headers := Headers(testID, now, body, secrets...)
		cases = append(cases, newNodeCase(name+", current", current, headers, body, true), newNodeCase(name+", previous", previous, headers, body, true))
	}
	return append(cases, newNodeCase("v1a alone", current, Headers(testID, now, body, newKey), body, false))
}

// plain ed25519 verifies v1a, through a change of keys and beside v1.
func TestNode_Ed25519Judges(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	newKey, oldKey, shared, now := newSigningKey(t), newSigningKey(t), newSecret(t), time.Now()
	body, err := EndpointTest(now, "ep_é")
	if err != nil {
		t.Fatal(err)
	}
	verified := func(name string, key Secret, headers http.Header, want bool) nodeCase {
		return nodeCase{name, judgeEd25519, publicOf(t, key).String(), nodeHeaders(headers), base64.StdEncoding.EncodeToString(body), want}
	}
	both := Headers(testID, now, body, newKey, oldKey)
	agree(t, []nodeCase{
		verified("new key", newKey, both, true),
		verified("old key", oldKey, both, true),
		verified("old key after its end", oldKey, Headers(testID, now, body, newKey), false),
		verified("after v1", newKey, Headers(testID, now, body, shared, newKey), true),
		verified("before v1", newKey, Headers(testID, now, body, newKey, shared), true),
		verified("v1 alone", newKey, Headers(testID, now, body, shared), false),
		verified("changed id", newKey, headersWith(both, HeaderID, testID+"x"), false),
		verified("changed time", newKey, headersWith(both, HeaderTimestamp, strconv.FormatInt(now.Unix()+1, 10)), false),
	})
}

func agree(t *testing.T, cases []nodeCase) {
	t.Helper()
	for i, verdict := range runNode[nodeVerdict](t, "verify.mjs", cases) {
		if verdict.Name != cases[i].Name || verdict.OK != cases[i].want {
			t.Errorf("%s: %s says ok=%v %s, want ok=%v", cases[i].Name, cases[i].Judge, verdict.OK, verdict.Error, cases[i].want)
		}
	}
}

type openCase struct {
	Name    string            `json:"name"`
	Key     string            `json:"key"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Change  map[string]any    `json:"change"`
}

type openVerdict struct {
	Name, Secret, Ack, Error string
	OK                       bool
}

// npm's @hpke/core opens a sealed secret by what the message says and by nothing else, and the proof that
// node then computes is the one whose hash is stored.
func TestNode_HPKEOpens(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	key, other, r := newReceiverKey(t), newReceiverKey(t), sealableRotation()
	const secret = "rk_live_cänary0123456789"
	sealed, err := SealSecret(key.Public(), r, testID, secret)
	if err != nil {
		t.Fatal(err)
	}
	body, err := RotationCreated(testAt, r, sealed)
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, key ReceiverPrivateKey, id string, change map[string]any) openCase {
		return openCase{name, key.Reveal(), map[string]string{"webhook-id": id}, base64.StdEncoding.EncodeToString(body), change}
	}
	cases := []openCase{
		open("as it is", key, testID, nil),
		open("another key", other, testID, nil),
		open("another message", key, testID+"x", nil),
		open("another organization", key, testID, map[string]any{"organization_id": "org_other"}),
		open("another key id", key, testID, map[string]any{"key_id": "key_other"}),
		open("another rotation", key, testID, map[string]any{"rotation_id": "rot_other"}),
		open("another generation", key, testID, map[string]any{"generation": r.Generation + 1}),
	}
	for i, verdict := range runNode[openVerdict](t, "open.mjs", cases) {
		if verdict.Name != cases[i].Name || verdict.OK != (i == 0) {
			t.Errorf("%s: opened=%v %s", cases[i].Name, verdict.OK, verdict.Error)
		}
		if i == 0 && (verdict.Secret != secret || !CheckProof(verdict.Ack, ProofHash(Proof(secret, r.RotationID, testID)))) {
			t.Errorf("opened %q with proof %q", verdict.Secret, verdict.Ack)
		}
	}
}

type nodeVerdict struct {
	Name  string
	OK    bool
	Error string
}

// runNode gives the cases to a script and returns what it says to each.
func runNode[Verdict, Case any](t *testing.T, script string, cases []Case) []Verdict {
	t.Helper()
	input, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", script)
	var complaints bytes.Buffer
	node.Dir, node.Stdin, node.Stderr = nodeFolder, bytes.NewReader(input), &complaints
	output, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, complaints.Bytes())
	}
	var verdicts []Verdict
	if err := json.Unmarshal(output, &verdicts); err != nil || len(verdicts) != len(cases) {
		t.Fatalf("node answered %q: %v", output, err)
	}
	return verdicts
}
