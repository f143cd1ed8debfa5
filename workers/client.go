package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"golang.org/x/sync/errgroup"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
)

// Config says what the workers work with. All fields without "nil means" or "0 means" are required.
type Config struct {
	// Pool is for River and the delivery tables; it is of its own, so that jobs cannot starve commands or verifies.
	Pool     *pgxpool.Pool
	Store    *eventstore.Store
	Reader   *projections.Reader
	Commands *commands.Service
	Sender   *webhook.Sender
	Logger   *slog.Logger
	// UsageRetention is how long events of use, and the series by the hour, are kept; 0 means 90 days.
	UsageRetention time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// SweepEvery is how often due work is looked for; 0 means a second.
	SweepEvery time.Duration
	// Concurrency is how many webhooks may be on their way at once; 0 means 256.
	Concurrency int
	// EndpointConcurrency and EndpointRate bound what one endpoint gets of this process at once and per second; 0 means 4 and 20.
	EndpointConcurrency int
	EndpointRate        float64
	// AttemptLease is after how long an attempt counts as lost with its process; 0 means 20 s, a bit more than the sender lets
	// one take.
	AttemptLease time.Duration
	// BreakerPause is for how long an endpoint is first left alone that failed again and again; 0 means 30 s.
	BreakerPause time.Duration
	// Name is the process's, in the log of attempts; empty means its host and its number there.
	Name string
	// Alarm, if not nil, is told of each trouble that an operator must look at.
	Alarm func(what string)
	// Retry gives the delay before the next attempt; nil means webhook.NextDelay with real jitter.
	Retry func(attempts int, retryAfter time.Duration) (delay time.Duration, more bool)
}

// Names of River's queues. Sweeps have one of their own, so that slow receivers cannot delay rotations.
const (
	queueSweep   = "sweep"
	queueDeliver = "deliver"
)

// Times that bound jobs. An attempt is handed out again once its lease has lapsed, because its process must have died: the
// lease is longer than the sender lets an attempt take. What was handed out and has not begun waits longer: it is in a
// queue, which outlives processes.
const (
	sweepTimeout   = 50 * time.Second
	deliverTimeout = 30 * time.Second
	attemptLease   = 20 * time.Second
	handOutLease   = 45 * time.Second
	stuckAfter     = 2 * time.Minute
)

// What an operator is told of by Config.Alarm.
const (
	AlarmProxy    = "webhook_proxy" // the proxy that webhooks leave through fails
	AlarmEpochKey = "epoch_key"     // new secrets cannot be sealed, so rotations wait
)

// Alarms lists all of them.
func Alarms() []string { return []string{AlarmProxy, AlarmEpochKey} }

// Workers runs the jobs of one process.
type Workers struct {
	cfg       Config
	client    *river.Client[pgx.Tx]
	endpoints *gate
	hosts     *gate
	// epochFailures counts sweeps in a row that could not seal new secrets.
	epochFailures atomic.Int64
	writes        *joined
	stop          chan struct{} // closed once the workers are to stop
}

// New returns the workers; Run starts them.
func New(cfg Config) (*Workers, error) {
	if cfg.UsageRetention == 0 {
		cfg.UsageRetention = 90 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.SweepEvery = cmp.Or(cfg.SweepEvery, time.Second)
	cfg.Concurrency = cmp.Or(cfg.Concurrency, 256)
	cfg.EndpointConcurrency = cmp.Or(cfg.EndpointConcurrency, 4)
	cfg.EndpointRate = cmp.Or(cfg.EndpointRate, 20)
	cfg.AttemptLease = cmp.Or(cfg.AttemptLease, attemptLease)
	cfg.BreakerPause = cmp.Or(cfg.BreakerPause, breakerPause)
	cfg.Name = cmp.Or(cfg.Name, processName())
	if cfg.Retry == nil {
		cfg.Retry = func(attempts int, retryAfter time.Duration) (time.Duration, bool) {
			return webhook.NextDelay(attempts, retryAfter, rand.Float64)
		}
	}
	if cfg.Alarm == nil {
		cfg.Alarm = func(string) {}
	}
	w := &Workers{
		cfg:       cfg,
		endpoints: newGate(cfg.EndpointConcurrency, time.Duration(float64(time.Second)/cfg.EndpointRate), cfg.Now),
		hosts:     newGate(cfg.Concurrency, 0, cfg.Now),
		writes:    &joined{pool: cfg.Pool},
		stop:      make(chan struct{}),
	}
	registry := river.NewWorkers()
	river.AddWorker(registry, &sweepWorker{w: w})
	river.AddWorker(registry, &deliverWorker{w: w})
	river.AddWorker(registry, &maintainWorker{w: w})
	client, err := river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Schema:  migrations.RiverSchema,
		Logger:  slog.New(warningsOnly{cfg.Logger.Handler()}),
		Workers: registry,
		Queues: map[string]river.QueueConfig{
			queueSweep:   {MaxWorkers: 2},
			queueDeliver: {MaxWorkers: cfg.Concurrency},
		},
		// Every worker is idempotent and our tables hold the retries, so a job is tried once and stuck ones go soon.
		MaxAttempts:                 1,
		JobTimeout:                  deliverTimeout,
		RescueStuckJobsAfter:        stuckAfter,
		FetchCooldown:               10 * time.Millisecond,
		FetchPollInterval:           200 * time.Millisecond,
		CompletedJobRetentionPeriod: 10 * time.Minute,
		CancelledJobRetentionPeriod: time.Hour,
		DiscardedJobRetentionPeriod: 24 * time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("make River client: %w", err)
	}
	w.client = client
	return w, nil
}

// processName tells the processes of an installation apart, for people who read the log of attempts.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// stopTimeout bounds how long a stop waits for jobs under way.
const stopTimeout = 10 * time.Second

// stopping reports whether jobs that could go on for long should end at their next step; what they leave is due as before.
func (w *Workers) stopping() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// Run works until ctx ends, then lets jobs under way finish. Workers run once.
func (w *Workers) Run(ctx context.Context) error {
	if err := w.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start River: %w", err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.tick(groupCtx) })
	group.Go(func() error { return w.cfg.Store.Consume(groupCtx, w.fanOut()) })
	err := group.Wait()
	close(w.stop)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if stop := w.client.Stop(stopCtx); stop != nil && !errors.Is(stop, context.DeadlineExceeded) {
		return errors.Join(err, fmt.Errorf("stop River: %w", stop))
	}
	if stopCtx.Err() != nil { // jobs that do not end are cut off; their leases hand them out again
		cutCtx, cut := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cut()
		err = errors.Join(err, w.client.StopAndCancel(cutCtx))
	}
	return err
}

// tick asks for a sweep each interval. Every replica asks; River keeps one per interval, by its unique key. This needs no
// leader, so sweeps go on at once after a crash.
func (w *Workers) tick(ctx context.Context) error {
	ticker := time.NewTicker(w.cfg.SweepEvery)
	defer ticker.Stop()
	for {
		for _, args := range []river.JobArgs{sweepArgs{}, maintainArgs{}} {
			if err := w.enqueue(ctx, args); err != nil && ctx.Err() == nil {
				w.cfg.Logger.Error("a job could not be enqueued", "kind", args.Kind(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (w *Workers) enqueue(ctx context.Context, args river.JobArgs) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	period := w.cfg.SweepEvery
	if args.Kind() == (maintainArgs{}).Kind() {
		period = maintainEvery
	}
	_, err := w.client.Insert(ctx, args, &river.InsertOpts{
		Queue: queueSweep,
		// In every state, also the finished ones: one job per period, whatever became of it.
		UniqueOpts: river.UniqueOpts{ByPeriod: max(period, time.Second)},
	})
	return err
}
