package embedded

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

const (
	natsTestService  = "service-token"
	natsTestOperator = "operator-key"
	natsTestTimeout  = 10 * time.Second
)

// natsTestAuthorize knows the keys of two organizations, an operator, and one whose grant is unusable.
func natsTestAuthorize(_ context.Context, token string) (Grant, bool) {
	switch token {
	case "key-a":
		return Grant{Organization: "org_a"}, true
	case "key-b":
		return Grant{Organization: "org_b"}, true
	case natsTestOperator:
		return Grant{Operator: true}, true
	case "key-wild":
		return Grant{Organization: "*"}, true
	case "key-deep":
		return Grant{Organization: "org_a.>"}, true
	case "key-none":
		return Grant{}, true
	}
	return Grant{Organization: "org_a"}, false
}

func natsTestConfig(t *testing.T) NATSConfig {
	return NATSConfig{
		Addr: "127.0.0.1:0", StoreDir: t.TempDir(), ServiceToken: natsTestService, Authorize: natsTestAuthorize,
	}
}

func natsTestStart(t *testing.T, cfg NATSConfig) *NATS {
	t.Helper()
	n, err := StartNATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

// natsTestDial connects over TCP, as others do.
func natsTestDial(t *testing.T, n *NATS, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(n.URL(), append([]nats.Option{nats.NoReconnect()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// natsTestStreams makes both streams as the service and publishes one event and one webhook of each organization.
func natsTestStreams(t *testing.T, n *NATS) {
	t.Helper()
	nc, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for stream, prefix := range readable {
		cfg := jetstream.StreamConfig{Name: stream, Subjects: []string{prefix + ".>"}, AllowDirect: true}
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		for _, org := range []string{"org_a", "org_b"} {
			if _, err := js.Publish(t.Context(), prefix+"."+org+".proj_1.created", []byte(org)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNATS(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	t.Run("RefusesWhomItDoesNotKnow", func(t *testing.T) {
		n := natsTestStart(t, natsTestConfig(t))
		for name, opts := range map[string][]nats.Option{
			"no token":            nil,
			"empty token":         {nats.Token("")},
			"wrong token":         {nats.Token("guess")},
			"wrong password":      {nats.UserInfo("rekey", "guess")},
			"token as user":       {nats.UserInfo(natsTestService, "")},
			"wildcard grant":      {nats.Token("key-wild")},
			"grant of more parts": {nats.Token("key-deep")},
			"empty grant":         {nats.Token("key-none")},
		} {
			if nc, err := nats.Connect(n.URL(), opts...); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("%s: got connection %v, error %v", name, nc, err)
			}
		}
	})
	t.Run("AdmitsTokenInEachPlace", func(t *testing.T) {
		n := natsTestStart(t, natsTestConfig(t))
		natsTestDial(t, n, nats.Token("key-a"))
		natsTestDial(t, n, nats.UserInfo("whoever", "key-a"))
		nc, err := nats.Connect(strings.Replace(n.URL(), "nats://", "nats://key-a@", 1))
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
	})
	t.Run("RefusesOthersUntilItCanJudge", func(t *testing.T) {
		cfg := natsTestConfig(t)
		cfg.Authorize = nil
		n := natsTestStart(t, cfg)
		if _, err := nats.Connect(n.URL(), nats.Token("key-a")); !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("got %v", err)
		}
		natsTestDial(t, n, nats.Token(natsTestService))
		n.SetAuthorize(natsTestAuthorize)
		natsTestDial(t, n, nats.Token("key-a"))
		n.SetAuthorize(nil)
		if _, err := nats.Connect(n.URL(), nats.Token("key-a")); !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("EndsAJudgementThatHangs", func(t *testing.T) {
		cfg := natsTestConfig(t)
		ended := make(chan error, 1)
		cfg.Authorize = func(ctx context.Context, _ string) (Grant, bool) {
			<-ctx.Done()
			ended <- ctx.Err()
			return Grant{}, false
		}
		n := natsTestStart(t, cfg)
		_, err := nats.Connect(n.URL(), nats.Token("key-a"), nats.Timeout(natsTestTimeout))
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("got %v", err)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("judgement ended with %v", err)
		}
	})
	t.Run("LetsTheServicePublishFsynced", func(t *testing.T) {
		n := natsTestStart(t, natsTestConfig(t))
		natsTestStreams(t, n)
		if cfg := n.server.JetStreamConfig(); !cfg.SyncAlways {
			t.Error("an acknowledged message is not on the disk yet")
		}
		js, err := jetstream.New(natsTestDial(t, n, nats.Token(natsTestService)))
		if err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(t.Context(), "rekey.events.org_a.proj_1.revoked", nil)
		if err != nil || ack.Sequence != 3 {
			t.Fatalf("got %v, error %v", ack, err)
		}
	})
}

// Subscribers share _INBOX.>: an answer to the service there, such as an event of any organization, would be theirs too.
func TestNATSKeepsAnswersToTheServiceApart(t *testing.T) {
	n := natsTestStart(t, natsTestConfig(t))
	natsTestStreams(t, n)
	ears, err := natsTestDial(t, n, nats.Token("key-a")).SubscribeSync("_INBOX.>")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "REKEY_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if msg, err := ears.NextMsg(100 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Fatalf("a subscriber heard %v, error %v", msg, err)
	}
}

func TestNATSLife(t *testing.T) {
	t.Run("RestartKeepsStreams", func(t *testing.T) {
		cfg := natsTestConfig(t)
		n := natsTestStart(t, cfg)
		natsTestStreams(t, n)
		n.Stop()
		n.Stop()
		if _, err := n.Connect(); err == nil {
			t.Error("a stopped server took a connection")
		}
		n = natsTestStart(t, cfg)
		nc, err := n.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "REKEY_EVENTS")
		if err != nil || stream.CachedInfo().State.Msgs != 2 {
			t.Fatalf("got %+v, error %v", stream, err)
		}
	})
	t.Run("RefusesAStoreInUse", func(t *testing.T) {
		cfg := natsTestConfig(t)
		natsTestStart(t, cfg)
		if _, err := StartNATS(cfg); !errors.Is(err, ErrNATSInUse) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("NamesATakenPort", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		cfg := natsTestConfig(t)
		cfg.Addr = taken.Addr().String()
		_, err = StartNATS(cfg)
		if err == nil || !strings.Contains(err.Error(), cfg.Addr) {
			t.Fatalf("got %v", err)
		}
		cfg.Addr = "127.0.0.1:0" // and it has let go of the store
		natsTestStart(t, cfg)
	})
	t.Run("RefusesBadConfig", func(t *testing.T) {
		for name, change := range map[string]func(*NATSConfig){
			"no address": func(c *NATSConfig) { c.Addr = "" },
			"no port":    func(c *NATSConfig) { c.Addr = "127.0.0.1" },
			"big port":   func(c *NATSConfig) { c.Addr = "127.0.0.1:70000" },
			"no token":   func(c *NATSConfig) { c.ServiceToken = "" },
			"no store":   func(c *NATSConfig) { c.StoreDir = "" },
			"file store": func(c *NATSConfig) { c.StoreDir = "/dev/null" },
		} {
			cfg := natsTestConfig(t)
			change(&cfg)
			if n, err := StartNATS(cfg); err == nil {
				n.Stop()
				t.Errorf("%s: started", name)
			}
		}
	})
}

// lockedBuffer is a log that the server's goroutines write while the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// G5: a key that comes in the wrong place or is refused must not end in the log.
func TestNATSLogsNoToken(t *testing.T) {
	var log lockedBuffer
	cfg := natsTestConfig(t)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n := natsTestStart(t, cfg)
	const secret = "rk_live_secret"
	for _, opts := range []nats.Option{
		nats.Token(secret), nats.UserInfo(secret, ""), nats.UserInfo("x", secret), nats.UserInfo(secret, secret),
		nats.UserInfo(secret, "key-a"),
	} {
		if nc, err := nats.Connect(n.URL(), opts); err == nil {
			_ = errors.Join(nc.Publish("rekey.events.org_a.p.t", nil), nc.Flush())
			nc.Close()
		}
	}
	n.Stop()
	if text := log.String(); strings.Contains(text, secret) || strings.Contains(text, natsTestService) {
		t.Errorf("the log has a token:\n%s", text)
	}
	for _, want := range []string{"authentication error", "Publish Violation", "Server is ready"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log says nothing of %q:\n%s", want, log.String())
		}
	}
}
