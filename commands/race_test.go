package commands_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// At one expected version exactly one of k racing writers wins, in one process and in two; the others learn that they
// lost, and at which version the key is now.
func TestExactlyOneWinsAtOneExpectedVersion(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := []*replica{w.replica, w.another(t)}
	by, tenant := w.root(t)
	const writers, rounds = 8, 25
	for round := range rounds {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID}).Key
		for range round % 3 { // not always the first version
			if _, _, err := w.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: key.ID, Name: domain.ChangeTo(fmt.Sprint(w.clock.Now()))}); err != nil {
				t.Fatal(err)
			}
			w.clock.step(time.Second)
		}
		seen := w.key(t, by, key.ID).Version
		expecting := by
		expecting.Expected = &seen
		var won, lost atomic.Int64
		together(writers, func(i int) {
			err := write(replicas[i%2], expecting, key.ID, i)
			switch domain.CodeOf(err) {
			case domain.CodeVersionConflict:
				lost.Add(1)
			default:
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
				won.Add(1)
			}
		})
		if won.Load() != 1 || lost.Load() != writers-1 {
			t.Errorf("round %d: %d won and %d lost", round, won.Load(), lost.Load())
		}
		if now := one[int64](t, w, "SELECT version FROM streams WHERE stream_id = $1", key.LineageID); now != seen+1 {
			t.Errorf("round %d: the version went from %d to %d", round, seen, now)
		}
	}
	w.check(t)
}

// write is a command of one kind or another.
func write(r *replica, by commands.By, key domain.KeyID, i int) error {
	ctx := context.Background()
	switch i % 4 {
	case 0:
		return r.RevokeKey(ctx, by, key, "lost")
	case 1:
		_, err := r.RotateKey(ctx, by, commands.RotateKey{KeyID: key, Grace: new(time.Hour)})
		return err
	case 2:
		_, err := r.RotateKey(ctx, by, commands.RotateKey{KeyID: key, Grace: atOnce})
		return err
	default:
		_, _, err := r.UpdateKey(ctx, by, domain.UpdateKey{KeyID: key, Name: domain.ChangeTo(fmt.Sprint("writer ", i))})
		return err
	}
}

func TestExpectedVersion(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID}).Key
	for version, want := range map[int64]domain.Code{0: domain.CodeVersionConflict, 2: domain.CodeVersionConflict, -1: domain.CodeVersionConflict} {
		by.Expected = &version
		_, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.ID, Grace: atOnce})
		wantCode(t, fmt.Sprint("version ", version), err, want)
	}
	version := key.Version
	by.Expected = &version
	if _, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.ID, Grace: atOnce}); err != nil {
		t.Error(err)
	}
}

// G1: when revoke, or a rotation with grace 0, has answered, no verify that starts later says valid, on any replica, while
// many others verify the same keys.
func TestG1RevokedMeansRevoked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	there := w.another(t)
	by, tenant := w.root(t)
	ctx, stop := context.WithCancel(context.Background())
	var current atomic.Pointer[ended]
	hammering := make(chan struct{})
	go func() {
		defer close(hammering)
		together(8, func(i int) { hammer(ctx, t, []*replica{w.replica, there}[i%2], by, &current) })
	}()
	for i := range 60 {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
		now := &ended{secret: key.Secret}
		current.Store(now)
		if v := there.verdict(t, by, key.Secret); !v.Valid() {
			t.Fatalf("a new key is %s on the other replica", v.Code)
		}
		want := projections.CodeRevoked
		if i%2 == 0 {
			if err := w.RevokeKey(t.Context(), by, key.Key.ID, "lost"); err != nil {
				t.Fatal(err)
			}
		} else {
			want = projections.CodeGraceExpired
			if _, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID, Grace: atOnce}); err != nil {
				t.Fatal(err)
			}
		}
		now.answered.Store(true)
		for _, r := range []*replica{there, w.replica} {
			if v := r.verdict(t, by, key.Secret); v.Code != want {
				t.Errorf("after the answer it is %s, want %s", v.Code, want)
			}
			if caller, err := r.verifier.Authenticate(t.Context(), key.Secret.Reveal()); caller != nil || err != nil {
				t.Errorf("after the answer it still authenticates: %v", err)
			}
		}
	}
	stop()
	<-hammering
}

// ended is a key, and whether its end has been answered.
type ended struct {
	secret   domain.Secret
	answered atomic.Bool
}

// hammer verifies the current key over and over. A verify that begins after the answer must not say valid.
func hammer(ctx context.Context, t *testing.T, r *replica, by commands.By, current *atomic.Pointer[ended]) {
	for ctx.Err() == nil {
		k := current.Load()
		if k == nil {
			continue
		}
		answered := k.answered.Load()
		v, err := r.verifier.Verify(context.Background(), projections.VerifyRequest{Reach: projections.ReachOf(by.Caller), Secret: k.secret.Reveal()})
		if err != nil {
			t.Error(err)
			return
		}
		if answered && v.Valid() {
			t.Error("a verify that began after the answer said valid")
			return
		}
	}
}

// R5: creating, rotating, revoking and sweeping the same keys from two replicas at once takes locks in one order.
func TestR5NoDeadlocks(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := []*replica{w.replica, w.another(t, func(c *eventstore.Config) { c.Writers = 4 })}
	by, tenant := w.root(t)
	keys := make([]domain.KeyID, 12)
	for i := range keys {
		keys[i] = w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 2}).Key.ID
	}
	w.clock.step(time.Hour)
	allowed := map[domain.Code]bool{
		domain.CodeKeyNotActive: true, domain.CodeRotationInProgress: true, domain.CodeTooManyInGrace: true, domain.CodeVersionConflict: true,
	}
	together(12, func(g int) {
		r := replicas[g%2]
		for i := range 12 {
			var err error
			switch (g + i) % 6 {
			case 0:
				_, err = r.CreateKey(context.Background(), by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, Name: "more"})
			case 1:
				_, err = r.CreateEnvironment(context.Background(), by, tenant.Key.ProjectID, fmt.Sprintf("env-%d-%d", g, i))
			case 2:
				w.clock.step(3 * time.Second)
				var due []projections.DueWork
				if due, err = r.reader.Due(context.Background(), w.clock.Now(), 20); err == nil {
					for _, outcome := range r.Sweep(context.Background(), due) {
						if outcome.Err != nil {
							err = outcome.Err
						}
					}
				}
			default:
				err = write(r, by, keys[(g*7+i)%len(keys)], 1+(g+i)%3)
			}
			if err != nil && !allowed[domain.CodeOf(err)] {
				t.Errorf("%v", err)
			}
		}
	})
	if n := one[int](t, w, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	w.check(t)
}

// G1: commands can be decided ahead, on what an earlier one of the same process will have done. If another replica revokes
// the key first, the earlier one fails, and what was built on it must fail with it: it would bring a revoked key back.
func TestG1RevokeWinsAgainstCommandsDecidedAhead(t *testing.T) {
	t.Parallel()
	w := setup(t)
	there := w.another(t)
	by, tenant := w.root(t)
	for _, ahead := range []func(id domain.KeyID) error{
		func(id domain.KeyID) error {
			_, err := w.RotateKey(context.Background(), by, commands.RotateKey{KeyID: id, Grace: new(time.Hour)})
			return err
		},
		func(id domain.KeyID) error {
			_, err := w.RotateKey(context.Background(), by, commands.RotateKey{KeyID: id, Grace: atOnce})
			return err
		},
	} {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
		// Nobody appends while this is held; the revoke has its head and waits.
		lane, err := w.owner.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lane.Exec(t.Context(), "SELECT pg_advisory_xact_lock(hashtext('rekey.lane'), 1)"); err != nil {
			t.Fatal(err)
		}
		waiting := func(n int) func() bool {
			return func() bool {
				return one[int](t, w, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == n
			}
		}
		revoked, updated, rotated := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { revoked <- there.RevokeKey(context.Background(), by, key.Key.ID, "leaked") }()
		until(t, "the revoke waits for the lane", waiting(1))
		go func() {
			_, _, err := w.UpdateKey(context.Background(), by, domain.UpdateKey{KeyID: key.Key.ID, Name: domain.ChangeTo("renamed")})
			updated <- err
		}()
		until(t, "the update waits for the head", waiting(2))
		minted := w.random.mints.Load()
		go func() { rotated <- ahead(key.Key.ID) }()
		// Where nothing is decided ahead, this is as far as it gets.
		decided := time.Now().Add(500 * time.Millisecond)
		until(t, "the rotation is decided", func() bool { return w.random.mints.Load() > minted || time.Now().After(decided) })
		if err := lane.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
		wantCode(t, "the update", <-updated, domain.CodeKeyNotActive)
		wantCode(t, "the rotation", <-rotated, domain.CodeKeyNotActive)
		for _, r := range []*replica{w.replica, there} {
			if v := r.verdict(t, by, key.Secret); v.Code != projections.CodeRevoked {
				t.Errorf("the revoked key is %s", v.Code)
			}
		}
		if n := one[int](t, w, "SELECT count(*) FROM keys WHERE lineage_id = $1 AND state IN ('active', 'pending', 'grace')", key.Key.LineageID); n != 0 {
			t.Errorf("%d keys of the revoked lineage live", n)
		}
	}
	w.check(t)
}
