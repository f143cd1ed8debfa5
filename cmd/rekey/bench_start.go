package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rekeyhq/rekey/embedded"
)

// What a start aims at, in seconds.
const (
	startColdAim = 2.0 // over initdb and the start of Postgres
	startWarmAim = 1.0
)

func benchStart(ctx context.Context, b *bench) ([]benchFigure, error) {
	cold := benchFigure{name: "cold, over Postgres", unit: "s", aim: 1, atMost: true}
	warm := benchFigure{name: "warm", unit: "s", aim: 1, atMost: true}
	var alone, whole [2][]float64 // cold, warm
	for range b.rounds {
		postgres, err := twice(func(dir string) (float64, error) { return timePostgres(ctx, dir) })
		if err != nil {
			return nil, fmt.Errorf("the limit: %w", err)
		}
		rekey, err := twice(func(dir string) (float64, error) { return timeStart(ctx, dir) })
		if err != nil {
			return nil, err
		}
		for i := range 2 {
			alone[i], whole[i] = append(alone[i], postgres[i]), append(whole[i], rekey[i])
		}
		cold.rounds = append(cold.rounds, benchPair{rekey[0] - postgres[0], startColdAim})
		warm.rounds = append(warm.rounds, benchPair{rekey[1], startWarmAim})
	}
	cold.note = fmt.Sprintf("limit: the aim; %.2f s, of which initdb and Postgres take %.2f s", median(whole[0]), median(alone[0]))
	warm.note = fmt.Sprintf("limit: the aim; Postgres alone %.2f s", median(alone[1]))
	return []benchFigure{cold, warm}, nil
}

// twice measures in an empty data directory, and again in what that left.
func twice(measure func(dir string) (float64, error)) (took [2]float64, err error) {
	dir, err := benchDir()
	if err != nil {
		return took, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for i := range took {
		if took[i], err = measure(dir); err != nil {
			return took, err
		}
	}
	return took, nil
}

// timeStart is how long rekey dev takes until it says that it is ready, with all that it does.
func timeStart(ctx context.Context, dir string) (float64, error) {
	began := time.Now()
	_, stop, err := launch(ctx, newBenchProcess(dir, []string{roleAPI, roleWorker, roleRelay}).process)
	took := time.Since(began)
	stop()
	if err != nil {
		return 0, fmt.Errorf("start rekey: %w", err)
	}
	return took.Seconds(), nil
}

// timePostgres is how long the server alone takes, started as rekey dev does.
func timePostgres(ctx context.Context, dir string) (float64, error) {
	began := time.Now()
	postgres, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir: filepath.Join(dir, "postgres"), MaxConnections: 200, Logger: slog.New(slog.DiscardHandler),
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return took.Seconds(), postgres.Stop(ending)
}
