package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/domain"
)

// TestStopLeavesNothing stops a rekey that has worked: not a goroutine is left in the process.
func TestStopLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	r := start(t)
	hook := newHook(t)
	key := r.create(t, "rotating", map[string]any{"rotation_interval_seconds": 1, "grace_period_seconds": 0, "rotation_webhook_url": hook.url})
	hook.trust(t, key.WebhookSecret)
	hook.await(t, key.LineageID, 2)
	readiness := r.call(t, "GET", "/readyz", nil, http.StatusOK, nil)
	r.stop(t)
	r.http.CloseIdleConnections()
	hook.server.Close()
	goleak.VerifyNone(t, before)
	if _, err := r.send(t.Context(), "GET", "/readyz", nil); err == nil {
		t.Errorf("it still answers: %s", readiness.body)
	}
}

// TestStopWhenNobodyCanBeTold ends a rekey whose ready line cannot be written, as cleanly as any other.
func TestStopWhenNobodyCanBeTold(t *testing.T) {
	before := goleak.IgnoreCurrent()
	closed := errors.New("the reader is gone")
	log := &output{}
	_, err := tryStart(t, func(c *Config) {
		c.Out = writerFunc(func([]byte) (int, error) { return 0, closed })
		c.Logger = slog.New(slog.NewJSONHandler(log, nil))
	})
	if !errors.Is(err, closed) {
		t.Errorf("it ends with %v", err)
	}
	if strings.Contains(log.String(), `"level":"ERROR"`) { // a part had the ground pulled away
		t.Errorf("it does not end in order:\n%s", log.tail())
	}
	goleak.VerifyNone(t, before)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestStopBySignal ends the program as an operator does, in the middle of work and with connections open: soon, with exit
// code 0, and with its children.
func TestStopBySignal(t *testing.T) {
	t.Parallel()
	dir := onDisk(t)
	var key keyInfo
	for i, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := startRekey(t, devEnv(dir, "REKEY_ROOT_KEY="+givenRootKey), "dev")
		fields, took := p.awaitReady(t)
		t.Logf("start %d (cold, then warm): ready after %s", i+1, took.Round(time.Millisecond))
		if _, told := fields["root_key"]; told {
			t.Error("the ready line shows a key that was given")
		}
		r := newREST(t, fields["url"], givenRootKey)
		if i == 0 {
			key = r.create(t, "kept", nil)
		}
		if v := r.verify(t, key.Key); v.String() != "VALID active" {
			t.Errorf("start %d: the key answers %s", i+1, v)
		}
		listener, err := nats.Connect(fields["nats"], nats.Token(givenRootKey))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		stream := openSSE(t, r)
		load := startLoad(t, r, 4)
		eventually(t, "some load", func() bool { return load.acknowledged.Load() > 100 })
		processes := footprintOf(t, dir)
		began := time.Now()
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		code := p.wait(t)
		t.Logf("%s: ended after %s", signal, time.Since(began).Round(time.Millisecond))
		if took := time.Since(began); code != 0 || took > 30*time.Second {
			t.Errorf("%s ended it after %s with %d", signal, took, code)
		}
		if left := processes.processes(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		<-stream
		load.end()
	}
}

// givenRootKey is a key of another system.
const givenRootKey = "given-root-key-0123456789-abcdefghij"

// openSSE follows the feed of events, and closes what it returns at the end of the stream.
func openSSE(t testing.TB, a rest) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, "GET", a.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+a.key)
	request.Header.Set("Accept", "text/event-stream")
	response, err := (&http.Client{Transport: a.http.Transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = response.Body.Close() }()
		for buffer := make([]byte, 4096); err == nil; {
			_, err = response.Body.Read(buffer)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return ended
}

// TestStartTwice refuses a second rekey on one data directory, says why, and leaves the first one alone.
func TestStartTwice(t *testing.T) {
	t.Parallel()
	dir := inMemory(t)
	first := startRekey(t, devEnv(dir), "dev")
	fields, _ := first.awaitReady(t)
	second := startRekey(t, devEnv(dir), "dev")
	if code := second.wait(t); code != 1 {
		t.Errorf("it ended with %d", code)
	}
	text := second.errs.String()
	last := text[strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1:]
	if !strings.HasPrefix(last, "rekey: ") || !strings.Contains(last, "REKEY_DATA_DIR") || !strings.Contains(last, dir) || second.out.String() != "" {
		t.Errorf("it says %q and %q", second.out.String(), last)
	}
	r := newREST(t, fields["url"], fields["root_key"])
	if v := r.verify(t, r.create(t, "still working", nil).Key); !v.Valid {
		t.Errorf("the first one says %s", v)
	}
}

// TestStartAgain keeps everything over a restart: keys, their state, due work, the stream, the root key and the addresses
// that others know.
func TestStartAgain(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config) { c.Addr, c.NATSAddr = freeAddr(t), freeAddr(t) })
	t.Logf("cold: ready after %s", r.took.Round(time.Millisecond))
	if r.key == "" || strings.Count(r.ready, "root_key=") != 1 {
		t.Fatalf("the first ready line is %q", r.ready)
	}
	root, hook := r.key, newHook(t)
	rotating := r.create(t, "rotating", map[string]any{"rotation_interval_seconds": 2, "grace_period_seconds": 1, "rotation_webhook_url": hook.url})
	hook.trust(t, rotating.WebhookSecret)
	active, revoked, replaced := r.create(t, "active", nil), r.create(t, "revoked", nil), r.create(t, "replaced", nil)
	r.revoke(t, revoked.ID)
	successor := r.rotate(t, replaced.ID, 3600)
	for range 2 {
		events := r.allEvents(t)
		r = r.again(t)
		t.Logf("warm: ready after %s", r.took.Round(time.Millisecond))
		if strings.Contains(r.ready, "root_key") || strings.Contains(r.logs.String(), root) {
			t.Errorf("a later start tells the root key: %q", r.ready)
		}
		for secret, want := range map[string]string{
			active.Key: "VALID active", revoked.Key: "REVOKED revoked", replaced.Key: "VALID grace", successor.Key: "VALID active", root: "VALID active",
		} {
			if v := r.verify(t, secret); v.String() != want {
				t.Errorf("after the restart a key answers %s, not %s", v, want)
			}
		}
		for i, e := range r.allEvents(t)[:len(events)] {
			if e.ID != events[i].ID {
				t.Fatalf("event %d is %s, was %s", i+1, e.ID, events[i].ID)
			}
		}
		hook.await(t, rotating.LineageID, r.lineage(t, rotating.LineageID)[0].Generation+1)
	}
	checkStandstill(t, r, r.nats, natsToken(t, r.dataDir), []keyInfo{rotating})
}

// TestStartRootKey installs the root key that it is given, at the first start only.
func TestStartRootKey(t *testing.T) {
	t.Parallel()
	given, ok := domain.ParseSecret(givenRootKey)
	if !ok {
		t.Fatal("not a key")
	}
	other, _ := domain.ParseSecret("another-root-key-0123456789-abcdefghij")
	r := start(t, func(c *Config) { c.RootKey = given })
	if strings.Contains(r.ready, "root_key") {
		t.Errorf("the ready line is %q", r.ready)
	}
	var organization struct{ ID string }
	r.call(t, "POST", "/v1/organizations", map[string]any{"name": "another"}, http.StatusCreated, &organization) // the operator's right
	r.stop(t)
	r = start(t, func(c *Config) { c.DataDir, c.RootKey = r.dataDir, other })
	r.call(t, "GET", "/v1/projects", nil, http.StatusUnauthorized, nil)
	r.key = givenRootKey
	r.call(t, "GET", "/v1/projects", nil, http.StatusOK, nil)
}
