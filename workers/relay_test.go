package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/migrations/dbtest"
)

func TestRelay(t *testing.T) {
	t.Run("GivesEveryPositionItsSequence", func(t *testing.T) {
		b := newRelayBench(t)
		b.append(t, 700) // before: windows of 500, in batches
		relay := b.relay(EventsFeed())
		relayTestRun(t, relay.Run)
		for range 5 {
			b.append(t, 1) // alone, and small batches
			b.append(t, 20)
		}
		b.wantDense(t)
		head := b.head(t)
		status := awaitStatus(t, relay, func(s FeedStatus) bool { return s.Active && s.Position == head })
		if status.Halted || status.LastError != "" {
			t.Errorf("got %+v", status)
		}
		relayTestPoll(t, func() bool { return b.checkpoint(t, "relay.events") == head },
			func() string { return fmt.Sprintf("checkpoint %d, head %d", b.checkpoint(t, "relay.events"), head) })
		if lag, err := b.relayOf(b.newStore(t), EventsFeed()).Lag(t.Context()); err != nil || lag["relay.events"] != 0 {
			t.Errorf("lag seen by another process: %v, error %v", lag, err)
		}
	})
	t.Run("StopsAndStartsAgain", func(t *testing.T) {
		b := newRelayBench(t)
		relay := b.relay(EventsFeed())
		for range 3 {
			stop := relayTestRun(t, relay.Run)
			b.append(t, 5)
			b.wantDense(t)
			stop()
			if s := relay.Status()[0]; s.Active {
				t.Errorf("stopped, but %+v", s)
			}
			b.append(t, 5)
		}
		want := b.head(t) - relay.Status()[0].Position
		if lag, err := relay.Lag(t.Context()); err != nil || want == 0 || lag["relay.events"] != want {
			t.Errorf("lag %v, error %v, want %d", lag, err, want)
		}
	})
	t.Run("MovesForwardWhereTheCheckpointWasNotSaved", func(t *testing.T) {
		b := newRelayBench(t)
		stop := relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 30)
		b.wantDense(t)
		stop()
		if err := b.store.SaveCheckpoint(t.Context(), "relay.events", eventstore.Lifecycle, 3); err != nil {
			t.Fatal(err)
		}
		relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 5)
		b.wantDense(t)
	})
}

// What NATS loses, the log still has: the stream is filled again from the point to which it fell back.
func TestRelayRepairs(t *testing.T) {
	t.Run("WipedStore", func(t *testing.T) {
		b := newRelayBench(t)
		relay := b.relay(EventsFeed())
		relayTestRun(t, relay.Run)
		b.append(t, 50)
		b.wantDense(t)
		b.nats.Load().Stop()
		b.append(t, 50) // no command fails
		awaitStatus(t, relay, func(s FeedStatus) bool { return !s.Active && s.LastError != "" })
		if lag, err := relay.Lag(t.Context()); err != nil || lag["relay.events"] < 50 {
			t.Errorf("lag %v, error %v", lag, err)
		}
		if err := os.RemoveAll(b.cfg.StoreDir); err != nil {
			t.Fatal(err)
		}
		b.startNATS(t)
		b.wantDense(t)
		awaitStatus(t, relay, func(s FeedStatus) bool { return s.Active && s.LastError == "" })
	})
	t.Run("WipedStoreWhileNothingHappens", func(t *testing.T) {
		b := newRelayBench(t)
		relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 50)
		b.wantDense(t)
		b.nats.Load().Stop()
		if err := os.RemoveAll(b.cfg.StoreDir); err != nil {
			t.Fatal(err)
		}
		b.startNATS(t)
		b.wantDense(t)
	})
	t.Run("DeletedStream", func(t *testing.T) {
		b := newRelayBench(t)
		relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 50)
		b.wantDense(t)
		js, stream := b.stream(t, StreamEvents)
		if err := stream.Purge(t.Context()); err == nil {
			t.Error("the stream could be purged")
		}
		if err := stream.DeleteMsg(t.Context(), 7); err == nil {
			t.Error("a message could be deleted")
		}
		if err := js.DeleteStream(t.Context(), StreamEvents); err != nil {
			t.Fatal(err)
		}
		b.wantDense(t) // nothing was appended: only the probe can have seen it
	})
	t.Run("TruncatedTail", func(t *testing.T) {
		b := newRelayBench(t)
		relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 30)
		b.wantDense(t)
		older := filepath.Join(t.TempDir(), "older")
		b.nats.Load().Stop()
		if err := os.CopyFS(older, os.DirFS(b.cfg.StoreDir)); err != nil {
			t.Fatal(err)
		}
		b.startNATS(t)
		b.append(t, 40)
		b.wantDense(t)
		b.nats.Load().Stop()
		b.append(t, 3)
		if err := errors.Join(os.RemoveAll(b.cfg.StoreDir), os.Rename(older, b.cfg.StoreDir)); err != nil {
			t.Fatal(err)
		}
		b.startNATS(t)
		b.wantDense(t)
		if !strings.Contains(b.log.String(), "relay rewinds") {
			t.Errorf("nothing was said of the rewind:\n%s", b.log.String())
		}
	})
	t.Run("LostDatabaseConnections", func(t *testing.T) {
		b := newRelayBench(t)
		relayTestRun(t, b.relay(EventsFeed()).Run)
		b.append(t, 20)
		b.wantDense(t)
		b.dropOwners(t)
		b.append(t, 20)
		b.wantDense(t)
	})
}

// Several relays, be it that one waits for the other or that both believe to own the feed, give no duplicate and no hole.
func TestRelayRaces(t *testing.T) {
	t.Run("OneWorksTheOtherWaits", func(t *testing.T) {
		b := newRelayBench(t)
		first, second := b.relayOf(b.newStore(t), EventsFeed()), b.relayOf(b.newStore(t), EventsFeed())
		stops := map[*Relay]func(){first: relayTestRun(t, first.Run), second: relayTestRun(t, second.Run)}
		active := func() *Relay {
			var is []*Relay
			for r := range stops {
				if r.Status()[0].Active {
					is = append(is, r)
				}
			}
			if len(is) > 1 {
				t.Error("two relays are active")
			}
			if len(is) == 0 {
				return nil
			}
			return is[0]
		}
		b.append(t, 50)
		relayTestPoll(t, func() bool { return active() != nil }, func() string { return "no relay is active" })
		b.dropOwners(t)
		b.append(t, 50)
		b.wantDense(t)
		// Whoever has it now, the first one noticed.
		relayTestPoll(t, func() bool { return strings.Contains(b.log.String(), errOwnershipLost.Error()) }, b.log.String)
		relayTestPoll(t, func() bool { return active() != nil }, func() string { return "no relay is active" })
		gone := active()
		stops[gone]()
		delete(stops, gone)
		b.append(t, 50)
		b.wantDense(t)
	})
	// The ids alone protect for two minutes; the expected sequence does it for ever.
	for name, ids := range map[string]bool{"BothBelieveToOwn": true, "BothBelieveToOwnBeyondTheDuplicateWindow": false} {
		t.Run(name, func(t *testing.T) {
			b := newRelayBench(t)
			var collisions atomic.Int64
			for i := range 2 {
				feed := EventsFeed()
				feed.Name = fmt.Sprintf("relay.events.%d", i) // its own ownership and checkpoint, the same stream
				if !ids {
					feed.Messages = messagesWithoutID
				}
				relay := NewRelay(RelayConfig{Store: b.newStore(t), Connect: b.connect, Feeds: []Feed{feed},
					Observe: func(_ string, _ int, _ time.Duration, err error) {
						if err != nil {
							collisions.Add(1)
						}
					}})
				relayTestRun(t, relay.Run)
			}
			for range 40 {
				b.append(t, 12)
			}
			b.wantDense(t)
			if collisions.Load() == 0 {
				t.Error("the relays never met: the test shows nothing")
			}
		})
	}
}

func messagesWithoutID(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
	messages, err := eventMessages(ctx, records)
	for _, m := range messages {
		m.Header.Del(nats.MsgIdHdr)
	}
	return messages, err
}

// Whatever is in a stream and not in the log makes every later position wrong, so nothing more is published.
func TestRelayHalts(t *testing.T) {
	foreign := func(header map[string]string) *nats.Msg {
		m := nats.NewMsg("rekey.events.org_x.proj_x.created")
		for name, value := range header {
			m.Header.Set(name, value)
		}
		return m
	}
	for name, message := range map[string]func(next int64) *nats.Msg{
		"OnAForeignMessage": func(int64) *nats.Msg { return foreign(nil) },
		"OnAWrongID": func(next int64) *nats.Msg {
			return foreign(map[string]string{positionHeader: strconv.FormatInt(next, 10), nats.MsgIdHdr: "evt_other"})
		},
		"OnAPositionTwice": func(next int64) *nats.Msg { // without an id, since those are compared too
			return foreign(map[string]string{positionHeader: strconv.FormatInt(next-1, 10)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRelayBench(t)
			relay := b.relay(EventsFeed())
			relayTestRun(t, relay.Run)
			b.append(t, 20)
			b.wantDense(t)
			js, _ := b.stream(t, StreamEvents)
			next := b.head(t) + 1
			if _, err := js.PublishMsg(t.Context(), message(next)); err != nil {
				t.Fatal(err)
			}
			awaitStatus(t, relay, isHalted) // also while nothing happens: the probe
			b.append(t, 20)
			errorsLogged := func() int { return strings.Count(b.log.String(), "level=ERROR msg=\"relay halted") }
			before := errorsLogged()
			relayTestPoll(t, func() bool { return errorsLogged() > before+1 }, b.log.String) // at each try
			b.awaitSequence(t, StreamEvents, uint64(next))
			if lag, err := relay.Lag(t.Context()); err != nil || lag["relay.events"] == 0 {
				t.Errorf("lag %v, error %v", lag, err)
			}
			if err := js.DeleteStream(t.Context(), StreamEvents); err != nil {
				t.Fatal(err)
			}
			b.wantDense(t) // once somebody has repaired it, it goes on by itself
		})
	}
	t.Run("OnAStreamBeyondTheLog", func(t *testing.T) {
		b := newRelayBench(t)
		other := relayBenchOn(t, dbtest.New(t))
		stop := relayTestRun(t, other.relay(EventsFeed()).Run)
		other.append(t, 30)
		other.wantDense(t)
		stop()
		b.append(t, 5)
		// The log was restored to an older state, or belongs to somebody else.
		relay := NewRelay(RelayConfig{Store: b.store, Connect: other.connect, Feeds: []Feed{EventsFeed()}})
		relayTestRun(t, relay.Run)
		status := awaitStatus(t, relay, isHalted)
		if !strings.Contains(status.LastError, "does not have yet") {
			t.Errorf("got %+v", status)
		}
		b.append(t, 60) // the log grows past it, with other events
		relayTestPoll(t, func() bool { return strings.Contains(relay.Status()[0].LastError, "has the id") },
			func() string { return fmt.Sprint(relay.Status()) })
		other.awaitSequence(t, StreamEvents, uint64(other.head(t)))
	})
}
