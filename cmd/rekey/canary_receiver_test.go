package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/rekeyhq/rekey/internal/webhook"
)

// canaryReceivers answer a webhook with its own body, in every place that an answer has.
var canaryReceivers = map[string]func(w http.ResponseWriter, body string){
	"/echo": func(w http.ResponseWriter, body string) { _, _ = io.WriteString(w, body) },
	"/fail": func(w http.ResponseWriter, body string) {
		w.Header().Set("Retry-After", body)
		http.Error(w, body, http.StatusInternalServerError)
	},
	"/redirect": func(w http.ResponseWriter, body string) {
		w.Header().Set("Location", "/elsewhere?"+body)
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
	"/garbage": func(w http.ResponseWriter, body string) { hijack(w, "HTTP/1.1 "+body+"\r\n\r\n") },
	"/headers": func(w http.ResponseWriter, body string) {
		hijack(w, "HTTP/1.1 200 OK\r\n"+body+"\r\nX-"+body+": 1\r\n\r\n")
	},
	"/length": func(w http.ResponseWriter, body string) {
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: "+body+"\r\n\r\n")
	},
	"/chunked": func(w http.ResponseWriter, body string) {
		hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
	},
	"/beyond": func(w http.ResponseWriter, body string) {
		hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+body+"\r\n")
	},
}

func hijack(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
}

// canaryReceiver listens over TLS, notes every secret that it is sent in any mode, and sends all of it back.
type canaryReceiver struct {
	t       *testing.T
	url     string
	seen    *canaries
	private webhook.ReceiverPrivateKey

	mu      sync.Mutex
	signing map[string]webhook.Secret // by path, of registered endpoints
	hits    map[string]int            // new secrets by path
	claims  map[string]string         // where they are fetched, by path
	callers map[string]int            // messages by the certificate that they came with
}

// newCanaryReceiver also returns a file with the certificate to trust; empty where the system keeps no such files.
func newCanaryReceiver(t *testing.T, seen *canaries) (*canaryReceiver, string) {
	t.Helper()
	private, err := webhook.NewReceiverKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &canaryReceiver{
		t: t, seen: seen, private: private, signing: map[string]webhook.Secret{}, hits: map[string]int{}, claims: map[string]string{}, callers: map[string]int{},
	}
	server := httptest.NewUnstartedServer(c)
	t.Cleanup(server.Close)
	if runtime.GOOS == "darwin" { // trusts its keychain alone
		server.Start()
		c.url = server.URL
		return c, ""
	}
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	c.url = server.URL
	file := filepath.Join(t.TempDir(), "receiver.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return c, file
}

// from notes whose certificate a message came with.
func (c *canaryReceiver) from(request *http.Request) {
	if request.TLS == nil || len(request.TLS.PeerCertificates) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.callers[request.TLS.PeerCertificates[0].Subject.CommonName]++
}

// trust says what an endpoint at a path signs with.
func (c *canaryReceiver) trust(path, secret string) {
	parsed, err := webhook.ParseSecret(secret)
	if err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signing[path] = parsed
}

func (c *canaryReceiver) count(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits[path]
}

func (c *canaryReceiver) claim(path string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims[path]
}

// ServeHTTP receives a webhook.
func (c *canaryReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.from(r)
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	answer := "/echo" // to all but new secrets: who only ever fails is left alone
	if strings.Contains(string(raw), webhook.TypeEndpointVerification) {
		c.prove(w, r, raw)
	} else if rotation, carried, err := webhook.ReadRotation(raw); err == nil {
		c.note(r, rotation, carried)
		answer = "/" + path.Base(r.URL.Path)
	}
	canaryReceivers[answer](w, strings.ReplaceAll(string(raw), "\n", " "))
}

// prove answers a challenge.
func (c *canaryReceiver) prove(w http.ResponseWriter, r *http.Request, raw []byte) {
	challenge, err := webhook.ReadVerification(raw, r.Header.Get(webhook.HeaderID), c.private)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.seen.add("challenge", challenge)
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, err := webhook.AnswerChallenge(c.signing[r.URL.Path], challenge)
	if err != nil {
		c.t.Error(err)
	}
	w.Header().Set(webhook.HeaderChallenge, c.seen.add("answer to a challenge", answer))
}

// note remembers the secret that a message carries, or the right to fetch it.
func (c *canaryReceiver) note(r *http.Request, rotation webhook.Rotation, carried webhook.KeySecret) {
	if address, _, ok := carried.Claim(); ok {
		c.seen.add("claim token sent to "+r.URL.Path, address[strings.LastIndex(address, "/")+1:])
		c.mu.Lock()
		c.claims[r.URL.Path] = address
		c.mu.Unlock()
	} else {
		id := r.Header.Get(webhook.HeaderID)
		secret, err := carried.Open(rotation, id, c.private)
		if err != nil {
			c.t.Error(err)
			return
		}
		c.seen.add(carried.Mode()+" secret sent to "+r.URL.Path, secret)
		c.seen.add("proof of "+r.URL.Path, webhook.Proof(secret, rotation.RotationID, id))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hits[r.URL.Path]++
}
