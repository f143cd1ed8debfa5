package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// sparseFeed gives a message for each project, and none for the organizations between them.
func sparseFeed() Feed {
	return Feed{
		Name:   "relay.sparse",
		Stream: streamConfig("SPARSE", "sparse.>"),
		Messages: func(_ context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
			messages := make([]*nats.Msg, len(records))
			for i, r := range records {
				if r.Data.Type() == domain.TypeProjectCreated {
					messages[i] = nats.NewMsg("sparse.project")
					messages[i].Header.Set(nats.MsgIdHdr, "msg_"+string(r.ID))
				}
			}
			return messages, nil
		},
	}
}

// wantSparse waits until the stream holds what the feed gives of the whole log, and nothing else.
func (b *relayBench) wantSparse(t *testing.T) {
	t.Helper()
	var want []string
	records, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Data.Type() == domain.TypeProjectCreated {
			want = append(want, fmt.Sprintf("%d msg_%s", r.Position, r.ID))
		}
	}
	stream := b.awaitSequence(t, "SPARSE", uint64(len(want)))
	var got []string
	for sequence := range want {
		msg, err := stream.GetMsg(t.Context(), uint64(sequence+1))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, msg.Header.Get(positionHeader)+" "+msg.Header.Get(nats.MsgIdHdr))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestRelaySparse(t *testing.T) {
	b := newRelayBench(t)
	b.append(t, 600)
	relay := b.relay(sparseFeed())
	stop := relayTestRun(t, relay.Run)
	b.append(t, 30)
	b.wantSparse(t)
	silent := func() { // ends the log with records that give no message
		for range 5 {
			if _, err := b.store.Execute(t.Context(), relayTestCommand(0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	silent()
	awaitCheckpoint(t, b, "relay.sparse")
	stop()

	stop = relayTestRun(t, relay.Run)
	b.append(t, 30)
	b.wantSparse(t)
	b.nats.Load().Stop()
	silent()
	b.append(t, 8)
	silent()
	if err := os.RemoveAll(b.cfg.StoreDir); err != nil {
		t.Fatal(err)
	}
	b.startNATS(t)
	b.wantSparse(t)
	awaitCheckpoint(t, b, "relay.sparse")

	js, _ := b.stream(t, "SPARSE")
	if _, err := js.Publish(t.Context(), "sparse.foreign", nil); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, relay, isHalted)
	stop()
}

// awaitCheckpoint waits until a feed has come to the end of the log.
func awaitCheckpoint(t *testing.T, b *relayBench, name string) {
	t.Helper()
	head := b.head(t)
	relayTestPoll(t, func() bool { return b.checkpoint(t, name) == head },
		func() string { return fmt.Sprintf("checkpoint %d, head %d", b.checkpoint(t, name), head) })
}

// A stream whose messages have all aged away ends where it did: neither feed starts anew or halts.
func TestRelayAgedStreams(t *testing.T) {
	b := newRelayBench(t)
	dense, sparse := EventsFeed(), sparseFeed()
	for _, feed := range []*Feed{&dense, &sparse} {
		feed.Stream.MaxAge, feed.Stream.Duplicates = 300*time.Millisecond, 300*time.Millisecond
	}
	relay := b.relay(dense, sparse)
	for range 2 {
		stop := relayTestRun(t, relay.Run)
		b.append(t, 20)
		awaitCheckpoint(t, b, "relay.events")
		awaitCheckpoint(t, b, "relay.sparse")
		stop()
		_, events := b.stream(t, StreamEvents)
		_, projects := b.stream(t, "SPARSE")
		for _, stream := range []jetstream.Stream{events, projects} {
			relayTestPoll(t, func() bool {
				info, err := stream.Info(t.Context())
				return err == nil && info.State.Msgs == 0
			}, func() string { return fmt.Sprintf("messages do not age: %+v", stream.CachedInfo().State) })
		}
		if got, want := events.CachedInfo().State.LastSeq, uint64(b.head(t)); got != want {
			t.Errorf("events end at %d, the log at %d", got, want)
		}
		if got, want := projects.CachedInfo().State.LastSeq, uint64(b.projects(t)); got != want {
			t.Errorf("the sparse stream ends at %d, want %d", got, want)
		}
	}
	for _, s := range relay.Status() {
		if s.LastError != "" {
			t.Errorf("got %+v", s)
		}
	}
}

func (b *relayBench) projects(t *testing.T) (n int) {
	t.Helper()
	records, err := b.store.Read(t.Context(), eventstore.Lifecycle, 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Data.Type() == domain.TypeProjectCreated {
			n++
		}
	}
	return n
}

// What a feed's Messages does wrong must not reach the stream.
func TestRelayFeedFaults(t *testing.T) {
	broken := errors.New("cannot sign now")
	for name, c := range map[string]struct {
		messages func([]*nats.Msg, error) ([]*nats.Msg, error)
		halts    bool
	}{
		"Error":        {func([]*nats.Msg, error) ([]*nats.Msg, error) { return nil, broken }, false},
		"MissingEntry": {func(m []*nats.Msg, err error) ([]*nats.Msg, error) { return m[1:], err }, true},
		"HoleInADense": {func(m []*nats.Msg, err error) ([]*nats.Msg, error) { m[len(m)-1] = nil; return m, err }, true},
		"OutOfTheSubject": {func(m []*nats.Msg, err error) ([]*nats.Msg, error) {
			m[len(m)-1].Subject = "elsewhere.x"
			return m, err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRelayBench(t)
			b.append(t, 10)
			feed := EventsFeed()
			feed.Messages = func(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
				return c.messages(eventMessages(ctx, records))
			}
			relay := b.relay(feed)
			relayTestRun(t, relay.Run)
			status := awaitStatus(t, relay, func(s FeedStatus) bool { return s.LastError != "" })
			if status.Halted != c.halts || status.Active {
				t.Errorf("got %+v", status)
			}
			b.awaitSequence(t, StreamEvents, 0)
		})
	}
}

// What the comment in relay_publish.go says of the server, and the relay counts on.
func TestAtomicBatchOfServer(t *testing.T) {
	b := newRelayBench(t)
	js, _ := streamOf(t, b)
	nc := js.Conn()
	for i, c := range []struct {
		name     string
		ids      []string
		expected map[int]string // Nats-Expected-Last-Sequence by message
		code     jetstream.ErrorCode
		sequence uint64
	}{
		{"first expects, ids on each", []string{"a", "b", "c"}, map[int]string{0: "0"}, 0, 3},
		{"wrong sequence", []string{"d", "e"}, map[int]string{0: "2"}, 10071, 0},
		{"a known id", []string{"d", "a"}, map[int]string{0: "3"}, 10201, 0},
		{"an id twice", []string{"d", "d"}, map[int]string{0: "3"}, 10201, 0},
		{"each expects", []string{"d", "e"}, map[int]string{0: "3", 1: "4"}, 10164, 0},
		{"nothing of those was stored", []string{"d", "e"}, map[int]string{0: "3"}, 0, 5},
		{"as many as may be", slices.Collect(names(1000)), map[int]string{0: "5"}, 0, 1005},
		{"one more", slices.Collect(names(1001)), map[int]string{0: "1005"}, 10199, 0},
	} {
		var ack publishAck
		var err error
		s := &relaySession{nc: nc}
		messages := make([]*nats.Msg, len(c.ids))
		for j, id := range c.ids {
			messages[j] = nats.NewMsg("sparse.x")
			messages[j].Header.Set(nats.MsgIdHdr, id)
			if expected, ok := c.expected[j]; ok {
				messages[j].Header.Set(jetstream.ExpectedLastSeqHeader, expected)
			}
		}
		if s.sequence, err = strconv.ParseUint(c.expected[0], 10, 64); err != nil {
			t.Fatal(err)
		}
		if ack, err = s.send(t.Context(), messages); err != nil {
			t.Fatal(err)
		}
		var code jetstream.ErrorCode
		if ack.Error != nil {
			code = ack.Error.ErrorCode
		}
		if code != c.code || ack.Sequence != c.sequence || code == 0 && ack.Count != len(c.ids) {
			t.Errorf("%d %s: got %+v, error %+v", i, c.name, ack, ack.Error)
		}
	}
}

func names(n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(fmt.Sprintf("%d-%d", n, i)) {
				return
			}
		}
	}
}

func streamOf(t *testing.T, b *relayBench) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	nc, err := b.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), streamConfig("SPARSE", "sparse.>"))
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}
