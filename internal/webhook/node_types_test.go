package webhook

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// both libraries verify every body that is frozen in testdata, which is every type of message, with each live secret,
// and refuse it once a byte was changed.
func TestNode_EveryTypeIsVerified(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, nodeFolder)
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d bodies, %v", len(files), err)
	}
	current, previous, pair, now := newSecret(t), newSecret(t), newSigningKey(t), time.Now()
	var cases []nodeCase
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		body := bytes.TrimSuffix(raw, []byte("\n"))
		changed := bytes.Clone(body)
		changed[len(changed)/2] ^= 1
		headers := Headers(testID, now, body, current, pair, previous)
		for _, c := range []nodeCase{
			newNodeCase(file+", current", current, headers, body, true), newNodeCase(file+", previous", previous, headers, body, true),
			newNodeCase(file+", changed", current, headers, changed, false),
		} {
			cases = append(cases, c)
			c.Judge = judgeSvix
			cases = append(cases, c)
		}
		pure := newNodeCase(file+", v1a", pair, headers, body, true)
		pure.Judge, pure.Secret = judgeEd25519, publicOf(t, pair).String()
		cases = append(cases, pure)
		if !strings.Contains(string(body), `"type"`) {
			t.Errorf("%s is no message", file)
		}
	}
	agree(t, cases)
}
