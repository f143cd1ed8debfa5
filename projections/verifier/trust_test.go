package verifier

import (
	"context"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// apart moves the clocks of a time, the wall's and the monotonic one, each by its own span. There is no other way to do
// what the setting of a clock and the sleep of a machine do.
func apart(t time.Time, wall, monotonic time.Duration) time.Time {
	t = t.Add(wall)
	(*struct {
		_         uint64
		monotonic int64
	})(unsafe.Pointer(&t)).monotonic += int64(monotonic - wall)
	return t
}

// TestTrustEnds sets clocks apart: the trust ends with the first of them that has reached its end, so that neither a clock
// that is set back nor a machine that slept prolongs it.
func TestTrustEnds(t *testing.T) {
	t.Parallel()
	began := time.Now()
	trusted := &trust{until: began.Add(time.Second)}
	for _, c := range []struct {
		what            string
		wall, monotonic time.Duration
		want            bool
	}{
		{"at once", 0, 0, true},
		{"just before its end", time.Second - 1, time.Second - 1, true},
		{"at its end", time.Second, time.Second, false},
		{"the wall clock was set back", -time.Hour, time.Second, false},
		{"the wall clock was set back before the end", -time.Hour, time.Second - 1, true},
		{"the machine slept", time.Second, 0, false},
		{"the wall clock was set ahead", time.Hour, 0, false},
	} {
		now := apart(began, c.wall, c.monotonic)
		if wall := now.Round(0).Sub(began.Round(0)); wall != c.wall || now.Sub(began) != c.monotonic {
			t.Fatalf("the clocks are %v and %v ahead, not %v and %v", wall, now.Sub(began), c.wall, c.monotonic)
		}
		if got := trusted.at(now); got != c.want {
			t.Errorf("%s: it is trusted: %v", c.what, got)
		}
	}
	if (*trust)(nil).at(began) {
		t.Error("no trust is one")
	}
}

// unasked is a verifier whose Postgres is not there, so that only memory can answer.
func unasked(t *testing.T, now func() time.Time) *Verifier {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return New(Config{Reader: projections.NewReader(pool, pool), Now: now})
}

func secretIn(t *testing.T, m *memory) domain.Secret {
	t.Helper()
	secret, err := domain.MintSecret(nil, "rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	m.put(&projections.Key{Secret: domain.SecretFacts{Digest: secret.Digest()}, State: domain.GenerationActive})
	return secret
}

// TestTrustOfBeforeTheLookup holds a verify up between its lookup and the look at its trust, which has run out. Meanwhile the
// log is applied, which ends the key, and a new trust begins. What the lookup found is of before: it must not be believed.
func TestTrustOfBeforeTheLookup(t *testing.T) {
	t.Parallel()
	m := newMemory(applied{})
	secret, digest := secretIn(t, m), domain.Digest{}
	digest = secret.Digest()
	var v *Verifier
	v = unasked(t, func() time.Time {
		if v != nil && m.table.get(&digest) != nil {
			m.end(m.table.get(&digest))
			v.believe(m, time.Now().Add(time.Minute))
		}
		return time.Now()
	})
	v.memory.Store(m)
	v.believe(m, time.Now().Add(-time.Second))
	if record, err := v.Authenticate(context.Background(), secret.Reveal()); err == nil || record != nil {
		t.Error("it answered from memory")
	}
}

// TestGivenUpMemoryIsNotTrusted gives a memory up while its lease is renewed: the trust ends at once, and does not come back.
func TestGivenUpMemoryIsNotTrusted(t *testing.T) {
	t.Parallel()
	v := unasked(t, nil)
	m := newMemory(applied{})
	secret := secretIn(t, m)
	v.memory.Store(m)
	v.believe(m, time.Now().Add(time.Minute))
	if record, err := v.Authenticate(context.Background(), secret.Reveal()); err != nil || record == nil {
		t.Fatalf("it does not answer from memory: %v", err)
	}
	v.reload(m)
	for range 2 {
		if v.State().Trusted {
			t.Fatal("it is trusted")
		}
		if record, err := v.Authenticate(context.Background(), secret.Reveal()); err == nil || record != nil {
			t.Error("it answered from memory")
		}
		v.believe(m, time.Now().Add(time.Minute)) // the renewal that was under way
	}
}
