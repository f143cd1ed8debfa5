package projections_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// R42: a piece of work that fails is put off, later each time, and no other with it; and work is never put off that was
// not the one that failed.
func TestDueWork(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	a, b := w.create(t, acme, hourly), w.create(t, acme, hourly)
	due := func() []projections.DueWork {
		t.Helper()
		found, err := w.reader.Due(t.Context(), w.clock.Now(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := due(); len(found) != 0 {
		t.Errorf("due at once: %+v", found)
	}
	w.clock.step(2 * time.Hour)
	found := due()
	if len(found) != 2 || found[0].At.After(found[1].At) {
		t.Fatalf("due: %+v", found)
	}
	poison := found[slices.IndexFunc(found, func(d projections.DueWork) bool { return d.LineageID == a.lineage })]
	now := w.clock.Now()
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600} {
		if err := w.reader.Postpone(t.Context(), poison, now, "poison"); err != nil {
			t.Fatal(err)
		}
		if got := one[time.Time](t, w, "SELECT scan_at FROM due_work WHERE lineage_id = $1", a.lineage).Sub(now); got != want*time.Second {
			t.Errorf("after failure %d it is put off by %v, want %v", i+1, got, want*time.Second)
		}
	}
	if found := due(); len(found) != 1 || found[0].LineageID != b.lineage {
		t.Errorf("beside the poison key, due: %+v", found)
	}
	if reason := one[string](t, w, "SELECT last_error FROM due_work WHERE lineage_id = $1", a.lineage); reason != "poison" {
		t.Errorf("the reason is %q", reason)
	}
	w.clock.step(time.Hour)
	if len(due()) != 2 {
		t.Error("what was put off did not come back")
	}
	w.rotate(t, a, 0) // moves the rotation on: another piece of work, of the new key
	w.rotate(t, b, time.Hour)
	before := w.dueRows(t)
	if err := w.reader.Postpone(t.Context(), poison, w.clock.Now(), "late"); err != nil {
		t.Fatal(err)
	}
	poison.KeyID = domain.KeyID(one[string](t, w, "SELECT key_id FROM due_work WHERE lineage_id = $1 AND kind = 'rotate'", a.lineage))
	if err := w.reader.Postpone(t.Context(), poison, w.clock.Now(), "late"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.dueRows(t)); diff != "" {
		t.Errorf("work that is not due any more was put off: %s", diff)
	}
}

func (w *world) dueRows(t *testing.T) []string {
	t.Helper()
	rows, err := w.owner.Query(t.Context(), "SELECT d::text FROM due_work d ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A secret that waits is stored with the event that makes it wait, and shredded with the one that ends that.
func TestPendingSecretLivesAsLongAsItsRotationWaits(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	for what, end := range map[string]func(m made){
		"acknowledged": func(m made) { w.acknowledge(t, m) },
		"cancelled":    func(m made) { w.revoke(t, m) },
		"superseded":   func(m made) { m.key = w.activeOf(t, m); w.rotate(t, m, 0) },
		"revoked":      func(m made) { m.key = w.activeOf(t, m); w.revoke(t, m) },
	} {
		m := w.create(t, acme, hourly, w.withWebhook)
		w.clock.step(2 * time.Hour)
		m, rotation := w.rotateSealed(t, m)
		if sealed, err := w.reader.PendingSecret(t.Context(), rotation); err != nil || sealed == nil || string(sealed.Sealed) != "sealed" {
			t.Errorf("%s: while it waits: %q, %v", what, sealed, err)
		}
		waiting, endpoint, err := w.reader.WaitingRotation(t.Context(), m.reach(), m.lineage)
		if err != nil || waiting != rotation || endpoint == "" {
			t.Errorf("%s: waiting is %q for %q, %v", what, waiting, endpoint, err)
		}
		w.decide(t, m, func(l *domain.Lineage, _ time.Time) ([]domain.Decided, error) { return l.Stall(rotation, "gone") })
		if sealed, err := w.reader.PendingSecret(t.Context(), rotation); err != nil || sealed == nil || string(sealed.Sealed) != "sealed" {
			t.Errorf("%s: while it is stalled: %q, %v", what, sealed, err)
		}
		end(m)
		if sealed, err := w.reader.PendingSecret(t.Context(), rotation); err != nil || sealed != nil {
			t.Errorf("%s: afterwards: %q, %v", what, sealed, err)
		}
		if waiting, _, err := w.reader.WaitingRotation(t.Context(), m.reach(), m.lineage); err != nil || waiting != "" {
			t.Errorf("%s: still waiting: %q, %v", what, waiting, err)
		}
	}
}

// activeOf is the active key of a lineage.
func (w *world) activeOf(t *testing.T, m made) domain.KeyID {
	t.Helper()
	return domain.KeyID(one[string](t, w, "SELECT id FROM keys WHERE lineage_id = $1 AND state = 'active'", m.lineage))
}

// rotateSealed is an interval rotation that stores its secret, as the sweep does.
func (w *world) rotateSealed(t *testing.T, m made) (made, domain.RotationID) {
	t.Helper()
	next, rotation := m, newID[domain.RotationID](w, domain.PrefixRotation)
	c := w.sealedRotation(m, &next, rotation)
	if records := w.execute(t, c); len(records) != 1 {
		t.Fatalf("key %s was not due", m.key)
	}
	return next, rotation
}

func (w *world) sealedRotation(m made, next *made, rotation domain.RotationID) eventstore.Command {
	next.key = newID[domain.KeyID](w, domain.PrefixKey)
	rotate := domain.RotateKey{
		KeyID: m.key, NewKeyID: next.key, RotationID: rotation, Trigger: domain.TriggerInterval,
		Caller: domain.System(), Mint: mintInto(&next.secret),
	}
	c := onLineage(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) { return l.Rotate(rotate, now) })
	c.Attach = func(batch *pgx.Batch, events []domain.Event) error {
		projections.QueuePendingSecret(batch, projections.PendingSecret{
			RotationID: rotation, KeyID: next.key, Mode: domain.SecretPlain, Sealed: []byte("sealed"), CreatedAt: events[0].OccurredAt,
		})
		return nil
	}
	return c
}

// A rotation can begin and end in one joined transaction: the sweep mints, the owner revokes. Its secret must not stay
// behind, because nothing would ever shred it.
func TestPendingSecretOfARotationThatEndsInItsOwnTransaction(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t), hourly, w.withWebhook)
	w.clock.step(2 * time.Hour)
	next := m
	rotation := newID[domain.RotationID](w, domain.PrefixRotation)
	begin := w.sealedRotation(m, &next, rotation)
	begin.Decide = func(decide func(eventstore.View, time.Time) ([]domain.Decided, error)) func(eventstore.View, time.Time) ([]domain.Decided, error) {
		return func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			out, err := decide(view, now)
			if err != nil {
				return nil, err
			}
			// What a joined revoke of the same transaction adds.
			end := out[0]
			end.Data = domain.Revoked{KeyID: m.key, KeyIDs: []domain.KeyID{m.key, next.key}}
			return append(out, end), nil
		}
	}(begin.Decide)
	if records := w.execute(t, begin); len(records) != 2 {
		t.Fatalf("got %d events", len(records))
	}
	if n := one[int](t, w, "SELECT count(*) FROM pending_secrets"); n != 0 {
		t.Errorf("%d secrets wait for a rotation that has ended", n)
	}
	w.check(t, w.connect(t))
}
