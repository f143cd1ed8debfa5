package projections_test

import (
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// counting is a Usage, which writes when it is told to.
func (w *world) counting(t *testing.T) *projections.Usage {
	t.Helper()
	return projections.NewUsage(projections.UsageConfig{Pool: w.db.Pool(t)})
}

// wantUse asserts what a key shows of its use.
func wantUse(t *testing.T, k *projections.Key, at time.Time, ip string, count int64) {
	t.Helper()
	switch {
	case k.LastUsedAt == nil || !k.LastUsedAt.Equal(at) || k.LastUsedAt.Location() != time.UTC:
		t.Errorf("key %s: last used at %v, want %s", k.ID, k.LastUsedAt, at)
	case k.UseCount != count:
		t.Errorf("key %s: used %d times, want %d", k.ID, k.UseCount, count)
	case ip == "" && k.LastUsedIP != nil, ip != "" && (k.LastUsedIP == nil || *k.LastUsedIP != ip):
		t.Errorf("key %s: last used from %v, want %q", k.ID, k.LastUsedIP, ip)
	}
}

func TestReaderShowsUse(t *testing.T) {
	t.Parallel()
	w := setup(t)
	u := w.counting(t)
	acme := w.tenant(t)
	used := w.create(t, acme)
	w.clock.step(time.Second)
	unused := w.create(t, acme)
	read := func(m made) *projections.Key {
		t.Helper()
		k, err := w.reader.Key(t.Context(), acme.reach(), m.key)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	at := w.clock.Now().Add(123456 * time.Microsecond)
	k := read(used)
	if k.LastUsedAt != nil || k.LastUsedIP != nil || k.UseCount != 0 {
		t.Errorf("a key that was never used shows %v, %v, %d", k.LastUsedAt, k.LastUsedIP, k.UseCount)
	}

	u.Used(k, "::ffff:192.0.2.1", at)
	flushed(t, u)
	if k := read(used); k.UseCount != 0 || k.UseCompleteUntil == nil || k.UseCompleteUntil.After(time.Now()) {
		t.Errorf("what is in no table yet is shown: %d uses, complete until %v", k.UseCount, k.UseCompleteUntil)
	}
	w.projected(t)
	wantUse(t, read(used), at, "192.0.2.1", 1)
	u.Used(k, fromB, at.Add(time.Second))
	u.Used(k, fromA, at.Add(-time.Second))
	w.counted(t, u)
	wantUse(t, read(used), at.Add(time.Second), fromB, 3)
	u.Used(k, "", at.Add(2*time.Second))
	w.counted(t, u)
	wantUse(t, read(used), at.Add(2*time.Second), "", 4)
	u.Used(k, fromA, at.Add(3*time.Second))
	w.counted(t, u)

	lists := map[string]func() ([]*projections.Key, error){
		"of a project": func() ([]*projections.Key, error) {
			return w.reader.Keys(t.Context(), projections.KeyList{Reach: acme.reach(), Project: acme.project, Now: w.clock.Now(), Limit: 10})
		},
		"of all projects": func() ([]*projections.Key, error) {
			return w.reader.Keys(t.Context(), projections.KeyList{Reach: acme.reach(), Now: w.clock.Now(), Limit: 10})
		},
	}
	for name, list := range lists {
		keys, err := list()
		if err != nil || len(keys) != 2 || keys[0].ID != unused.key {
			t.Fatalf("the list %s: %v, %v", name, keys, err)
		}
		wantUse(t, keys[1], at.Add(3*time.Second), fromA, 5)
		if keys[0].LastUsedAt != nil || keys[0].UseCount != 0 {
			t.Errorf("the list %s: a key that was never used shows a use", name)
		}
	}

	other := projections.NewUsage(projections.UsageConfig{Pool: w.db.Pool(t)}) // another replica
	other.Used(k, fromB, at.Add(time.Minute))
	w.counted(t, other)
	wantUse(t, read(used), at.Add(time.Minute), fromB, 6)

	key, err := w.verifier.Authenticate(t.Context(), used.secret.Reveal())
	if err != nil || key == nil || key.LastUsedAt != nil {
		t.Errorf("an authentication, which has no need of it, looks the use up: %v, %v", key, err)
	}
	conn := w.connect(t)
	w.check(t, conn) // the log says nothing of uses
	if _, err := projections.Rebuild(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	wantUse(t, read(used), at.Add(time.Minute), fromB, 6)
}

// G6: the use of a key is as well walled as the key: by its own table, not only by the key that it is shown with.
func TestG6UsageIsWalled(t *testing.T) {
	t.Parallel()
	w := setup(t)
	u := w.counting(t)
	acme, evil := w.tenant(t), w.tenant(t)
	m := w.create(t, acme)
	u.Used(&projections.Key{ID: m.key, LineageID: m.lineage, OrganizationID: m.organization}, fromA, w.clock.Now())
	w.counted(t, u)
	if _, err := w.reader.Key(t.Context(), evil.reach(), m.key); domain.CodeOf(err) != domain.CodeNotFound {
		t.Errorf("the other tenant gets %v", err)
	}
	conn := w.connect(t)
	for setting, want := range map[string]int{string(acme.organization): 1, string(evil.organization): 0, "": 0} {
		var rows int
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{"SET LOCAL ROLE rekey_tenant", "SET LOCAL rekey.organization = '" + setting + "'"} {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM key_usage`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if rows != want {
			t.Errorf("as %q: %d rows, want %d", setting, rows, want)
		}
		if _, err := tx.Exec(t.Context(), `DELETE FROM key_usage`); err == nil {
			t.Error("a tenant's role may write")
		}
		_ = tx.Rollback(t.Context())
	}
}
