package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/rekeyhq/rekey/internal/webhook"
)

const hidden = "[redacted]"

// listenHandler reads the file of secrets again before each request, because the secret is known only once the key is made.
type listenHandler struct {
	receiver *webhook.Receiver
	file     string
	logger   *slog.Logger

	mu    sync.Mutex
	known map[string]bool
}

func (h *listenHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.file != "" {
		h.readFile()
	}
	recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
	h.receiver.ServeHTTP(recorder, r)
	if recorder.Status() >= http.StatusBadRequest {
		h.logger.Warn("a request was refused", "status", recorder.Status(), "webhook_id", r.Header.Get(webhook.HeaderID))
	}
}

func (h *listenHandler) readFile() {
	raw, err := os.ReadFile(h.file)
	if err != nil {
		h.logger.Warn("the file of secrets cannot be read", "error", err)
		return
	}
	for _, text := range strings.FieldsFunc(string(raw), isListSeparator) {
		if err := h.trust(text); err != nil {
			h.logger.Warn("the file of secrets has a line that is no secret", "error", err)
		}
	}
}

// trust lets messages through that are signed by a secret or by the private half of a public key.
func (h *listenHandler) trust(text string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known[text] {
		return nil
	}
	if public, err := webhook.ParsePublicKey(text); err == nil {
		h.receiver.AddPublicKey(public)
		h.known[text] = true
		return nil
	}
	secret, err := webhook.ParseSecret(text)
	if err != nil {
		return err
	}
	h.receiver.AddSecret(secret)
	h.known[text] = true
	return nil
}

// printer prints each verified message as one line, and knows what to answer.
type printer struct {
	out         io.Writer
	keys        []webhook.ReceiverPrivateKey
	keyFile     string
	showSecrets bool
	logger      *slog.Logger

	mu sync.Mutex
}

// printed is one line.
type printed struct {
	ID         string          `json:"webhook_id"`
	ReceivedAt time.Time       `json:"received_at"`
	Verified   bool            `json:"verified"`
	Payload    json.RawMessage `json:"payload"`
	// Arrived says, of a rotation, whether the new secret could be read.
	Arrived *bool `json:"secret_arrived,omitempty"`
	// Secret is what was opened or fetched.
	Secret string `json:"secret,omitempty"`
}

// handle prints a message. A secret that has to be fetched is fetched before that: if it cannot be, the message is
// wanted again.
func (p *printer) handle(ctx context.Context, message webhook.Received) error {
	line := printed{ID: message.ID, ReceivedAt: time.Now().UTC(), Verified: true, Payload: message.Body}
	rotation, carried, err := webhook.ReadRotation(message.Body)
	isRotation := err == nil
	if isRotation && carried.Mode() != webhook.ModeOmitted {
		secret, err := p.obtain(ctx, message.ID, rotation, carried)
		if err != nil {
			p.logger.Warn("a new secret could not be read", "webhook_id", message.ID, "error", err)
			if carried.Mode() == webhook.ModeClaim {
				return err
			}
		}
		arrived := err == nil
		line.Arrived, line.Secret = &arrived, secret
	}
	if !p.showSecrets {
		line.Secret = ""
		line.Payload = withoutSecrets(message.Body)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return json.NewEncoder(p.out).Encode(line)
}

// obtain gives the new secret, in whichever way the message carries it.
func (p *printer) obtain(ctx context.Context, messageID string, r webhook.Rotation, carried webhook.KeySecret) (string, error) {
	if claimURL, _, ok := carried.Claim(); ok {
		return fetchClaim(ctx, claimURL, p.keyFile)
	}
	return carried.Open(r, messageID, p.keys...)
}

// answer proves what can be proved: that a new secret arrived, or that this is the receiver it claims to be.
func (p *printer) answer(message webhook.Received) http.Header {
	header := make(http.Header)
	if rotation, carried, err := webhook.ReadRotation(message.Body); err == nil {
		// What was fetched needs no proof: the fetching was it.
		if secret, err := carried.Open(rotation, message.ID, p.keys...); err == nil {
			header.Set(webhook.HeaderAck, webhook.Proof(secret, rotation.RotationID, message.ID))
		}
		return header
	}
	challenge, err := webhook.ReadVerification(message.Body, message.ID, p.keys...)
	if errors.Is(err, webhook.ErrNotVerification) {
		return header
	}
	var answer string
	if err == nil {
		answer, err = webhook.AnswerChallenge(message.SignedBy, challenge)
	}
	if err != nil {
		p.logger.Warn("a verification could not be answered", "webhook_id", message.ID, "error", err)
		return header
	}
	header.Set(webhook.HeaderChallenge, answer)
	return header
}

// withoutSecrets hides what is as good as a secret in a payload that is about to be shown.
func withoutSecrets(body []byte) json.RawMessage {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var payload map[string]any
	if err := decoder.Decode(&payload); err != nil {
		return body // no place for a secret
	}
	data, _ := payload["data"].(map[string]any)
	secret, _ := data["secret"].(map[string]any)
	found := false
	for _, name := range []string{"value", "claim_url"} {
		if _, ok := secret[name]; ok {
			secret[name], found = hidden, true
		}
	}
	if !found {
		return body
	}
	shown, err := json.Marshal(payload)
	if err != nil { // of what was decoded from JSON a moment ago
		return json.RawMessage(fmt.Sprintf("%q", hidden))
	}
	return shown
}
