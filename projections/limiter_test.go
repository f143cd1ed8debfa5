package projections_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// wire is how a replica reaches the database.
type wire struct {
	fate atomic.Int32

	mu   sync.Mutex
	open []net.Conn
}

// cut breaks what is open, and lets nothing through from then on.
func (w *wire) cut() {
	w.fate.Store(down)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.open {
		_ = conn.Close()
	}
	w.open = nil
}

// What becomes of requests that carry a replica's name. Each but down is for the next one.
const (
	carried int32 = iota
	lost          // it is carried out, and its answer does not arrive
	stopped       // it does not arrive
	down          // nothing does
)

// cutConn is a connection over the wire. It is cut, not delayed: no time passes in these tests.
type cutConn struct {
	net.Conn
	wire   *wire
	losing atomic.Bool
}

func (c *cutConn) Write(p []byte) (int, error) {
	fate := c.wire.fate.Load()
	switch named := bytes.Contains(p, []byte("boot_0")); {
	case fate == down, isCancel(p), named && fate == stopped && c.wire.fate.CompareAndSwap(stopped, carried):
		_ = c.Close()
		return 0, io.ErrClosedPipe
	case named && fate == lost && c.wire.fate.CompareAndSwap(lost, carried):
		c.losing.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.wire.fate.Load() == down || c.losing.Load() && bytes.Contains(p[:n], []byte("SELECT 1")) { // the word that it is done
		_ = c.Close()
		return 0, io.EOF
	}
	return n, err
}

// wired returns a pool of one connection over a wire.
func wired(t testing.TB, db *dbtest.DB) (*wire, *pgxpool.Pool) {
	t.Helper()
	config, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	connect := config.ConnConfig.DialFunc
	config.MaxConns, config.AfterConnect = 1, migrations.AsRole
	config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if w.fate.Load() == down {
			return nil, io.ErrClosedPipe
		}
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open = append(w.open, conn)
		return &cutConn{Conn: conn, wire: w}, nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return w, pool
}

// spender is a replica that spends allowances, with a clock of its own.
type spender struct {
	*projections.Limiter
	wire  *wire
	clock *clock
	pool  *pgxpool.Pool
}

func newSpender(t testing.TB, db *dbtest.DB) *spender {
	t.Helper()
	s := &spender{clock: newClock()}
	s.wire, s.pool = wired(t, db)
	s.restart()
	return s
}

// restart makes another life of the replica, as a kill does: what it held is not given back.
func (s *spender) restart() {
	s.Limiter = projections.NewLimiter(projections.LimiterConfig{Pool: s.pool, Now: s.clock.Now})
}

// spend tries to use a lineage once.
func (s *spender) spend(t testing.TB, lineage domain.UUID, limits *projections.KeyLimits) (projections.Spending, error) {
	t.Helper()
	got, err := s.Spend(context.Background(), lineage, limits)
	if err != nil && domain.CodeOf(err) != domain.CodeUnavailable {
		t.Fatal(err)
	}
	return got, err
}

// drain spends until nothing is left, whoever holds it, and returns how much that was.
func drain(t testing.TB, all []*spender, lineage domain.UUID, limits *projections.KeyLimits) (spent int64) {
	t.Helper()
	for {
		before := spent
		for _, s := range all {
			s.clock.step(time.Second) // what was refused is asked for again
			for {
				got, err := s.spend(t, lineage, limits)
				if err != nil {
					t.Fatal(err)
				}
				if got.Code != projections.CodeValid {
					break
				}
				if spent++; spent > 10_000 { // no test has as many
					t.Fatalf("%+v never ends", *limits)
				}
			}
			if err := s.GiveBack(context.Background(), true); err != nil {
				t.Fatal(err)
			}
		}
		if spent == before {
			return spent
		}
	}
}

func lineageID() domain.UUID {
	id, _ := domain.UUIDOf(domain.PrefixLineage, ids.New(domain.PrefixLineage, time.Now()))
	return id
}

func budgetOf(uses int64) *projections.KeyLimits {
	return &projections.KeyLimits{Usage: domain.UsageLimit{Uses: uses, Period: domain.UsageTotal}}
}

func rateOf(requests, window int64) *projections.KeyLimits {
	return &projections.KeyLimits{Rate: domain.RateLimit{Requests: requests, WindowSeconds: window}}
}

// Whatever happens to replicas and to their requests, all of them together never spend more than the limit. What was not
// lost with a replica that was killed can all be spent in the end, also after answers were lost.
func TestLimiterNeverExceedsTheLimit(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	all := []*spender{newSpender(t, db), newSpender(t, db), newSpender(t, db)}
	rapid.Check(t, func(r *rapid.T) {
		lineage, limit := lineageID(), rapid.Int64Range(1, 120).Draw(r, "limit")
		limits, killed, spent := budgetOf(limit), false, int64(0)
		for _, s := range all {
			s.restart()
		}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			s := rapid.SampledFrom(all).Draw(r, "replica")
			switch rapid.SampledFrom([]string{"spend", "spend", "spend", "idle", "all", "lose", "stop", "wait", "kill"}).Draw(r, "step") {
			case "spend":
				for range rapid.IntRange(1, 20).Draw(r, "uses") {
					if got, err := s.spend(t, lineage, limits); err == nil && got.Code == projections.CodeValid {
						spent++
					}
				}
			case "idle":
				_ = s.GiveBack(context.Background(), false)
			case "all":
				_ = s.GiveBack(context.Background(), true)
			case "lose":
				s.wire.fate.Store(lost)
			case "stop":
				s.wire.fate.Store(stopped)
			case "wait":
				s.clock.step(time.Second)
			case "kill":
				s.restart()
				killed = true
			}
			if spent > limit {
				r.Fatalf("%d of %d were spent", spent, limit)
			}
		}
		for _, s := range all {
			s.wire.fate.Store(carried)
			s.clock.step(time.Second)
			if err := s.GiveBack(context.Background(), true); err != nil {
				r.Fatal(err)
			}
		}
		spent += drain(t, all, lineage, limits)
		if spent > limit || spent < limit && !killed {
			r.Fatalf("%d of %d were spent in the end, killed %v", spent, limit, killed)
		}
	})
}

// Many callers on each replica at once, while replicas give back what they hold.
func TestLimiterAtOnce(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	all := []*spender{newSpender(t, db), newSpender(t, db), newSpender(t, db)}
	lineage, limits := lineageID(), budgetOf(5000)
	limits.Rate = domain.RateLimit{Requests: 1_000_000, WindowSeconds: 86400}
	var spent atomic.Int64
	var group sync.WaitGroup
	for _, s := range all {
		for range 8 {
			group.Go(func() {
				for range 1000 {
					got, err := s.Spend(t.Context(), lineage, limits)
					if err != nil {
						t.Error(err)
						return
					}
					if got.Code == projections.CodeValid {
						spent.Add(1)
					}
				}
			})
		}
		group.Go(func() {
			for range 20 {
				if err := s.GiveBack(t.Context(), true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := spent.Load() + drain(t, all, lineage, limits); n != 5000 {
		t.Errorf("%d of 5000 were spent", n)
	}
}

// A window is as long as the database says, and each has what the limit says, whoever asks. Only uses that began and ended
// within one window are counted.
func TestLimiterWindows(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	const limit, windows = 50, 3
	lineage := lineageID()
	var mu sync.Mutex
	counts := map[int64]int{}
	together(3, func(int) {
		_, pool := wired(t, db)
		l := projections.NewLimiter(projections.LimiterConfig{Pool: pool})
		for first, last := time.Now().Unix(), int64(0); last < first+windows; {
			before := time.Now().Unix()
			got, err := l.Spend(t.Context(), lineage, rateOf(limit, 1))
			last = time.Now().Unix()
			if err != nil {
				t.Error(err)
				return
			}
			if got.Code == projections.CodeRateLimited && (got.RetryAfter < 0 || got.RetryAfter > time.Second) {
				t.Errorf("a window of a second ends in %s", got.RetryAfter)
			}
			if got.Code == projections.CodeValid && before == last {
				mu.Lock()
				counts[last]++
				mu.Unlock()
			}
		}
	})
	full := 0
	for window, n := range counts {
		if n > limit {
			t.Errorf("window %d had %d uses of %d", window, n, limit)
		}
		if n > limit/2 {
			full++
		}
	}
	if full < 2 {
		t.Errorf("windows had %v of %d uses: none follows another", counts, limit)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)

	t.Run("WithoutLimitsItKnowsNothing", func(t *testing.T) {
		got, err := newSpender(t, db).spend(t, lineageID(), nil)
		if err != nil || got != projections.Unspent {
			t.Errorf("%+v (%v)", got, err)
		}
	})

	t.Run("SaysWhatIsLeft", func(t *testing.T) {
		s, lineage, limits := newSpender(t, db), lineageID(), budgetOf(3)
		limits.Rate = domain.RateLimit{Requests: 2, WindowSeconds: 86400}
		for _, want := range []projections.Spending{
			{Code: projections.CodeValid, RateRemaining: 1, UsageRemaining: 2},
			{Code: projections.CodeValid, RateRemaining: 0, UsageRemaining: 1},
			{Code: projections.CodeRateLimited, RateRemaining: 0, UsageRemaining: 1},
			{Code: projections.CodeRateLimited, RateRemaining: 0, UsageRemaining: 1},
		} {
			got, err := s.spend(t, lineage, limits)
			if err != nil || (got.RetryAfter > 0) != (want.Code == projections.CodeRateLimited) {
				t.Errorf("retry after %s (%v)", got.RetryAfter, err)
			}
			if got.RetryAfter = 0; got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		limits.Rate.Requests = 10 // what was refused was not spent
		for _, want := range []projections.Code{projections.CodeValid, projections.CodeUsageExceeded, projections.CodeUsageExceeded} {
			if got, err := s.spend(t, lineage, limits); err != nil || got.Code != want {
				t.Errorf("got %s (%v), want %s", got.Code, err, want)
			}
		}
	})

	// Another number goes on with what was counted, and another window or period has a count of its own, to which it is
	// possible to come back.
	t.Run("KeepsCountingWhenTheLimitChanges", func(t *testing.T) {
		all, lineage := []*spender{newSpender(t, db), newSpender(t, db)}, lineageID()
		for _, step := range []struct {
			limits *projections.KeyLimits
			want   int64
		}{
			{budgetOf(10), 10}, {budgetOf(25), 15}, {budgetOf(20), 0}, {rateOf(4, 86400), 4}, {rateOf(3, 43200), 3}, {rateOf(6, 86400), 2},
			{budgetOf(26), 1},
		} {
			if got := drain(t, all, lineage, step.limits); got != step.want {
				t.Errorf("%+v: %d were spent, want %d", *step.limits, got, step.want)
			}
		}
	})

	// A count of this month is none of the next one.
	t.Run("PeriodsBeginAnew", func(t *testing.T) {
		w := &world{owner: ownerPool(t, db)}
		for _, period := range []domain.UsagePeriod{domain.UsageDay, domain.UsageMonth} {
			all, lineage := []*spender{newSpender(t, db), newSpender(t, db)}, lineageID()
			limits := &projections.KeyLimits{Usage: domain.UsageLimit{Uses: 7, Period: period}}
			id := lineage.ID(domain.PrefixLineage)
			if n := drain(t, all, lineage, limits); n != 7 {
				t.Errorf("%d were spent of a %s", n, period)
			}
			if !one[bool](t, w, `SELECT starts_at = date_trunc($2, now(), 'UTC') AND ends_at > now() AND ends_at <= now() + interval '31 days'
				FROM limit_budgets WHERE lineage_id = $1`, id, string(period)) {
				t.Errorf("a %s is another time", period)
			}
			w.exec(t, `UPDATE limit_budgets SET starts_at = starts_at - interval '32 days', ends_at = ends_at - interval '32 days' WHERE lineage_id = $1`, id)
			if n := drain(t, all, lineage, limits); n != 7 {
				t.Errorf("%d were spent of the next %s", n, period)
			}
		}
	})

	// What was reserved may be spent; then nobody knows, and nobody says that the limit was reached.
	t.Run("WithoutTheDatabaseItSpendsWhatItHolds", func(t *testing.T) {
		s, lineage, limits := newSpender(t, db), lineageID(), budgetOf(1000)
		if _, err := s.spend(t, lineage, limits); err != nil {
			t.Fatal(err)
		}
		s.wire.fate.Store(down)
		var spent int
		var err error
		for ; err == nil; spent++ {
			var got projections.Spending
			if got, err = s.spend(t, lineage, limits); err == nil && got.Code != projections.CodeValid {
				t.Fatalf("it says %s", got.Code)
			}
		}
		if spent < 2 {
			t.Error("nothing of what was held could be spent")
		}
		if err := s.GiveBack(t.Context(), true); err == nil {
			t.Error("it was given back to nobody")
		}
		s.wire.fate.Store(carried)
		s.clock.step(time.Second)
		if n := int64(spent) + drain(t, []*spender{s}, lineage, limits); n != 1000 {
			t.Errorf("%d of 1000 were spent", n)
		}
	})

	// A replica that holds what it does not use leaves it to the others.
	t.Run("GivesBackWhatIsNotUsed", func(t *testing.T) {
		a, b, lineage, limits := newSpender(t, db), newSpender(t, db), lineageID(), budgetOf(8)
		if _, err := a.spend(t, lineage, limits); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the first time it is only seen
			if err := a.GiveBack(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		if n := drain(t, []*spender{b}, lineage, limits); n != 7 {
			t.Errorf("%d of 7 were left", n)
		}
		w := &world{owner: ownerPool(t, db)}
		if n := one[int](t, w, `SELECT count(*)::int FROM limit_shares WHERE lineage_id = $1`, lineage.ID(domain.PrefixLineage)); n != 0 {
			t.Errorf("%d shares are left", n)
		}
	})

	t.Run("EndsWithItsCallersPatience", func(t *testing.T) {
		s := newSpender(t, db)
		hold, err := ownerPool(t, db).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = hold.Rollback(context.Background()) }()
		if _, err := hold.Exec(t.Context(), "LOCK limit_budgets"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("gone"))
		if _, err := s.Spend(ctx, lineageID(), budgetOf(1)); domain.CodeOf(err) != domain.CodeUnavailable {
			t.Errorf("got %v", err)
		}
	})
}

// A request that its replica has given up is carried out later, beside the one that followed. The number decides which of
// the two counts, and nothing is spent twice or lost.
func TestLimiterLateRequests(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	w := &world{owner: ownerPool(t, db)}
	for range 5 {
		s, lineage, limits := newSpender(t, db), lineageID(), budgetOf(100)
		id := lineage.ID(domain.PrefixLineage)
		var spent int64
		spendAll := func() error { // until it is answered that it cannot
			for {
				got, err := s.Spend(context.Background(), lineage, limits)
				if err != nil || got.Code != projections.CodeValid {
					return err
				}
				spent++
			}
		}
		if _, err := s.spend(t, lineage, limits); err != nil {
			t.Fatal(err)
		}
		spent++
		hold, err := w.owner.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold.Exec(t.Context(), "SELECT FROM limit_budgets WHERE lineage_id = $1 FOR UPDATE", id); err != nil {
			t.Fatal(err)
		}
		first := make(chan error, 1)
		go func() { first <- spendAll() }()
		w.waitForLocks(t, 1)
		s.wire.cut() // the server works on
		if err := <-first; err == nil {
			t.Fatal("a request was answered that could not be")
		}
		s.wire.fate.Store(carried)
		s.clock.step(time.Second)
		second := make(chan error, 1)
		go func() { second <- spendAll() }()
		w.waitForLocks(t, 2)
		if err := hold.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		if n := spent + drain(t, []*spender{s}, lineage, limits); n != 100 {
			t.Errorf("%d of 100 were spent", n)
		}
	}
}

// A request that arrives after a later one does nothing: it would take off what the later one gave.
func TestLimiterRequestsOutOfOrder(t *testing.T) {
	t.Parallel()
	w := &world{owner: ownerPool(t, dbtest.New(t))}
	ask := func(number, spent, wanted int64) (answered bool) {
		t.Helper()
		return one[bool](t, w, `SELECT count(*) = 1 FROM reserve_uses('boot_a', '{lin_a}', '{total}', '{0}', '{100}', ARRAY[to_timestamp(0)], ARRAY[$2::bigint],
			ARRAY[$3::bigint], ARRAY[$1::bigint])`, number, spent, wanted)
	}
	reserved := func() int64 { return one[int64](t, w, `SELECT reserved FROM limit_budgets`) }
	for _, c := range []struct {
		number, spent, wanted int64
		answered              bool
		reserved              int64
	}{
		{1, 0, 8, true, 8}, {3, 8, 16, true, 24}, {2, 4, 8, false, 24}, {3, 8, 16, false, 24}, {4, 20, 0, true, 20}, {2, 8, 16, false, 20},
		{5, 0, 0, true, 20}, {6, 0, 200, true, 60}, {7, 40, 0, true, 60},
	} {
		if answered := ask(c.number, c.spent, c.wanted); answered != c.answered || reserved() != c.reserved {
			t.Errorf("%+v: answered %v, reserved %d", c, answered, reserved())
		}
	}
}

// waitForLocks waits until so many requests for allowances wait in the server.
func (w *world) waitForLocks(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for waiting := -1; waiting < n; {
		if err := w.owner.QueryRow(ctx, `SELECT count(*)::int FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%reserve_uses%'`).Scan(&waiting); err != nil {
			t.Fatalf("%d of %d requests wait: %v", waiting, n, err)
		}
	}
}

// The way of most verifies: no lock that lineages share, and nothing to collect.
func TestLimiterDoesNotAllocate(t *testing.T) {
	s := newSpender(t, dbtest.New(t))
	lineage, limits := lineageID(), budgetOf(domain.MaxUses)
	limits.Rate = domain.RateLimit{Requests: domain.MaxRateRequests, WindowSeconds: 86400}
	ctx := t.Context()
	spend := func() {
		if got, err := s.Spend(ctx, lineage, limits); err != nil || got.Code != projections.CodeValid {
			t.Fatal(got, err)
		}
	}
	for range 5000 { // until it asks for a lot at once
		spend()
	}
	if n := testing.AllocsPerRun(1000, spend); n >= 1 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Spend(ctx, lineage, nil) }); n != 0 {
		t.Errorf("%v allocations without limits", n)
	}
}

func TestLimiterRun(t *testing.T) {
	db := dbtest.New(t)
	_, pool := wired(t, db)
	w := &world{owner: ownerPool(t, db)}
	w.exec(t, `INSERT INTO limit_budgets VALUES ('lin_old', 'rate', 1, now() - interval '8 days', now() - interval '8 days', 1),
		('lin_ever', 'total', 0, to_timestamp(0), 'infinity', 1)`)
	w.exec(t, `INSERT INTO limit_shares VALUES ('lin_ever', 'total', 0, 'boot_old', to_timestamp(0), 1, 1, now() - interval '8 days')`)
	ignore := goleak.IgnoreCurrent()
	l := projections.NewLimiter(projections.LimiterConfig{Pool: pool})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { l.Run(ctx) })
	lineage := lineageID()
	if _, err := l.Spend(t.Context(), lineage, budgetOf(100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	done.Wait()
	if n := one[int64](t, w, `SELECT reserved FROM limit_budgets WHERE lineage_id = $1`, lineage.ID(domain.PrefixLineage)); n != 1 {
		t.Errorf("at the end %d are reserved, and 1 was spent", n)
	}
	if n := one[int](t, w, `SELECT (SELECT count(*) FROM limit_shares)::int + (SELECT count(*) FROM limit_budgets WHERE lineage_id = 'lin_old')::int`); n != 0 {
		t.Errorf("%d rows are left that nobody needs", n)
	}
	if n := one[int](t, w, `SELECT count(*)::int FROM limit_budgets WHERE lineage_id = 'lin_ever'`); n != 1 {
		t.Error("a budget for life was removed")
	}
	goleak.VerifyNone(t, ignore)
}
