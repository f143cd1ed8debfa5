package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

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
	"github.com/rekeyhq/rekey/projections/verifier"
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
	verifier *verifier.Verifier
	usage    *projections.Usage
	barrier  *verifier.Barrier
	hints    chan int64 // positions that other processes are told of
	// graceUses counts who still uses keys that end soon.
	graceUses *projections.GraceUses
	// limiter spends what keys may be used.
	limiter  *projections.Limiter
	commands *commands.Service
	sender   *webhook.Sender
	workers  *workers.Workers
	relay    *workers.Relay
	rootKey  domain.Secret // set if it was made by this start
	// gatewayOrganization is whose keys gateways ask about that show no key of their own.
	gatewayOrganization domain.OrganizationID
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
	p.usage = projections.NewUsage(projections.UsageConfig{Pool: p.pools.background, Logger: p.cfg.Logger})
	p.limiter = projections.NewLimiter(projections.LimiterConfig{Pool: p.pools.lookups, Logger: p.cfg.Logger})
	p.buildVerifier()
	p.graceUses = projections.NewGraceUses(p.pools.background, p.cfg.Logger)
	p.sender = webhook.NewSender(webhook.SenderConfig{Guard: guard, Proxy: p.cfg.WebhookProxy, Version: version})
	p.down = append(p.down, p.sender.Close)
	p.commands = commands.New(commands.Config{
		Store: p.store, Reader: p.reader, Sealer: sealer, CheckURL: guard.CheckURL, Sender: p.sender,
		PublicURL: p.publicURL(), Barrier: p.waitsAt(),
		Limits: domain.Limits{MinRotationInterval: p.cfg.MinRotationInterval}, Now: p.cfg.clock(),
	})
	if p.workers, err = p.newWorkers(); err != nil {
		return err
	}
	p.relay = workers.NewRelay(workers.RelayConfig{
		Store: p.store, Connect: p.connectRelay, Logger: p.cfg.Logger,
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
		Now: p.cfg.clock(), Alarm: p.metrics.alarm, UsageRetention: p.cfg.UsageRetention,
	})
}

// connectNATS connects as rekey itself.
func (p *process) connectNATS(options ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(p.cfg.NATSURL, append([]nats.Option{
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.Timeout(3 * time.Second),
		// Answers to us carry events of every organization: they must not go where subscribers may listen.
		nats.CustomInboxPrefix(embedded.ServiceInbox),
	}, options...)...)
}

func (p *process) connectRelay() (*nats.Conn, error) { return p.connectNATS(nats.Name("rekey relay")) }

// authorizeSubscriber lets holders of a key with events:read listen on the embedded NATS. Rights are by
// organization there, so a key that is limited to projects gets none.
func (p *process) authorizeSubscriber(ctx context.Context, token string) (embedded.Grant, bool) {
	record, err := p.verifier.Authenticate(ctx, token)
	if err != nil || record == nil {
		return embedded.Grant{}, false
	}
	key := record.Key()
	if !key.Scopes.Allow(domain.ScopeEventsRead) || key.Caller().LimitedToProjects() ||
		len(key.AllowedIPs) > 0 { // where a subscriber is, is not known here
		return embedded.Grant{}, false
	}
	p.used(record, netip.Addr{}, "", time.Now()) // a key that only ever listens is in use too
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
	if err := cmp.Or(p.setUp(groupCtx), p.findGatewayOrganization(groupCtx)); err != nil {
		stopStore()
		return errors.Join(err, <-storeDone)
	}
	stopUsage, err := p.startUsage(ctx)
	if err != nil {
		stopStore()
		return errors.Join(err, <-storeDone)
	}
	stopVerifier := p.startVerifier(ctx)
	p.start(groupCtx, group)
	group.Go(p.announce)
	err = group.Wait()
	stopVerifier()
	stopUsage()
	stopStore()
	return errors.Join(err, <-storeDone)
}

// startUsage writes what requests count until the last of them has been answered: the function it returns ends it, and
// waits until all is written. Other replicas know of this one from here on, before it counts anything.
func (p *process) startUsage(ctx context.Context) (stop func(), err error) {
	if err := p.usage.Register(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { p.usage.Run(ctx) })
	done.Go(func() { p.graceUses.Run(ctx) })
	done.Go(func() { p.limiter.Run(ctx) })
	return func() { cancel(); done.Wait() }, nil
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
	if p.has(roleAPI) || p.has(roleWorker) {
		projection := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: p.pools.background, Logger: p.cfg.Logger})
		group.Go(func() error { projection.Run(ctx); return nil })
	}
	if p.has(roleRelay) {
		group.Go(func() error { return p.relay.Run(ctx) })
	}
	if p.local != nil {
		group.Go(func() error { return p.local.watch(ctx) })
	}
}

func (p *process) handler() http.Handler { return p.handlerOn(p.verifier) }

// handlerOn is the API on a verifier.
func (p *process) handlerOn(v *verifier.Verifier) http.Handler {
	return api.New(api.Config{
		Commands: p.commands, Reader: p.reader, Verifier: v, Logger: p.cfg.Logger, Version: version,
		Tail: p.tail, Ready: p.reader.Ping, Counter: p.metrics.request, GitHub: p.cfg.GitHub,
		Usage: p.used, Denied: p.denied, GatewayOrganization: p.gatewayOrganization, ClientIP: p.clientIP,
	})
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

// clientIP says where a request came from.
func (p *process) clientIP(r *http.Request) netip.Addr {
	return clientip.FromRequest(r, p.cfg.TrustedProxies)
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
