package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/rekeyhq/rekey/internal/load"
)

// newBenchCommand measures commands beside their limit, in one run. It is a process of its own kind: it starts a rekey
// in a temporary data directory on this disk, and everything it talks to is on loopback.
func newBenchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure create, rotate and revoke over HTTP beside one INSERT per request on the same server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.out = cmd.OutOrStdout()
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&b.span, "span", 3*time.Second, "length of one measurement")
	cmd.Flags().IntVar(&b.rounds, "rounds", 5, "how often each is measured, interleaved")
	cmd.Flags().IntVar(&b.clients, "clients", 64, "connections")
	cmd.Flags().StringSliceVar(&b.roles, "roles", []string{roleAPI}, "what the measured replica does besides; the relay and the workers use the same cores")
	cmd.Flags().BoolVar(&b.json, "json", false, "print JSON")
	return cmd
}

type bench struct {
	span    time.Duration
	rounds  int
	clients int
	json    bool
	roles   []string
	out     io.Writer

	addr, key, project string
	limitAddr          string
	results            map[string]load.Result
	cpu                map[string]time.Duration
}

// benchRows are what is measured, in the order of one round. The limit is measured before each of the others, so that a
// slow moment of the machine strikes both.
var benchRows = []string{"limit", "create", "rotate", "revoke"}

func (b *bench) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp(".", ".rekey-bench-")
	if err != nil {
		return fmt.Errorf("make a data directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user
		return fmt.Errorf("open the data directory: %w", err)
	}
	stopped := make(chan error, 1)
	defer func() { cancel(); <-stopped }()
	databaseURL, err := b.start(ctx, dir, stopped)
	if err != nil {
		return err
	}
	limit, err := startLimit(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer limit.stop()
	b.limitAddr, b.results = limit.listener.Addr().String(), map[string]load.Result{}
	b.cpu = map[string]time.Duration{}
	for range b.rounds {
		if err := b.round(); err != nil {
			return err
		}
	}
	return b.report()
}

// start runs a rekey on free ports and waits until it is ready.
func (b *bench) start(ctx context.Context, dir string, stopped chan<- error) (databaseURL string, err error) {
	reader, writer := io.Pipe()
	cfg := Config{
		Dev: true, Roles: b.roles, Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		NATSAddr: "127.0.0.1:0", DataDir: dir, MinRotationInterval: time.Second,
		Logger: slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), Out: writer,
	}
	go func() {
		err := run(ctx, cfg)
		_ = writer.CloseWithError(errors.Join(err, io.EOF))
		stopped <- err
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("start rekey: %w", err)
	}
	for _, field := range strings.Fields(line) {
		if address, ok := strings.CutPrefix(field, "url=http://"); ok {
			b.addr = address
		}
		if key, ok := strings.CutPrefix(field, "root_key="); ok {
			b.key = key
		}
	}
	c := &client{url: "http://" + b.addr, key: b.key, http: &http.Client{}}
	raw, err := c.call(ctx, "GET", "/v1/projects", nil)
	if err != nil {
		return "", err
	}
	var projects []struct{ ID string }
	if err := json.Unmarshal(raw, &projects); err != nil || len(projects) == 0 {
		return "", errors.Join(err, errors.New("the installation has no project"))
	}
	b.project = projects[0].ID
	return envDatabaseURL(dir)
}

// round measures each row once; the keys that were created are rotated, and what came of that is revoked.
func (b *bench) round() error {
	create := load.Request("POST", "/v1/api-keys", b.addr, b.key, fmt.Sprintf(`{"project_id":%q,"name":"bench"}`, b.project))
	limit := load.Request("POST", "/limit", b.limitAddr, b.key, fmt.Sprintf(`{"project_id":%q,"name":"bench"}`, b.project))
	var created, rotated ids
	steps := []struct {
		name string
		addr string
		make func() load.Worker
	}{
		{"create", b.addr, func() load.Worker { return &benchWorker{fixed: create, into: &created, field: `"id":"`} }},
		{"rotate", b.addr, func() load.Worker {
			return &benchWorker{from: &created, into: &rotated, field: `"new_key_id":"`, request: func(id string) []byte {
				return load.Request("POST", "/v1/api-keys/"+id+"/rotate", b.addr, b.key, "{}")
			}}
		}},
		{"revoke", b.addr, func() load.Worker {
			return &benchWorker{from: &rotated, request: func(id string) []byte {
				return load.Request("DELETE", "/v1/api-keys/"+id, b.addr, b.key, "")
			}}
		}},
	}
	for _, step := range steps {
		if err := b.measure("limit", b.limitAddr, func() load.Worker { return &benchWorker{fixed: limit} }); err != nil {
			return err
		}
		if err := b.measure(step.name, step.addr, step.make); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measure(name, addr string, newWorker func() load.Worker) error {
	workers := make([]load.Worker, b.clients)
	for i := range workers {
		workers[i] = newWorker()
	}
	before := cpuTime()
	result, err := load.Run(addr, workers, b.span)
	b.cpu[name] += cpuTime() - before
	if err != nil {
		return fmt.Errorf("measure %s: %w", name, err)
	}
	if result.Failed > 0 {
		return fmt.Errorf("measure %s: %d of %d requests failed", name, result.Failed, result.Requests)
	}
	b.results[name] = b.results[name].Merge(result)
	return nil
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

// report prints each row beside the limit.
func (b *bench) report() error {
	limit := b.results["limit"].Rate()
	commands := b.results["create"].Merge(b.results["rotate"]).Merge(b.results["revoke"])
	type row struct {
		Name   string  `json:"name"`
		PerSec float64 `json:"requests_per_second"`
		P50    float64 `json:"p50_ms"`
		P99    float64 `json:"p99_ms"`
		CPU    float64 `json:"cpu_us_per_request"`
		Ratio  float64 `json:"ratio_to_limit"`
	}
	var rows []row
	add := func(name string, r load.Result, cpu time.Duration) {
		perRequest := float64(cpu.Microseconds()) / float64(max(1, r.Requests))
		rows = append(rows, row{name, r.Rate(), ms(r.Quantile(.5)), ms(r.Quantile(.99)), perRequest, r.Rate() / limit})
	}
	for _, name := range benchRows {
		add(name, b.results[name], b.cpu[name])
	}
	add("create+rotate+revoke", commands, b.cpu["create"]+b.cpu["rotate"]+b.cpu["revoke"])
	if b.json {
		return json.NewEncoder(b.out).Encode(rows)
	}
	fmt.Fprintf(b.out, "%d clients, %d rounds of %s each, interleaved; roles %s\nlimit: one autocommit INSERT per request on the same HTTP server, without authentication\n\n",
		b.clients, b.rounds, b.span, strings.Join(b.roles, ","))
	fmt.Fprintf(b.out, "%-22s %12s %10s %10s %10s %8s\n", "", "requests/s", "p50 ms", "p99 ms", "cpu us", "ratio")
	for _, r := range rows {
		fmt.Fprintf(b.out, "%-22s %12.0f %10.2f %10.2f %10.0f %8.2f\n", r.Name, r.PerSec, r.P50, r.P99, r.CPU, r.Ratio)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// limitServer is what the commands are measured against: the same HTTP server, router and decoding, and for each request
// one INSERT of a row as large as an event, committed by itself.
type limitServer struct {
	listener net.Listener
	server   *http.Server
	pool     *pgxpool.Pool
}

func startLimit(ctx context.Context, databaseURL string) (*limitServer, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	config.MaxConns = 32
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect for the limit: %w", err)
	}
	if _, err := pool.Exec(ctx, `CREATE TABLE bench_limit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)`); err != nil {
		pool.Close()
		return nil, fmt.Errorf("make the table for the limit: %w", err)
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("listen for the limit: %w", err)
	}
	l := &limitServer{listener: listener, pool: pool, server: &http.Server{Handler: limitHandler(pool), ReadHeaderTimeout: time.Minute}}
	go func() { _ = l.server.Serve(listener) }()
	return l, nil
}

func (l *limitServer) stop() {
	_ = l.server.Close()
	l.pool.Close()
}

func limitHandler(pool *pgxpool.Pool) http.Handler {
	type input struct {
		Body struct {
			ProjectID string `json:"project_id"`
			Name      string `json:"name"`
		}
	}
	type output struct {
		Status int
		Body   struct {
			ID int64 `json:"id"`
		}
	}
	row := strings.Repeat("x", 400)
	router := chi.NewMux()
	config := huma.DefaultConfig("limit", version)
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	api := humachi.New(router, config)
	huma.Post(api, "/limit", func(ctx context.Context, _ *input) (*output, error) {
		out := &output{Status: http.StatusCreated}
		err := pool.QueryRow(ctx, "INSERT INTO bench_limit (body) VALUES ($1) RETURNING id", row).Scan(&out.Body.ID)
		return out, err
	})
	return router
}
