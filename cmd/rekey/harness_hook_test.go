package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/webhook"
)

// rotationMessage is the body of key.rotation.created.
type rotationMessage struct {
	Type string `json:"type"`
	Data struct {
		KeyID         string `json:"key_id"`
		PreviousKeyID string `json:"previous_key_id"`
		LineageID     string `json:"lineage_id"`
		Generation    int    `json:"generation"`
		RotationID    string `json:"rotation_id"`
		GraceSeconds  int    `json:"grace_seconds"`
		Secret        struct {
			Mode  string `json:"mode"`
			Value string `json:"value"`
		} `json:"secret"`
	} `json:"data"`
}

// hook is a receiver that keeps what it is sent. Who signs with a secret it does not trust is a fault.
type hook struct {
	url    string
	server *httptest.Server

	mu      sync.Mutex
	secrets []webhook.Secret
	got     []hooked
	faults  []string
	slow    string        // the lineage whose messages are not answered
	held    chan struct{} // until this is closed
}

// hooked is one attempt that arrived.
type hooked struct {
	id   string
	body string
	rotationMessage
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.server = httptest.NewServer(h)
	t.Cleanup(h.server.Close)
	h.url = h.server.URL
	return h
}

// trust adds the signing secret of a key. A message may arrive before that: it waits for it.
func (h *hook) trust(t testing.TB, secret string) {
	t.Helper()
	parsed, err := webhook.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secrets = append(h.secrets, parsed)
}

// ServeHTTP takes one message.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed in the middle
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var lineage string
		if lineage, err = h.take(r.Header, body); err == nil {
			h.wait(r.Context(), lineage)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, err.Error())
	w.WriteHeader(http.StatusUnauthorized)
}

// take keeps a message and returns the lineage that it is about.
func (h *hook) take(header http.Header, body []byte) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := webhook.Verify(header, body, time.Now(), h.secrets...); err != nil {
		return "", err
	}
	got := hooked{id: header.Get(webhook.HeaderID), body: string(body)}
	if err := json.Unmarshal(body, &got.rotationMessage); err != nil {
		return "", err
	}
	h.got = append(h.got, got)
	return got.Data.LineageID, nil
}

// hold keeps answers for a lineage back, as a slow receiver does, until the returned function is called.
func (h *hook) hold(lineage string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow, h.held = lineage, make(chan struct{})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.slow = ""
		close(h.held)
	}
}

func (h *hook) wait(ctx context.Context, lineage string) {
	h.mu.Lock()
	slow, held := h.slow, h.held
	h.mu.Unlock()
	if lineage != slow {
		return
	}
	select {
	case <-held:
	case <-ctx.Done():
	}
}

// messages are all that arrived, repetitions too. It fails the test if something else came.
func (h *hook) messages(t testing.TB) []hooked {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fault := range h.faults {
		t.Errorf("the receiver got something else: %s", fault)
	}
	return append([]hooked(nil), h.got...)
}

// await waits for the message of a generation of a lineage.
func (h *hook) await(t testing.TB, lineage string, generation int) hooked {
	t.Helper()
	var found hooked
	within(t, 2*patience, "the webhook", func() bool {
		for _, m := range h.messages(t) {
			if m.Data.LineageID == lineage && m.Data.Generation == generation {
				found = m
				return true
			}
		}
		return false
	})
	return found
}
