package commands_test

import (
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

const week = 7 * 24 * time.Hour

// hourlyKey is a key with a receiver that rotates each hour, with half an hour of grace.
func (w *world) hourlyKey(t *testing.T, by commands.By, project domain.ProjectID) commands.CreatedKey {
	t.Helper()
	return w.create(t, by, commands.CreateKey{ProjectID: project, RotationIntervalSeconds: 3600, WebhookURL: "https://a.example.com/hook"})
}

func (w *world) rotation(t *testing.T, by commands.By, id domain.RotationID) *projections.Rotation {
	t.Helper()
	r, err := w.reader.Rotation(t.Context(), projections.ReachOf(by.Caller), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) wantVerdict(t *testing.T, what string, by commands.By, secret domain.Secret, want projections.Code) {
	t.Helper()
	if got := w.verdict(t, by, secret).Code; got != want {
		t.Errorf("%s is %s, want %s", what, got, want)
	}
}

// a receiver that is away for the whole window locks nobody out. The rotation is held, which is recorded each
// day; once the receiver is back it gets another secret, since the first one may not be readable any more.
func TestR48AReceiverThatIsAwayLocksNobodyOut(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	old := w.hourlyKey(t, by, tenant.Key.ProjectID)
	id := w.rotateDue(t, old.Key)
	first, err := w.OpenPending(t.Context(), id)
	if err != nil || first.IsZero() {
		t.Fatalf("the secret that waits: %v", err)
	}
	for range 3 {
		w.clock.step(week)
		w.sweep(t)
		w.wantVerdict(t, "the old key", by, old.Secret, projections.CodeValid)
		w.wantVerdict(t, "the new key", by, first, projections.CodeValid)
	}
	if r := w.rotation(t, by, id); r.State != domain.RotationStuck || !r.Overdue {
		t.Fatalf("rotation is %+v", r)
	}
	if n := one[int](t, w, "SELECT count(*) FROM events WHERE type = 'RotationTimedOut'"); n != 3 {
		t.Errorf("%d alarms", n)
	}
	again, err := w.RedeliverRotation(t.Context(), by, id, false)
	if err != nil || again.ID == id || again.State != domain.RotationDelivering {
		t.Fatalf("redelivered as %+v, %v", again, err)
	}
	second, err := w.OpenPending(t.Context(), again.ID)
	if err != nil || second.IsZero() {
		t.Fatalf("the second secret: %v", err)
	}
	w.wantVerdict(t, "the first secret", by, first, projections.CodeRevoked)
	if counted, err := w.Acknowledge(t.Context(), commands.System(domain.ActorDeliver), old.Key.LineageID, again.ID, domain.AckAccepted, nil); err != nil || !counted {
		t.Fatalf("acknowledged: %v, %v", counted, err)
	}
	w.wantVerdict(t, "the old key in grace", by, old.Secret, projections.CodeValid)
	w.clock.step(30*time.Minute - time.Microsecond)
	w.wantVerdict(t, "the old key just before its end", by, old.Secret, projections.CodeValid)
	w.clock.step(time.Microsecond) // exactly then
	w.wantVerdict(t, "the old key at its end", by, old.Secret, projections.CodeGraceExpired)
	w.wantVerdict(t, "the second secret", by, second, projections.CodeValid)
	w.sweep(t)
	if r := w.rotation(t, by, again.ID); r.State != domain.RotationCompleted {
		t.Errorf("rotation is %+v", r)
	}
	w.check(t)
}

// once a rotation was superseded, cancelled or its key revoked, its secret is refused, and no later sign
// of it changes anything.
func TestR54WhatHasEndedIsNotRevived(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	for name, c := range map[string]struct {
		end   func(key *projections.Key, id domain.RotationID) error
		state domain.RotationState
		old   projections.Code
	}{
		"superseded": {func(key *projections.Key, _ domain.RotationID) error {
			_, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.ID, Supersede: true})
			return err
		}, domain.RotationSuperseded, projections.CodeValid},
		"cancelled": {func(_ *projections.Key, id domain.RotationID) error {
			_, err := w.CancelRotation(t.Context(), by, id, "not now")
			return err
		}, domain.RotationAbandoned, projections.CodeValid},
		"revoked while it waits": {func(key *projections.Key, _ domain.RotationID) error {
			return w.RevokeKey(t.Context(), by, key.ID, "lost")
		}, domain.RotationAborted, projections.CodeRevoked},
		"revoked while it is stalled": {func(key *projections.Key, id domain.RotationID) error {
			if _, err := w.Stall(t.Context(), by, key.LineageID, id, "gone", nil); err != nil {
				return err
			}
			return w.RevokeKey(t.Context(), by, key.ID, "lost")
		}, domain.RotationAborted, projections.CodeRevoked},
		"revoked in the overlap": {func(_ *projections.Key, id domain.RotationID) error {
			r, err := w.ForceRotation(t.Context(), by, id)
			if err != nil {
				return err
			}
			return w.RevokeKey(t.Context(), by, r.ToKeyID, "lost")
		}, domain.RotationAborted, projections.CodeRevoked},
		"compromised": {func(key *projections.Key, _ domain.RotationID) error {
			_, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.ID, Compromised: true})
			return err
		}, domain.RotationSuperseded, projections.CodeRevoked},
	} {
		key := w.hourlyKey(t, by, tenant.Key.ProjectID)
		id := w.rotateDue(t, key.Key)
		secret, err := w.OpenPending(t.Context(), id)
		if err != nil || secret.IsZero() {
			t.Fatalf("%s: the secret that waits: %v", name, err)
		}
		if err := c.end(key.Key, id); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, level := range []domain.AckLevel{domain.AckAccepted, domain.AckFirstUse, domain.AckClaim} {
			_, err := w.Acknowledge(t.Context(), commands.System(domain.ActorDeliver), key.Key.LineageID, id, level, nil)
			wantCode(t, name+", "+string(level), err, domain.CodeNoRotation)
		}
		_, err = w.RollBackRotation(t.Context(), by, id)
		wantCode(t, name+", rolled back", err, domain.CodeRotationState)
		if r := w.rotation(t, by, id); r.State != c.state {
			t.Errorf("%s: the rotation is %s", name, r.State)
		}
		w.wantVerdict(t, name+": the new secret", by, secret, projections.CodeRevoked)
		w.wantVerdict(t, name+": the old secret", by, key.Secret, c.old)
		if waits := one[int](t, w, "SELECT count(*) FROM pending_secrets WHERE rotation_id = $1", id); waits != 0 {
			t.Errorf("%s: the secret still waits", name)
		}
	}
	w.check(t)
}

// TestRollBack swaps the keys while both are valid, and back again: nothing that was revoked lives by it.
func TestRollBack(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	old := w.hourlyKey(t, by, tenant.Key.ProjectID)
	id := w.rotateDue(t, old.Key)
	newer, err := w.OpenPending(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ForceRotation(t.Context(), by, id); err != nil {
		t.Fatal(err)
	}
	r, err := w.RollBackRotation(t.Context(), by, id)
	if err != nil || r.State != domain.RotationUndone {
		t.Fatalf("rolled back: %+v, %v", r, err)
	}
	if k := w.key(t, by, r.FromKeyID); k.State != domain.GenerationActive || k.GraceExpiresAt != nil || k.ReplacedBy != nil || k.NextRotationAt == nil {
		t.Errorf("the old key is %+v", k)
	}
	if k := w.key(t, by, r.ToKeyID); k.State != domain.GenerationGrace || k.ReplacedBy == nil || *k.ReplacedBy != r.FromKeyID {
		t.Errorf("the newer key is %+v", k)
	}
	w.wantVerdict(t, "the old key", by, old.Secret, projections.CodeValid)
	w.wantVerdict(t, "the newer key", by, newer, projections.CodeValid)
	w.clock.step(30 * time.Minute)
	w.wantVerdict(t, "the newer key after its grace", by, newer, projections.CodeGraceExpired)
	w.wantVerdict(t, "the old key", by, old.Secret, projections.CodeValid)
	w.sweep(t)
	w.check(t)
}

// of many who rotate at once one is let through, and those who come later find its key.
func TestR52OneOfManyRotates(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.hourlyKey(t, by, tenant.Key.ProjectID)
	errs := make([]error, 100)
	together(len(errs), func(i int) {
		_, errs[i] = w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID})
	})
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if code := domain.CodeOf(err); code != domain.CodeKeyNotActive && code != domain.CodeVersionConflict {
			t.Errorf("refused: %v", err)
		}
	}
	if made != 1 {
		t.Errorf("%d rotations", made)
	}
	w.clock.step(2 * time.Hour)
	due, err := w.reader.Due(t.Context(), w.clock.Now(), 100)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := make([][]eventstore.Outcome, 8) // of schedulers that all found the same slot
	together(len(outcomes), func(i int) { outcomes[i] = w.Sweep(t.Context(), due) })
	if n := one[int](t, w, "SELECT count(*) FROM rotations WHERE trigger = 'interval'"); n != 1 {
		t.Errorf("%d rotations of one slot", n)
	}
}

// TestRotationOfABlockedReceiver: an endpoint that is disabled holds the rotation up and touches no key; once it is back
// the rotation begins.
func TestRotationOfABlockedReceiver(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.hourlyKey(t, by, tenant.Key.ProjectID)
	if _, err := w.DisableEndpoint(t.Context(), by, *key.Key.EndpointID, "moved"); err != nil {
		t.Fatal(err)
	}
	w.clock.step(90 * time.Minute)
	for range 3 {
		w.sweep(t)
	}
	if n := one[int](t, w, "SELECT count(*) FROM events WHERE type = 'RotationBlocked'"); n != 1 {
		t.Errorf("%d times it was said to be blocked", n)
	}
	if n := one[int](t, w, "SELECT count(*) FROM rotations"); n != 0 {
		t.Errorf("%d rotations began", n)
	}
	w.wantVerdict(t, "the key", by, key.Secret, projections.CodeValid)
	if _, err := w.EnableEndpoint(t.Context(), by, *key.Key.EndpointID); err != nil {
		t.Fatal(err)
	}
	w.clock.step(time.Hour) // it was put aside for up to an hour
	w.sweep(t)
	if n := one[int](t, w, "SELECT count(*) FROM rotations WHERE state = 'delivering'"); n != 1 {
		t.Errorf("%d rotations wait", n)
	}
	w.check(t)
}

// TestG6RotationsOfOthersAreNone: whatever is asked of somebody else's rotation, it is the one answer for none.
func TestG6RotationsOfOthersAreNone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	root, tenant := w.root(t)
	key := w.hourlyKey(t, root, tenant.Key.ProjectID)
	foreign, unknown := w.rotateDue(t, key.Key), domain.RotationID("rot_01jz8q0v6me5et8b3k2c9d4x7a")
	other, _ := w.tenant(t, root)
	limited := root
	limited.Caller.Resources = domain.Resources{domain.ResourceProject: {"proj_01jz8q0v6me5et8b3k2c9d4x7a"}}
	before := one[int](t, w, "SELECT count(*) FROM events")
	for name, by := range map[string]commands.By{"another organization": other, "another project": limited} {
		for what, do := range map[string]func(domain.RotationID) error{
			"cancel":    func(id domain.RotationID) error { _, err := w.CancelRotation(t.Context(), by, id, ""); return err },
			"force":     func(id domain.RotationID) error { _, err := w.ForceRotation(t.Context(), by, id); return err },
			"roll back": func(id domain.RotationID) error { _, err := w.RollBackRotation(t.Context(), by, id); return err },
			"redeliver": func(id domain.RotationID) error { _, err := w.RedeliverRotation(t.Context(), by, id, true); return err },
			"end":       func(id domain.RotationID) error { _, err := w.EndGrace(t.Context(), by, id); return err },
			"change": func(id domain.RotationID) error {
				_, err := w.ChangeGrace(t.Context(), by, id, *w.clock.in(time.Hour))
				return err
			},
			"read": func(id domain.RotationID) error {
				_, err := w.reader.Rotation(t.Context(), projections.ReachOf(by.Caller), id)
				return err
			},
		} {
			sameRefusal(t, name+", "+what, do(foreign), do(unknown))
			wantCode(t, name+", "+what, do(foreign), domain.CodeNotFound)
		}
		list, err := w.reader.Rotations(t.Context(), projections.RotationList{Reach: projections.ReachOf(by.Caller), Limit: 10})
		if err != nil || len(list) != 0 {
			t.Errorf("%s lists %v, %v", name, list, err)
		}
	}
	if after := one[int](t, w, "SELECT count(*) FROM events"); after != before {
		t.Errorf("%d events were appended", after-before)
	}
}

// TestRowsKeepTheRulesOfALineage: the database refuses what no decision makes.
func TestRowsKeepTheRulesOfALineage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.hourlyKey(t, by, tenant.Key.ProjectID)
	id := w.rotateDue(t, key.Key)
	r := w.rotation(t, by, id)
	for what, sql := range map[string]string{
		"two active keys":                    "UPDATE keys SET state = 'active' WHERE id = '" + string(r.ToKeyID) + "'",
		"two pending keys":                   "UPDATE keys SET state = 'pending' WHERE lineage_id = '" + string(r.LineageID) + "'",
		"a deadline before the successor":    "UPDATE keys SET grace_expires_at = now() WHERE id = '" + string(r.FromKeyID) + "'",
		"a grace without an end":             "UPDATE keys SET state = 'grace' WHERE id = '" + string(r.FromKeyID) + "'",
		"an overlap without acknowledgment":  "UPDATE rotations SET state = 'overlap' WHERE id = '" + string(id) + "'",
		"a rotation that ended at no time":   "UPDATE rotations SET state = 'cancelled' WHERE id = '" + string(id) + "'",
		"a rotation that waits and has come": "UPDATE rotations SET acknowledged_at = now() WHERE id = '" + string(id) + "'",
	} {
		if _, err := w.owner.Exec(t.Context(), sql); err == nil {
			t.Errorf("the database takes %s", what)
		}
	}
	w.check(t)
}
