package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rekeyhq/rekey/internal/load"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// What verifies aim at.
const (
	verifyAim       = 0.90 // of the rate of a bare handler
	verifyTailAim   = 1.3  // of its 99th percentile
	verifyKeys      = 100_000
	verifyFew       = 1_000
	verifyMany      = 1_000_000
	verifyManyAim   = 0.95 // of the rate with few keys
	verifyMemoryAim = 250  // bytes per key
)

// sqlLiveKeys makes keys beside the log, which would take minutes: only a verifier that loads them afterwards knows them.
// The ends of their ids vary as those of others do: uses are counted apart by them.
const sqlLiveKeys = `INSERT INTO keys (id, lineage_id, generation, version, organization_id, project_id, environment_id, name,
		secret_digest, key_prefix, last_four, scopes, state, operator, created_by, created_at, grace_seconds)
	SELECT 'key_' || lpad(i::text, 25, '0') || substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + i % 32, 1), 'lin_' || lpad(i::text, 26, '0'), 1, 1, k.organization_id, k.project_id, k.environment_id,
		'integration of customer', sha256(convert_to('bench-key-' || lpad(i::text, 20, '0'), 'UTF8')), 'bench-ke', 'xxxx', '["orders:read", "orders:write"]',
		'active', false, k.id, now(), 3600
	FROM generate_series($1::int, $2::int) i, (SELECT * FROM keys ORDER BY created_at LIMIT 1) AS k`

// benchVerify measures verifies over HTTP beside a bare handler.
func benchVerify(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	v, err := p.knowing(ctx, 1, verifyKeys)
	if err != nil {
		return nil, err
	}
	defer v.stop()
	bare, err := bareHandler(ctx, v.sample)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	rate := benchFigure{name: "rate", unit: "requests/s", aim: verifyAim}
	tail := benchFigure{name: "99th percentile", unit: "ms", aim: verifyTailAim, atMost: true}
	var verifying, idling spent
	for range b.rounds {
		limit, err := b.hammer(bare.addr, p.rootKey, "/", verifyKeys, &idling)
		if err != nil {
			return nil, fmt.Errorf("the limit: %w", err)
		}
		value, err := b.hammer(v.addr, p.rootKey, verifyPath, verifyKeys, &verifying)
		if err != nil {
			return nil, err
		}
		rate.rounds = append(rate.rounds, benchPair{value.Rate(), limit.Rate()})
		tail.rounds = append(tail.rounds, benchPair{ms(value.Quantile(.99)), ms(limit.Quantile(.99))})
		rate.note = fmt.Sprintf("%d clients, %d keys; p50 %.2f ms, limit %.2f ms; cpu with the clients' %.1f us, limit %.1f us",
			b.clients, verifyKeys, ms(value.Quantile(.5)), ms(limit.Quantile(.5)), us(verifying.each()), us(idling.each()))
	}
	return []benchFigure{rate, tail}, nil
}

// benchVerifyMany measures verifies with many keys in memory beside the same with few, and what a key takes there.
func benchVerifyMany(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	few, err := p.knowing(ctx, 1, verifyFew)
	if err != nil {
		return nil, err
	}
	defer few.stop()
	before := heap()
	many, err := p.knowing(ctx, verifyFew+1, verifyMany)
	if err != nil {
		return nil, err
	}
	defer many.stop()
	bytesPerKey := float64(heap()-before) / float64(many.verifier.State().Keys)
	rate := benchFigure{name: "rate", unit: "requests/s", aim: verifyManyAim, note: fmt.Sprintf("%d keys; limit: %d", verifyMany, verifyFew)}
	memory := benchFigure{name: "memory", unit: "bytes per key", aim: 1, atMost: true, note: "limit: the aim"}
	for range b.rounds {
		limit, err := b.hammer(few.addr, p.rootKey, verifyPath, verifyFew, &spent{})
		if err != nil {
			return nil, fmt.Errorf("few keys: %w", err)
		}
		value, err := b.hammer(many.addr, p.rootKey, verifyPath, verifyMany, &spent{})
		if err != nil {
			return nil, fmt.Errorf("many keys: %w", err)
		}
		rate.rounds = append(rate.rounds, benchPair{value.Rate(), limit.Rate()})
		memory.rounds = append(memory.rounds, benchPair{bytesPerKey, verifyMemoryAim})
	}
	return []benchFigure{rate, memory}, nil
}

// heap is what is in use after everything else was given up.
func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

const verifyPath = "/v1/api-keys/verify"

// verifyServer is the whole API on a verifier of its own.
type verifyServer struct {
	addr     string
	verifier *verifier.Verifier
	sample   []byte // an answer
	stop     func()
}

// makeKeys makes keys that only verifiers which load them afterwards know.
func (p *benchProcess) makeKeys(ctx context.Context, from, to int) error {
	owner, err := openPool(ctx, p.cfg.DatabaseURL, "bench", 1, benchRowTime, nil)
	if err != nil {
		return err
	}
	defer owner.Close()
	for _, sql := range []string{"SET session_replication_role = replica", "SET synchronous_commit = off"} { // no triggers: the rows are right
		if _, err := owner.Exec(ctx, sql); err != nil {
			return fmt.Errorf("prepare for keys: %w", err)
		}
	}
	if _, err := owner.Exec(ctx, sqlLiveKeys, from, to); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	return nil
}

// knowing makes keys and serves with a verifier that has them all in memory.
func (p *benchProcess) knowing(ctx context.Context, from, to int) (_ *verifyServer, err error) {
	if err := p.makeKeys(ctx, from, to); err != nil {
		return nil, err
	}
	s := &verifyServer{verifier: verifier.New(verifier.Config{Reader: p.reader, Limiter: p.limiter, Pool: p.pools.leases, Log: p.store, Name: "bench"})}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { s.verifier.Run(running) })
	for !s.verifier.State().Trusted {
		if time.Sleep(10 * time.Millisecond); ctx.Err() != nil {
			cancel()
			return nil, ctx.Err()
		}
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("listen: %w", err)
	}
	group, serving := errgroup.WithContext(running)
	serveHTTP(serving, group, listener, p.handlerOn(s.verifier), p.cfg.Logger)
	s.addr = listener.Addr().String()
	s.stop = func() { cancel(); _ = group.Wait(); done.Wait() }
	if s.sample, err = sampleAnswer(s.addr, p.rootKey, to); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// sampleAnswer is what a verify is answered.
func sampleAnswer(addr, rootKey string, number int) ([]byte, error) {
	w := &verifyWorker{request: load.Request("POST", verifyPath, addr, rootKey, verifyBody(number)), once: true}
	if result, err := load.Run(addr, []load.Worker{w}, time.Minute); err != nil || result.Failed > 0 || w.invalid > 0 {
		return nil, errors.Join(err, fmt.Errorf("a verify was answered %s", w.last))
	}
	return w.last, nil
}

// bareHandler reads a body of the same size and answers what a verify answers, with what every net/http server adds.
func bareHandler(ctx context.Context, answer []byte) (*verifyServer, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the limit: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})}
	go func() { _ = server.Serve(listener) }()
	return &verifyServer{addr: listener.Addr().String(), stop: func() { _ = server.Close() }}, nil
}

// hammer verifies keys at random for the span of a measurement.
func (b *bench) hammer(addr, rootKey, path string, keys int, cpu *spent) (load.Result, error) {
	workers := make([]load.Worker, b.clients)
	for i := range workers {
		request := load.Request("POST", path, addr, rootKey, verifyBody(0))
		workers[i] = &verifyWorker{request: request, keys: keys, digits: request[bytes.LastIndex(request, []byte("bench-key-"))+len("bench-key-"):][:20]}
	}
	stop := cpu.count()
	result, err := load.Run(addr, workers, b.span)
	stop()
	cpu.times += result.Requests
	for _, w := range workers {
		if w := w.(*verifyWorker); w.invalid > 0 {
			err = errors.Join(err, fmt.Errorf("%d keys were not valid: %s", w.invalid, w.last))
		}
	}
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed", result.Failed, result.Requests)
	}
	return result, err
}

func verifyBody(number int) string {
	return fmt.Sprintf(`{"key":"bench-key-%020d","scopes":["orders:read"]}`, number)
}

// verifyWorker asks for keys at random.
type verifyWorker struct {
	request []byte
	digits  []byte // of the key's number, in the request
	keys    int
	once    bool
	sent    bool
	invalid int
	last    []byte // of the invalid answers, or the one that was asked for
}

// Next is the same request with another number.
func (w *verifyWorker) Next() []byte {
	if w.once && w.sent {
		return nil
	}
	w.sent = true
	if w.keys > 0 {
		number := 1 + rand.IntN(w.keys)
		for i := len(w.digits) - 1; i >= 0; i-- {
			w.digits[i] = byte('0' + number%10)
			number /= 10
		}
	}
	return w.request
}

// Answer looks whether the key was valid.
func (w *verifyWorker) Answer(_ int, body []byte) {
	if ok := bytes.HasPrefix(body, []byte(`{"valid":true`)); !ok || w.once {
		w.last = bytes.Clone(body)
		if !ok {
			w.invalid++
		}
	}
}
