package webhook

import (
	"flag"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSecret(t testing.TB) Secret {
	t.Helper()
	secret, err := NewSecret(nil)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func parseSecret(t testing.TB, text string) Secret {
	t.Helper()
	secret, err := ParseSecret(text)
	if err != nil {
		t.Fatalf("ParseSecret: %v", err)
	}
	return secret
}

// newSender makes a Sender that is closed at the end of the test.
func newSender(t testing.TB, cfg SenderConfig) *Sender {
	t.Helper()
	sender := NewSender(cfg)
	t.Cleanup(sender.Close)
	return sender
}

// eventually polls until condition holds; the deadline is for a broken test only.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func headersWith(h http.Header, name, value string) http.Header {
	h = h.Clone()
	h.Set(name, value)
	return h
}
