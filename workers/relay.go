package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/eventstore"
)

// RelayConfig says what a Relay reads and where it publishes. Store, Connect and Feeds are required.
type RelayConfig struct {
	Store *eventstore.Store
	// Connect makes a connection, which the relay closes. It is called for each feed, and again after each fault. Its
	// connections must not buffer while they are disconnected (nats.ReconnectBufSize(-1)), or a message could be sent
	// after the relay has gone back to the stream's end, and use an inbox that subscribers cannot listen to
	// (embedded.ServiceInbox), since the ends of streams are read over it.
	Connect func() (*nats.Conn, error)
	Feeds   []Feed
	// Logger gets faults, repairs and refusals to go on; nil means none are logged.
	Logger *slog.Logger
	// Observe, if not nil, is told of every publish: how many messages, and how long until they were acknowledged.
	Observe func(feed string, messages int, took time.Duration, err error)
}

// Feed is one JetStream stream made from the lifecycle lane.
type Feed struct {
	// Name is that of the checkpoint and of the ownership, such as "relay.events".
	Name string
	// Stream is created where it is missing and updated where it differs.
	Stream jetstream.StreamConfig
	// Messages turns consecutive records into messages: one entry per record, nil for a record that gives none. Each
	// message has a Nats-Msg-Id that is the same whenever the record is read. The relay adds the rest that it needs.
	Messages func(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error)
	// Dense says that every record gives a message. Then the sequence in the stream is the position in the log, and the
	// Nats-Msg-Id is the event's id; both are asserted.
	Dense bool
}

// Relay copies the lifecycle lane to JetStream.
//
// What it guarantees: a stream holds the messages of the log in order, each once and none missing, whoever crashes or
// restarts, however many relays run, and also after the stream lost its end or was deleted: on each connect the relay goes
// on from what the stream really ends with, and each publish names the sequence it must come after, so a relay that is late
// or wrong is refused by the server. It does not guarantee exactly-once processing to those who read the stream.
//
// How it fails: while NATS or Postgres cannot be reached it tries for ever, and the log waits. If a stream ends with
// something that is not in the log, the feed halts: it says so at each try and publishes nothing, since every position
// after that would be wrong. It goes on by itself once the stream is repaired or deleted.
type Relay struct {
	cfg   RelayConfig
	feeds []*feedRelay
}

// NewRelay returns a relay that does nothing until Run.
func NewRelay(cfg RelayConfig) *Relay {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration, error) {}
	}
	r := &Relay{cfg: cfg}
	for _, feed := range cfg.Feeds {
		r.feeds = append(r.feeds, newFeedRelay(cfg, feed))
	}
	return r
}

// Run relays all feeds until ctx ends, and returns nil then. It may be called again afterwards.
func (r *Relay) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, f := range r.feeds {
		running.Go(func() { f.run(ctx) })
	}
	running.Wait()
	return nil
}

// FeedStatus tells how a feed is doing in this process.
type FeedStatus struct {
	Name string
	// Active says that this process owns the feed and is connected. Of several processes one is active per feed.
	Active bool
	// Position is the last one this process has relayed or found in the stream.
	Position int64
	// Halted says that the stream and the log contradict each other and somebody must look.
	Halted bool
	// LastError is why the feed is not active, empty where it only waits for its turn; LastErrorAt is when it was seen.
	LastError   string
	LastErrorAt time.Time
}

// Status tells how each feed is doing in this process.
func (r *Relay) Status() []FeedStatus {
	out := make([]FeedStatus, len(r.feeds))
	for i, f := range r.feeds {
		out[i] = f.snapshot()
	}
	return out
}

// Lag returns by feed how many positions of the log no process has relayed yet.
func (r *Relay) Lag(ctx context.Context) (map[string]int64, error) {
	lag := make(map[string]int64, len(r.feeds))
	for _, f := range r.feeds {
		relayed, err := r.cfg.Store.Checkpoint(ctx, f.feed.Name)
		if err != nil {
			return nil, fmt.Errorf("measure lag: %w", err)
		}
		if s := f.snapshot(); s.Active {
			relayed = s.Position // newer, and right when the stream was rewound
		}
		head, err := r.cfg.Store.Head(ctx, eventstore.Lifecycle)
		if err != nil {
			return nil, fmt.Errorf("measure lag: %w", err)
		}
		lag[f.feed.Name] = max(0, head-relayed)
	}
	return lag, nil
}

// haltError says that a feed must not go on: its stream contradicts the log.
type haltError struct{ reason string }

func (e *haltError) Error() string { return e.reason }

func halt(format string, args ...any) error { return &haltError{fmt.Sprintf(format, args...)} }

// isHalt reports whether trying again can only help after somebody has repaired the stream or the log.
func isHalt(err error) bool {
	_, halted := errors.AsType[*haltError](err)
	_, gap := errors.AsType[*eventstore.GapError](err)
	return halted || gap
}
