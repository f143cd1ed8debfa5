package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/internal/load"
)

const (
	// revokeAim and revokeTailAim are how many milliseconds a revoke may take beyond a commit: at the median, and at the
	// 99th percentile.
	revokeAim      = 10
	revokeTailAim  = 100
	revokeReplicas = 3
	// revokeTimes is how many there are of each in one round: enough for a percentile to be more than the slowest.
	revokeTimes = 200
)

// sqlHeldLeases counts the verifiers that a revoke has to wait for.
const sqlHeldLeases = `SELECT count(*) FROM verifier_leases WHERE expires_at > clock_timestamp()`

// revokeBench is an installation of several replicas, of which one is asked for revokes, and a connection that commits.
type revokeBench struct {
	p       *benchProcess
	one     *pgxpool.Pool
	commits []time.Duration // of all rounds
	revokes load.Result     // likewise
}

func benchRevoke(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	for range revokeReplicas - 1 {
		stop, err := p.startReplica(ctx)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	one, err := openPool(ctx, p.cfg.DatabaseURL, "bench", 1, benchRowTime, nil)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	if _, err := one.Exec(ctx, sqlLimitTable); err != nil {
		return nil, fmt.Errorf("make the table for the limit: %w", err)
	}
	r := &revokeBench{p: p, one: one}
	half := benchFigure{name: "median beyond", unit: "ms", aim: 1, atMost: true}
	tail := benchFigure{name: "99th percentile beyond", unit: "ms", aim: 1, atMost: true}
	for range b.rounds {
		medians, tails, err := r.round(ctx)
		if err != nil {
			return nil, err
		}
		half.rounds = append(half.rounds, benchPair{medians, revokeAim})
		tail.rounds = append(tail.rounds, benchPair{tails, revokeTailAim})
	}
	half.note, tail.note = r.note(.5, b.rounds), r.note(.99, b.rounds)
	return []benchFigure{half, tail}, nil
}

// startReplica runs one more rekey of the same installation, as `rekey serve` does, and returns what stops it.
func (p *benchProcess) startReplica(ctx context.Context) (stop func(), err error) {
	replica := &process{metrics: newMetrics(), cfg: Config{
		Roles: []string{roleAPI}, Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		DatabaseURL: p.cfg.DatabaseURL, NATSURL: p.cfg.NATSURL, MasterKey: p.cfg.MasterKey,
		MinRotationInterval: p.cfg.MinRotationInterval, WebhookAllow: p.cfg.WebhookAllow, Logger: p.cfg.Logger, Now: p.cfg.Now,
	}}
	if _, stop, err = launch(ctx, replica); err != nil {
		stop()
		return nil, fmt.Errorf("start another replica: %w", err)
	}
	return stop, nil
}

// round measures commits and then revokes, one after the other, and returns by how many milliseconds the revokes' median
// and their 99th percentile lie beyond those of the commits.
func (r *revokeBench) round(ctx context.Context) (median, tail float64, err error) {
	keys, err := r.p.importKeys(ctx, fmt.Sprintf("revoke %d", len(r.commits)), revokeTimes, nil)
	if err != nil {
		return 0, 0, err
	}
	if err := r.waitForLeases(ctx); err != nil {
		return 0, 0, err
	}
	commits, err := r.commit(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("the limit: %w", err)
	}
	var from ids
	for _, id := range keys {
		from.put(string(id))
	}
	revokes, err := load.Run(r.p.addr, []load.Worker{&benchWorker{from: &from, request: func(id string) []byte {
		return load.Request("DELETE", "/v1/api-keys/"+id, r.p.addr, r.p.rootKey, "")
	}}}, benchRowTime)
	if err != nil {
		return 0, 0, fmt.Errorf("revoke: %w", err)
	}
	if done := revokes.Requests - revokes.Failed; done < revokeTimes {
		return 0, 0, fmt.Errorf("%d of %d revokes are done", done, revokeTimes)
	}
	// A revoke does not wait for a replica whose lease has run out: it would be measured across fewer.
	held, err := r.p.count(ctx, sqlHeldLeases)
	if err != nil {
		return 0, 0, fmt.Errorf("count the leases: %w", err)
	}
	if held != revokeReplicas {
		return 0, 0, fmt.Errorf("after the revokes %d of %d replicas hold a lease", held, revokeReplicas)
	}
	r.commits, r.revokes = append(r.commits, commits...), r.revokes.Merge(revokes)
	beyond := func(q float64) float64 { return ms(revokes.Quantile(q)) - ms(quantile(commits, q)) }
	return beyond(.5), beyond(.99), nil
}

// waitForLeases waits until the verifier of each replica answers from memory.
func (r *revokeBench) waitForLeases(ctx context.Context) error {
	for {
		held, err := r.p.count(ctx, sqlHeldLeases)
		if err != nil || held == revokeReplicas {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// commit inserts single rows that are committed by themselves, and returns what each took.
func (r *revokeBench) commit(ctx context.Context) ([]time.Duration, error) {
	took := make([]time.Duration, revokeTimes)
	for i := range took {
		began := time.Now()
		if _, err := r.one.Exec(ctx, "INSERT INTO bench_limit (body) VALUES ($1)", limitRow); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

// note tells both latencies, of all rounds together.
func (r *revokeBench) note(q float64, rounds int) string {
	return fmt.Sprintf("revoke %.2f ms, bare commit %.2f ms; %d of each, one at a time; %d replicas",
		ms(r.revokes.Quantile(q)), ms(quantile(r.commits, q)), rounds*revokeTimes, revokeReplicas)
}

// quantile is the value below which a share of the others stay.
func quantile(values []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
