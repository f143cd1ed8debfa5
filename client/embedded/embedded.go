package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// Config says what a Verifier works with. DatabaseURL and Key are required.
type Config struct {
	// DatabaseURL is rekey's database, with a login that is a member of the role rekey_app.
	DatabaseURL string
	// Key is a rekey key that holds keys:verify. What it can see is what can be verified.
	Key client.Secret
	// Name says to rekey's operators which process holds a lease; empty means the program's and the host's name.
	Name string
	// NATS is a connection to rekey's NATS with rights to rekey's own subjects, for hints of revokes; nil: there are none,
	// or NATSURL is where to connect to for them.
	NATS    *nats.Conn
	NATSURL string
	// Logger receives faults; nil means none are logged.
	Logger *slog.Logger
}

// Verifier verifies in this process. It is for any number of goroutines.
type Verifier struct {
	core   *verifier.Verifier
	caller domain.Digest // of our own key
	uses   *counter
	down   []func() // in the order they were built
	once   sync.Once
}

var _ client.Verifier = (*Verifier)(nil)

// Open connects to Postgres, makes sure that the key may verify, and returns a Verifier. It answers from Postgres until all
// keys are in memory, which takes some seconds for a million. Close ends it.
func Open(ctx context.Context, cfg Config) (*Verifier, error) {
	secret, ok := domain.ParseSecret(cfg.Key.Reveal())
	if !ok {
		return nil, &client.Error{Kind: client.ErrRefused, Message: "Key is not the form of a key; it is one that holds keys:verify"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Name = cmp.Or(cfg.Name, processName())
	v := &Verifier{caller: secret.Digest()}
	if err := v.build(ctx, cfg); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// build starts all parts. What fails leaves the rest to Close.
func (v *Verifier) build(ctx context.Context, cfg Config) error {
	// Two pools, so that nothing can keep the lease from being renewed.
	leases, err := v.pool(ctx, cfg.DatabaseURL, "leases", 3)
	if err != nil {
		return err
	}
	work, err := v.pool(ctx, cfg.DatabaseURL, "lookups", 3)
	if err != nil {
		return err
	}
	log := eventstore.New(eventstore.Config{Pool: leases, Logger: cfg.Logger}) // only read: nothing is appended here
	limiter := projections.NewLimiter(projections.LimiterConfig{Pool: work, Logger: cfg.Logger})
	v.core = verifier.New(verifier.Config{
		Limiter: limiter,
		Reader:  projections.NewReader(work, work), // only secrets are looked up, which takes no tenant's rights
		Pool:    leases, Log: log, Name: cfg.Name, Logger: cfg.Logger,
	})
	if err := v.check(ctx); err != nil {
		return err
	}
	v.uses = newCounter(work, cfg.Logger)
	v.background(limiter.Run)
	v.background(v.uses.run)
	v.background(v.core.Run)
	v.listen(cfg, log)
	return nil
}

func (v *Verifier) pool(ctx context.Context, url, name string, size int32) (*pgxpool.Pool, error) {
	pool, err := openPool(ctx, url, name, size)
	if err != nil {
		return nil, &client.Error{Kind: client.ErrUnavailable, Cause: err}
	}
	v.down = append(v.down, pool.Close)
	return pool, nil
}

// check asks Postgres for our own key once.
func (v *Verifier) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	_, _, err := v.core.VerifyFor(ctx, &v.caller, &projections.VerifyRequest{})
	return refusal(err)
}

// background runs a part until Close.
func (v *Verifier) background(run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { run(ctx) })
	v.down = append(v.down, func() { cancel(); done.Wait() })
}

// listen takes hints that the log has moved. All works without them.
func (v *Verifier) listen(cfg Config, log *eventstore.Store) {
	conn := cfg.NATS
	if conn == nil && cfg.NATSURL == "" {
		return
	}
	var err error
	if conn == nil {
		conn, err = nats.Connect(cfg.NATSURL, nats.Name("rekey hints for "+cfg.Name), nats.RetryOnFailedConnect(true),
			nats.MaxReconnects(-1), nats.Timeout(openTimeout), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				cfg.Logger.Warn("there are no hints of revokes over NATS; they are found by polling", "error", err)
			}))
		if err == nil {
			v.down = append(v.down, conn.Close)
		}
	}
	if err == nil {
		var subscription *nats.Subscription
		if subscription, err = conn.Subscribe(verifier.HintSubject, func(*nats.Msg) { log.Wake() }); err == nil {
			v.down = append(v.down, func() { _ = subscription.Unsubscribe() }) // fails if the connection has ended before
		}
	}
	if err != nil {
		cfg.Logger.Warn("there are no hints of revokes over NATS; they are found by polling", "error", err)
	}
}

// Close writes the uses that are counted, gives the lease back and ends the connections. Verifies fail from then on.
func (v *Verifier) Close() {
	v.once.Do(func() {
		for i := len(v.down) - 1; i >= 0; i-- {
			v.down[i]()
		}
	})
}

// Verify judges a key. From memory it takes no allocation.
func (v *Verifier) Verify(ctx context.Context, request client.Request) (verdict client.Verdict, err error) {
	asked := projections.VerifyRequest{Secret: request.Secret.Reveal(), Scopes: request.Scopes, Resources: request.Resources, IP: request.IP}
	answer, caller, err := v.core.VerifyFor(ctx, &v.caller, &asked)
	if err != nil {
		return client.Verdict{}, refusal(err)
	}
	v.uses.asked(caller)
	if answer.Valid() {
		v.uses.used(answer.Key, request.IP, answer.At)
	} else if answer.Key != nil {
		v.uses.denied(answer.Key, answer.At)
	}
	describe(&verdict, &answer)
	return verdict, nil
}

// State tells how a Verifier stands.
type State struct {
	// InMemory says that answers come from memory; if not, they come from Postgres, or there are none.
	InMemory bool
	// Keys is how many are in memory, of all organizations.
	Keys int
	// Applied is the position of the log up to which the memory goes.
	Applied int64
}

// State tells how the Verifier stands, for health checks and metrics.
func (v *Verifier) State() State {
	s := v.core.State()
	return State{InMemory: s.Trusted, Keys: s.Keys, Applied: s.Applied}
}

// refusal is an error in the client's words.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, verifier.ErrCaller):
		return &client.Error{Kind: client.ErrRefused, Message: "it is not valid, or lacks " + domain.ScopeKeysVerify, RequiredScope: domain.ScopeKeysVerify}
	}
	return &client.Error{Kind: client.ErrUnavailable, RetryAfter: time.Second, Cause: err}
}

// describe writes an answer in the client's words. It fills a verdict in place, which is too large to be copied for nothing.
func describe(out *client.Verdict, answer *verifier.Answer) {
	out.Valid, out.Code = answer.Valid(), client.Code(answer.Code)
	r := answer.Key
	if r == nil {
		return
	}
	out.Status = client.Status(answer.Status)
	out.KeyID, out.LineageID, out.Generation = client.KeyID(r.ID()), client.LineageID(r.Lineage()), r.Generation()
	out.OrganizationID, out.ProjectID, out.EnvironmentID = string(r.OrganizationID()), string(r.ProjectID()), string(r.EnvironmentID())
	out.Name, out.Metadata, out.Scopes = r.Name(), client.Metadata(r.Metadata()), client.ScopesOf(r.Scopes())
	out.RetryAfterSeconds = int(max(0, answer.RetryAfterSeconds()))
	out.ExpiresAt, out.GraceExpiresAt, out.ReplacedBy = r.ExpiresAt(), r.GraceExpiresAt(), client.KeyID(r.ReplacedBy())
}

func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("embedded %s pid %d", host, os.Getpid())
}
