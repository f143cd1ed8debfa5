package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/embedded"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/clientip"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/workers"
)

// process is one running rekey: what is built, in the order in which it is built. It is taken down in reverse.
type process struct {
	cfg     Config
	metrics *metrics
	down    []func() // in the order they were built

	api, observe net.Listener
	local        *local // what dev embeds; nil in production

	pools    pools
	store    *eventstore.Store
	reader   *projections.Reader
	verifier *projections.Verifier
	usage    *projections.Usage
	// graceUses counts who still uses keys that end soon.
	graceUses *projections.GraceUses
	commands  *commands.Service
	sender    *webhook.Sender
	workers   *workers.Workers
	relay     *workers.Relay
	rootKey   domain.Secret // set if it was made by this start
}

// run builds a process, says that it is ready, serves until ctx ends or a part fails, and takes everything down again.
func run(ctx context.Context, cfg Config) error {
	p := &process{cfg: cfg, metrics: newMetrics()}
	return p.run(ctx)
}

func (p *process) run(ctx context.Context) error {
	defer p.takeDown()
	for _, step := range []func(context.Context) error{
		p.listen, p.startLocal, p.checkSchema, p.connect, p.buildCore, p.checkSealed,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return p.serve(ctx)
}

// takeDown ends what was built, last first.
func (p *process) takeDown() {
	for _, f := range slices.Backward(p.down) {
		f()
	}
}

func (p *process) has(role string) bool { return slices.Contains(p.cfg.Roles, role) }

// listen takes the addresses first, so that a taken port is the first thing to be told.
func (p *process) listen(ctx context.Context) error {
	var err error
	if p.observe, err = p.bind(ctx, p.cfg.MetricsAddr, "REKEY_METRICS_ADDR"); err != nil {
		return err
	}
	if p.has(roleAPI) {
		p.api, err = p.bind(ctx, p.cfg.Addr, "REKEY_ADDR")
	}
	return err
}

func (p *process) bind(ctx context.Context, addr, variable string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; set %s to another address", addr, err, variable)
	}
	p.down = append(p.down, func() { _ = listener.Close() })
	return listener, nil
}

// startLocal starts what dev embeds. From here on the configuration names the servers, wherever they run.
func (p *process) startLocal(ctx context.Context) error {
	if !p.cfg.Dev {
		return nil
	}
	local, err := startLocal(ctx, &p.cfg)
	if local != nil {
		p.local = local
		p.down = append(p.down, local.stop)
	}
	return err
}

// checkSchema migrates in dev; in production it refuses to run on an older schema.
func (p *process) checkSchema(ctx context.Context) error {
	if p.cfg.Dev {
		return migrations.Up(ctx, p.cfg.DatabaseURL)
	}
	if err := migrations.Pending(ctx, p.cfg.DatabaseURL); err != nil {
		return fmt.Errorf("use the database of REKEY_DATABASE_URL: %w", err)
	}
	return nil
}

// pools are separate, so that no part can starve another: commands, lookups, reads for tenants, and the work in the
// background. Those for tenants have rights of their own, which show them one organization at a time.
type pools struct{ commands, lookups, tenants, background *pgxpool.Pool }

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

// buildCore builds everything that serves requests and works by itself; nothing runs yet.
func (p *process) buildCore(ctx context.Context) error {
	sealer, err := seal.New(p.cfg.MasterKey)
	if err != nil {
		return err
	}
	guard, err := webhook.NewGuard(p.cfg.WebhookAllow, webhook.WithDeny(p.ownAddresses(ctx)...))
	if err != nil {
		return fmt.Errorf("build the webhook guard: %w", err)
	}
	p.store = eventstore.New(eventstore.Config{
		Pool: p.pools.commands, Readers: p.pools.background, Projection: projections.ReadModel{}, Logger: p.cfg.Logger,
		Observe: p.metrics.batch, Now: p.cfg.clock(),
	})
	p.reader = projections.NewReader(p.pools.lookups, p.pools.tenants)
	p.verifier = projections.NewVerifier(p.reader, p.cfg.clock())
	p.usage = projections.NewUsage(projections.UsageConfig{Pool: p.pools.background, Logger: p.cfg.Logger})
	p.reader.ShowUsage(p.usage)
	p.graceUses = projections.NewGraceUses(p.pools.background, p.cfg.Logger)
	p.sender = webhook.NewSender(webhook.SenderConfig{Guard: guard, Proxy: p.cfg.WebhookProxy, Version: version})
	p.down = append(p.down, p.sender.Close)
	p.commands = commands.New(commands.Config{
		Store: p.store, Reader: p.reader, Sealer: sealer, CheckURL: guard.CheckURL, Sender: p.sender,
		PublicURL: p.publicURL(),
		Limits:    domain.Limits{MinRotationInterval: p.cfg.MinRotationInterval}, Now: p.cfg.clock(),
	})
	if p.workers, err = p.newWorkers(); err != nil {
		return err
	}
	p.relay = workers.NewRelay(workers.RelayConfig{
		Store: p.store, Connect: p.connectNATS, Logger: p.cfg.Logger,
		Feeds: []workers.Feed{workers.EventsFeed(), workers.WebhooksFeed(p.pools.background, p.commands, p.cfg.clock())},
	})
	if p.local != nil && p.local.nats != nil {
		p.local.nats.SetAuthorize(p.authorizeSubscriber)
	}
	return nil
}

func (p *process) newWorkers() (*workers.Workers, error) {
	return workers.New(workers.Config{
		Pool: p.pools.background, Store: p.store, Reader: p.reader, Commands: p.commands, Sender: p.sender, Logger: p.cfg.Logger,
		Now: p.cfg.clock(), Alarm: p.metrics.alarm,
	})
}

// connectNATS connects as rekey itself.
func (p *process) connectNATS() (*nats.Conn, error) {
	return nats.Connect(p.cfg.NATSURL, nats.Name("rekey relay"), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1),
		// Answers to us carry events of every organization: they must not go where subscribers may listen.
		nats.CustomInboxPrefix(embedded.ServiceInbox), nats.Timeout(3*time.Second))
}

// authorizeSubscriber lets holders of a key with events:read listen on the embedded NATS. Rights are by
// organization there, so a key that is limited to projects gets none.
func (p *process) authorizeSubscriber(ctx context.Context, token string) (embedded.Grant, bool) {
	key, err := p.verifier.Authenticate(ctx, token)
	if err != nil || key == nil || !key.Scopes.Allow(domain.ScopeEventsRead) || key.Caller().LimitedToProjects() {
		return embedded.Grant{}, false
	}
	p.used(key, "", "", time.Now()) // a key that only ever listens is in use too
	return embedded.Grant{Operator: key.Operator, Organization: string(key.OrganizationID)}, true
}

// serve runs all parts until ctx ends or one fails. The store runs longest: the others still need it while they stop.
func (p *process) serve(ctx context.Context) error {
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	storeDone := make(chan error, 1)
	go func() { storeDone <- p.store.Run(storeCtx) }()
	defer stopStore()

	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-groupCtx.Done():
			return nil
		case err := <-storeDone:
			storeDone <- nil
			return errors.Join(err, errors.New("the event store stopped"))
		}
	})
	if err := p.setUp(groupCtx); err != nil {
		stopStore()
		return errors.Join(err, <-storeDone)
	}
	stopUsage := p.startUsage(ctx)
	p.start(groupCtx, group)
	group.Go(p.announce)
	err := group.Wait()
	stopUsage()
	stopStore()
	return errors.Join(err, <-storeDone)
}

// startUsage writes what requests count until the last of them has been answered: the function it returns ends it, and
// waits until all is written.
func (p *process) startUsage(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { p.usage.Run(ctx) })
	done.Go(func() { p.graceUses.Run(ctx) })
	return func() { cancel(); done.Wait() }
}

// start starts the parts of this process's roles.
func (p *process) start(ctx context.Context, group *errgroup.Group) {
	p.metrics.watch(p)
	serveHTTP(ctx, group, p.observe, p.metrics.handler(), p.cfg.Logger)
	if p.has(roleAPI) {
		serveHTTP(ctx, group, p.api, p.handler(), p.cfg.Logger)
	}
	if p.has(roleWorker) {
		group.Go(func() error { return p.workers.Run(ctx) })
	}
	if p.has(roleRelay) {
		group.Go(func() error { return p.relay.Run(ctx) })
	}
	if p.local != nil {
		group.Go(func() error { return p.local.watch(ctx) })
	}
}

func (p *process) handler() http.Handler {
	return api.New(api.Config{
		Commands: p.commands, Reader: p.reader, Verifier: p.verifier, Logger: p.cfg.Logger, Version: version,
		Tail: p.tail, Ready: p.reader.Ping, Count: p.metrics.request, GitHub: p.cfg.GitHub,
		Usage: p.used, ClientIP: p.clientIP,
	})
}

// used is told of every use of a key.
func (p *process) used(key *projections.Key, address, agent string, at time.Time) {
	p.usage.Used(key, address, at)
	p.graceUses.Used(key, address, agent, at)
}

// publicURL is where receivers reach the API. A process that does not listen takes the address of one beside it.
func (p *process) publicURL() string {
	switch {
	case p.cfg.PublicURL != "":
		return p.cfg.PublicURL
	case p.api != nil:
		return "http://" + p.api.Addr().String()
	}
	return "http://" + p.cfg.Addr
}

// clientIP says where a request came from; empty if that is no address.
func (p *process) clientIP(r *http.Request) string {
	if addr := clientip.FromRequest(r, p.cfg.TrustedProxies); addr.IsValid() {
		return addr.String()
	}
	return ""
}

// tail waits until the log moves past a position or ctx ends, and returns its head.
func (p *process) tail(ctx context.Context, after int64) (int64, error) {
	for {
		head, err := p.store.Head(ctx, eventstore.Lifecycle)
		if err != nil || head > after {
			return head, err
		}
		if err := p.store.Wait(ctx, eventstore.Lifecycle, after); err != nil {
			return head, err
		}
	}
}

// Times that bound a request; a slow or silent caller must not hold a connection for ever.
const (
	readTimeout  = 30 * time.Second
	writeTimeout = 60 * time.Second
	idleTimeout  = 2 * time.Minute
	drainTimeout = 10 * time.Second
)

// serveHTTP serves until ctx ends, then lets requests under way finish.
func serveHTTP(ctx context.Context, group *errgroup.Group, listener net.Listener, handler http.Handler, logger *slog.Logger) {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	// Streams of events would outlast any patience: they end when the stop begins.
	server.RegisterOnShutdown(cut)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		defer cut()
		if err := server.Shutdown(drain); err != nil {
			_ = server.Close()
		}
		return nil
	})
}
