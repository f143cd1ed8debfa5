package commands_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

const leakPlace = "https://github.com/acme/demo/blob/main/.env"

// report reports secrets that were found in one place; it must succeed.
func (r *replica) report(t fataler, secrets ...string) []commands.LeakOutcome {
	t.Helper()
	leaks := make([]commands.Leak, len(secrets))
	for i, secret := range secrets {
		leaks[i] = commands.Leak{Secret: secret, Source: "github_commit", URL: leakPlace}
	}
	outcomes, err := r.ReportLeaks(context.Background(), "req_leak", leaks)
	if err != nil || len(outcomes) != len(leaks) {
		t.Fatalf("report: %d outcomes, %v", len(outcomes), err)
	}
	return outcomes
}

// leaksOf are the events of a lineage that tell of leaks or ends.
func (w *world) leaksOf(t fataler, id domain.LineageID) []domain.Event {
	t.Helper()
	records, err := eventstore.ReadStream(context.Background(), w.owner, string(id), 1, 1000)
	if err != nil {
		t.Fatalf("read the history: %v", err)
	}
	return eventstore.EventsOf(records)
}

func (w *world) onLeak(t fataler, by commands.By, project domain.ProjectID, action domain.LeakAction) {
	t.Helper()
	_, err := w.UpdateProject(context.Background(), by, domain.UpdateProject{ID: project, Policy: domain.PolicyChange{OnLeak: domain.ChangeTo(action)}})
	if err != nil {
		t.Fatalf("change the policy: %v", err)
	}
}

// G1: when a report was taken, the reported keys are dead on every replica, whichever organization they belong to.
func TestG1ReportedLeaksAreRevoked(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other := w.another(t)
	root, first := w.root(t)
	tenant, second := w.tenant(t, root)
	ours, theirs := w.create(t, root, commands.CreateKey{ProjectID: first.Key.ProjectID}), w.create(t, tenant, commands.CreateKey{ProjectID: second.Key.ProjectID})
	ended := w.create(t, root, commands.CreateKey{ProjectID: first.Key.ProjectID})
	if err := w.RevokeKey(t.Context(), root, ended.Key.ID, ""); err != nil {
		t.Fatal(err)
	}
	stranger, err := domain.MintSecret(nil, "rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	broken := []byte(stranger.Reveal())
	broken[10] ^= 1
	batch := []string{
		ours.Secret.Reveal(), "", "short", string(broken), theirs.Secret.Reveal(), stranger.Reveal(), ended.Secret.Reveal(),
		ours.Secret.Reveal(), strings.Repeat("x", 10_000), "a secret with spaces that is long enough \x00",
	}
	want := make([]commands.LeakOutcome, len(batch))
	for i, key := range map[int]domain.KeyID{0: ours.Key.ID, 4: theirs.Key.ID, 6: ended.Key.ID, 7: ours.Key.ID} {
		want[i] = commands.LeakOutcome{Known: true, KeyID: key}
	}
	if diff := cmp.Diff(want, w.report(t, batch...)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	for _, r := range []*replica{w.replica, other} {
		for _, c := range []struct {
			by  commands.By
			key commands.CreatedKey
		}{{root, ours}, {tenant, theirs}, {root, ended}} {
			if got := r.verdict(t, c.by, c.key.Secret).Code; got != projections.CodeRevoked {
				t.Errorf("%s is %s after it was reported", c.key.Key.ID, got)
			}
		}
	}
	for _, key := range []*projections.Key{ours.Key, theirs.Key} {
		events := w.leaksOf(t, key.LineageID)
		if len(events) != 2 {
			t.Fatalf("%d events", len(events))
		}
		for i, payload := range []domain.Payload{
			domain.LeakReported{KeyID: key.ID, Source: "github_commit", URL: leakPlace, Action: domain.LeakRevoke},
			domain.Revoked{KeyID: key.ID, KeyIDs: []domain.KeyID{key.ID}, Reason: "leaked"},
		} {
			if diff := cmp.Diff(payload, events[i].Data); diff != "" || events[i].Actor != domain.ActorLeak || events[i].RequestID != "req_leak" {
				t.Errorf("by %s, for %s (-want +got):\n%s", events[i].Actor, events[i].RequestID, diff)
			}
		}
	}
	if events := w.leaksOf(t, ended.Key.LineageID); len(events) != 1 {
		t.Errorf("a key that had ended has %d events", len(events))
	}
	// GitHub sends again what was not answered.
	before := one[int64](t, w, "SELECT count(*) FROM events")
	if diff := cmp.Diff(want, other.report(t, batch...)); diff != "" {
		t.Errorf("outcomes of the retry (-want +got):\n%s", diff)
	}
	if after := one[int64](t, w, "SELECT count(*) FROM events"); after != before {
		t.Errorf("the retry wrote %d events", after-before)
	}
	w.check(t)
}

// An old key in grace ends alone; the current one takes what is live of its lineage with it, as any revoke does.
func TestReportLeaksOfALineage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	old := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	hour := time.Hour
	rotate := func(id domain.KeyID) commands.RotatedKey {
		rotated, err := w.RotateKey(t.Context(), by, commands.RotateKey{KeyID: id, Grace: &hour})
		if err != nil {
			t.Fatal(err)
		}
		return rotated
	}
	second := rotate(old.Key.ID)
	w.report(t, old.Secret.Reveal())
	if got := w.verdict(t, by, old.Secret).Code; got != projections.CodeRevoked {
		t.Errorf("the old key is %s", got)
	}
	if got := w.verdict(t, by, second.Secret).Code; got != projections.CodeValid {
		t.Errorf("the new key is %s", got)
	}
	third := rotate(second.Rotated.KeyID)
	w.report(t, second.Secret.Reveal(), third.Secret.Reveal())
	for _, secret := range []domain.Secret{second.Secret, third.Secret} {
		if got := w.verdict(t, by, secret).Code; got != projections.CodeRevoked {
			t.Errorf("a key of the lineage is %s", got)
		}
	}
	w.check(t)
}

// A project that only wants to know is told of each place once, and its keys live until it thinks otherwise.
func TestReportLeaksOnlyTells(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	w.onLeak(t, by, tenant.Key.ProjectID, domain.LeakNotify)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	told := func(want int) {
		t.Helper()
		if events := w.leaksOf(t, key.Key.LineageID); len(events) != want {
			t.Errorf("%d events, want %d", len(events), want)
		}
	}
	for range 3 {
		w.report(t, key.Secret.Reveal(), key.Secret.Reveal())
		told(1)
	}
	var places []commands.Leak
	for i := range 50 {
		places = append(places, commands.Leak{Secret: key.Secret.Reveal(), Source: "possession", URL: fmt.Sprint("https://example.com/", i)})
	}
	if _, err := w.ReportLeaks(t.Context(), "", places); err != nil {
		t.Fatal(err)
	}
	told(domain.MaxLeaks)
	if got := w.verdict(t, by, key.Secret).Code; got != projections.CodeValid {
		t.Errorf("the key is %s", got)
	}
	w.check(t)
	w.onLeak(t, by, tenant.Key.ProjectID, domain.LeakRevoke)
	w.report(t, key.Secret.Reveal())
	told(domain.MaxLeaks + 2)
	if got := w.verdict(t, by, key.Secret).Code; got != projections.CodeRevoked {
		t.Errorf("the key is %s once the project revokes", got)
	}
	w.check(t)
}

// A report races against the rotation of its key on another replica. Whichever comes first, the reported secret is dead.
func TestG1ReportsRaceRotations(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other := w.another(t)
	by, tenant := w.root(t)
	hour := time.Hour
	for range 20 {
		key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
		together(3, func(i int) {
			switch i {
			case 0:
				_, err := other.RotateKey(t.Context(), by, commands.RotateKey{KeyID: key.Key.ID, Grace: &hour})
				if err != nil && domain.CodeOf(err) != domain.CodeKeyNotActive {
					t.Error(err)
				}
			default:
				w.report(t, key.Secret.Reveal())
				if got := other.verdict(t, by, key.Secret).Code; got != projections.CodeRevoked {
					t.Errorf("the key is %s after its report", got)
				}
			}
		})
	}
	w.check(t)
}

// As many as one report may hold, live keys among them, well within the time that GitHub waits.
func TestReportThousandLeaks(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	batch := make([]string, commands.MaxLeaks)
	together(len(batch), func(i int) {
		switch i % 4 {
		case 0:
			batch[i] = fmt.Sprint("no key at all, number ", i)
		case 1:
			secret, err := domain.MintSecret(nil, "rk", "live")
			if err != nil {
				t.Error(err)
				return
			}
			batch[i] = secret.Reveal()
		default:
			batch[i] = w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID}).Secret.Reveal()
		}
	})
	began := time.Now()
	for i, outcome := range w.report(t, batch...) {
		if outcome.Known != (i%4 > 1) {
			t.Errorf("leak %d: known is %v", i, outcome.Known)
		}
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	const left = "SELECT count(*) FROM keys WHERE state = 'active'"
	if n := one[int64](t, w, left); n != 1 { // the root key
		t.Errorf("%d keys are live", n)
	}
	w.check(t)
	_, err := w.ReportLeaks(t.Context(), "", make([]commands.Leak, commands.MaxLeaks+1))
	wantCode(t, "one leak too many", err, domain.CodeTooLarge)
}

// A report that could not be acted on is an error as a whole, so that its sender comes again; garbage costs no lookup.
func TestReportLeaksWithoutAStore(t *testing.T) {
	t.Parallel()
	w := setup(t)
	by, tenant := w.root(t)
	key := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	leak := []commands.Leak{{Secret: key.Secret.Reveal()}}

	lookups := w.db.Pool(t)
	stopped := w.build(t, w.db.Pool(t), lookups, dbtest.Tenants(t, lookups))
	if err := stopped.start()(); err != nil {
		t.Fatal(err)
	}
	_, err := stopped.ReportLeaks(t.Context(), "", leak)
	wantCode(t, "without a store", err, domain.CodeUnavailable)

	gone := w.db.Pool(t)
	blind := w.build(t, w.db.Pool(t), gone, dbtest.Tenants(t, lookups))
	gone.Close()
	_, err = blind.ReportLeaks(t.Context(), "", leak)
	wantCode(t, "without lookups", err, domain.CodeUnavailable)
	for _, garbage := range []string{"", "short", key.Secret.Reveal()[1:], key.Secret.Reveal() + "x y", strings.Repeat("x", 513)} {
		if outcomes, err := blind.ReportLeaks(t.Context(), "", []commands.Leak{{Secret: garbage}}); err != nil || outcomes[0].Known {
			t.Errorf("%q: %v, %v", garbage, outcomes, err)
		}
	}
	if got := w.verdict(t, by, key.Secret).Code; got != projections.CodeValid {
		t.Fatalf("the key is %s", got)
	}
	w.report(t, key.Secret.Reveal())
}

// G5: what a reporter sends, the secret itself, an address that tells it, and a source that does, is kept nowhere.
func TestG5LeaksTellNoSecret(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var logged bytes.Buffer
	r := w.another(t, func(c *eventstore.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	by, tenant := w.root(t)
	w.onLeak(t, by, tenant.Key.ProjectID, domain.LeakNotify) // so that each place is written down
	key, neighbour := w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID}), w.create(t, by, commands.CreateKey{ProjectID: tenant.Key.ProjectID})
	secret := key.Secret.Reveal()
	var leaks []commands.Leak
	for i, place := range []string{
		"https://example.com/a?key=" + secret, "https://example.com/b#" + secret, "https://" + secret + "@example.com/c",
		"https://example.com/" + secret, "https://example.com/%72" + secret[1:], "https://example.com/" + neighbour.Secret.Reveal(), secret,
	} {
		leaks = append(leaks, commands.Leak{Secret: secret, Source: secret, URL: place}, commands.Leak{Secret: fmt.Sprint(secret, i), URL: place})
	}
	outcomes, err := r.ReportLeaks(t.Context(), "req_leak", leaks)
	if err != nil {
		t.Fatal(err)
	}
	w.onLeak(t, by, tenant.Key.ProjectID, domain.LeakRevoke)
	again, err := r.ReportLeaks(t.Context(), "req_leak", leaks)
	if err != nil {
		t.Fatal(err)
	}
	places := w.dump(t)
	places["log"], places["outcomes"] = logged.Bytes(), fmt.Appendf(nil, "%+v %#v", outcomes, again)
	for _, secret := range []string{secret, neighbour.Secret.Reveal()} {
		for spelling, needle := range spellings(secret) {
			for place, content := range places {
				if bytes.Contains(content, needle) {
					t.Errorf("the secret stands in %s, %s", place, spelling)
				}
			}
		}
	}
	if told := places["public.events_lifecycle_000000.data"]; !bytes.Contains(told, []byte("https://example.com/c")) {
		t.Error("not even the harmless part of an address was kept")
	}
}
