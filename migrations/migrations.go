// Package migrations brings a database to the schema this program works with: rekey's own tables, and River's in the
// schema "river". Migrations only go forward, keep the previous release working, and run under one lock, so that any
// number of replicas may try at once. The service itself never migrates in production; it refuses to start on a pending
// migration (see Pending).
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// Roles of the database, neither of which can log in: the connecting user must be a member of the first, and is then of
// the second.
const (
	// Role is the one that the service works as.
	Role = "rekey_app"
	// TenantRole is the one that reads for a tenant: row security shows it one organization at a time, or nothing.
	TenantRole = "rekey_tenant"
)

// RiverSchema holds River's tables. They belong to Role, because River maintains its own indexes.
const RiverSchema = "river"

// lockKey is the advisory lock under which migrations run.
const lockKey = 7_265_107_901

// ErrPending says that the schema is older than the program.
var ErrPending = errors.New("the database schema is older than this program; run `rekey migrate`")

// Up applies what is pending. The connection must own the schema and be allowed to create roles on the first run.
func Up(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // closing also releases the lock
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", lockKey); err != nil {
		return fmt.Errorf("lock migrations: %w", err)
	}
	if err := upOwn(ctx, databaseURL); err != nil {
		return err
	}
	return upRiver(ctx, conn, databaseURL)
}

func upOwn(ctx context.Context, databaseURL string) error {
	provider, closeDB, err := newProvider(databaseURL)
	if err != nil {
		return err
	}
	defer closeDB()
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate rekey's tables: %w", err)
	}
	return nil
}

func newProvider(databaseURL string) (*goose.Provider, func(), error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the database URL: %w", err)
	}
	db := stdlib.OpenDB(*config)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read migrations: %w", err), db.Close())
	}
	return provider, func() { _ = db.Close() }, nil
}

func upRiver(ctx context.Context, conn *pgx.Conn, databaseURL string) error {
	if err := joinRole(ctx, conn); err != nil {
		return err
	}
	for _, statement := range []string{
		"GRANT USAGE ON SCHEMA public TO " + Role + ", " + TenantRole,
		"GRANT SELECT ON goose_db_version TO " + Role, // so that a login of the service can see what is pending
		"CREATE SCHEMA IF NOT EXISTS " + RiverSchema + " AUTHORIZATION " + Role,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("prepare River's schema: %w", err)
		}
	}
	migrator, pool, err := riverMigrator(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate River's tables: %w", err)
	}
	return nil
}

// joinRole makes the migrating user a member of Role, unless it is: to grant takes rights that to use does not.
func joinRole(ctx context.Context, conn *pgx.Conn) error {
	statement := "RESET ROLE"
	if err := AsRole(ctx, conn); err != nil {
		statement = "GRANT " + Role + " TO CURRENT_USER"
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("become a member of the role %s (GRANT it to the migrating user): %w", Role, err)
	}
	return nil
}

func riverMigrator(ctx context.Context, databaseURL string) (*rivermigrate.Migrator[pgx.Tx], *pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the database URL: %w", err)
	}
	config.MaxConns = 2
	config.AfterConnect = AsRole
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the database: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: RiverSchema})
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("read River's migrations: %w", err)
	}
	return migrator, pool, nil
}

// AsRole makes a connection work with the service's rights only. It is meant for pgxpool's AfterConnect.
func AsRole(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "SET ROLE "+Role); err != nil {
		return fmt.Errorf("take the role %s (GRANT it to the connecting user): %w", Role, err)
	}
	return nil
}

// AsTenant makes a connection one that only reads, and only for the tenant that each of its transactions names. It is meant
// for pgxpool's AfterConnect.
//
// Tenants differ by orders of magnitude in what they have, and a plan that was made for all of them alike is bad for most:
// so each read is planned for its own. Their lists end after some rows, which only a scan in the order of an index makes
// use of.
func AsTenant(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "SET ROLE "+TenantRole+"; SET default_transaction_read_only = on; "+
		"SET plan_cache_mode = force_custom_plan; SET enable_bitmapscan = off"); err != nil {
		return fmt.Errorf("take the role %s (GRANT %s to the connecting user): %w", TenantRole, Role, err)
	}
	return nil
}

// Pending returns ErrPending if a migration has not been applied.
func Pending(ctx context.Context, databaseURL string) error {
	provider, closeDB, err := newProvider(databaseURL)
	if err != nil {
		return err
	}
	defer closeDB()
	pending, err := provider.HasPending(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if pending {
		return ErrPending
	}
	return pendingRiver(ctx, databaseURL)
}

func pendingRiver(ctx context.Context, databaseURL string) error {
	migrator, pool, err := riverMigrator(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	result, err := migrator.Validate(ctx, nil)
	if err != nil {
		return fmt.Errorf("read River's schema version: %w", err)
	}
	if !result.OK {
		return ErrPending
	}
	return nil
}
