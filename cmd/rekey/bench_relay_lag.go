package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/workers"
)

const (
	relayLagAim = 50.0 // ms
	// relayLagEvents is how many events of each round are timed alone, and relayLagPause the mean time between them.
	relayLagEvents = 60
	relayLagPause  = 50 * time.Millisecond
)

// idleLag times single events, with pauses, from when their commit is known here until a subscriber has them, and beside
// each a bare publish, which tells how much of it is the disk. All rounds are one sample: a percentile of a few would be
// their maximum.
func (r *relayBench) idleLag(ctx context.Context, n int) (benchFigure, error) {
	nc, err := nats.Connect(r.p.local.nats.URL(), nats.Token(r.p.rootKey))
	if err != nil {
		return benchFigure{}, fmt.Errorf("subscribe: %w", err)
	}
	defer nc.Close()
	arrived, err := subscribe(ctx, nc)
	if err != nil {
		return benchFigure{}, fmt.Errorf("subscribe: %w", err)
	}
	defer arrived.Stop()
	var committed, sent, bare []time.Duration
	err = r.running(ctx, nil, func(ctx context.Context) error {
		for i := range n + 1 {
			c, s, err := r.timeOne(ctx, arrived)
			if err != nil {
				return err
			}
			if i > 0 { // the first one finds the relay starting
				committed, sent = append(committed, c), append(sent, s)
			}
			began := time.Now()
			if _, err := r.js.Publish(ctx, "bench.idle", nil); err != nil {
				return err
			}
			bare = append(bare, time.Since(began))
			time.Sleep(relayLagPause/2 + rand.N(relayLagPause))
		}
		return nil
	})
	if err != nil {
		return benchFigure{}, err
	}
	slices.Sort(committed)
	slices.Sort(sent)
	slices.Sort(bare)
	return benchFigure{
		name: "idle lag p99", unit: "ms", aim: 1, atMost: true,
		rounds: []benchPair{{ms(committed[n*99/100]), relayLagAim}},
		note: fmt.Sprintf("limit: the aim; %d events, p50 %.1f ms; with the command itself p50 %.1f ms, p99 %.1f ms; a bare publish p50 %.1f ms, p99 %.1f ms",
			n, ms(committed[n/2]), ms(sent[n/2]), ms(sent[n*99/100]), ms(bare[n/2]), ms(bare[n*99/100])),
	}, nil
}

// subscribe reads what is published from now on.
func subscribe(ctx context.Context, nc *nats.Conn) (jetstream.MessagesContext, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, workers.StreamEvents, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return nil, err
	}
	return consumer.Messages()
}

// timeOne creates a key, and waits for the message that says so.
func (r *relayBench) timeOne(ctx context.Context, arrived jetstream.MessagesContext) (sinceCommit, sinceSent time.Duration, err error) {
	began := time.Now()
	made, err := r.p.commands.CreateKey(ctx, r.p.by, commands.CreateKey{ProjectID: r.p.project, Name: "idle lag"})
	if err != nil {
		return 0, 0, err
	}
	committed := time.Now()
	m, err := arrived.Next(jetstream.NextContext(ctx))
	if err != nil {
		return 0, 0, err
	}
	now := time.Now()
	if id := m.Headers().Get("Rekey-Key"); id != string(made.Key.ID) {
		return 0, 0, fmt.Errorf("a message of %s came, and not that of %s", id, made.Key.ID)
	}
	return now.Sub(committed), now.Sub(began), nil
}
