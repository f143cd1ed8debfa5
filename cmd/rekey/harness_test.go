package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/internal/tooltest"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// TestMain keeps the caller's own settings out: a developer may have a rekey running.
func TestMain(m *testing.M) {
	if os.Getenv(hastyReplica) == "1" {
		os.Exit(serveHastily(os.Args[1]))
	}
	for _, s := range settings {
		if s.name != "REKEY_POSTGRES_BIN" {
			_ = os.Unsetenv(s.name)
		}
	}
	for _, name := range []string{"REKEY_URL", "REKEY_KEY", "REKEY_WEBHOOK_SECRET"} {
		_ = os.Unsetenv(name)
	}
	code := m.Run()
	binary.remove()
	os.Exit(code)
}

// patience is for a broken test only; the machine may be slow and shared.
const patience = 60 * time.Second

// eventually polls until condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	within(t, patience, what, condition)
}

func within(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened in %s: %s", limit, what)
		}
	}
}

// onDisk makes a data directory on the real disk, for tests of what survives. Postgres may run as another user, who must
// be able to pass: the folders of t.TempDir are closed to it.
func onDisk(t testing.TB) string { return newDataDir(t, os.TempDir()) }

// inMemory makes one on a memory disk where there is one.
func inMemory(t testing.TB) string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return newDataDir(t, "/dev/shm")
	}
	return onDisk(t)
}

func newDataDir(t testing.TB, base string) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "rekey-e2e-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// freeAddr is an address that stays the same over restarts. Its port is below those that systems give to outgoing
// connections, one of which could take it while nobody listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(9000))
		if listener, err := net.Listen("tcp", addr); err == nil {
			_ = listener.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// output collects what several goroutines write.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// tail is the end of it, for a failure's report.
func (o *output) tail() string {
	text := o.String()
	return text[max(0, len(text)-6000):]
}

// instance is a running rekey.
type instance struct {
	rest           // calls it with the root key
	ready   string // the line
	nats    string
	dataDir string
	cfg     Config
	logs    *output
	took    time.Duration // until it was ready

	cancel context.CancelFunc
	ended  chan struct{} // closed when run has returned
	err    error         // what it returned
}

// start runs a dev on free ports, waits until it is ready, and stops it when the test ends.
func start(t testing.TB, adjust ...func(*Config)) *instance {
	t.Helper()
	i, err := tryStart(t, adjust...)
	if errors.Is(err, embedded.ErrNoPostgres) {
		tooltest.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return i
}

// tryStart gives the error of a start that failed.
func tryStart(t testing.TB, adjust ...func(*Config)) (*instance, error) {
	t.Helper()
	lines := &output{}
	i := &instance{logs: &output{}, ended: make(chan struct{})}
	i.cfg = Config{
		Dev: true, Roles: []string{roleAPI, roleWorker, roleRelay}, Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		NATSAddr: "127.0.0.1:0", WebhookAllow: webhook.LoopbackPrefixes(), MinRotationInterval: time.Second, Out: lines,
		Logger: slog.New(slog.NewJSONHandler(i.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range adjust {
		f(&i.cfg)
	}
	if i.cfg.Dev && i.cfg.DataDir == "" {
		i.cfg.DataDir = inMemory(t)
	}
	i.dataDir = i.cfg.DataDir
	var ctx context.Context
	ctx, i.cancel = context.WithCancel(context.Background())
	began := time.Now()
	go func() {
		defer close(i.ended)
		i.err = run(ctx, i.cfg)
	}()
	t.Cleanup(func() { i.stopAtEnd(t) })
	within(t, 2*patience, "the ready line", func() bool {
		return strings.HasSuffix(lines.String(), "\n") || i.hasEnded()
	})
	if i.hasEnded() {
		return nil, i.err
	}
	i.took = time.Since(began)
	i.readReady(t, lines.String())
	return i, nil
}

func (i *instance) hasEnded() bool {
	select {
	case <-i.ended:
		return true
	default:
		return false
	}
}

// readReady takes what the ready line says.
func (i *instance) readReady(t testing.TB, line string) {
	t.Helper()
	i.ready = strings.TrimSuffix(line, "\n")
	fields := readyFields(t, i.ready)
	i.rest = newREST(t, fields["url"], fields["root_key"])
	i.nats = fields["nats"]
	if i.key == "" && !i.cfg.RootKey.IsZero() {
		i.key = i.cfg.RootKey.Reveal()
	}
}

func readyFields(t testing.TB, line string) map[string]string {
	t.Helper()
	words := strings.Split(line, " ")
	if words[0] != "ready" {
		t.Fatalf("not a ready line: %q", line)
	}
	fields := map[string]string{}
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			t.Fatalf("the ready line has %q", word)
		}
		fields[name] = value
	}
	return fields
}

// stop ends it as a signal would, and requires a clean end.
func (i *instance) stop(t testing.TB) {
	t.Helper()
	i.cancel()
	if err := i.wait(t); err != nil {
		t.Errorf("run ended with: %v", err)
	}
}

// wait returns what run returned.
func (i *instance) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-i.ended:
		return i.err
	case <-time.After(patience):
		t.Fatalf("rekey did not end in %s\n%s", patience, i.logs.tail())
		return nil
	}
}

// stopAtEnd stops what still runs, and shows the log of a failed test.
func (i *instance) stopAtEnd(t testing.TB) {
	if !i.hasEnded() {
		i.stop(t)
	}
	if t.Failed() {
		t.Logf("it ended with %v; end of the log:\n%s", i.err, i.logs.tail())
	}
}

// again stops it and starts it on the same data and addresses, with the key of before.
func (i *instance) again(t testing.TB) *instance {
	t.Helper()
	i.stop(t)
	next := start(t, func(c *Config) {
		c.DataDir, c.Addr, c.NATSAddr = i.dataDir, strings.TrimPrefix(i.url, "http://"), strings.TrimPrefix(i.nats, "nats://")
	})
	next.key = i.key
	return next
}

// rest calls a rekey over HTTP.
type rest struct {
	url, key string
	http     *http.Client
}

func newREST(t testing.TB, url, key string) rest {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return rest{url: url, key: key, http: &http.Client{Transport: transport, Timeout: patience}}
}

// with is the same rekey, called with another key.
func (a rest) with(key string) rest {
	a.key = key
	return a
}
