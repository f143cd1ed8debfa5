package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/embedded"
)

// TestNATSGone stops NATS and wipes its store while commands go on. None may fail, and when it is back, empty, it must
// hold the whole log again.
func TestNATSGone(t *testing.T) {
	t.Parallel()
	const token = "the-service-token-of-this-test"
	store, addr := filepath.Join(inMemory(t), "jetstream"), freeAddr(t)
	natsURL := "nats://" + token + "@" + addr
	server := startNATS(t, addr, store, token)
	r := start(t, func(c *Config) { c.NATSURL = natsURL })
	if want := " nats=nats://" + addr; !strings.Contains(r.ready+" ", want+" ") {
		t.Errorf("the ready line %q does not say%s", r.ready, want)
	}
	hook := newHook(t)
	rotating := r.create(t, "rotating", map[string]any{"rotation_interval_seconds": 1, "grace_period_seconds": 0, "rotation_webhook_url": hook.url})
	hook.trust(t, rotating.WebhookSecret)

	commands := keepBusy(t, r)
	commands.proceed(t)
	for range 2 {
		server.Stop()
		if err := os.RemoveAll(store); err != nil {
			t.Fatal(err)
		}
		commands.proceed(t)
		hook.await(t, rotating.LineageID, r.lineage(t, rotating.LineageID)[0].Generation+1)
		server = startNATS(t, addr, store, token)
		commands.proceed(t)
	}
	commands.proceed(t)
	commands.end()
	eventually(t, "the end of the rotations", func() bool {
		current := r.lineage(t, rotating.LineageID)[0]
		if current.Status == "active" {
			r.revoke(t, current.ID)
		}
		return current.Status == "revoked"
	})
	events := r.allEvents(t)
	checkEventsStream(t, natsURL, events)
	checkWebhooksStream(t, natsURL, events)
	t.Logf("%d commands, %d events", commands.done.Load(), len(events))
}

func startNATS(t testing.TB, addr, store, token string) *embedded.NATS {
	t.Helper()
	server, err := embedded.StartNATS(embedded.NATSConfig{Addr: addr, StoreDir: store, ServiceToken: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return server
}

// busy are clients whose commands must all succeed.
type busy struct {
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup
	done    atomic.Int64
	failure atomic.Value
}

// keepBusy creates, rotates and revokes keys until the end.
func keepBusy(t testing.TB, r *instance) *busy {
	t.Helper()
	b := &busy{stop: make(chan struct{})}
	one := &clients{rest: r.rest, project: r.project(t)}
	for n := range 4 {
		c := &loadClient{load: one, name: fmt.Sprintf("busy-%d", n), tried: map[string]string{}}
		b.running.Go(func() { b.work(c) })
	}
	t.Cleanup(b.end)
	return b
}

func (b *busy) work(c *loadClient) {
	for n := 0; ; n++ {
		select {
		case <-b.stop:
			return
		default:
		}
		name := fmt.Sprintf("%s-%d", c.name, n)
		if !c.create(name) || !c.rotate(c.keys[len(c.keys)-1]) || !c.revoke(c.keys[len(c.keys)-1]) {
			b.failure.Store(name + ": " + c.code)
			return
		}
		b.done.Add(3)
	}
}

// proceed waits until another hundred commands have succeeded.
func (b *busy) proceed(t testing.TB) {
	t.Helper()
	enough := b.done.Load() + 100
	eventually(t, "commands", func() bool {
		if failure := b.failure.Load(); failure != nil {
			t.Fatalf("a command failed: %v", failure)
		}
		return b.done.Load() > enough
	})
}

func (b *busy) end() {
	b.once.Do(func() { close(b.stop) })
	b.running.Wait()
}
