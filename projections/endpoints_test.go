package projections_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// attached carries a command out for what is to commit with it.
func (w *world) attached(t *testing.T, m made, attach func(batch *pgx.Batch)) {
	t.Helper()
	c := onLineage(m.lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		name := domain.ChangeTo(l.Settings.Name + "'")
		return l.Update(domain.UpdateKey{KeyID: m.key, Name: name, Caller: domain.System()}, domain.Limits{}, now)
	})
	c.Attach = func(batch *pgx.Batch, _ []domain.Event) error {
		attach(batch)
		return nil
	}
	w.execute(t, c)
}

// what an endpoint signs with is newest first, and what was replaced signs until its own end and not a moment longer.
func TestEndpointSecrets(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t))
	begin := w.clock.Now()
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	pair := func(n string) []projections.SealedSecret {
		return []projections.SealedSecret{{Kind: "v1", Sealed: []byte("shared " + n)}, {Kind: "v1a", Sealed: []byte("pair " + n)}}
	}
	replace := func(n string, version int64, end, now time.Time) {
		t.Helper()
		w.attached(t, m, func(batch *pgx.Batch) {
			projections.QueueReplaceSecrets(batch, "ep_1", end, now)
			projections.QueueEndpointSecrets(batch, "ep_1", version, pair(n), now)
		})
	}
	signs := func(now time.Time, want ...string) {
		t.Helper()
		got, err := w.reader.EndpointSecrets(t.Context(), []domain.EndpointID{"ep_1", "ep_3"}, now)
		var expected []projections.SealedSecret
		for _, n := range want {
			expected = append(expected, pair(n)...)
		}
		if diff := cmp.Diff(map[domain.EndpointID][]projections.SealedSecret{"ep_1": expected}, got); diff != "" || err != nil {
			t.Errorf("at %v: %v: %s", now.Sub(begin), err, diff)
		}
	}
	w.attached(t, m, func(batch *pgx.Batch) {
		projections.QueueEndpointSecrets(batch, "ep_1", 1, pair("1"), begin)
		projections.QueueEndpointSecrets(batch, "ep_2", 1, pair("of another"), begin)
	})
	signs(begin, "1")
	replace("2", 2, at(10), at(0))
	replace("3", 3, at(5), at(1))
	signs(at(1), "3", "2", "1")
	signs(at(5).Add(-time.Microsecond), "3", "2", "1")
	signs(at(5), "3", "1")
	signs(at(10), "3")

	removed, err := w.reader.ShredExpiredSecrets(t.Context(), at(9), 100)
	if err != nil || removed != 2 {
		t.Errorf("%d secrets were shredded, %v", removed, err)
	}
	signs(at(1), "3", "1") // what ran out later is still there
	replace("4", 4, at(9), at(9))
	signs(at(9), "4")
	if n := one[int](t, w, "SELECT count(*) FROM endpoint_secrets"); n != 4 {
		t.Errorf("%d rows, want a pair of each endpoint", n)
	}
}

// A database of the version before has one secret for each endpoint, all of them active and plain.
func TestEndpointRowsOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t))
	w.attached(t, m, func(batch *pgx.Batch) {
		batch.Queue("INSERT INTO endpoint_secrets (endpoint_id, sealed, created_at) VALUES ('ep_1', 'old', now())")
	})
	got, err := w.reader.EndpointSecrets(t.Context(), []domain.EndpointID{"ep_1"}, w.clock.Now())
	want := map[domain.EndpointID][]projections.SealedSecret{"ep_1": {{Kind: "v1", Sealed: []byte("old")}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
}
