package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/migrations"
)

// pools are separate, so that no part can starve another: commands, lookups, reads for tenants, the work in the background,
// and the leases that verifiers hold. Those for tenants have rights of their own, which show them one organization at a time.
type pools struct{ commands, lookups, tenants, background, leases *pgxpool.Pool }

func (p *process) connect(ctx context.Context) (err error) {
	for _, pool := range []struct {
		into      **pgxpool.Pool
		name      string
		size      int32
		statement time.Duration
		as        func(context.Context, *pgx.Conn) error
	}{
		{&p.pools.commands, "commands", 4, 5 * time.Second, migrations.AsRole},
		{&p.pools.lookups, "lookups", 4, 5 * time.Second, migrations.AsRole},
		{&p.pools.tenants, "tenants", 8, 5 * time.Second, migrations.AsTenant},
		{&p.pools.background, "background", 24, 30 * time.Second, migrations.AsRole},
		{&p.pools.leases, "leases", 4, 5 * time.Second, migrations.AsRole},
	} {
		if *pool.into, err = openPool(ctx, p.cfg.DatabaseURL, pool.name, pool.size, pool.statement, pool.as); err != nil {
			return err
		}
		p.down = append(p.down, (*pool.into).Close)
	}
	return nil
}

// openPool returns connections with the rights of one role only, whose statements, locks and idle transactions are bounded.
func openPool(ctx context.Context, databaseURL, name string, size int32, statement time.Duration,
	as func(context.Context, *pgx.Conn) error,
) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read REKEY_DATABASE_URL: %w", err)
	}
	config.MaxConns = size
	config.AfterConnect = as
	config.ConnConfig.ConnectTimeout = 3 * time.Second
	for setting, value := range map[string]string{
		"application_name":                    "rekey " + name,
		"statement_timeout":                   fmt.Sprint(statement.Milliseconds()),
		"lock_timeout":                        "2000",
		"idle_in_transaction_session_timeout": "5000",
		"default_transaction_isolation":       "read committed", // whatever the database's own default is
		// Everything here is found by key. A plan made while a table was empty must not scan it once it is large.
		"enable_seqscan": "off",
		"jit":            "off", // the cost of a plan that may not scan would set it off
	} {
		config.ConnConfig.RuntimeParams[setting] = value
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the pool for %s: %w", name, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return pool, nil
}
