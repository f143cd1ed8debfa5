package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	stormRounds  = 5
	stormClients = 50
)

// TestG10RetryStormAcrossKillNine lets fifty clients repeat one creation under one Idempotency-Key while rekey is killed
// with -9 somewhere in between and started again. One key is made, and all fifty get the same answer with its secret.
func TestG10RetryStormAcrossKillNine(t *testing.T) {
	t.Parallel()
	dir, addr := onDisk(t), freeAddr(t)
	env := devEnv(dir, "REKEY_ADDR="+addr, "REKEY_NATS_ADDR="+freeAddr(t), "REKEY_LOG_LEVEL=warn")
	a := newREST(t, "http://"+addr, "")
	process := startRekey(t, env, "dev")
	fields, _ := process.awaitReady(t)
	a.key = fields["root_key"]
	project := a.project(t)
	for round := range stormRounds {
		name := fmt.Sprint("storm ", round)
		body, err := json.Marshal(map[string]any{"project_id": project, "name": name})
		if err != nil {
			t.Fatal(err)
		}
		answers := make([]string, stormClients)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = insist(t, a, name, string(body)) })
		}
		time.Sleep(rand.N(15 * time.Millisecond)) // anywhere in the life of the request: what is tested
		process.kill()
		process = startRekey(t, env, "dev")
		process.awaitReady(t)
		all.Wait()
		for i, got := range answers {
			if got != answers[0] || got == "" {
				t.Errorf("round %d: client %d was answered %s, client 0 %s", round, i, got, answers[0])
			}
		}
		checkMadeOnce(t, a, name, answers[0])
	}
	process.terminate(t)
}

// insist repeats the request until it is answered, as a client with retries does.
func insist(t *testing.T, a rest, key, body string) string {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url+"/v1/api-keys", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return ""
		}
		request.Header.Set("Authorization", "Bearer "+a.key)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", strings.ReplaceAll(key, " ", "-"))
		got, err := a.do(request)
		if err == nil && got.status == http.StatusCreated {
			return string(got.body)
		}
		if err == nil && got.status != http.StatusServiceUnavailable && got.status != http.StatusConflict {
			t.Errorf("answered %d: %s", got.status, got.body)
			return ""
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // a client's pause between retries
	}
	t.Error("never answered")
	return ""
}

func checkMadeOnce(t *testing.T, a rest, name, answered string) {
	t.Helper()
	var key struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	if err := json.Unmarshal([]byte(answered), &key); err != nil {
		t.Fatalf("%v: %s", err, answered)
	}
	made := 0
	for _, k := range a.allKeys(t) {
		if k.Name == name {
			made++
		}
	}
	if v := a.verify(t, key.Key); made != 1 || v.Code != "VALID" {
		t.Errorf("%s: %d keys were made, the answered one is %s", name, made, v)
	}
}
