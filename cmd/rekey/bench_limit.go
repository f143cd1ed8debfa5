package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// limitServer is what the commands are measured against: the same HTTP server, router and decoding, and for each request
// one INSERT of a row as large as an event, committed by itself.
type limitServer struct {
	listener net.Listener
	server   *http.Server
	pool     *pgxpool.Pool
}

// sqlLimitTable is where the rows of a limit go.
const sqlLimitTable = `CREATE TABLE bench_limit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)`

// limitRow is as large as an event.
var limitRow = strings.Repeat("x", 400)

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
	if _, err := pool.Exec(ctx, sqlLimitTable); err != nil {
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
	router := chi.NewMux()
	config := huma.DefaultConfig("limit", version)
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	api := humachi.New(router, config)
	huma.Post(api, "/limit", func(ctx context.Context, _ *input) (*output, error) {
		out := &output{Status: http.StatusCreated}
		err := pool.QueryRow(ctx, "INSERT INTO bench_limit (body) VALUES ($1) RETURNING id", limitRow).Scan(&out.Body.ID)
		return out, err
	})
	return router
}
