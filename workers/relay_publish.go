package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rekeyhq/rekey/eventstore"
)

// Headers of an atomic batch, which nats.go has no call for. What the server (2.15.2) makes of them was found by trying:
//
//   - The messages of a batch are stored all or none, at consecutive sequences, with one fsync. All but the last are sent
//     without a reply; the last one carries the commit and gets one answer for all, with the last sequence and the count.
//   - Nats-Expected-Last-Sequence may stand on the first message only; on a later one the batch is refused even if right.
//     Nats-Expected-Last-Msg-Id is refused anywhere. Nats-Msg-Id and Nats-Expected-Stream may stand on each.
//   - One id within the duplicate window, or twice in the batch, refuses the whole batch (10201), and that is looked at
//     before the expected sequence. For a single message it is the other way round: first the sequence (10071), then the
//     id, which is answered as a success with "duplicate" and the sequence of the first.
//   - More than 1,000 messages are refused (10199), as is a batch that pauses for 10 seconds.
//   - The batch headers are stored, so subscribers see them; they differ when a message is published again.
const (
	batchIDHeader       = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
)

// publishAck is the server's answer to a message or to a batch.
type publishAck struct {
	Stream    string              `json:"stream"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Count     int                 `json:"count"` // of a batch
	Error     *jetstream.APIError `json:"error"`
}

// publish makes messages of the records and waits until they are stored right after the stream's end.
func (s *relaySession) publish(ctx context.Context, records []eventstore.Record) error {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	messages, err := s.messages(ctx, records)
	if err != nil || len(messages) == 0 {
		return err
	}
	started := time.Now()
	ack, err := s.send(ctx, messages)
	if err == nil {
		err = s.check(ack, len(messages))
	}
	s.cfg.Observe(s.feed.Name, len(messages), time.Since(started), err)
	if err != nil {
		return fmt.Errorf("publish positions %d to %d: %w", records[0].Position, records[len(records)-1].Position, err)
	}
	s.sequence += uint64(len(messages))
	return nil
}

// messages returns the messages of the records, each with its position.
func (s *relaySession) messages(ctx context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
	made, err := s.feed.Messages(ctx, records)
	if err != nil {
		return nil, fmt.Errorf("make messages of positions %d to %d: %w", records[0].Position,
			records[len(records)-1].Position, err)
	}
	if len(made) != len(records) {
		return nil, halt("feed %s made %d entries of %d records", s.feed.Name, len(made), len(records))
	}
	messages := made[:0]
	for i, m := range made {
		position := records[i].Position
		if m == nil {
			if s.feed.Dense {
				return nil, halt("feed %s made no message of position %d", s.feed.Name, position)
			}
			continue
		}
		if want := s.sequence + uint64(len(messages)) + 1; s.feed.Dense && uint64(position) != want {
			return nil, halt("position %d would get sequence %d", position, want)
		}
		m.Header.Set(positionHeader, strconv.FormatInt(position, 10))
		messages = append(messages, m)
	}
	return messages, nil
}

// send publishes one message as it is and several as a batch, and returns the answer.
func (s *relaySession) send(ctx context.Context, messages []*nats.Msg) (publishAck, error) {
	messages[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(s.sequence, 10))
	last := messages[len(messages)-1]
	if len(messages) > 1 {
		batch := nuid.Next()
		for i, m := range messages {
			m.Header.Set(batchIDHeader, batch)
			m.Header.Set(batchSequenceHeader, strconv.Itoa(i+1))
		}
		last.Header.Set(batchCommitHeader, "1")
		for _, m := range messages[:len(messages)-1] {
			if err := s.nc.PublishMsg(m); err != nil {
				return publishAck{}, err
			}
		}
	}
	answer, err := s.nc.RequestMsgWithContext(ctx, last)
	if err != nil {
		return publishAck{}, err
	}
	var ack publishAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return publishAck{}, fmt.Errorf("parse acknowledgment: %w", err)
	}
	return ack, nil
}

// check accepts nothing but the answer that says: stored, all of them, where they belong. A wrong sequence or a duplicate
// may mean that an earlier try did arrive, or that somebody else publishes; the end of the stream will tell.
func (s *relaySession) check(ack publishAck, messages int) error {
	if ack.Error != nil {
		return ack.Error
	}
	want := s.sequence + uint64(messages)
	switch {
	case ack.Stream != s.feed.Stream.Name:
		return halt("the messages went into stream %s", ack.Stream)
	case ack.Duplicate:
		return fmt.Errorf("the server has the message at sequence %d already", ack.Sequence)
	case ack.Sequence != want, messages > 1 && ack.Count != messages:
		return fmt.Errorf("the server stored %d messages up to sequence %d, not %d up to %d", max(ack.Count, 1),
			ack.Sequence, messages, want)
	}
	return nil
}
