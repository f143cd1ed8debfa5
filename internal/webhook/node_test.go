package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const nodeFolder = "testdata/node"

// nodeCase is one message for the judge.
type nodeCase struct {
	Name    string            `json:"name"`
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	want    bool
}

func newNodeCase(name string, secret Secret, headers http.Header, body []byte, want bool) nodeCase {
	// The library wants the names as they arrive in node: in lower case.
	lower := make(map[string]string)
	for name := range headers {
		lower[strings.ToLower(name)] = headers.Get(name)
	}
	return nodeCase{name, secret.Reveal(), lower, base64.StdEncoding.EncodeToString(body), want}
}

// with npm's standardwebhooks as the judge. It is another implementation in another language, and the
// one that most receivers use.
func TestNode_ReferenceLibraryJudges(t *testing.T) {
	t.Parallel()
	installNodeJudge(t)
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
	for i, verdict := range judge(t, cases) {
		if verdict.Name != cases[i].Name || verdict.OK != cases[i].want {
			t.Errorf("%s: the judge says ok=%v %s, want ok=%v", cases[i].Name, verdict.OK, verdict.Error, cases[i].want)
		}
	}
}

type nodeVerdict struct {
	Name  string
	OK    bool
	Error string
}

func judge(t *testing.T, cases []nodeCase) []nodeVerdict {
	t.Helper()
	input, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "verify.mjs")
	var complaints bytes.Buffer
	node.Dir, node.Stdin, node.Stderr = nodeFolder, bytes.NewReader(input), &complaints
	output, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, complaints.Bytes())
	}
	var verdicts []nodeVerdict
	if err := json.Unmarshal(output, &verdicts); err != nil || len(verdicts) != len(cases) {
		t.Fatalf("node answered %q: %v", output, err)
	}
	return verdicts
}

// installNodeJudge installs the library once, by the lock file.
func installNodeJudge(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			needed(t, tool)
		}
	}
	// npm writes this file last, so a folder without it is half an installation.
	_, err := os.Stat(filepath.Join(nodeFolder, "node_modules", ".package-lock.json"))
	if err == nil {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = nodeFolder
	if output, err := npm.CombinedOutput(); err != nil {
		t.Logf("npm ci: %v\n%s", err, output)
		needed(t, "npm package standardwebhooks")
	}
}
