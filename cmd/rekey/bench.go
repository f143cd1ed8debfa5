package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// benchRow is something that is measured beside its limit. A new one is a file of its own and a line in benchRows.
type benchRow struct {
	name  string // for --only
	about string
	// run measures in rounds, the limit and the thing itself by turns, so that a slow moment of the machine strikes both.
	run func(context.Context, *bench) ([]benchFigure, error)
}

// benchRows are all of them, in the order in which they are measured. Each has a rekey of its own.
var benchRows = []benchRow{
	{"verify", "verifies over HTTP of 100,000 keys at random; limit: a bare net/http handler with the same bodies", benchVerify},
	{"verify-many", "verifies over HTTP of 1,000,000 keys at random; limit: the same with 1,000 keys", benchVerifyMany},
	{"inside", "verifies of 100,000 keys inside a process (client/embedded); limit: the SHA-256 of the same secrets", benchInside},
	{"commands", "create, rotate and revoke over HTTP; limit: one autocommit INSERT per request on the same HTTP server, without authentication", benchCommands},
	{"revoke", "what a revoke over HTTP, acknowledged across 3 replicas, takes beyond a bare commit; limit: the aim", benchRevoke},
	{"storm", "keys that are all due at once, rotated by the sweep; limit: rotate commands of 256 callers, joined, on the same store", benchStorm},
	{"webhooks", "rotations told to their receivers, from the event to the acknowledgment; limit: a bare http.Client posting the same bodies to the same receiver", benchWebhooks},
	{"idle", "pages that a sweep reads while 1,000,000 keys are not due; limit: the same with 1,000 keys", benchIdle},
	{"relay", "events in the log, relayed to JetStream, fsynced; limit: the same messages published bare in the same batches to a stream like it", benchRelay},
	{"rebuild", "projections rebuild of an empty read model; limit: COPY of the same rows into tables with the same indexes", benchRebuild},
	{"start", "rekey dev until it is ready, in an empty data directory and again in the same one; beside initdb and the start of Postgres", benchStart},
}

// benchRowTime bounds each row, whatever the machine.
const benchRowTime = 4 * time.Minute

// bench is one run of the command.
type bench struct {
	span       time.Duration
	rounds     int
	clients    int
	keys       int
	deliveries int
	events     int
	json       bool
	roles      []string
	only       []string
	profile    string
	out        io.Writer
}

// newBenchCommand measures rekey beside what limits it, in one run. It is a process of its own kind: it starts a rekey in a
// temporary data directory on this disk, and everything it talks to is on loopback.
func newBenchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure rekey beside its limits, on this machine",
		Long:  benchHelp(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.out = cmd.OutOrStdout()
			return b.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&b.span, "span", 3*time.Second, "verify, inside, commands: length of one measurement")
	flags.IntVar(&b.rounds, "rounds", 5, "how often each is measured, by turns with its limit")
	flags.IntVar(&b.clients, "clients", 64, "verify, commands: connections")
	flags.IntVar(&b.keys, "keys", 100_000, "storm, rebuild: how many keys are due at once, or rebuilt in all rounds together")
	flags.IntVar(&b.deliveries, "deliveries", 20_000, "webhooks: how many are delivered")
	flags.IntVar(&b.events, "events", 100_000, "relay: how many are relayed")
	flags.StringSliceVar(&b.roles, "roles", []string{roleAPI}, "commands: what the measured replica does besides; the relay and the workers use the same cores")
	flags.StringSliceVar(&b.only, "only", nil, "the rows to measure; default: all")
	flags.StringVar(&b.profile, "cpuprofile", "", "file for a profile of this process, for go tool pprof")
	flags.BoolVar(&b.json, "json", false, "print JSON")
	return cmd
}

func benchHelp() string {
	var s strings.Builder
	s.WriteString("Measure rekey beside its limits, on this machine, in one run. Machines differ and are noisy: only the ratios tell.\n\n")
	for _, row := range benchRows {
		fmt.Fprintf(&s, "  %-10s %s\n", row.name, row.about)
	}
	return s.String()
}

// run measures each row that is wanted. One that fails does not keep the others from being measured.
func (b *bench) run(ctx context.Context) error {
	rows, err := b.wanted()
	if err != nil {
		return err
	}
	stopProfile, err := startProfile(b.profile)
	if err != nil {
		return err
	}
	defer stopProfile()
	report := benchReport{LoadBefore: loadAverage()}
	var failed []error
	for _, row := range rows {
		figures, err := b.measureRow(ctx, row)
		if err != nil {
			failed = append(failed, fmt.Errorf("measure %s: %w", row.name, err))
			continue
		}
		report.Rows = append(report.Rows, summarize(row, figures)...)
	}
	report.LoadAfter = loadAverage()
	return errors.Join(append(failed, report.print(b.out, b.json))...)
}

func (b *bench) measureRow(ctx context.Context, row benchRow) ([]benchFigure, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, benchRowTime, fmt.Errorf("it took longer than %s; measure less of it", benchRowTime))
	defer cancel()
	figures, err := row.run(ctx, b)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return figures, err
}

// wanted are the rows of --only.
func (b *bench) wanted() ([]benchRow, error) {
	if b.rounds < 1 || b.keys < b.rounds || b.deliveries < b.rounds {
		return nil, errors.New("--rounds, --keys and --deliveries: each round needs at least one of them")
	}
	if len(b.only) == 0 {
		return benchRows, nil
	}
	var rows []benchRow
	var names []string
	for _, row := range benchRows {
		if names = append(names, row.name); slices.Contains(b.only, row.name) {
			rows = append(rows, row)
		}
	}
	for _, name := range b.only {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("--only %s: there is no such row; use %s", name, strings.Join(names, ", "))
		}
	}
	return rows, nil
}

// byTurns measures the limit and the thing itself, round by round.
func (b *bench) byTurns(limit, value func() (float64, error)) ([]benchPair, error) {
	var pairs []benchPair
	for range b.rounds {
		l, err := limit()
		if err != nil {
			return nil, fmt.Errorf("the limit: %w", err)
		}
		v, err := value()
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, benchPair{v, l})
	}
	return pairs, nil
}
