package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/internal/load"
)

// commandsBench measures the commands that most callers send, over HTTP.
type commandsBench struct {
	*bench
	p       *benchProcess
	limit   *limitServer
	results map[string]load.Result
	cpu     map[string]time.Duration
}

// commandsAim is for create, rotate and revoke together.
const commandsAim = 1.5

func benchCommands(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, b.roles...)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	limit, err := startLimit(ctx, p.cfg.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer limit.stop()
	c := &commandsBench{bench: b, p: p, limit: limit, results: map[string]load.Result{}, cpu: map[string]time.Duration{}}
	steps := []string{"create", "rotate", "revoke"}
	figures := make([]benchFigure, len(steps)+1)
	for range b.rounds {
		var together benchPair
		for i, step := range c.steps() {
			limit, err := c.measure(c.insert())
			if err != nil {
				return nil, err
			}
			value, err := c.measure(step)
			if err != nil {
				return nil, err
			}
			figures[i].rounds = append(figures[i].rounds, benchPair{value.Rate(), limit.Rate()})
			// What takes as long as the three together: the harmonic means, up to a factor that the ratio does not know.
			together.value += 1 / value.Rate()
			together.limit += 1 / limit.Rate()
		}
		n := float64(len(steps))
		figures[len(steps)].rounds = append(figures[len(steps)].rounds, benchPair{n / together.value, n / together.limit})
	}
	for i, name := range steps {
		figures[i].name, figures[i].unit, figures[i].note = name, "requests/s", c.note(name)
	}
	all := &figures[len(steps)]
	all.name, all.unit, all.aim, all.note = "all three", "requests/s", commandsAim, fmt.Sprintf("%d clients", b.clients)
	return figures, nil
}

// note is what else is worth to know of a step: its latency, and the processor time that the rate was bought with.
func (c *commandsBench) note(name string) string {
	r := c.results[name]
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, cpu %d us", ms(r.Quantile(.5)), ms(r.Quantile(.99)), c.cpu[name].Microseconds()/int64(max(1, r.Requests)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// commandStep is one kind of request.
type commandStep struct {
	name, addr string
	worker     func() load.Worker
}

// insert is the limit.
func (c *commandsBench) insert() commandStep {
	addr := c.limit.listener.Addr().String()
	request := load.Request("POST", "/limit", addr, c.p.rootKey, c.body())
	return commandStep{"limit", addr, func() load.Worker { return &benchWorker{fixed: request} }}
}

func (c *commandsBench) body() string {
	return fmt.Sprintf(`{"project_id":%q,"name":"bench"}`, c.p.project)
}

// steps are those of one round: the keys that are created are rotated, and what comes of that is revoked.
func (c *commandsBench) steps() []commandStep {
	var created, rotated ids
	addr, key := c.p.addr, c.p.rootKey
	create := load.Request("POST", "/v1/api-keys", addr, key, c.body())
	return []commandStep{
		{"create", addr, func() load.Worker { return &benchWorker{fixed: create, into: &created, field: `"id":"`} }},
		{"rotate", addr, func() load.Worker {
			return &benchWorker{from: &created, into: &rotated, field: `"new_key_id":"`, request: func(id string) []byte {
				return load.Request("POST", "/v1/api-keys/"+id+"/rotate", addr, key, "{}")
			}}
		}},
		{"revoke", addr, func() load.Worker {
			return &benchWorker{from: &rotated, request: func(id string) []byte {
				return load.Request("DELETE", "/v1/api-keys/"+id, addr, key, "")
			}}
		}},
	}
}

func (c *commandsBench) measure(step commandStep) (load.Result, error) {
	workers := make([]load.Worker, c.clients)
	for i := range workers {
		workers[i] = step.worker()
	}
	before := cpuTime()
	result, err := load.Run(step.addr, workers, c.span)
	c.cpu[step.name] += cpuTime() - before
	if err != nil {
		return result, fmt.Errorf("measure %s: %w", step.name, err)
	}
	if result.Failed > 0 || result.Requests == 0 {
		return result, fmt.Errorf("measure %s: %d of %d requests failed", step.name, result.Failed, result.Requests)
	}
	c.results[step.name] = c.results[step.name].Merge(result)
	return result, nil
}

// benchWorker sends one fixed request, or one per id that an earlier step left.
type benchWorker struct {
	fixed   []byte
	from    *ids
	request func(id string) []byte
	into    *ids
	field   string // begins the id in the answer
}

// Next returns the next request.
func (w *benchWorker) Next() []byte {
	if w.from == nil {
		return w.fixed
	}
	id, ok := w.from.take()
	if !ok {
		return nil
	}
	return w.request(id)
}

// Answer keeps the id that the answer names.
func (w *benchWorker) Answer(_ int, body []byte) {
	if w.into == nil {
		return
	}
	if _, rest, ok := strings.Cut(string(body), w.field); ok {
		id, _, _ := strings.Cut(rest, `"`)
		w.into.put(id)
	}
}

// ids hands ids from one step to the next.
type ids struct {
	mu   sync.Mutex
	list []string
}

func (s *ids) put(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, id)
}

func (s *ids) take() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return "", false
	}
	id := s.list[len(s.list)-1]
	s.list = s.list[:len(s.list)-1]
	return id, true
}
