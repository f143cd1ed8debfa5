package verifier_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// TestG1RevokedMeansRevoked takes rights away of which two verifiers have just said from memory that they are there: when
// the command is answered neither says so any more, though both still answer from memory.
func TestG1RevokedMeansRevoked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	a, _ := w.verifier(t, w.db.Pool(t))
	b, _ := w.verifier(t, w.db.Pool(t))
	narrowed := domain.UpdateKey{Scopes: domain.Change[domain.Scopes]{Set: true, Value: domain.Scopes{"other"}}}
	for name, take := range map[string]func(commands.CreatedKey) (projections.Code, error){
		"revoke": func(k commands.CreatedKey) (projections.Code, error) {
			return projections.CodeRevoked, w.RevokeKey(t.Context(), w.by, k.Key.ID, "leaked")
		},
		"revoke twice": func(k commands.CreatedKey) (projections.Code, error) {
			first := make(chan error, 1)
			go func() { first <- w.RevokeKey(t.Context(), w.by, k.Key.ID, "leaked") }()
			return projections.CodeRevoked, errors.Join(w.RevokeKey(t.Context(), w.by, k.Key.ID, "leaked"), <-first)
		},
		"cut-over": func(k commands.CreatedKey) (projections.Code, error) {
			grace := time.Duration(0)
			_, err := w.RotateKey(t.Context(), w.by, commands.RotateKey{KeyID: k.Key.ID, Grace: &grace})
			return projections.CodeGraceExpired, err
		},
		"narrower scopes": func(k commands.CreatedKey) (projections.Code, error) {
			c := narrowed
			c.KeyID = k.Key.ID
			_, _, err := w.UpdateKey(t.Context(), w.by, c)
			return projections.CodeInsufficientScope, err
		},
	} {
		for range 20 {
			made := w.key(t)
			for _, v := range []*verifier.Verifier{a, b} {
				until(t, "the key is in memory", func() bool { answer := w.ask(t, v, made.Secret); return answer.Memory && answer.Valid() })
			}
			want, err := take(made)
			must(t, err)
			for _, v := range []*verifier.Verifier{a, b} {
				request := projections.VerifyRequest{Reach: projections.ReachOf(w.by.Caller), Secret: made.Secret.Reveal(), Scopes: []string{"read"}}
				answer, err := v.Verify(t.Context(), &request)
				must(t, err)
				if answer.Code != want {
					t.Fatalf("after %s the answer is %s (from memory: %v), want %s", name, answer.Code, answer.Memory, want)
				}
			}
		}
	}
}

// TestG1CutOff holds up one verifier's line to Postgres. A revoke is answered only when that one does not trust its memory
// any more; and it must have trusted it for a while, or nothing was shown.
func TestG1CutOff(t *testing.T) {
	t.Parallel()
	w := setup(t)
	pool, line := w.linked(t)
	near, _ := w.verifier(t, w.db.Pool(t))
	far, _ := w.verifier(t, pool)
	for range 3 {
		made := w.key(t)
		until(t, "the key is in the far memory", func() bool {
			return far.State().Trusted && w.ask(t, far, made.Secret).Memory && w.ask(t, far, made.Secret).Valid()
		})
		line.hold(true)
		answered := make(chan error, 1)
		go func() { answered <- w.RevokeKey(context.Background(), w.by, made.Key.ID, "leaked") }()
		until(t, "the near one knows of the revoke", func() bool { return w.ask(t, near, made.Secret).Code == projections.CodeRevoked })
		if answer := w.ask(t, far, made.Secret); !answer.Valid() || !answer.Memory {
			t.Errorf("the far one says %s (from memory: %v): nothing is shown", answer.Code, answer.Memory)
		}
		began := time.Now()
		err := <-answered
		answer, trusted := w.ask(t, far, made.Secret), far.State().Trusted
		line.hold(false)
		must(t, err)
		if trusted || answer.Valid() {
			t.Errorf("the revoke was answered, and the far one says %s (trusts its memory: %v)", answer.Code, trusted)
		}
		if took := time.Since(began); took > 2*ttl+2*time.Second {
			t.Errorf("the revoke took %v, with leases of %v", took, ttl)
		}
	}
}

// TestG1CutOffAndAskedTwice repeats requests whose first answers are still waited for, as a client does that lost patience. There
// is nothing left to do, and yet their answers wait too.
func TestG1CutOffAndAskedTwice(t *testing.T) {
	t.Parallel()
	w := setup(t)
	pool, line := w.linked(t)
	near, _ := w.verifier(t, w.db.Pool(t))
	far, _ := w.verifier(t, pool)
	for name, prepare := range map[string]func(commands.CreatedKey) func() error{
		"revoke": func(k commands.CreatedKey) func() error {
			return func() error { return w.RevokeKey(context.Background(), w.by, k.Key.ID, "leaked") }
		},
		"bulk": func(commands.CreatedKey) func() error {
			bulk := commands.BulkRevoke{Selection: projections.Selection{Project: w.tenant.Key.ProjectID}, DryRun: true}
			dry, err := w.BulkRevoke(t.Context(), w.by, bulk)
			must(t, err)
			bulk.DryRun, bulk.Token = false, dry.Token
			return func() error { _, err := w.BulkRevoke(context.Background(), w.by, bulk); return err }
		},
		"leak": func(k commands.CreatedKey) func() error {
			return func() error {
				_, err := w.ReportLeaks(context.Background(), "req_test", []commands.Leak{{Secret: k.Secret.Reveal(), Source: "test"}})
				return err
			}
		},
	} {
		made := w.key(t)
		take := prepare(made)
		until(t, "the key is in the far memory", func() bool { return far.State().Trusted && w.ask(t, far, made.Secret).Memory })
		line.hold(true)
		first := make(chan error, 1)
		go func() { first <- take() }()
		until(t, "the near one knows", func() bool { return w.ask(t, near, made.Secret).Code == projections.CodeRevoked })
		err := take()
		answer := w.ask(t, far, made.Secret)
		line.hold(false)
		must(t, errors.Join(err, <-first))
		if answer.Valid() {
			t.Errorf("the second answer to %s was there, and the far one says valid (from memory: %v)", name, answer.Memory)
		}
	}
}

// TestLapsedLeaseBeginsAnew lets a lease run out: the verifier applies what was committed meanwhile before it trusts its
// memory again.
func TestLapsedLeaseBeginsAnew(t *testing.T) {
	t.Parallel()
	w := setup(t)
	pool, line := w.linked(t)
	v, _ := w.verifier(t, pool)
	made := w.key(t)
	until(t, "the key is in memory", func() bool { return w.ask(t, v, made.Secret).Memory })
	line.hold(true)
	until(t, "the lease has run out", func() bool { return !v.State().Trusted })
	must(t, w.RevokeKey(t.Context(), w.by, made.Key.ID, "leaked")) // nobody waits for the verifier now
	line.hold(false)
	until(t, "it answers from memory again", func() bool {
		answer := w.ask(t, v, made.Secret)
		if answer.Valid() {
			t.Fatalf("the revoked key is valid (from memory: %v)", answer.Memory)
		}
		return answer.Memory
	})
}

// TestAnotherLog puts another event in the place of the one that was applied last, as a database does that was restored to
// an earlier state and went on from there. The memory of what is not there any more is given up.
func TestAnotherLog(t *testing.T) {
	t.Parallel()
	w := setup(t)
	v, _ := w.verifier(t, w.db.Pool(t))
	made := w.key(t)
	until(t, "the key is in memory", func() bool { return w.ask(t, v, made.Secret).Memory })
	owner := w.db.OwnerPool(t)
	for _, sql := range []string{
		"UPDATE events SET event_id = event_id || 'x' WHERE lane = 1 AND position = (SELECT max(position) FROM events WHERE lane = 1)",
		"DELETE FROM keys WHERE id = '" + string(made.Key.ID) + "'",
	} {
		_, err := owner.Exec(t.Context(), sql)
		must(t, err)
	}
	until(t, "the key is forgotten", func() bool {
		answer := w.ask(t, v, made.Secret)
		return answer.Code == projections.CodeNotFound && v.State().Trusted
	})
}

// TestStoppedVerifierHoldsNobodyUp ends a verifier: it gives its lease back, and a revoke waits for nobody.
func TestStoppedVerifierHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w := setup(t)
	v, stop := w.verifier(t, w.db.Pool(t))
	made := w.key(t)
	stop()
	if v.State().Trusted {
		t.Error("it trusts its memory after its end")
	}
	var leases int
	must(t, w.db.OwnerPool(t).QueryRow(t.Context(), "SELECT count(*) FROM verifier_leases").Scan(&leases))
	if leases != 0 {
		t.Errorf("%d leases are left", leases)
	}
	must(t, w.RevokeKey(t.Context(), w.by, made.Key.ID, "leaked"))
	if answer := w.ask(t, v, made.Secret); answer.Code != projections.CodeRevoked || answer.Memory {
		t.Errorf("it says %s (from memory: %v)", answer.Code, answer.Memory)
	}
}

// TestUnknownIsAskedOnce presents a secret of no key again and again: Postgres is asked once, until there is such a key.
func TestUnknownIsAskedOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	v, _ := w.verifier(t, w.db.Pool(t))
	unknown, err := domain.MintSecret(nil, "rk", "live")
	must(t, err)
	if answer := w.ask(t, v, unknown); answer.Code != projections.CodeNotFound || answer.Memory {
		t.Errorf("at first it is %s (from memory: %v)", answer.Code, answer.Memory)
	}
	if answer := w.ask(t, v, unknown); answer.Code != projections.CodeNotFound || !answer.Memory {
		t.Errorf("then it is %s (from memory: %v)", answer.Code, answer.Memory)
	}
	made := w.key(t)
	must(t, w.RevokeKey(t.Context(), w.by, made.Key.ID, ""))
	for i := range 2 {
		if answer := w.ask(t, v, made.Secret); answer.Code != projections.CodeRevoked || answer.Memory != (i > 0) {
			t.Errorf("ask %d for an ended key: %s (from memory: %v)", i, answer.Code, answer.Memory)
		}
	}
}

// TestG1BarrierBesideItsOwnVerifier waits at the barrier of a process that has a verifier too, which it knows more of than
// its lease says. Whichever of the two verifiers is cut off: after the wait nobody says that the key is valid.
func TestG1BarrierBesideItsOwnVerifier(t *testing.T) {
	t.Parallel()
	for cut, name := range []string{"nobody", "its own", "another"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			var verifiers []*verifier.Verifier
			var lines []*link
			for range 2 {
				pool, line := w.linked(t)
				v, _ := w.verifier(t, pool)
				verifiers, lines = append(verifiers, v), append(lines, line)
			}
			barrier := verifier.NewBarrier(verifier.BarrierConfig{Pool: w.db.Pool(t), TTL: ttl, Local: verifiers[0]})
			made := w.key(t)
			for _, v := range verifiers {
				until(t, "the key is in memory", func() bool { return w.ask(t, v, made.Secret).Memory })
			}
			if cut > 0 {
				lines[cut-1].hold(true)
			}
			nobodyWaits := commands.By{Caller: w.by.Caller}
			must(t, w.RevokeKey(t.Context(), nobodyWaits, made.Key.ID, "leaked"))
			head, err := w.store.Head(t.Context(), eventstore.Lifecycle)
			must(t, err)
			must(t, barrier.Wait(t.Context(), head))
			for i, v := range verifiers {
				if answer := w.ask(t, v, made.Secret); answer.Valid() {
					t.Errorf("verifier %d says it is valid (from memory: %v)", i, answer.Memory)
				}
			}
			for _, line := range lines {
				line.hold(false)
			}
		})
	}
}

// TestBarrierWithoutPostgres waits at a barrier that cannot ask for the leases: time alone ends the wait.
func TestBarrierWithoutPostgres(t *testing.T) {
	t.Parallel()
	w := setup(t)
	pool := w.db.Pool(t)
	pool.Close()
	barrier := verifier.NewBarrier(verifier.BarrierConfig{Pool: pool, TTL: 100 * time.Millisecond})
	began := time.Now()
	must(t, barrier.Wait(t.Context(), 1))
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("it waited %v, less than two lives of a lease", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := barrier.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("after its caller left: %v", err)
	}
}
