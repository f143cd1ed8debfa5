package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// role is the service's, whose rights are enough (migrations.Role, which would bring the migrators with it).
const role = "rekey_app"

// openTimeout bounds each step of Open.
const openTimeout = 3 * time.Second

// openPool returns connections with the service's rights only, whose statements, locks and idle transactions are bounded.
func openPool(ctx context.Context, databaseURL, name string, size int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, errors.New("read DatabaseURL: write it like postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	config.MaxConns = size
	config.ConnConfig.ConnectTimeout = openTimeout
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "SET ROLE "+role); err != nil {
			return fmt.Errorf("take the role %s (GRANT it to the connecting user): %w", role, err)
		}
		return nil
	}
	for setting, value := range map[string]string{
		"application_name":                    "rekey embedded " + name,
		"statement_timeout":                   "5000",
		"lock_timeout":                        "2000",
		"idle_in_transaction_session_timeout": "5000",
		"default_transaction_isolation":       "read committed",
		"enable_seqscan":                      "off", // everything here is found by key
		"jit":                                 "off",
	} {
		config.ConnConfig.RuntimeParams[setting] = value
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the pool for %s: %w", name, err)
	}
	ping, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := pool.Ping(ping); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return pool, nil
}
