package projections_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// a client is an address and what it says it is. Owners see their own, the latest first, and neither what another
// organization's clients are nor what is no plain text.
func TestGraceClients(t *testing.T) {
	t.Parallel()
	w := setup(t)
	acme := w.tenant(t)
	m := w.create(t, acme)
	old := &projections.Key{ID: m.key, LineageID: m.lineage, State: domain.GenerationGrace}
	w.rotate(t, m, time.Hour)
	rotation := one[domain.RotationID](t, w, "SELECT id FROM rotations WHERE from_key_id = $1", m.key)
	secret := m.secret.Reveal()

	uses := projections.NewGraceUses(w.db.Pool(t), nil)
	at := w.clock.Now()
	for i, agent := range []string{"curl/8", "curl/8", "", "a\x00b\xff\n c", "key=" + secret + ";", strings.Repeat("é", 400)} {
		uses.Used(old, netip.MustParseAddr("203.0.113.7"), agent, at.Add(time.Duration(i)*time.Second))
	}
	if err := uses.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Agent string
		Count int64
	}
	got := []seen{}
	found, err := w.reader.GraceClients(t.Context(), m.reach(), rotation)
	for _, c := range found {
		if c.Address != "203.0.113.7" || c.FirstSeenAt.After(c.LastSeenAt) {
			t.Errorf("%+v", c)
		}
		got = append(got, seen{c.Agent, c.Count})
	}
	want := []seen{{strings.Repeat("é", 256), 1}, {"key=[redacted];", 1}, {"ab c", 1}, {"", 1}, {"curl/8", 2}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("clients (-want +got), %v:\n%s", err, diff)
	}
	for _, reach := range []projections.Reach{{}, {Organization: "org_x"}, {Organization: m.organization, Projects: []string{"proj_x"}}} {
		if found, err := w.reader.GraceClients(t.Context(), reach, rotation); err != nil || len(found) != 0 {
			t.Errorf("within %+v: %+v, %v", reach, found, err)
		}
	}
}

// What clients say of themselves has no end, so the table is bounded: the rest are counted as one that is not known, and
// no use is lost.
func TestGraceClientsAreBounded(t *testing.T) {
	t.Parallel()
	w := setup(t)
	old := &projections.Key{ID: "key_old", LineageID: "lin_old", State: domain.GenerationGrace}
	uses := projections.NewGraceUses(w.db.Pool(t), nil)
	for flush := range 3 {
		for i := range 70 {
			uses.Used(old, netip.MustParseAddr("203.0.113.7"), fmt.Sprintf("agent %d", 50*flush+i), w.clock.Now()) // some of them again
		}
		if err := uses.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	rows := one[int](t, w, "SELECT count(*) FROM grace_usage WHERE key_id = 'key_old'")
	unknown := one[int](t, w, "SELECT use_count FROM grace_usage WHERE key_id = 'key_old' AND address = '' AND agent = ''")
	// 70 fit; of the next 70, 20 are known and 30 fit, in the order of their names: 100 to 119 among them. Those are known
	// when the last 70 come, of which none fits.
	if all := one[int](t, w, "SELECT sum(use_count) FROM grace_usage"); rows != 101 || unknown != 70 || all != 210 {
		t.Errorf("%d rows, %d uses by clients that are not known, %d in all; want 101, 70, 210", rows, unknown, all)
	}
}
