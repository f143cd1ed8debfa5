package workers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/eventstore"
)

// tail returns the position at which the stream ends, after it made sure that the log has the same there.
func (s *relaySession) tail(ctx context.Context) (int64, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at stream %s: %w", s.feed.Stream.Name, err)
	}
	s.sequence = info.State.LastSeq
	if s.sequence == 0 {
		return 0, nil
	}
	last, err := s.stream.GetMsg(ctx, s.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return s.agedTail(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("read the end of stream %s: %w", s.feed.Stream.Name, err)
	}
	position, err := strconv.ParseInt(last.Header.Get(positionHeader), 10, 64)
	if err != nil || position < 1 {
		return 0, halt("message %d was not published by the relay: it has no position", s.sequence)
	}
	if s.feed.Dense && uint64(position) != s.sequence {
		return 0, halt("message %d is of position %d", s.sequence, position)
	}
	return position, s.compare(ctx, position, last.Header.Get(jetstream.MsgIDHeader))
}

// agedTail is the end of a stream whose last message is gone, by age: only the sequence is left of it.
func (s *relaySession) agedTail(ctx context.Context) (int64, error) {
	if !s.feed.Dense {
		return s.saved, nil // no way to know better, and nothing is lost by what was relayed before
	}
	return int64(s.sequence), s.compare(ctx, int64(s.sequence), "")
}

// compare fails with a halt if the log does not have that message at that position. An empty id is not compared.
func (s *relaySession) compare(ctx context.Context, position int64, id string) error {
	records, err := s.cfg.Store.Read(ctx, eventstore.Lifecycle, position-1, 1)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return halt("the stream ends with position %d, which the log does not have yet", position)
	}
	if want := string(records[0].ID); s.feed.Dense && id != "" && id != want {
		return halt("message %d has the id %s, but position %d of the log is event %s", s.sequence, id, position, want)
	}
	return nil
}

// tellMove logs where the end of the stream and the checkpoint differ. A sparse stream ends before its checkpoint whenever
// the last records gave no message.
func (s *relaySession) tellMove() {
	log := s.cfg.Logger.With("feed", s.feed.Name, "checkpoint", s.saved, "tail", s.position)
	switch {
	case s.position < s.saved && s.feed.Dense:
		log.Warn("relay rewinds: the stream lost its end")
	case s.position < s.saved:
		log.Debug("relay reads again from the end of the stream")
	case s.position > s.saved:
		log.Info("relay moves forward: the stream is ahead of the checkpoint")
	}
}

// probe makes sure that the stream still ends where this session left it.
func (s *relaySession) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", s.feed.Stream.Name, err)
	}
	if info.State.LastSeq != s.sequence {
		return fmt.Errorf("stream %s ends at %d, not at %d: somebody else changed it", s.feed.Stream.Name,
			info.State.LastSeq, s.sequence)
	}
	s.probedAt = time.Now()
	return nil
}
