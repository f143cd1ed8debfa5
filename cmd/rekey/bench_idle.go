package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

const (
	// idleAim is how many times the pages of few keys a sweep may read with many: a tree that is a level or two deeper.
	idleAim  = 2.0
	idleFew  = 1_000
	idleMany = 1_000_000
	// idleSweeps is how many sweeps are looked at in one round; more than five, after which Postgres may plan anew.
	idleSweeps = 20
)

// sqlNotDue makes work that is due from an hour on, spread over a month.
const sqlNotDue = `INSERT INTO due_work (lineage_id, kind, key_id, due_at, scan_at, project_id)
	SELECT 'lin_' || lpad(i::text, 26, '0'), 'rotate', 'key_' || lpad(i::text, 26, '0'), d.at, d.at, 'proj_' || lpad('1', 26, '0')
	FROM generate_series($1::int, $2::int) i, LATERAL (SELECT now() + interval '1 hour' + interval '30 days' * random() AS at) d`

func benchIdle(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	// One connection, because a backend counts its pages and tells of them when it is asked to.
	one, err := openPool(ctx, p.cfg.DatabaseURL, "bench", 1, benchRowTime, migrations.AsRole)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	if _, err := one.Exec(ctx, sqlNotDue, 1, idleFew); err != nil {
		return nil, fmt.Errorf("make work: %w", err)
	}
	few, _, err := idleRounds(ctx, b, one)
	if err != nil {
		return nil, err
	}
	if _, err := one.Exec(ctx, sqlNotDue, idleFew+1, idleMany); err != nil {
		return nil, fmt.Errorf("make work: %w", err)
	}
	many, took, err := idleRounds(ctx, b, one)
	if err != nil {
		return nil, err
	}
	figure := benchFigure{name: "idle", unit: "pages per sweep", aim: idleAim, atMost: true,
		note: fmt.Sprintf("%d keys not due; one sweep takes %s", idleMany, took.Round(time.Microsecond))}
	for i := range many {
		figure.rounds = append(figure.rounds, benchPair{many[i], few[i]})
	}
	return []benchFigure{figure}, nil
}

// idleRounds asks what is due as the sweep does, and returns how many pages of the table and its indexes that reads.
func idleRounds(ctx context.Context, b *bench, one *pgxpool.Pool) (pages []float64, took time.Duration, err error) {
	reader := projections.NewReader(one, one)
	for range b.rounds {
		before, err := pagesOf(ctx, one, "due_work")
		if err != nil {
			return nil, 0, err
		}
		began := time.Now()
		for range idleSweeps {
			due, err := reader.Due(ctx, time.Now(), 256)
			if err != nil {
				return nil, 0, err
			}
			if len(due) > 0 {
				return nil, 0, fmt.Errorf("%d keys are due", len(due))
			}
		}
		took = time.Since(began) / idleSweeps
		after, err := pagesOf(ctx, one, "due_work")
		if err != nil {
			return nil, 0, err
		}
		pages = append(pages, float64(after-before)/idleSweeps)
	}
	return pages, took, nil
}

// pagesOf counts the pages of a table and its indexes that were read so far, from memory or disk.
func pagesOf(ctx context.Context, one *pgxpool.Pool, table string) (pages int64, err error) {
	if _, err := one.Exec(ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
		return 0, fmt.Errorf("ask for the statistics: %w", err)
	}
	const sql = `SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit FROM pg_statio_all_tables WHERE relname = $1`
	if err := one.QueryRow(ctx, sql, table).Scan(&pages); err != nil {
		return 0, fmt.Errorf("read the statistics: %w", err)
	}
	return pages, nil
}
