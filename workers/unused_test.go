package workers

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

const (
	unusedSpan    = 2 * time.Hour
	unusedArrived = 3 * time.Hour // ago
)

// unusedWorld is rekey with projects whose keys were rotated hours ago, by a replica that lived then. Its workers rest, so that
// keys end when a test looks, and no sooner.
type unusedWorld struct {
	*hooks
	past     *commands.Service
	replica  *projections.Usage // counts uses, and has written none of them for hours
	tables   *projections.UsageProjection
	off      domain.ProjectID // of the first organization too
	stranger commands.NewTenant
}

func newUnusedWorld(t *testing.T) *unusedWorld {
	t.Helper()
	w := &unusedWorld{hooks: newHooksIn(t, true)}
	w.past = w.living(t, unusedArrived)
	w.replica = projections.NewUsage(projections.UsageConfig{Pool: w.pool})
	w.tables = projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: w.pool})
	made, err := w.service.CreateProject(t.Context(), w.tenant, commands.CreateProject{Name: "keeps old keys", OrganizationID: w.tenant.Caller.OrganizationID})
	if err != nil {
		t.Fatal(err)
	}
	w.off = made.ID
	if w.stranger, err = w.service.CreateOrganization(t.Context(), w.tenant, "acme"); err != nil {
		t.Fatal(err)
	}
	w.ask(t, w.project, unusedSpan)
	return w
}

// living returns the commands of a replica whose clock is behind.
func (w *unusedWorld) living(t *testing.T, ago time.Duration) *commands.Service {
	t.Helper()
	now := func() time.Time { return time.Now().Add(-ago) }
	store := eventstore.New(eventstore.Config{Pool: w.db.Pool(t), Projection: projections.ReadModel{}, Now: now})
	relayTestRun(t, store.Run)
	return commands.New(commands.Config{Store: store, Reader: projections.NewReader(w.pool, dbtest.Tenants(t, w.pool)), Now: now})
}

// ask sets the term of a project of the first organization.
func (w *unusedWorld) ask(t *testing.T, project domain.ProjectID, span time.Duration) {
	t.Helper()
	c := domain.UpdateProject{ID: project, Policy: domain.PolicyChange{EarlyRetireSeconds: domain.ChangeTo(int64(span / time.Second))}}
	if _, err := w.service.UpdateProject(t.Context(), w.tenant, c); err != nil {
		t.Fatal(err)
	}
}

// rotated makes a key and rotates it, with a grace of days, and returns the old one.
func (w *unusedWorld) rotated(t *testing.T, in *commands.Service, by commands.By, project domain.ProjectID) commands.CreatedKey {
	t.Helper()
	made, err := in.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: project, Name: "rotated"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.RotateKey(t.Context(), by, commands.RotateKey{KeyID: made.Key.ID, Grace: new(72 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	return made
}

// here is rotated in the first organization, hours ago.
func (w *unusedWorld) here(t *testing.T) commands.CreatedKey {
	return w.rotated(t, w.past, w.tenant, w.project)
}

// used counts one use of a key in the replica's memory.
func (w *unusedWorld) used(key commands.CreatedKey, ago time.Duration) {
	w.replica.Used(key.Key, "203.0.113.7", time.Now().Add(-ago))
}

// silent makes the replica known as one that is there, and could not write for hours.
func (w *unusedWorld) silent(t *testing.T) {
	t.Helper()
	if err := w.replica.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(t, `UPDATE usage_flushes SET complete_until = now() - interval '3 hours', applied_until = now() - interval '3 hours'`)
}

// write writes what was counted, and add adds it to the tables.
func (w *unusedWorld) write(t *testing.T) {
	t.Helper()
	if err := w.replica.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *unusedWorld) add(t *testing.T) {
	t.Helper()
	if _, err := w.tables.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// retired looks for unused keys, and returns the old keys that have ended by now.
func (w *unusedWorld) retired(t *testing.T) []domain.KeyID {
	t.Helper()
	if err := w.w.retireUnused(t.Context()); err != nil {
		t.Fatal(err)
	}
	return one[[]domain.KeyID](t, w.hooks, `SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM keys WHERE state = 'retired'`)
}

// E20: an old key ends ahead of its grace if nobody has used it for as long as the policy of its project says, and all
// replicas have said so. It ends as it does by hand: its secret is refused, and who listens is told that the rotation is over.
func TestUnusedKeysAreRetired(t *testing.T) {
	t.Parallel()
	w := newUnusedWorld(t)
	w.register(t, w.receiver, domain.SecretPlain, domain.AckAccepted)
	unused, usedLongAgo := w.here(t), w.here(t)
	stranger := commands.By{Caller: w.stranger.Key.Caller()}
	kept := map[string]commands.CreatedKey{
		"used within the span":            w.here(t),
		"seen in grace within the span":   w.here(t),
		"replaced within the span":        w.rotated(t, w.living(t, unusedSpan-time.Minute), w.tenant, w.project),
		"of a project without the term":   w.rotated(t, w.past, w.tenant, w.off),
		"of another organization":         w.rotated(t, w.past, stranger, w.stranger.Key.ProjectID),
		"of a project with a longer span": {},
	}
	patient, err := w.service.CreateProject(t.Context(), w.tenant, commands.CreateProject{Name: "waits", OrganizationID: w.tenant.Caller.OrganizationID})
	if err != nil {
		t.Fatal(err)
	}
	w.ask(t, patient.ID, unusedArrived+time.Minute)
	kept["of a project with a longer span"] = w.rotated(t, w.past, w.tenant, patient.ID)

	steps := []struct {
		what string
		do   func()
	}{
		{"no replica has ever said anything", func() {}},
		{"a replica cannot write", func() { w.silent(t) }},
		{"a replica crashed an hour ago", func() {
			w.exec(t, `INSERT INTO usage_flushes (boot_id, number, flushed_at, complete_until, applied_until, ended)
				SELECT 'boot_crashed', 1, at, at, at, false FROM (SELECT now() - interval '1 hour' AS at) a`)
		}},
		{"its uses are in no table yet", func() {
			w.used(usedLongAgo, unusedSpan+time.Second)
			w.used(kept["used within the span"], unusedSpan-30*time.Second)
			w.write(t)
		}},
		{"only the crash leaves a gap", func() { w.add(t) }},
	}
	for _, step := range steps {
		step.do()
		if got := w.retired(t); len(got) > 0 {
			t.Fatalf("while %s, %d keys end", step.what, len(got))
		}
	}
	seen := projections.NewGraceUses(w.pool, nil)
	in, err := w.verifier.Authenticate(t.Context(), kept["seen in grace within the span"].Secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	seen.Used(in, netip.MustParseAddr("203.0.113.7"), "curl/8", time.Now().Add(30*time.Second-unusedSpan))
	if err := seen.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(t, `UPDATE usage_flushes SET flushed_at = flushed_at - interval '2 hours', complete_until = complete_until - interval '2 hours',
		applied_until = applied_until - interval '2 hours' WHERE boot_id = 'boot_crashed'`)
	want := []domain.KeyID{unused.Key.ID, usedLongAgo.Key.ID}
	slices.Sort(want)
	if diff := cmp.Diff(want, w.retired(t)); diff != "" {
		t.Fatalf("the keys that ended (-want +got): %s", diff)
	}
	for _, key := range []commands.CreatedKey{unused, usedLongAgo} {
		if got := w.valid(t, key.Secret.Reveal()); got != domain.StatusRetired {
			t.Errorf("an unused key is %s", got)
		}
	}
	for what, key := range kept {
		if v, err := w.verifier.Authenticate(t.Context(), key.Secret.Reveal()); err != nil || v == nil || v.State != domain.GenerationGrace {
			t.Errorf("a key that is %s is %+v, %v", what, v, err)
		}
	}
	if got := one[string](t, w.hooks, `SELECT string_agg(concat_ws(' ', state, reason), ', ') FROM rotations WHERE from_key_id = ANY($1)`, want); got != "completed unused, completed unused" {
		t.Errorf("the rotations are %s", got)
	}
	w.wantRecorded(t, unused, usedLongAgo)
	relayTestRun(t, w.w.Run)
	var told []domain.KeyID
	relayTestPoll(t, func() bool { return len(w.receiver.of(webhook.TypeRotationCompleted)) == 2 }, func() string { return "nobody was told" })
	for _, m := range w.receiver.of(webhook.TypeRotationCompleted) {
		var body struct {
			Data struct {
				Previous domain.KeyID `json:"previous_key_id"`
			}
		}
		if err := json.Unmarshal(m.body, &body); err != nil {
			t.Fatal(err)
		}
		told = append(told, body.Data.Previous)
	}
	if slices.Sort(told); !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// wantRecorded asserts that the log says why each key ended, and since when nobody used it.
func (w *unusedWorld) wantRecorded(t *testing.T, never, longAgo commands.CreatedKey) {
	t.Helper()
	records, err := eventstore.ReadLane(t.Context(), w.owner, eventstore.Lifecycle, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	since := map[domain.KeyID]time.Time{}
	for _, r := range records {
		if d, ok := r.Data.(domain.GraceExpired); ok {
			if !d.Early || d.Reason != domain.ReasonUnused || d.UnusedSince == nil || r.Actor != domain.ActorSweep {
				t.Fatalf("%s said %+v", r.Actor, d)
			}
			since[d.KeyID] = *d.UnusedSince
		}
	}
	arrived := one[time.Time](t, w.hooks, `SELECT acknowledged_at FROM rotations WHERE from_key_id = $1`, never.Key.ID)
	used := one[time.Time](t, w.hooks, `SELECT last_used_at FROM key_usage WHERE key_id = $1`, longAgo.Key.ID)
	if len(since) != 2 || !since[never.Key.ID].Equal(later(arrived, one[time.Time](t, w.hooks, `SELECT flushed_at + interval '15 seconds' FROM usage_flushes WHERE boot_id = 'boot_crashed'`))) ||
		!since[longAgo.Key.ID].Equal(used) {
		t.Errorf("unused since %v; one since %v, the other was used at %v", since, arrived, used)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// What happens to a rotation between the look and the decision counts: then nothing is retired. All the same it is no fault,
// and no other key waits for it.
func TestUnusedKeysThatMovedOnAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newUnusedWorld(t)
	undone, ended, left, revoked := w.here(t), w.here(t), w.here(t), w.here(t)
	w.silent(t)
	w.write(t)
	w.add(t)
	found, err := w.reader.Unused(t.Context(), projections.UnusedKey{}, 10)
	if err != nil || len(found) != 4 {
		t.Fatalf("found %+v, %v", found, err)
	}
	rotation := func(key commands.CreatedKey) domain.RotationID {
		return one[domain.RotationID](t, w.hooks, `SELECT id FROM rotations WHERE from_key_id = $1`, key.Key.ID)
	}
	if _, err := w.service.RollBackRotation(t.Context(), w.tenant, rotation(undone)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.EndGrace(t.Context(), w.tenant, rotation(ended)); err != nil {
		t.Fatal(err)
	}
	if err := w.service.RevokeKey(t.Context(), w.tenant, revoked.Key.ID, "lost"); err != nil {
		t.Fatal(err)
	}
	for i, outcome := range w.service.RetireUnused(t.Context(), found) {
		want := 0
		if found[i].RotationID == rotation(left) {
			want = 1
		}
		if outcome.Err != nil || len(outcome.Records) != want {
			t.Errorf("%s: %d events, %v", found[i].RotationID, len(outcome.Records), outcome.Err)
		}
	}
	again := w.here(t)
	if found, err = w.reader.Unused(t.Context(), projections.UnusedKey{}, 10); err != nil || len(found) != 1 {
		t.Fatalf("found %+v, %v", found, err)
	}
	w.ask(t, w.project, 0)
	if outcome := w.service.RetireUnused(t.Context(), found)[0]; outcome.Err != nil || len(outcome.Records) != 0 {
		t.Errorf("after the term was dropped: %d events, %v", len(outcome.Records), outcome.Err)
	}
	if got := w.valid(t, again.Secret.Reveal()); got != domain.StatusGrace {
		t.Errorf("then the old key is %s", got)
	}
}
