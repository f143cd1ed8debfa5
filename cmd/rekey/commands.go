package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rekeyhq/rekey/migrations"
)

// newRootCommand is the whole command line.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "rekey",
		Short:         "Issues, verifies, scopes, rotates and revokes API keys",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newDevCommand(), newServeCommand(), newMigrateCommand(), newKeysCommand(), newEventsCommand(),
		newWebhooksCommand(), newProjectionsCommand(), newScannerRulesCommand(), newBenchCommand(), newHealthCommand())
	return root
}

func newDevCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine, with an embedded Postgres and NATS",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configFromEnv(true, []string{roleAPI, roleWorker, roleRelay})
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg)
		},
	}
}

func newServeCommand() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a replica against your Postgres and NATS",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configFromEnv(false, roles)
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringSliceVar(&roles, "roles", []string{roleAPI, roleWorker, roleRelay}, "what this replica does")
	return cmd
}

func newMigrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database schema up to date (REKEY_DATABASE_URL)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			databaseURL, err := operatorDatabaseURL()
			if err != nil {
				return err
			}
			if err := migrations.Up(cmd.Context(), databaseURL); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the schema is up to date")
			return err
		},
	}
}

// operatorDatabaseURL is the database that an operator's command works on: the one named, or that of a running dev.
func operatorDatabaseURL() (string, error) {
	dir := os.Getenv("REKEY_DATA_DIR")
	if dir == "" {
		dir = ".rekey"
	}
	return envDatabaseURL(dir)
}

// envDatabaseURL is REKEY_DATABASE_URL, or the database of the dev that runs in a data directory.
func envDatabaseURL(dir string) (string, error) {
	if u := os.Getenv("REKEY_DATABASE_URL"); u != "" {
		return u, nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		return "", fmt.Errorf("REKEY_DATABASE_URL is not set, and there is no running `rekey dev` in %s", dir)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "REKEY_DATABASE_URL="); ok {
			return strings.Trim(value, "'"), nil
		}
	}
	return "", fmt.Errorf("%s/env names no database; set REKEY_DATABASE_URL", dir)
}
