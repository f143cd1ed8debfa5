package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/workers"
)

const (
	relayAim = 0.5
	// relayBatch is how many messages the limit publishes at once; the note tells whether the relay needed as many batches.
	relayBatch = 500
	relayLimit = "BENCH_LIMIT"
)

// relayBench is a log whose events were not relayed yet, and beside REKEY_EVENTS a stream like it for the limit.
type relayBench struct {
	p       *benchProcess
	nc      *nats.Conn
	js      jetstream.JetStream
	share   int   // of one round
	relayed int64 // position

	relayBatches, limitBatches int
	relaying, publishing       spent
}

func benchRelay(ctx context.Context, b *bench) ([]benchFigure, error) {
	r := &relayBench{share: b.events / b.rounds}
	if r.share < 2*relayBatch {
		return nil, fmt.Errorf("--events: each round needs at least %d", 2*relayBatch)
	}
	var err error
	if r.p, err = b.start(ctx, roleAPI); err != nil {
		return nil, err
	}
	defer r.p.stop()
	if r.nc, err = r.p.connectRelay(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	defer r.nc.Close()
	if err := r.makeLimit(ctx); err != nil {
		return nil, err
	}
	var rounds []benchPair
	for i := range b.rounds {
		pair, err := r.round(ctx, i%2 == 0)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, pair)
	}
	if err := r.compare(ctx); err != nil {
		return nil, err
	}
	lag, err := r.idleLag(ctx, b.rounds*relayLagEvents)
	if err != nil {
		return nil, fmt.Errorf("measure the idle lag: %w", err)
	}
	return []benchFigure{{
		name: "relay", unit: "events/s", aim: relayAim, rounds: rounds,
		note: fmt.Sprintf("%d events in %d batches, limit in %d; cpu %d us each, limit %d us", r.relayed, r.relayBatches,
			r.limitBatches, r.relaying.each().Microseconds(), r.publishing.each().Microseconds()),
	}, lag}, nil
}

// makeLimit makes a stream with the settings of REKEY_EVENTS.
func (r *relayBench) makeLimit(ctx context.Context) (err error) {
	if r.js, err = jetstream.New(r.nc); err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	config := workers.EventsFeed().Stream
	config.Name, config.Subjects = relayLimit, []string{"bench.>"}
	if _, err := r.js.CreateStream(ctx, config); err != nil {
		return fmt.Errorf("make stream %s: %w", relayLimit, err)
	}
	return nil
}

// round makes events, relays them and publishes the same messages. What the events left to be written is written before,
// and who is first changes, since the disk may favor one of them.
func (r *relayBench) round(ctx context.Context, limitFirst bool) (pair benchPair, err error) {
	if _, err := r.p.importKeys(ctx, fmt.Sprintf("relay after %d", r.relayed), r.share, nil); err != nil {
		return pair, err
	}
	messages, err := r.messages(ctx)
	if err != nil {
		return pair, fmt.Errorf("make the messages for the limit: %w", err)
	}
	syscall.Sync()
	publish := func() (err error) { pair.limit, err = r.publish(ctx, messages); return err }
	relay := func() (err error) { pair.value, err = r.relay(ctx); return err }
	turns := []func() error{relay, publish}
	if limitFirst {
		slices.Reverse(turns)
	}
	for _, turn := range turns {
		if err := turn(); err != nil {
			return pair, err
		}
	}
	return pair, nil
}

// publish is the limit. What is counted begins with the first acknowledgment, as for the relay.
func (r *relayBench) publish(ctx context.Context, messages []*nats.Msg) (float64, error) {
	defer r.publishing.count()()
	r.publishing.times += len(messages)
	var first time.Time
	for batch := range slices.Chunk(messages, relayBatch) {
		if err := r.publishBatch(ctx, batch); err != nil {
			return 0, fmt.Errorf("the limit: %w", err)
		}
		if first.IsZero() {
			first = time.Now()
		}
		r.limitBatches++
	}
	return float64(len(messages)-relayBatch) / time.Since(first).Seconds(), nil
}

// messages are those of what was not relayed yet, under subjects of the limit's own.
func (r *relayBench) messages(ctx context.Context) ([]*nats.Msg, error) {
	var all []*nats.Msg
	for after := r.relayed; ; {
		records, err := r.p.store.Read(ctx, eventstore.Lifecycle, after, relayBatch)
		if err != nil || len(records) == 0 {
			return all, err
		}
		made, err := workers.EventsFeed().Messages(ctx, records)
		if err != nil {
			return nil, err
		}
		for i, m := range made {
			m.Subject = "bench." + m.Subject
			m.Header.Set("Rekey-Position", strconv.FormatInt(records[i].Position, 10))
		}
		all, after = append(all, made...), records[len(records)-1].Position
	}
}

// publishBatch publishes messages that are stored all or none, and waits until they are. See workers/relay_publish.go.
func (r *relayBench) publishBatch(ctx context.Context, messages []*nats.Msg) error {
	last := messages[len(messages)-1]
	if id := rand.Text(); len(messages) > 1 {
		for i, m := range messages {
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		}
		last.Header.Set("Nats-Batch-Commit", "1")
	}
	for _, m := range messages[:len(messages)-1] {
		if err := r.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	answer, err := r.nc.RequestMsgWithContext(ctx, last)
	if err != nil {
		return err
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return fmt.Errorf("parse acknowledgment: %w", err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	return nil
}

// relay lets the relay copy what is in the log. What is counted begins with its first acknowledgment and ends with its
// last: how long a process takes to start is no part of it.
func (r *relayBench) relay(ctx context.Context) (float64, error) {
	head, err := r.p.store.Head(ctx, eventstore.Lifecycle)
	if err != nil {
		return 0, err
	}
	defer r.relaying.count()()
	var first, last time.Time
	var counted int
	reached := make(chan struct{})
	observe := func(_ string, messages int, _ time.Duration, err error) { // only the feed's own goroutine calls it
		if err != nil || r.relayed >= head {
			return
		}
		last = time.Now()
		if first.IsZero() {
			first = last
		} else {
			counted += messages
		}
		r.relaying.times += messages
		r.relayBatches++
		if r.relayed += int64(messages); r.relayed >= head {
			close(reached)
		}
	}
	err = r.running(ctx, observe, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-reached:
			return nil
		}
	})
	return float64(counted) / last.Sub(first).Seconds(), err
}

// running runs a relay as a process with that role does, while f runs.
func (r *relayBench) running(ctx context.Context, observe func(string, int, time.Duration, error), f func(context.Context) error) error {
	relay := workers.NewRelay(workers.RelayConfig{
		Store: r.p.store, Connect: r.p.connectRelay, Logger: r.p.cfg.Logger, Feeds: []workers.Feed{workers.EventsFeed()}, Observe: observe,
	})
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- relay.Run(working) }()
	err := f(ctx)
	cancel()
	return errors.Join(err, <-stopped)
}

// compare looks whether both streams hold the whole log.
func (r *relayBench) compare(ctx context.Context) error {
	for _, name := range []string{workers.StreamEvents, relayLimit} {
		stream, err := r.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("look at stream %s: %w", name, err)
		}
		if state := stream.CachedInfo().State; state.LastSeq != uint64(r.relayed) || state.Msgs != uint64(r.relayed) {
			return fmt.Errorf("stream %s has %d messages up to %d, not %d", name, state.Msgs, state.LastSeq, r.relayed)
		}
	}
	return nil
}
