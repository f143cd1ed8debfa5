package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/webhook"
)

const canarySecret = "rk_live_listen_canary0123456789"

var listenRotation = webhook.Rotation{
	OrganizationID: "org_1", KeyID: "key_2", PreviousKeyID: "key_1", LineageID: "lin_1", Generation: 2, RotationID: "rot_1", GraceSeconds: 60,
}

// startListen starts the receiver and returns it with its address.
func startListen(t testing.TB, args ...string) (*cli, string) {
	t.Helper()
	listen := startCLI(t, "", append([]string{"webhooks", "listen", "--addr", "127.0.0.1:0"}, args...)...)
	var url string
	eventually(t, "the address", func() bool {
		_, rest, ok := strings.Cut(listen.errs.String(), "listening on ")
		line, _, whole := strings.Cut(rest, "\n")
		url = line
		return ok && whole
	})
	return listen, url
}

// sendTo makes one attempt with the sender that rekey uses.
func sendTo(t testing.TB, url string, body []byte, expect func(http.Header) bool, secrets ...webhook.Secret) webhook.Result {
	t.Helper()
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	sender := webhook.NewSender(webhook.SenderConfig{Guard: guard, Timeout: 10 * time.Second})
	defer sender.Close()
	return sender.Send(t.Context(), webhook.Request{URL: url, ID: "msg_1", Body: body, Secrets: secrets, Expect: expect, MustProve: expect != nil})
}

func rotationBody(t testing.TB, secret webhook.KeySecret) []byte {
	t.Helper()
	body, err := webhook.RotationCreated(time.Now(), listenRotation, secret)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func expectCanary() func(http.Header) bool {
	return webhook.ExpectProof(webhook.ProofHash(webhook.Proof(canarySecret, listenRotation.RotationID, "msg_1")))
}

// TestCLIWebhooksKeygen makes a pair that opens what is sealed to it, and never overwrites one.
func TestCLIWebhooksKeygen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receiver.key")
	var made struct {
		Public string `json:"public_key"`
		ID     string `json:"key_id"`
		File   string `json:"private_key_file"`
	}
	commandJSON(t, &made, "", "webhooks", "keygen", "--out", file)
	public, err := webhook.ParseReceiverKey(made.Public)
	if err != nil || public.ID() != made.ID || made.File != file {
		t.Errorf("%+v, %v", made, err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	private, err := webhook.ParseReceiverPrivateKey(strings.TrimSpace(string(raw)))
	if err != nil || private.Public().String() != made.Public {
		t.Errorf("the file holds another key: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file may be read by others: %v, %v", info, err)
	}
	if _, err := command(t, "", "webhooks", "keygen", "--out", file); err == nil {
		t.Error("an older key was overwritten")
	}
	if again, err := os.ReadFile(file); err != nil || string(again) != string(raw) {
		t.Errorf("the older key is gone: %v", err)
	}
}

// TestCLIWebhooksListenProves sends a new secret in every mode: it is proved to have arrived, and shown only on demand.
func TestCLIWebhooksListenProves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receiver.key")
	var made struct {
		Public string `json:"public_key"`
	}
	commandJSON(t, &made, "", "webhooks", "keygen", "--out", file)
	public, err := webhook.ParseReceiverKey(made.Public)
	if err != nil {
		t.Fatal(err)
	}
	signing := newWebhookSecret(t)
	t.Setenv("REKEY_WEBHOOK_SECRET", signing.Reveal())
	sealed, err := webhook.SealSecret(public, listenRotation, "msg_1", canarySecret)
	if err != nil {
		t.Fatal(err)
	}
	claims, claimURL := newClaims(t)
	for _, show := range []string{"false", "true"} {
		for name, test := range map[string]struct {
			secret webhook.KeySecret
			expect func(http.Header) bool
		}{
			"plain": {webhook.PlainSecret(canarySecret), expectCanary()}, "sealed": {sealed, expectCanary()},
			"claim": {webhook.ClaimSecret(claimURL, time.Now().Add(time.Hour)), nil},
		} {
			claims.fetched.Store(0)
			listen, url := startListen(t, "--private-key-file", file, "--key-file", claims.keyFile, "--show-secrets="+show)
			body := rotationBody(t, test.secret)
			for range 2 { // the first answer may have been lost
				if result := sendTo(t, url, body, test.expect, signing); result.Outcome != webhook.Delivered {
					t.Errorf("%s: %+v", name, result)
				}
			}
			var line struct {
				Arrived bool   `json:"secret_arrived"`
				Secret  string `json:"secret"`
			}
			if err := json.Unmarshal([]byte(listen.out.String()), &line); err != nil || !line.Arrived || (line.Secret == canarySecret) != (show == "true") {
				t.Errorf("%s printed %s, %v", name, listen.out.String(), err)
			}
			printed := listen.out.String() + listen.errs.String()
			if show == "false" && (strings.Contains(printed, canarySecret) || strings.Contains(printed, claimURL)) {
				t.Errorf("%s shows the secret: %s", name, printed)
			}
			if got := claims.fetched.Load(); got != 0 && name != "claim" || got != 1 && name == "claim" {
				t.Errorf("%s: fetched %d times", name, got)
			}
			listen.cancel()
		}
	}
}

// claims is a place where a secret is fetched, by the old key alone.
type claims struct {
	keyFile string
	fetched atomic.Int64
}

func newClaims(t testing.TB) (*claims, string) {
	t.Helper()
	c := &claims{keyFile: filepath.Join(t.TempDir(), "old.key")}
	if err := os.WriteFile(c.keyFile, []byte("rk_live_old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer rk_live_old" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c.fetched.Add(1)
		_, _ = io.WriteString(w, `{"key":"`+canarySecret+`"}`)
	}))
	t.Cleanup(server.Close)
	return c, server.URL + "/claim"
}

// TestCLIWebhooksListenCannotRead shows that a secret that could not be read is not acknowledged as if it had been.
func TestCLIWebhooksListenCannotRead(t *testing.T) {
	signing := newWebhookSecret(t)
	t.Setenv("REKEY_WEBHOOK_SECRET", signing.Reveal())
	other, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := webhook.SealSecret(other.Public(), listenRotation, "msg_1", canarySecret)
	if err != nil {
		t.Fatal(err)
	}
	_, claimURL := newClaims(t)
	listen, url := startListen(t) // no private key, and no key to fetch with
	if result := sendTo(t, url, rotationBody(t, sealed), expectCanary(), signing); result.Outcome != webhook.AckMissing {
		t.Errorf("sealed to another: %+v", result)
	}
	if !strings.Contains(listen.out.String(), `"secret_arrived":false`) {
		t.Errorf("it printed %s", listen.out.String())
	}
	for name, claim := range map[string]string{"refused": claimURL, "nobody there": "http://127.0.0.1:1/claim-canary", "no URL": "claim-canary"} {
		listen, url := startListen(t)
		body := rotationBody(t, webhook.ClaimSecret(claim, time.Now().Add(time.Hour)))
		if result := sendTo(t, url, body, nil, signing); result.Status != http.StatusInternalServerError {
			t.Errorf("%s: %+v", name, result)
		}
		if strings.Contains(listen.errs.String(), "claim-canary") || listen.out.String() != "" {
			t.Errorf("%s: it printed %s%s", name, listen.out.String(), listen.errs.String())
		}
	}
}

// TestClaimURLs fetches over https, and without it on this machine only: the answer is a secret.
func TestClaimURLs(t *testing.T) {
	for url, want := range map[string]bool{
		"https://keys.example.com/c": true, "http://127.0.0.1:1/c": true, "http://[::1]:1/c": true, "http://localhost/c": true,
		"http://keys.example.com/c": false, "http://192.0.2.1/c": false, "http://127.0.0.1.example.com/c": false, "ftp://127.0.0.1/c": false, "": false, "/c": false,
	} {
		if err := checkClaimURL(url); (err == nil) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestCLIWebhooksListenVerification answers who it is, to whoever shares its signing secret; the public key alone lets
// messages in and answers nothing.
func TestCLIWebhooksListenVerification(t *testing.T) {
	signing, first := newWebhookSecret(t), newWebhookSecret(t)
	pair, err := webhook.NewSigningKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := pair.PublicKey()
	t.Setenv("REKEY_WEBHOOK_SECRET", first.Reveal()+","+signing.Reveal()+","+public.String())
	_, url := startListen(t)
	verification := webhook.Verification{OrganizationID: "org_1", EndpointID: "ep_1", Challenge: "chl_0123"}
	body, err := webhook.EndpointVerification(time.Now(), verification, "msg_1")
	if err != nil {
		t.Fatal(err)
	}
	if result := sendTo(t, url, body, webhook.ExpectChallenge("chl_0123", signing), pair, signing); result.Outcome != webhook.Delivered {
		t.Errorf("%+v", result)
	}
	if result := sendTo(t, url, body, webhook.ExpectChallenge("chl_0123", signing, first), pair); result.Outcome != webhook.AckMissing {
		t.Errorf("signed by the pair alone: %+v", result)
	}
	if result := sendTo(t, url, body, nil, newWebhookSecret(t)); result.Status != http.StatusUnauthorized {
		t.Errorf("signed by a stranger: %+v", result)
	}
}

// TestCLIWebhooksListenMisbehaves has it answer in every wrong way it can.
func TestCLIWebhooksListenMisbehaves(t *testing.T) {
	signing := newWebhookSecret(t)
	t.Setenv("REKEY_WEBHOOK_SECRET", signing.Reveal())
	body := rotationBody(t, webhook.PlainSecret(canarySecret))
	for flags, want := range map[string]webhook.Outcome{
		"--status 500": webhook.ServerError, "--status 410": webhook.Gone, "--redirect http://127.0.0.1:1/": webhook.RedirectRefused,
		"--redirect http://127.0.0.1:1/ --status 301": webhook.RedirectRefused, "--huge-body": webhook.Delivered, "--echo": webhook.Delivered,
		"--echo --status 500": webhook.ServerError, "--delay 50ms": webhook.Delivered, "--no-proof": webhook.AckMissing,
	} {
		listen, url := startListen(t, strings.Fields(flags)...)
		result := sendTo(t, url, body, expectCanary(), signing)
		if result.Outcome != want || strings.Contains(flags, "--delay") && result.Duration < 50*time.Millisecond {
			t.Errorf("%s: %+v", flags, result)
		}
		if strings.Count(listen.out.String(), "\n") != 1 {
			t.Errorf("%s: printed %q", flags, listen.out.String())
		}
		if status := post(t, url, http.Header{}, "{}"); status != http.StatusUnauthorized {
			t.Errorf("%s: a stranger is answered %d", flags, status)
		}
		listen.cancel()
	}
	for flags, want := range map[string]string{
		"--status 99": "--status", "--status 600": "--status", "--redirect http://a --status 200": "--redirect", "--huge-body --echo": "two bodies",
		"--delay -1s": "--delay", "--private-key-file /nowhere": "private keys",
	} {
		if _, err := command(t, "", append([]string{"webhooks", "listen"}, strings.Fields(flags)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flags, err)
		}
	}
}

// What it sends back is the message and the gigabyte that were asked for.
func TestCLIWebhooksListenBodies(t *testing.T) {
	signing := newWebhookSecret(t)
	t.Setenv("REKEY_WEBHOOK_SECRET", signing.Reveal())
	body := rotationBody(t, webhook.PlainSecret(canarySecret))
	answer := func(flag string, most int64) string {
		t.Helper()
		_, url := startListen(t, flag)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = webhook.Headers("msg_1", time.Now(), body, signing)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got, err := io.ReadAll(io.LimitReader(bufio.NewReader(response.Body), most))
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := answer("--echo", 1<<20); got != string(body) {
		t.Errorf("it echoes %q", got)
	}
	if got := answer("--huge-body", 8<<20); len(got) != 8<<20 {
		t.Errorf("its body ends after %d bytes", len(got))
	}
}
