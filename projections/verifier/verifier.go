package verifier

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// Log is what a Verifier follows; an eventstore.Store is one.
type Log interface {
	Read(ctx context.Context, lane eventstore.Lane, after int64, limit int) ([]eventstore.Record, error)
	Wait(ctx context.Context, lane eventstore.Lane, after int64) error
}

// Config says what a Verifier works with. Reader is required; the zero value of the rest is usable.
type Config struct {
	// Reader finds in Postgres what is not in memory.
	Reader *projections.Reader
	// Limiter spends the allowances of keys; nil means that limits are not kept.
	Limiter *projections.Limiter
	// Pool and Log keep the memory; without them every answer comes from Postgres. Pool has the service's rights and is of
	// its own, so that nothing can keep a lease from being renewed.
	Pool *pgxpool.Pool
	Log  Log
	// Name says to people which process a lease is of.
	Name string
	// Logger receives faults; nil means none are logged.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now. Its monotonic reading counts.
	Now func() time.Time
	// TTL, RenewEvery and Margin are of the lease; 0 means what is usual. All verifiers of a database, and their barrier,
	// have one TTL.
	TTL, RenewEvery, Margin time.Duration
	// IDs names each start of a verifier.
	IDs domain.IDs
}

// Verifier answers verifies.
type Verifier struct {
	cfg    Config
	id     string
	trust  atomic.Pointer[trust]
	memory atomic.Pointer[memory] // what is being kept, trusted or not
	loaded chan struct{}          // holds a token when a lease may be taken
	absent absent
	// lookups counts what was asked of Postgres; what memory answers is not counted, since that would cost it.
	lookups atomic.Int64
	giving  sync.Mutex // held while a memory is trusted or given up

	mu      sync.Mutex
	failing map[string]bool // what the log says does not work at present
}

// New returns a Verifier, which answers from Postgres until Run has loaded the keys.
func New(cfg Config) *Verifier {
	cfg.TTL, cfg.RenewEvery, cfg.Margin = cmp.Or(cfg.TTL, TTL), cmp.Or(cfg.RenewEvery, renewEvery), cmp.Or(cfg.Margin, margin)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Verifier{
		cfg: cfg, id: cfg.IDs.New("ver", cfg.Now()), loaded: make(chan struct{}, 1), absent: newAbsent(), failing: map[string]bool{},
	}
}

// Run keeps the memory and the lease until ctx ends; then it gives the lease back.
func (v *Verifier) Run(ctx context.Context) {
	if v.cfg.Pool == nil || v.cfg.Log == nil {
		return
	}
	var parts sync.WaitGroup
	parts.Go(func() { v.follow(ctx) })
	parts.Go(func() { v.keep(ctx) })
	parts.Wait()
}

// State is how a Verifier stands.
type State struct {
	Trusted bool  // answers come from memory
	Keys    int   // in memory
	Applied int64 // the position of the log that memory has
	Lookups int64 // secrets that Postgres was asked for
}

// State tells how the Verifier stands.
func (v *Verifier) State() State {
	s := State{Trusted: v.trust.Load().at(v.cfg.Now()), Lookups: v.lookups.Load()}
	if m := v.memory.Load(); m != nil {
		s.Keys, s.Applied = int(m.keys.Load()), m.applied.Load()
	}
	return s
}

// Answer is the outcome of a verify. Key is set whenever the secret is one in the caller's reach.
type Answer struct {
	Code   projections.Code
	Status domain.Status
	Key    *Record
	At     time.Time // by the clock that judged
	Memory bool      // it came from memory, not from Postgres
	// Spending is what came of the key's limits, if nothing else refused it.
	Spending projections.Spending
}

// Valid reports whether the key may be used as asked.
func (a Answer) Valid() bool { return a.Code == projections.CodeValid }

// Verify judges a secret.
func (v *Verifier) Verify(ctx context.Context, request *projections.VerifyRequest) (Answer, error) {
	answer, err := v.find(ctx, request.Secret)
	if err != nil {
		return Answer{}, err
	}
	r := answer.Key
	return v.spend(ctx, answer.judged(r != nil && request.Reach.Covers(r.place.organization, r.place.project), request))
}

// spend takes a use from the allowances of a key that nothing else refuses.
func (v *Verifier) spend(ctx context.Context, a Answer) (Answer, error) {
	if !a.Valid() || v.cfg.Limiter == nil {
		return a, nil
	}
	limits := a.Key.limits()
	if limits == nil {
		return a, nil
	}
	var err error
	a.Spending, err = v.cfg.Limiter.Spend(ctx, a.Key.lineage, limits)
	a.Code = a.Spending.Code
	return a, err
}

// judged decides what a key that was looked up is good for. What is not in the caller's reach is not found.
func (a Answer) judged(reached bool, request *projections.VerifyRequest) Answer {
	if !reached {
		return Answer{Code: projections.CodeNotFound, At: a.At, Memory: a.Memory}
	}
	a.Code, a.Spending = projections.Judge(a.Key.facts(a.Status), request), projections.Unspent
	return a
}

// Authenticate returns the key of a caller of rekey's own API, or nil if the secret is not that of a valid key.
func (v *Verifier) Authenticate(ctx context.Context, secret string) (*Record, error) {
	found, err := v.find(ctx, secret)
	if err != nil || found.Key == nil || !found.Status.Valid() || found.Key.disabled {
		return nil, err
	}
	return found.Key, nil
}

// find looks a secret up, and says nothing yet of what it may be used for; garbage is refused without a lookup.
func (v *Verifier) find(ctx context.Context, presented string) (Answer, error) {
	secret, ok := domain.ParseSecret(presented)
	if !ok {
		return Answer{At: v.cfg.Now(), Memory: true}, nil
	}
	digest := secret.Digest()
	t := v.trust.Load()
	record, known := v.recall(t, &digest)
	// The clock is read after the lookup, so that time spent waiting cannot keep a key alive past its deadline, nor a memory
	// that nobody waits for any more. The trust is the one of before the lookup: a later one says nothing of what memory
	// held then, when it may have been behind.
	now := v.cfg.Now()
	if known && t.at(now) {
		return Answer{Status: record.statusAt(now.UnixMicro()), Key: record, At: now, Memory: true}, nil
	}
	return v.ask(ctx, digest)
}

// recall looks into a memory. What is not known there must be asked for.
func (v *Verifier) recall(t *trust, digest *domain.Digest) (record *Record, known bool) {
	if t == nil {
		return nil, false
	}
	if r := t.memory.table.get(digest); r != nil {
		return r, true
	}
	return v.absent.get(*digest)
}

// ask looks into Postgres, and remembers what is not there or has ended: neither comes to life again, but for a secret that
// is imported, which the log tells.
func (v *Verifier) ask(ctx context.Context, digest domain.Digest) (Answer, error) {
	v.lookups.Add(1)
	k, err := v.cfg.Reader.KeyOf(ctx, digest)
	if err != nil {
		return Answer{}, err
	}
	record := Pack(k)
	if record == nil || record.state.ended() {
		v.absent.put(digest, record)
	}
	now := v.cfg.Now()
	return Answer{Status: record.statusAt(now.UnixMicro()), Key: record, At: now}, nil
}

// wake says that a lease may be taken.
func (v *Verifier) wake() {
	select {
	case v.loaded <- struct{}{}:
	default:
	}
}

// believe trusts a memory until a moment, unless it was given up meanwhile.
func (v *Verifier) believe(m *memory, until time.Time) {
	v.giving.Lock()
	defer v.giving.Unlock()
	if v.memory.Load() == m {
		v.trust.Store(&trust{memory: m, until: until})
	}
}

// reload gives a memory up, and the trust in it at once: the next memory reports under the same lease what this one will
// never apply.
func (v *Verifier) reload(m *memory) {
	v.giving.Lock()
	defer v.giving.Unlock()
	if v.memory.CompareAndSwap(m, nil) {
		v.trust.Store(nil)
	}
}

// failed logs that something does not work, once until it works again.
func (v *Verifier) failed(what string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.failing[what] {
		v.cfg.Logger.Warn("the verifier is in trouble; without a lease it answers from the database", "failed_to", what, "error", err)
	}
	v.failing[what] = true
}

// recovered logs that all works again.
func (v *Verifier) recovered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.failing) > 0 {
		v.cfg.Logger.Info("the verifier answers from memory again")
		clear(v.failing)
	}
}
