package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/eventstore"
)

const (
	relayWindow  = 500             // records read and published at once; a batch may have 1,000, larger ones gain nothing
	relayTimeout = 5 * time.Second // of each request to NATS or the database
	// An idle feed looks this often whether the stream still ends where it left it: a server that lost its store while we
	// were away too shortly to be disconnected, or a stream deleted by hand, is found out so.
	relayProbe = 2 * time.Second
	// relayLinger is how long a relay that found little waits before it reads again.
	relayLinger = 25 * time.Millisecond
	// Under load the checkpoint is saved this often instead of after each publish. It may lag: what counts at the next
	// start is the end of the stream.
	relayCheckpoint = 200 * time.Millisecond
	relayStandby    = time.Second
	relayRetryFirst = 50 * time.Millisecond
	relayRetryMax   = 2 * time.Second
)

// positionHeader carries the position of the record that gave the message, so that the end of any stream can be found in
// the log again.
const positionHeader = "Rekey-Position"

var (
	errDisconnected  = errors.New("nats connection was lost")
	errOwnershipLost = errors.New("ownership of the feed was lost")
)

// feedRelay relays one feed.
type feedRelay struct {
	cfg   RelayConfig
	feed  Feed
	retry *backoff.ExponentialBackOff

	mu     sync.Mutex
	status FeedStatus
}

func newFeedRelay(cfg RelayConfig, feed Feed) *feedRelay {
	return &feedRelay{cfg: cfg, feed: feed, status: FeedStatus{Name: feed.Name}}
}

func (f *feedRelay) snapshot() FeedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *feedRelay) update(change func(*FeedStatus)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// run relays until ctx ends. Whatever goes wrong ends a session, and the next one finds out anew where the stream ends.
func (f *feedRelay) run(ctx context.Context) {
	f.retry = backoff.NewExponentialBackOff(backoff.WithInitialInterval(relayRetryFirst),
		backoff.WithMaxInterval(relayRetryMax), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		err := f.session(ctx)
		f.update(func(s *FeedStatus) { s.Active = false })
		if ctx.Err() == nil {
			f.failed(err)
			pause(ctx, f.retry.NextBackOff())
		}
	}
}

// failed records why a session ended. The same trouble is told once, but a halt each time, because nobody else will.
func (f *feedRelay) failed(err error) {
	halted := isHalt(err)
	var repeated bool
	f.update(func(s *FeedStatus) {
		repeated = s.LastError != ""
		s.Halted, s.LastError, s.LastErrorAt = halted, err.Error(), time.Now()
	})
	switch {
	case halted:
		f.cfg.Logger.Error("relay halted: the stream contradicts the log", "feed", f.feed.Name,
			"stream", f.feed.Stream.Name, "error", err)
	case repeated:
		f.cfg.Logger.Debug("relay still waits", "feed", f.feed.Name, "error", err)
	default:
		f.cfg.Logger.Warn("relay interrupted", "feed", f.feed.Name, "error", err)
	}
}

// progress records that a session does its work.
func (f *feedRelay) progress(position int64) {
	var recovered bool
	f.update(func(s *FeedStatus) {
		recovered = s.LastError != ""
		*s = FeedStatus{Name: s.Name, Active: true, Position: position}
	})
	f.retry.Reset()
	if recovered {
		f.cfg.Logger.Info("relay goes on", "feed", f.feed.Name, "position", position)
	}
}

// session is the work on one connection under one ownership. It always returns an error: the reason for its end.
func (f *feedRelay) session(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	nc, err := f.cfg.Connect()
	if err != nil {
		return fmt.Errorf("connect to nats: %w", err)
	}
	defer nc.Close()
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { cancel(errDisconnected) })
	if !nc.IsConnected() { // lost before the handler was there, or made with RetryOnFailedConnect
		return errDisconnected
	}
	owned, err := f.own(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer owned.Release()
	go func() {
		select {
		case <-owned.Lost():
			cancel(errOwnershipLost)
		case <-ctx.Done():
		}
	}()
	s := &relaySession{feedRelay: f, nc: nc}
	if err := s.open(ctx); err != nil {
		return because(ctx, err)
	}
	err = s.relay(ctx)
	s.leave(context.Cause(ctx))
	return because(ctx, err)
}

// leave stores where the session got to, so that those who look at the checkpoint see it; the stream's end is what the
// next session goes by. Who has lost the ownership stores nothing.
func (s *relaySession) leave(reason error) {
	if errors.Is(reason, errOwnershipLost) || s.position == s.saved {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.save(ctx)
}

// own waits for the ownership. Who does not get it at once is not in trouble: another process relays the feed.
func (f *feedRelay) own(ctx context.Context) (*eventstore.Ownership, error) {
	standby := time.AfterFunc(relayStandby, func() { f.update(func(s *FeedStatus) { *s = FeedStatus{Name: s.Name} }) })
	defer standby.Stop()
	return f.cfg.Store.Own(ctx, f.feed.Name)
}

// because prefers the reason for which a session was ended over what its last step saw of it.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// relaySession is where one session stands.
type relaySession struct {
	*feedRelay
	nc       *nats.Conn
	stream   jetstream.Stream
	position int64  // last one relayed
	sequence uint64 // last one in the stream
	saved    int64  // position of the checkpoint
	savedAt  time.Time
	probedAt time.Time
}

// open makes sure of the stream and takes up its end.
func (s *relaySession) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	js, err := jetstream.New(s.nc)
	if err != nil {
		return fmt.Errorf("use jetstream: %w", err)
	}
	s.stream, err = js.CreateOrUpdateStream(ctx, s.feed.Stream)
	if err != nil {
		return fmt.Errorf("make stream %s: %w", s.feed.Stream.Name, err)
	}
	if s.saved, err = s.cfg.Store.Checkpoint(ctx, s.feed.Name); err != nil {
		return err
	}
	if s.position, err = s.tail(ctx); err != nil {
		return err
	}
	s.tellMove()
	return nil
}

// relay copies the log until something fails.
func (s *relaySession) relay(ctx context.Context) error {
	for {
		records, err := s.read(ctx)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			if err := s.idle(ctx); err != nil {
				return err
			}
			continue
		}
		if err := s.publish(ctx, records); err != nil {
			return err
		}
		s.position = records[len(records)-1].Position
		s.progress(s.position)
		if time.Since(s.savedAt) >= relayCheckpoint {
			if err := s.save(ctx); err != nil {
				return err
			}
		}
		if len(records) < relayWindow { // under load one batch then covers many commits, and one sync of the disk
			pause(ctx, relayLinger)
		}
	}
}

func (s *relaySession) read(ctx context.Context) ([]eventstore.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	return s.cfg.Store.Read(ctx, eventstore.Lifecycle, s.position, relayWindow)
}

// idle is what happens when the log has been read to its end.
func (s *relaySession) idle(ctx context.Context) error {
	s.progress(s.position)
	if s.position != s.saved && time.Since(s.savedAt) >= relayCheckpoint {
		if err := s.save(ctx); err != nil {
			return err
		}
	}
	if time.Since(s.probedAt) >= relayProbe {
		if err := s.probe(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	return s.cfg.Store.Wait(ctx, eventstore.Lifecycle, s.position)
}

func (s *relaySession) save(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	if err := s.cfg.Store.SaveCheckpoint(ctx, s.feed.Name, eventstore.Lifecycle, s.position); err != nil {
		return err
	}
	s.saved, s.savedAt = s.position, time.Now()
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
