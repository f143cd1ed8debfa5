package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	webhooksAim = 0.25
	// webhooksAtOnce is how many the limit posts at once, as many as the workers do.
	webhooksAtOnce = 256
)

// postal is a receiver, and a database with a key for each address there.
type postal struct {
	p        *benchProcess
	share    int // of one round
	receiver *benchReceiver
	bare     *http.Client
	// Processor time and how many it was spent on, of deliveries and of the limit: it tells more than the clock where others
	// use the machine too.
	delivering, posting spent
}

func benchWebhooks(ctx context.Context, b *bench) ([]benchFigure, error) {
	receiver, err := startReceiver(ctx)
	if err != nil {
		return nil, err
	}
	defer receiver.stop()
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	s := &postal{p: p, share: b.deliveries / b.rounds, receiver: receiver, bare: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: webhooksAtOnce}, Timeout: 15 * time.Second,
	}}
	defer s.bare.CloseIdleConnections()
	// Each key has an endpoint of its own, so that what one endpoint may have at once and per second bounds nothing.
	if _, err := p.importKeys(ctx, "webhooks", s.share*b.rounds+1, receiver.address); err != nil {
		return nil, err
	}
	if err := s.rotate(ctx, 1); err != nil { // the first one shows the limit what a message is like
		return nil, err
	}
	if _, err := s.deliver(ctx); err != nil {
		return nil, err
	}
	rounds, err := b.byTurns(func() (float64, error) { return s.post(ctx) }, func() (float64, error) {
		if err := s.rotate(ctx, s.share); err != nil {
			return 0, err
		}
		return s.deliver(ctx)
	})
	if err != nil {
		return nil, err
	}
	return []benchFigure{{
		name: "webhooks", unit: "deliveries/s", aim: webhooksAim, rounds: rounds,
		note: fmt.Sprintf("%d endpoints, %d at once, bodies of %d bytes; cpu %d us each, limit %d us",
			s.share*b.rounds, webhooksAtOnce, len(receiver.seen()), s.delivering.each().Microseconds(), s.posting.each().Microseconds()),
	}}, nil
}

// rotate makes the events that are to be told; no worker runs. The clock is ahead only meanwhile, so that the workers find
// no other key due.
func (s *postal) rotate(ctx context.Context, n int) error {
	s.p.moveClock(2*benchInterval + time.Hour)
	defer s.p.moveClock(-2*benchInterval - time.Hour)
	for {
		waiting, err := s.p.count(ctx, sqlWaiting)
		if err != nil || waiting >= n {
			return err
		}
		// Also the graces of the round before are due: more than one batch may be needed.
		if done, err := s.p.sweepOnce(ctx, min(n-waiting, 256)); err != nil || done == 0 {
			return errors.Join(err, fmt.Errorf("%d of %d keys could be rotated", waiting, n))
		}
	}
}

const sqlWaiting = `SELECT count(*) FROM rotations WHERE state IN ('delivering', 'stalled')`

// deliver lets workers run until every rotation that waits has been acknowledged. What is counted begins with the first
// message that arrives and ends when the last rotation does not wait any more.
func (s *postal) deliver(ctx context.Context) (rate float64, err error) {
	defer s.delivering.count()()
	waiting, err := s.p.count(ctx, sqlWaiting)
	if err != nil {
		return 0, err
	}
	s.delivering.times += waiting
	told := waiting
	s.receiver.arrived.Store(0)
	first := s.receiver.first()
	err = s.p.working(ctx, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-first:
		}
		began := time.Now()
		for waiting > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
			if s.receiver.arrived.Load() < int64(told) { // asking the database costs it something
				continue
			}
			if waiting, err = s.p.count(ctx, sqlWaiting); err != nil {
				return err
			}
		}
		rate = float64(told) / time.Since(began).Seconds()
		return nil
	})
	if err != nil {
		return 0, err
	}
	if arrived := s.receiver.arrived.Load(); arrived != int64(told) {
		return 0, fmt.Errorf("%d messages arrived for %d rotations", arrived, told)
	}
	return rate, nil
}

// post sends the same bodies to the same receiver, and does nothing else.
func (s *postal) post(ctx context.Context) (float64, error) {
	var next atomic.Int64
	var wait sync.WaitGroup
	failures := make(chan error, webhooksAtOnce)
	body := s.receiver.seen()
	defer s.posting.count()()
	s.posting.times += s.share
	began := time.Now()
	for range webhooksAtOnce {
		wait.Go(func() {
			for i := int(next.Add(1)); i <= s.share; i = int(next.Add(1)) {
				if err := s.postOne(ctx, s.receiver.address(i), body); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	select {
	case err := <-failures:
		return 0, err
	default:
		return float64(s.share) / took.Seconds(), nil
	}
}

func (s *postal) postOne(ctx context.Context, address string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := s.bare.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// benchReceiver takes everything, and keeps one body.
type benchReceiver struct {
	listener net.Listener
	server   *http.Server
	arrived  atomic.Int64
	body     atomic.Pointer[[]byte]

	mu     sync.Mutex
	signal chan struct{}
}

func startReceiver(ctx context.Context) (*benchReceiver, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	r := &benchReceiver{listener: listener}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

func (r *benchReceiver) stop() { _ = r.server.Close() }

func (r *benchReceiver) address(n int) string {
	return fmt.Sprintf("http://%s/%d", r.listener.Addr(), n)
}

func (r *benchReceiver) seen() []byte {
	if body := r.body.Load(); body != nil {
		return *body
	}
	return nil
}

// first is closed when the next message has arrived.
func (r *benchReceiver) first() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signal = make(chan struct{})
	return r.signal
}

// ServeHTTP reads the message and says that it has arrived.
func (r *benchReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.arrived.Add(1) == 1 {
		r.body.Store(&body)
		r.mu.Lock()
		if r.signal != nil {
			close(r.signal)
			r.signal = nil
		}
		r.mu.Unlock()
	}
	w.WriteHeader(http.StatusNoContent)
}
