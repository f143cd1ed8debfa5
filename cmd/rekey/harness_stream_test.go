package main

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// openStream opens a JetStream stream once it is there: after an outage the relay makes it again.
func openStream(t testing.TB, natsURL, name string) jetstream.Stream {
	t.Helper()
	nc, err := nats.Connect(natsURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var stream jetstream.Stream
	eventually(t, "stream "+name, func() bool {
		stream, err = js.Stream(t.Context(), name)
		return err == nil
	})
	return stream
}

// readStream reads a stream of so many messages from its first to its last.
func readStream(t testing.TB, natsURL, name string, count int) []jetstream.Msg {
	t.Helper()
	stream := openStream(t, natsURL, name)
	var state jetstream.StreamState
	eventually(t, strconv.Itoa(count)+" messages in "+name, func() bool {
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		state = info.State
		return state.LastSeq >= uint64(count)
	})
	if state.FirstSeq != 1 && count > 0 || state.LastSeq != uint64(count) || state.Msgs != uint64(count) {
		t.Fatalf("%s has %d messages from %d to %d, not %d", name, state.Msgs, state.FirstSeq, state.LastSeq, count)
	}
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		t.Fatal(err)
	}
	messages := make([]jetstream.Msg, 0, count)
	for len(messages) < count {
		m, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatalf("message %d of %s: %v", len(messages)+1, name, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// checkEventsStream requires that the stream of events is the log: each position once, in order, with the same content.
func checkEventsStream(t testing.TB, natsURL string, events []eventInfo) {
	t.Helper()
	ids := map[string]bool{}
	for i, m := range readStream(t, natsURL, "REKEY_EVENTS", len(events)) {
		e := events[i]
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		id := m.Headers().Get(jetstream.MsgIDHeader)
		if e.Position != int64(i+1) || meta.Sequence.Stream != uint64(i+1) || id != e.ID || ids[id] {
			t.Fatalf("event %d: position %d and id %s in the log, sequence %d and id %s in the stream (seen before: %t)",
				i+1, e.Position, e.ID, meta.Sequence.Stream, id, ids[id])
		}
		ids[id] = true
		if !sameJSON(t, e.Data, m.Data()) {
			t.Fatalf("event %d is %s in the log and %s in the stream", i+1, e.Data, m.Data())
		}
	}
}

// checkWebhooksStream requires one message for each rotation that an endpoint is told of, in the order of the log.
func checkWebhooksStream(t testing.TB, natsURL string, events []eventInfo) {
	t.Helper()
	var rotations []string
	for _, e := range events {
		if r := rotationOf(t, e); e.Type == "Rotated" && r.EndpointID != "" && r.Acknowledged == "" {
			rotations = append(rotations, r.RotationID)
		}
	}
	ids := map[string]bool{}
	for i, m := range readStream(t, natsURL, "REKEY_WEBHOOKS", len(rotations)) {
		id := m.Headers().Get(jetstream.MsgIDHeader)
		if r := messageOf(t, m.Data()).Data.RotationID; r != rotations[i] || ids[id] || id != m.Headers().Get("webhook-id") {
			t.Fatalf("webhook %d (%s) tells of %s, not of %s (seen before: %t)", i+1, id, r, rotations[i], ids[id])
		}
		ids[id] = true
	}
}
