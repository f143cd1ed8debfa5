package commands_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/projections"
)

func TestRotateKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	project := tenant.Key.ProjectID

	t.Run("Answer", func(t *testing.T) {
		old := w.create(t, by, commands.CreateKey{ProjectID: project, Name: "ci", Scopes: domain.Scopes{"a"}, ExpiresAt: w.clock.in(24 * time.Hour)})
		w.clock.step(time.Minute)
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: old.Key.ID, Grace: new(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		r, end := rotated.Rotated, w.clock.Now().Add(time.Hour)
		want := commands.RotatedKey{
			Rotated: domain.Rotated{
				RotationID: r.RotationID, Trigger: domain.TriggerManual, PreviousKeyID: old.Key.ID, KeyID: r.KeyID, Generation: 2,
				SecretFacts: domain.FactsOf(rotated.Secret), GraceSeconds: 3600, Acknowledged: domain.AckAnswer, GraceExpiresAt: &end,
			},
			ProjectID: project, CreatedAt: w.clock.Now(), Version: 2,
			Settings: domain.Settings{Name: "ci", Scopes: domain.Scopes{"a"}, ExpiresAt: old.Key.ExpiresAt, GraceSeconds: 3600},
		}
		if diff := cmp.Diff(want, rotated, cmp.Comparer(func(a, b domain.Secret) bool { return true })); diff != "" {
			t.Error(diff)
		}
		next := w.key(t, by, r.KeyID)
		if next.LineageID != old.Key.LineageID || next.State != domain.GenerationActive || next.CreatedBy != domain.Actor(tenant.Key.ID) {
			t.Errorf("the new key is %+v", next)
		}
		before := w.key(t, by, old.Key.ID)
		if before.State != domain.GenerationGrace || *before.ReplacedBy != r.KeyID || !before.GraceExpiresAt.Equal(end) {
			t.Errorf("the old key is %+v", before)
		}
		if v := w.verdict(t, by, rotated.Secret); !v.Valid() || v.Key.ID != r.KeyID {
			t.Errorf("the new secret is %s", v.Code)
		}
	})

	t.Run("GraceZeroEndsTheOldKeyNow", func(t *testing.T) {
		old := w.create(t, by, commands.CreateKey{ProjectID: project})
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: old.Key.ID, Grace: atOnce})
		if err != nil {
			t.Fatal(err)
		}
		if v := w.verdict(t, by, old.Secret); v.Code != projections.CodeGraceExpired {
			t.Errorf("the old secret is %s", v.Code)
		}
		if n := one[int](t, w, "SELECT count(*) FROM due_work WHERE lineage_id = $1", old.Key.LineageID); n != 0 || !rotated.Rotated.GraceExpiresAt.Equal(w.clock.Now()) {
			t.Errorf("%d pieces of work, grace until %v", n, rotated.Rotated.GraceExpiresAt)
		}
	})

	t.Run("Refuses", func(t *testing.T) {
		old := w.create(t, by, commands.CreateKey{ProjectID: project})
		next, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: old.Key.ID, Grace: new(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		rotate := func(id domain.KeyID, grace time.Duration) error {
			rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: id, Grace: &grace})
			if err != nil && (!rotated.Secret.IsZero() || rotated.ProjectID != "" || rotated.Settings.Name != "") {
				t.Error("a refusal gave something away")
			}
			return err
		}
		err = rotate(old.Key.ID, time.Hour)
		wantCode(t, "key in grace", err, domain.CodeKeyNotActive)
		if refusal, _ := errors.AsType[*domain.Error](err); refusal.Details["active_key_id"] != next.Rotated.KeyID {
			t.Errorf("the refusal says %v", refusal.Details)
		}
		wantCode(t, "grace below zero", rotate(next.Rotated.KeyID, -1), domain.CodeValidation)
		wantCode(t, "grace over a month", rotate(next.Rotated.KeyID, domain.MaxGrace+1), domain.CodeValidation)
		id := next.Rotated.KeyID
		for range domain.MaxInGrace - 1 {
			again, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: id, Grace: new(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			id = again.Rotated.KeyID
		}
		wantCode(t, "too many in grace", rotate(id, time.Hour), domain.CodeTooManyInGrace)
		if err := rotate(id, 0); err != nil {
			t.Errorf("with grace 0 it must be possible: %v", err)
		}
	})
}

// A rotation by interval is made by the sweep, waits sealed, and ends the old key only after it was acknowledged.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/", ExpiresAt: w.clock.in(time.Hour)})
	w.sweep(t)
	if n := one[int](t, w, "SELECT count(*) FROM rotations"); n != 0 {
		t.Fatal("rotated before its time")
	}
	rotation := w.rotateDue(t, key.Key)
	secret, err := w.OpenPending(t.Context(), rotation)
	if err != nil {
		t.Fatal(err)
	}
	v := w.verdict(t, by, secret)
	if v.Status != domain.StatusPending || !v.Valid() || v.Key.CreatedBy != domain.ActorSweep || *v.Key.RotationID != rotation {
		t.Errorf("the new key is %s, made by %s", v.Status, v.Key.CreatedBy)
	}
	if v := w.verdict(t, by, key.Secret); v.Status != domain.StatusActive {
		t.Errorf("G2: the old key is %s before the acknowledgment", v.Status)
	}
	_, err = w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID, Grace: new(time.Minute)})
	wantCode(t, "rotating while one waits", err, domain.CodeRotationInProgress)

	// While it waits, nothing is due, however late it is.
	w.clock.step(30 * time.Minute)
	w.sweep(t)
	if v := w.verdict(t, by, key.Secret); v.Status != domain.StatusActive || v.Key.GraceExpiresAt != nil {
		t.Errorf("G2: the old key is %s until %v though its successor waits", v.Status, v.Key.GraceExpiresAt)
	}

	acknowledged, err := w.Acknowledge(t.Context(), commands.System(domain.ActorDeliver), key.Key.LineageID, rotation, domain.AckAccepted,
		func(b *pgx.Batch, events []domain.Event) error {
			b.Queue("INSERT INTO webhook_attempts (delivery_id, number, started_at) VALUES ($1, 1, now())", events[0].ID)
			return nil
		})
	if err != nil || !acknowledged || one[int](t, w, "SELECT count(*) FROM webhook_attempts") != 1 {
		t.Fatalf("acknowledged %v, %v, and what commits with it", acknowledged, err)
	}
	again, err := w.Acknowledge(t.Context(), commands.System(domain.ActorDeliver), key.Key.LineageID, rotation, domain.AckAccepted, nil)
	if err != nil || again {
		t.Errorf("a second acknowledgment counted: %v, %v", again, err)
	}
	if gone, err := w.OpenPending(t.Context(), rotation); err != nil || !gone.IsZero() {
		t.Errorf("the secret still waits: %v", err)
	}
	if v := w.verdict(t, by, key.Secret); v.Status != domain.StatusGrace {
		t.Errorf("the old key is %s", v.Status)
	}
	w.clock.step(30 * time.Second)
	w.sweep(t)
	if k := w.key(t, by, key.Key.ID); k.State != domain.GenerationRetired {
		t.Errorf("after its grace the old key is %s", k.State)
	}
	if _, err := w.Acknowledge(t.Context(), by, key.Key.LineageID, rotation, domain.AckAccepted, nil); domain.CodeOf(err) != domain.CodeNoRotation {
		t.Errorf("an ended rotation: %v", err)
	}
	w.clock.step(time.Hour)
	w.sweep(t)
	if n := one[int](t, w, "SELECT count(*) FROM keys WHERE lineage_id = $1 AND state IN ('pending', 'active', 'grace')", key.Key.LineageID); n != 0 {
		t.Errorf("%d keys live on after the end of their life", n)
	}
	if n := one[int](t, w, "SELECT count(*) FROM due_work"); n != 0 {
		t.Errorf("%d pieces of work are left", n)
	}
	w.check(t)
}

// What is not due any more, or of a lineage that is gone, does nothing; and one bad piece does not spoil the others.
func TestSweepOfStaleWork(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	a := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60})
	b := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60})
	w.clock.step(time.Hour)
	due, err := w.reader.Due(t.Context(), w.clock.Now(), 10)
	if err != nil || len(due) != 2 {
		t.Fatalf("due: %+v, %v", due, err)
	}
	if err := w.RevokeKey(t.Context(), by, a.Key.ID, ""); err != nil {
		t.Fatal(err)
	}
	due = append(due,
		projections.DueWork{LineageID: "lin_gone", Due: domain.Due{Kind: domain.DueRotate, KeyID: "key_gone"}},
		projections.DueWork{LineageID: b.Key.LineageID, Due: domain.Due{Kind: domain.DueGrace, KeyID: b.Key.ID}},
		projections.DueWork{LineageID: b.Key.LineageID, Due: domain.Due{Kind: domain.DueExpire, KeyID: b.Key.ID}},
	)
	for i, outcome := range w.Sweep(t.Context(), due) {
		want := ""
		switch {
		case due[i].LineageID == "lin_gone":
			want = string(domain.CodeNotFound)
		case due[i].LineageID == b.Key.LineageID && due[i].Kind == domain.DueRotate:
			want = "1 events"
		default:
			want = "0 events"
		}
		got := fmt.Sprint(len(outcome.Records), " events")
		if outcome.Err != nil {
			got = string(domain.CodeOf(outcome.Err))
		}
		if got != want {
			t.Errorf("%+v: got %s, want %s", due[i], got, want)
		}
	}
	if len(w.Sweep(t.Context(), nil)) != 0 {
		t.Error("nothing has an outcome")
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/"})
	rotation := w.rotateDue(t, key.Key)
	for i, want := range []bool{true, false} {
		stalled, err := w.Stall(t.Context(), commands.System(domain.ActorDeliver), key.Key.LineageID, rotation, "gone", nil)
		if err != nil || stalled != want {
			t.Errorf("time %d: stalled %v, %v", i+1, stalled, err)
		}
	}
	if v := w.verdict(t, by, key.Secret); v.Status != domain.StatusActive {
		t.Errorf("G2: the old key is %s", v.Status)
	}
	if secret, err := w.OpenPending(t.Context(), rotation); err != nil || secret.IsZero() {
		t.Errorf("the secret of a stalled rotation must wait on: %v", err)
	}
	// A late sign still counts.
	if acknowledged, err := w.Acknowledge(t.Context(), commands.System(domain.ActorDeliver), key.Key.LineageID, rotation, domain.AckAccepted, nil); err != nil || !acknowledged {
		t.Errorf("acknowledged late: %v, %v", acknowledged, err)
	}
}

// The successor is handed out once, however many claim at the same moment from however many replicas.
func TestClaimSuccessorOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	replicas := []*replica{w.replica, w.another(t)}
	by, tenant := w.root(t)
	for round := range 10 {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60})
		own := commands.By{Caller: key.Key.Caller()}
		_, err := w.ClaimSuccessor(t.Context(), own, key.Key)
		wantCode(t, "nothing to claim", err, domain.CodeNoRotation)
		rotation := w.rotateDue(t, key.Key)
		presented := w.key(t, by, key.Key.ID)
		var won, lost atomic.Int64
		together(8, func(i int) {
			claimed, err := replicas[i%2].ClaimSuccessor(t.Context(), own, presented)
			if err != nil {
				wantCode(t, "a loser", err, domain.CodeNoRotation)
				if !claimed.Secret.IsZero() {
					t.Error("a loser got the secret")
				}
				lost.Add(1)
				return
			}
			won.Add(1)
			a := claimed.Acknowledged
			if v := w.verdict(t, by, claimed.Secret); v.Status != domain.StatusActive || v.Key.ID != a.KeyID {
				t.Errorf("the claimed secret is %s", v.Status)
			}
			if a.RotationID != rotation || a.PreviousKeyID != key.Key.ID || a.Level != domain.AckClaim || !a.GraceExpiresAt.Equal(w.clock.Now().Add(30*time.Second)) {
				t.Errorf("acknowledged: %+v", a)
			}
		})
		if won.Load() != 1 || lost.Load() != 7 {
			t.Errorf("round %d: %d got the secret, %d did not", round, won.Load(), lost.Load())
		}
		if v := w.verdict(t, by, key.Secret); v.Status != domain.StatusGrace {
			t.Errorf("the old key is %s", v.Status)
		}
	}
	w.check(t)
}

func TestClaimSuccessorRefuses(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	hooked := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/"})
	w.rotateDue(t, hooked.Key)
	_, err := w.ClaimSuccessor(t.Context(), by, w.key(t, by, hooked.Key.ID))
	wantCode(t, "it is sent to the webhook", err, domain.CodeNoRotation)

	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60})
	rotation := w.rotateDue(t, key.Key)
	secret, err := w.OpenPending(t.Context(), rotation)
	if err != nil {
		t.Fatal(err)
	}
	pending := w.verdict(t, by, secret).Key
	_, err = w.ClaimSuccessor(t.Context(), by, pending)
	wantCode(t, "the successor itself", err, domain.CodeNoRotation)
	presented := w.key(t, by, key.Key.ID)
	if err := w.RevokeKey(t.Context(), by, key.Key.ID, ""); err != nil {
		t.Fatal(err)
	}
	_, err = w.ClaimSuccessor(t.Context(), by, presented) // authenticated just before
	wantCode(t, "revoked meanwhile", err, domain.CodeNoRotation)
}

// The first use of a pending key proves that its secret arrived.
func TestFirstUse(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/"})
	rotation := w.rotateDue(t, key.Key)
	secret, err := w.OpenPending(t.Context(), rotation)
	if err != nil {
		t.Fatal(err)
	}
	pending := w.verdict(t, by, secret).Key
	w.FirstUse(w.key(t, by, key.Key.ID)) // a use of the old one says nothing
	for range 100 {                      // many uses at once are one acknowledgment
		w.FirstUse(pending)
	}
	until(t, "the rotation is acknowledged", func() bool { return w.key(t, by, pending.ID).State == domain.GenerationActive })
	until(t, "all are done", func() bool { return w.FirstUses() == 0 })
	history, err := w.reader.History(t.Context(), projections.ReachOf(by.Caller), key.Key.LineageID, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	last := history[len(history)-1]
	a, ok := last.Data.(domain.RotationAcknowledged)
	if !ok || a.Level != domain.AckFirstUse || last.Actor != domain.Actor(pending.ID) || len(history) != 3 {
		t.Errorf("%d events, the last is %+v", len(history), last)
	}
	w.check(t)
}

// Not parallel, so that no other test's goroutines are about.
func TestFirstUseLeavesNoGoroutines(t *testing.T) {
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/"})
	secret, err := w.OpenPending(t.Context(), w.rotateDue(t, key.Key))
	if err != nil {
		t.Fatal(err)
	}
	pending := w.verdict(t, by, secret).Key
	ignore := goleak.IgnoreCurrent()
	for range 200 {
		w.FirstUse(pending)
	}
	until(t, "all are done", func() bool { return w.FirstUses() == 0 })
	goleak.VerifyNone(t, ignore)
}

// A sealed value does not open under another master key, nor in another row, and neither error shows it.
func TestSealedValuesStayClosed(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	var rotations []domain.RotationID
	var endpoints []domain.EndpointID
	for range 2 {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID, RotationIntervalSeconds: 60, WebhookURL: "https://a.example.com/"})
		rotations, endpoints = append(rotations, w.rotateDue(t, key.Key)), append(endpoints, *key.Key.EndpointID)
	}
	w.exec(t, "UPDATE pending_secrets SET sealed = (SELECT sealed FROM pending_secrets WHERE rotation_id = $2) WHERE rotation_id = $1", rotations[0], rotations[1])
	w.exec(t, "UPDATE endpoint_secrets SET sealed = (SELECT sealed FROM endpoint_secrets WHERE endpoint_id = $2 AND kind = 'v1') WHERE endpoint_id = $1", endpoints[0], endpoints[1])
	if secret, err := w.OpenPending(t.Context(), rotations[0]); err == nil || !secret.IsZero() {
		t.Error("a secret opened in another row")
	}
	if secrets, err := w.SigningKeys(t.Context(), endpoints[:1]); err == nil || len(secrets) != 0 {
		t.Error("a signing secret opened in another row")
	}
	other, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w.sealer = other
	stranger := w.another(t)
	if secret, err := stranger.OpenPending(t.Context(), rotations[1]); !errors.Is(err, seal.ErrWrongKey) || !secret.IsZero() {
		t.Errorf("under another master key: %v", err)
	}
	if _, err := stranger.SigningKeys(t.Context(), endpoints[1:]); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("under another master key: %v", err)
	}
}
