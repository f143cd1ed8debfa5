package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/rekeyhq/rekey/projections"
)

func newProjectionsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "projections", Short: "Compare the read model with the log, or make it right (REKEY_DATABASE_URL)"}
	cmd.AddCommand(&cobra.Command{
		Use: "check", Short: "Fold the whole log and compare every row of the read model with it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd.Context(), func(conn *pgx.Conn) error { return checkProjections(cmd, conn) })
		},
	}, &cobra.Command{
		Use: "rebuild", Short: "Make the read model what the log says, while commands go on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd.Context(), func(conn *pgx.Conn) error {
				began := time.Now()
				streams, err := projections.Rebuild(cmd.Context(), conn)
				fmt.Fprintf(cmd.OutOrStdout(), "rebuilt the rows of %d streams in %s\n", streams, time.Since(began).Round(time.Millisecond))
				return err
			})
		},
	})
	return cmd
}

// withDatabase runs f on a connection with the operator's rights.
func withDatabase(ctx context.Context, f func(*pgx.Conn) error) error {
	databaseURL, err := operatorDatabaseURL()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return f(conn)
}

// checkProjections prints what was compared and every difference; a difference is an error.
func checkProjections(cmd *cobra.Command, conn *pgx.Conn) error {
	began := time.Now()
	report, err := projections.Check(cmd.Context(), conn)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "folded %d events of %d streams in %s\n", report.Events, report.Streams, time.Since(began).Round(time.Millisecond))
	for _, table := range slices.Sorted(maps.Keys(report.Rows)) {
		fmt.Fprintf(out, "%-18s %d rows\n", table, report.Rows[table])
	}
	for _, d := range report.Differences {
		fmt.Fprintf(out, "%s in %s: %s\n", d.Problem, d.Table, d.Row)
	}
	if n := len(report.Differences); n > 0 {
		return fmt.Errorf("%d differences; `rekey projections rebuild` makes the read model what the log says", n)
	}
	fmt.Fprintln(out, "the read model is what the log says")
	return nil
}
