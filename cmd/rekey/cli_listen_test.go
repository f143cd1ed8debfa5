package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/webhook"
)

// TestCLIWebhooksListen sends the receiver what a sender may, with and without a signature.
func TestCLIWebhooksListen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	known, later := newWebhookSecret(t), newWebhookSecret(t)
	t.Setenv("REKEY_WEBHOOK_SECRET", known.Reveal())
	listen := startCLI(t, "", "webhooks", "listen", "--addr", "127.0.0.1:0", "--secret-file", file)
	var url string
	eventually(t, "the address", func() bool {
		_, rest, ok := strings.Cut(listen.errs.String(), "listening on ")
		url, _, _ = strings.Cut(rest, "\n")
		return ok && strings.HasSuffix(listen.errs.String(), "\n")
	})
	lines := func() int { return strings.Count(listen.out.String(), "\n") }
	refused := func(what string, header http.Header, body string) {
		t.Helper()
		if status := post(t, url, header, body); status != http.StatusUnauthorized || lines() > 2 {
			t.Errorf("%s: answered %d, %d lines", what, status, lines())
		}
	}
	body := `{"type":"key.rotation.created","data":{"n":1}}`
	now := time.Now()
	refused("unsigned", http.Header{}, body)
	refused("signed by a stranger", webhook.Headers("msg_1", now, []byte(body), newWebhookSecret(t)), body)
	refused("signed by one who is not known yet", webhook.Headers("msg_2", now, []byte(body), later), body)
	refused("changed", webhook.Headers("msg_3", now, []byte(body), known), strings.Replace(body, "1", "2", 1))
	if listen.out.String() != "" {
		t.Errorf("it shows what it refused: %s", listen.out.String())
	}
	if status := post(t, url, webhook.Headers("msg_4", now, []byte(body), known), body); status != http.StatusNoContent {
		t.Errorf("a signed message: answered %d", status)
	}
	if err := os.WriteFile(file, []byte("not a secret\n"+later.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the repetition is taken, and not shown
		if status := post(t, url, webhook.Headers("msg_5", now, []byte(body), later), body); status != http.StatusNoContent {
			t.Errorf("a message signed with the file's secret: answered %d", status)
		}
	}
	var shown []string
	for line := range strings.Lines(listen.out.String()) {
		var m struct {
			ID       string `json:"webhook_id"`
			Verified bool
			Payload  json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || !m.Verified || !sameJSON(t, m.Payload, []byte(body)) {
			t.Errorf("it printed %s (%v)", line, err)
		}
		shown = append(shown, m.ID)
	}
	if fmt.Sprint(shown) != "[msg_4 msg_5]" {
		t.Errorf("it shows %v", shown)
	}
	listen.cancel()
	if err := listen.wait(t); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func newWebhookSecret(t testing.TB) webhook.Secret {
	t.Helper()
	secret, err := webhook.NewSecret(nil)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func post(t testing.TB, url string, header http.Header, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header
	got, err := newREST(t, "", "").do(request)
	if err != nil {
		t.Fatal(err)
	}
	return got.status
}
