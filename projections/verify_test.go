package projections_test

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// verify asks for a secret as its own organization.
func (w *world) verify(t *testing.T, m made, adjust ...func(*projections.VerifyRequest)) projections.Verdict {
	t.Helper()
	request := projections.VerifyRequest{Reach: m.reach(), Secret: m.secret.Reveal()}
	for _, f := range adjust {
		f(&request)
	}
	verdict, err := w.verifier.Verify(context.Background(), request)
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

// wantVerdict asserts code and status, that Valid agrees with the code, and that a valid key and no other authenticates.
func (w *world) wantVerdict(t *testing.T, what string, m made, code projections.Code, status domain.Status) {
	t.Helper()
	v := w.verify(t, m)
	if v.Code != code || v.Status != status || v.Valid() != (code == projections.CodeValid) {
		t.Errorf("%s: got %s, %q, valid %v, want %s, %q", what, v.Code, v.Status, v.Valid(), code, status)
	}
	if code != projections.CodeNotFound && (v.Key == nil || v.Key.ID != m.key || v.Key.LineageID != m.lineage) {
		t.Errorf("%s: the verdict is about %+v, want key %s", what, v.Key, m.key)
	}
	caller, err := w.verifier.Authenticate(context.Background(), m.secret.Reveal())
	if err != nil || (caller != nil) != v.Valid() {
		t.Errorf("%s: as a caller it is %v (%v), as a key %s", what, caller, err, v.Code)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)

	t.Run("ValidWhileActivePendingAndInGrace", func(t *testing.T) {
		first := w.create(t, acme, hourly, w.withWebhook)
		w.wantVerdict(t, "new key", first, projections.CodeValid, domain.StatusActive)
		w.clock.step(2 * time.Hour)
		second := w.rotateDue(t, first)
		w.wantVerdict(t, "old key before the acknowledgment", first, projections.CodeValid, domain.StatusActive)
		w.wantVerdict(t, "new key before the acknowledgment", second, projections.CodeValid, domain.StatusPending)
		w.acknowledge(t, second)
		w.wantVerdict(t, "old key in grace", first, projections.CodeValid, domain.StatusGrace)
		w.wantVerdict(t, "acknowledged key", second, projections.CodeValid, domain.StatusActive)
		v := w.verify(t, first)
		if v.Key.ReplacedBy == nil || *v.Key.ReplacedBy != second.key || v.Key.GraceExpiresAt == nil ||
			!v.Key.GraceExpiresAt.Equal(w.clock.Now().Add(30*time.Minute)) {
			t.Errorf("in grace it is replaced by %v until %v", v.Key.ReplacedBy, v.Key.GraceExpiresAt)
		}
	})

	t.Run("Revoked", func(t *testing.T) {
		first := w.create(t, acme)
		second := w.rotate(t, first, time.Hour)
		w.revoke(t, second)
		w.wantVerdict(t, "revoked key", second, projections.CodeRevoked, domain.StatusRevoked)
		w.wantVerdict(t, "its predecessor in grace", first, projections.CodeRevoked, domain.StatusRevoked)
	})

	// A pending key whose rotation was cancelled was never in force; for its holder it is revoked.
	t.Run("RevokedWhenDiscarded", func(t *testing.T) {
		first := w.create(t, acme, hourly)
		w.clock.step(2 * time.Hour)
		second := w.rotateDue(t, first)
		w.revoke(t, second)
		w.wantVerdict(t, "discarded key", second, projections.CodeRevoked, domain.StatusRevoked)
		w.wantVerdict(t, "its predecessor", first, projections.CodeValid, domain.StatusActive)
	})

	t.Run("GraceExpiredAtOnceWithGraceZero", func(t *testing.T) {
		first := w.create(t, acme)
		second := w.rotate(t, first, 0)
		w.wantVerdict(t, "old key", first, projections.CodeGraceExpired, domain.StatusRetired)
		w.wantVerdict(t, "new key", second, projections.CodeValid, domain.StatusActive)
	})

	t.Run("InsufficientScope", func(t *testing.T) {
		m := w.create(t, acme, func(s *domain.Settings) { s.Scopes = domain.Scopes{"deploy:*", "read"} })
		for _, c := range []struct {
			asked string
			want  projections.Code
		}{
			{"", projections.CodeValid}, {"read", projections.CodeValid}, {"deploy:prod read", projections.CodeValid},
			{"deploy", projections.CodeInsufficientScope}, {"*", projections.CodeInsufficientScope},
			{"read write", projections.CodeInsufficientScope}, {"READ", projections.CodeInsufficientScope},
		} {
			v := w.verify(t, m, func(r *projections.VerifyRequest) { r.Scopes = strings.Fields(c.asked) })
			if v.Code != c.want || v.Status != domain.StatusActive || v.Key == nil {
				t.Errorf("scopes %q: got %s, want %s", c.asked, v.Code, c.want)
			}
		}
	})

	t.Run("ResourceDenied", func(t *testing.T) {
		m := w.create(t, acme, func(s *domain.Settings) {
			s.Resources = domain.Resources{"app": {"com.demo.app"}, "org": {}}
		})
		for _, c := range []struct {
			kind, name string
			want       projections.Code
		}{
			{"app", "com.demo.app", projections.CodeValid}, {"file", "any", projections.CodeValid},
			{"app", "com.other.app", projections.CodeResourceDenied}, {"app", "", projections.CodeResourceDenied},
			{"org", "any", projections.CodeResourceDenied},
		} {
			v := w.verify(t, m, func(r *projections.VerifyRequest) { r.Resources = map[string]string{c.kind: c.name} })
			if v.Code != c.want {
				t.Errorf("%s %q: got %s, want %s", c.kind, c.name, v.Code, c.want)
			}
		}
	})

	// What a key may do is nobody's business once it has ended.
	t.Run("EndedBeforeScopes", func(t *testing.T) {
		m := w.create(t, acme, func(s *domain.Settings) { s.Scopes = domain.Scopes{"read"} })
		w.revoke(t, m)
		v := w.verify(t, m, func(r *projections.VerifyRequest) { r.Scopes = []string{"write"} })
		if v.Code != projections.CodeRevoked {
			t.Errorf("got %s", v.Code)
		}
	})

	// What applies first is told, and only a use that is valid is one: the budget of one use is there to the end.
	t.Run("LimitsInTheirOrder", func(t *testing.T) {
		pool := w.db.Pool(t)
		limited := projections.NewVerifier(w.reader, w.clock.Now)
		limited.Limit(projections.NewLimiter(projections.LimiterConfig{Pool: pool}))
		m := w.create(t, acme, func(s *domain.Settings) {
			s.Scopes, s.Resources = domain.Scopes{"read"}, domain.Resources{"app": {"a"}}
			s.Disabled, s.AllowedIPs = true, domain.Networks{netip.MustParsePrefix("10.0.0.0/8")}
			s.UsageLimit, s.RateLimit = &domain.UsageLimit{Uses: 2, Period: domain.UsageTotal}, &domain.RateLimit{Requests: 1, WindowSeconds: 86400}
		})
		request := projections.VerifyRequest{Reach: m.reach(), Secret: m.secret.Reveal(), Scopes: []string{"write"}, Resources: map[string]string{"app": "b"}}
		wants := func(want projections.Code) {
			t.Helper()
			v, err := limited.Verify(t.Context(), request)
			if err != nil || v.Code != want || v.Key == nil || v.Status != domain.StatusActive {
				t.Errorf("got %s, %v (%v), want %s", v.Code, v.Status, err, want)
			}
			if asked := v.Spending.UsageRemaining >= 0; asked != (want == projections.CodeValid || want == projections.CodeRateLimited || want == projections.CodeUsageExceeded) {
				t.Errorf("with %s the limits said %+v", want, v.Spending)
			}
		}
		change := func(f func(*domain.UpdateKey)) {
			t.Helper()
			w.decide(t, m, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				c := domain.UpdateKey{KeyID: m.key, Caller: domain.System()}
				f(&c)
				return l.Update(c, domain.Limits{}, now)
			})
		}
		wants(projections.CodeDisabled)
		if caller, err := limited.Authenticate(t.Context(), m.secret.Reveal()); caller != nil || err != nil {
			t.Errorf("disabled, it authenticates as %v (%v)", caller, err)
		}
		change(func(c *domain.UpdateKey) { c.Enabled = domain.ChangeTo(true) })
		wants(projections.CodeIPDenied)
		request.IP = netip.MustParseAddr("11.0.0.1")
		wants(projections.CodeIPDenied)
		request.IP = netip.MustParseAddr("10.0.0.1")
		wants(projections.CodeInsufficientScope)
		request.Scopes = nil
		wants(projections.CodeResourceDenied)
		request.Resources = nil
		wants(projections.CodeValid)
		wants(projections.CodeRateLimited)
		change(func(c *domain.UpdateKey) { c.RateLimit = domain.ChangeTo[*domain.RateLimit](nil) })
		wants(projections.CodeValid)
		wants(projections.CodeUsageExceeded)
		if w.verify(t, m, func(r *projections.VerifyRequest) { *r = request }).Code != projections.CodeValid {
			t.Error("a verifier without a limiter keeps limits")
		}
	})

	// G6: a key of another organization answers exactly like one that does not exist.
	t.Run("G6NotFoundForOthers", func(t *testing.T) {
		m := w.create(t, acme)
		m.organization = w.tenant(t).organization
		if v := w.verify(t, m); v != (projections.Verdict{Code: projections.CodeNotFound}) {
			t.Errorf("another organization got %+v", v)
		}
		m.organization = ""
		if v := w.verify(t, m); v != (projections.Verdict{Code: projections.CodeNotFound}) {
			t.Errorf("no organization got %+v", v)
		}
	})
}

// R44: a deadline is enforced by time alone. Nothing sweeps here, so no event records that it passed; the deadline itself
// is the first instant that is refused.
func TestR44DeadlinesNeedNoWorker(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	expires := w.clock.in(24 * time.Hour)
	lived := w.create(t, acme, func(s *domain.Settings) { s.ExpiresAt = expires })
	old := w.create(t, acme)
	successor := w.rotate(t, old, time.Hour)
	graceEnd := *w.clock.in(time.Hour)
	// A grace that is longer than the life ends with the life, as retired.
	short := w.create(t, acme, func(s *domain.Settings) { s.ExpiresAt = w.clock.in(time.Minute) })
	shortNext := w.rotate(t, short, time.Hour)
	shortEnd := *w.clock.in(time.Minute)
	head := one[int64](t, w, "SELECT max(position) FROM events")

	w.clock.moveTo(shortEnd.Add(-time.Microsecond))
	w.wantVerdict(t, "grace before the end of its short life", short, projections.CodeValid, domain.StatusGrace)
	w.clock.moveTo(shortEnd)
	w.wantVerdict(t, "grace at the end of its short life", short, projections.CodeGraceExpired, domain.StatusRetired)
	w.wantVerdict(t, "active at the end of its short life", shortNext, projections.CodeExpired, domain.StatusExpired)

	w.clock.moveTo(graceEnd.Add(-time.Microsecond))
	w.wantVerdict(t, "just before the end of its grace", old, projections.CodeValid, domain.StatusGrace)
	w.clock.moveTo(graceEnd)
	w.wantVerdict(t, "at the end of its grace", old, projections.CodeGraceExpired, domain.StatusRetired)
	w.wantVerdict(t, "its successor", successor, projections.CodeValid, domain.StatusActive)

	w.clock.moveTo(expires.Add(-time.Microsecond))
	w.wantVerdict(t, "just before the end of its life", lived, projections.CodeValid, domain.StatusActive)
	w.clock.moveTo(*expires)
	w.wantVerdict(t, "at the end of its life", lived, projections.CodeExpired, domain.StatusExpired)
	w.clock.step(1000 * time.Hour)
	w.wantVerdict(t, "long after its grace", old, projections.CodeGraceExpired, domain.StatusRetired)
	w.wantVerdict(t, "long after its life", lived, projections.CodeExpired, domain.StatusExpired)
	if now := one[int64](t, w, "SELECT max(position) FROM events"); now != head {
		t.Errorf("the log went on to %d from %d: this test must not depend on events", now, head)
	}
}

// counter counts the queries of a pool.
type counter struct{ queries atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.queries.Add(1)
	return ctx
}

func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.queries.Add(1)
	return ctx
}

func (c *counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (c *counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// countingReader is a reader whose queries are counted.
func (w *world) countingReader(t *testing.T) (*projections.Reader, *counter) {
	t.Helper()
	config, err := pgxpool.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	config.AfterConnect = migrations.AsRole
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	tenants := dbtest.Tenants(t, pool)
	for _, p := range []*pgxpool.Pool{pool, tenants} {
		if err := p.Ping(context.Background()); err != nil { // connecting asks too
			t.Fatal(err)
		}
	}
	c.queries.Store(0)
	return projections.NewReader(pool, tenants), c
}

// Garbage and a secret with a wrong checksum cost no query; whoever floods us with them loads no database.
func TestVerifyRefusesGarbageWithoutAQuery(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t))
	reader, c := w.countingReader(t)
	verifier := projections.NewVerifier(reader, w.clock.Now)
	good := m.secret.Reveal()
	// change returns the secret with another base62 character at i.
	change := func(i int) string {
		other := "a"
		if good[i] == 'a' {
			other = "b"
		}
		return good[:i] + other + good[i+1:]
	}
	garbage := map[string]string{
		"empty": "", "short": "rk_live_abc", "long": strings.Repeat("x", domain.MaxSecretLength+1), "spaces": strings.Repeat(" ", 40),
		"NUL": good[:len(good)-1] + "\x00", "newline": good + "\n", "not ASCII": strings.Repeat("é", 30),
		"wrong checksum": change(len(good) - 1), "another environment": strings.Replace(good, "_live_", "_test_", 1),
		"one character changed": change(10),
	}
	for what, secret := range garbage {
		v, err := verifier.Verify(t.Context(), projections.VerifyRequest{Reach: m.reach(), Secret: secret})
		if err != nil || v != (projections.Verdict{Code: projections.CodeNotFound}) {
			t.Errorf("%s: got %+v, %v", what, v, err)
		}
		if key, err := verifier.Authenticate(t.Context(), secret); key != nil || err != nil {
			t.Errorf("%s: as a caller got %+v, %v", what, key, err)
		}
	}
	if n := c.queries.Load(); n != 0 {
		t.Errorf("garbage cost %d queries", n)
	}
	// Text in another form could be an installed key, so it is looked up, and so is a good one.
	for _, secret := range []string{strings.Repeat("f", domain.MinSecretLength), good} {
		if _, err := verifier.Verify(t.Context(), projections.VerifyRequest{Reach: m.reach(), Secret: secret}); err != nil {
			t.Error(err)
		}
	}
	if n := c.queries.Load(); n != 2 {
		t.Errorf("two possible secrets cost %d queries, want 2", n)
	}
}

// Without a store there is no verdict: an error, never an answer.
func TestVerifyWithoutStore(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t))
	pool := w.db.Pool(t)
	pool.Close()
	verifier := projections.NewVerifier(projections.NewReader(pool, pool), w.clock.Now)
	v, err := verifier.Verify(t.Context(), projections.VerifyRequest{Reach: m.reach(), Secret: m.secret.Reveal()})
	if domain.CodeOf(err) != domain.CodeUnavailable || v != (projections.Verdict{}) {
		t.Errorf("got %+v, %v", v, err)
	}
	if key, err := verifier.Authenticate(t.Context(), m.secret.Reveal()); domain.CodeOf(err) != domain.CodeUnavailable || key != nil {
		t.Errorf("as a caller got %+v, %v", key, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.verifier.Verify(ctx, projections.VerifyRequest{Reach: m.reach(), Secret: m.secret.Reveal()}); err != nil && domain.CodeOf(err) != domain.CodeUnavailable {
		t.Errorf("a caller who went away got %v", err)
	}
}
