package projections_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// compared are the tables that follow from the log, and of each the columns that do not.
var compared = map[string][]string{
	"organizations": nil, "projects": nil, "environments": nil, "webhook_endpoints": nil, "keys": nil, "rotations": nil,
	"due_work": {"scan_at", "attempts", "last_error"}, "streams": {"state_revision"},
}

// populate makes rows of every table and keys and rotations in every state.
func (w *world) populate(t *testing.T) {
	t.Helper()
	w.create(t, w.tenant(t))
	acme := w.tenant(t)
	w.execute(t, eventstore.Command{Writes: []string{string(acme.project)}, Decide: func(v eventstore.View, _ time.Time) ([]domain.Decided, error) {
		p, err := v.Project(acme.project)
		if err != nil {
			return nil, err
		}
		return p.CreateEnvironment(newID[domain.EnvironmentID](w, domain.PrefixEnvironment), "test")
	}})
	w.edit(t, acme)
	edited := w.create(t, acme)
	w.update(t, edited)
	w.clock.step(time.Second)
	w.rotate(t, edited, time.Hour)
	full := w.create(t, acme, func(s *domain.Settings) {
		s.Resources, s.Metadata = domain.Resources{"app": {"a", "b"}}, []byte(`{"team":"billing","n":[1,2.50]}`)
		s.ExpiresAt = w.clock.in(90 * 24 * time.Hour)
		s.AllowedIPs = domain.Networks{netip.MustParsePrefix("10.0.0.0/8")}
		s.RateLimit, s.UsageLimit = &domain.RateLimit{Requests: 5, WindowSeconds: 60}, &domain.UsageLimit{Uses: 9, Period: domain.UsageMonth}
	})
	w.create(t, acme, hourly, func(s *domain.Settings) { s.Disabled = true })
	w.rotate(t, w.rotate(t, full, time.Hour), 0)
	w.revoke(t, w.rotate(t, w.create(t, acme), time.Hour))
	brief := w.create(t, acme, func(s *domain.Settings) { s.ExpiresAt = w.clock.in(time.Hour) })
	var pending []made
	for range 5 {
		pending = append(pending, w.create(t, acme, hourly, w.withWebhook))
	}
	w.clock.step(2 * time.Hour)
	for i := range pending {
		pending[i] = w.rotateDue(t, pending[i])
	}
	w.acknowledge(t, pending[1])
	w.revoke(t, pending[2])
	w.decide(t, pending[3], func(l *domain.Lineage, _ time.Time) ([]domain.Decided, error) {
		return l.Stall(l.WaitingRotation().ID, "gone")
	})
	w.decide(t, brief, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) { return l.Expire(now) })
	w.acknowledge(t, pending[4])
	w.clock.step(time.Hour)
	w.decide(t, pending[4], func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.ExpireGrace(l.Generations[0].KeyID, now)
	})
	w.exec(t, `INSERT INTO pending_secrets SELECT id, to_key_id, 'sealed', started_at FROM rotations WHERE state IN ('delivering', 'stalled')`)
	w.exec(t, `INSERT INTO webhook_deliveries (id, message_id, endpoint_id, organization_id, project_id, lineage_id, rotation_id, position,
			type, state, next_attempt_at, created_at)
		SELECT 'dlv_' || id, 'msg_' || id, endpoint_id, organization_id, project_id, lineage_id, id, 1, 'key.rotation.created',
			CASE state WHEN 'delivering' THEN 'pending' WHEN 'stalled' THEN 'held' ELSE 'delivered' END, started_at, started_at
		FROM rotations WHERE trigger = 'interval'`)
	w.exec(t, `INSERT INTO consumers VALUES ('webhooks', 1, 3, now())`)
}

// edit edits a tenant and its project, and makes a project that is deleted again.
func (w *world) edit(t *testing.T, n tenant) {
	t.Helper()
	w.clock.step(time.Second)
	w.execute(t, eventstore.Command{Writes: []string{string(n.organization), string(n.project)}, Decide: func(v eventstore.View, _ time.Time) ([]domain.Decided, error) {
		organization, err := v.Organization(n.organization)
		if err != nil {
			return nil, err
		}
		project, err := v.Project(n.project)
		if err != nil {
			return nil, err
		}
		renamed, err := organization.Update(domain.UpdateOrganization{DisabledSurfaces: domain.ChangeTo([]string{domain.SurfaceAPIKey})})
		if err != nil {
			return nil, err
		}
		bound, err := project.Update(domain.UpdateProject{Name: domain.ChangeTo("shop"), Policy: domain.ChangePolicyTo(domain.Policy{
			AllowedScopes: domain.Scopes{"*"}, MaxGraceSeconds: new(int64(864000)), OnLeak: domain.LeakNotify,
		})})
		return append(renamed, bound...), err
	}})
	gone := newID[domain.ProjectID](w, domain.PrefixProject)
	w.execute(t, eventstore.Command{Reads: []string{string(n.organization)}, Decide: func(eventstore.View, time.Time) ([]domain.Decided, error) {
		return domain.CreateProject(domain.NewProject{
			ID: gone, OrganizationID: n.organization, EnvironmentID: newID[domain.EnvironmentID](w, domain.PrefixEnvironment), Name: "gone",
		})
	}})
	w.execute(t, eventstore.Command{Writes: []string{string(gone)}, Decide: func(v eventstore.View, _ time.Time) ([]domain.Decided, error) {
		p, err := v.Project(gone)
		if err != nil {
			return nil, err
		}
		return p.Delete()
	}})
}

// update edits a key.
func (w *world) update(t *testing.T, m made) {
	t.Helper()
	w.clock.step(time.Second)
	w.decide(t, m, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Update(domain.UpdateKey{KeyID: m.key, Name: domain.ChangeTo(w.clock.Now().String()), Caller: domain.System()}, domain.Limits{}, now)
	})
}

// decide must make at least one event.
func (w *world) decide(t *testing.T, m made, f func(*domain.Lineage, time.Time) ([]domain.Decided, error)) {
	t.Helper()
	if records, err := w.on(m.lineage, f); err != nil || len(records) == 0 {
		t.Fatalf("decided %d events, %v", len(records), err)
	}
}

// contents is every compared table as text.
func (w *world) contents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for table, not := range compared {
		out[table] = one[string](t, w, fmt.Sprintf(`SELECT coalesce(string_agg((to_jsonb(r) - $1::text[])::text, E'\n' ORDER BY (to_jsonb(r) - $1::text[])::text), '')
			FROM %s r`, table), append([]string{}, not...))
	}
	return out
}

// column is a column of a compared table.
type column struct{ table, name, kind string }

// columns lists every column of the compared tables as the database has them, so that a new one that nobody compares is
// noticed. What the database generates needs no comparison.
func (w *world) columns(t *testing.T) []column {
	t.Helper()
	rows, err := w.owner.Query(t.Context(), `SELECT table_name, column_name, data_type FROM information_schema.columns
		WHERE table_schema = 'public' AND is_generated = 'NEVER' ORDER BY table_name, ordinal_position`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) { return c, row.Scan(&c.table, &c.name, &c.kind) })
	if err != nil {
		t.Fatal(err)
	}
	var out []column
	for _, c := range all {
		if not, ok := compared[c.table]; ok && !strings.Contains(" "+strings.Join(not, " ")+" ", " "+c.name+" ") {
			out = append(out, c)
		}
	}
	return out
}

// written are the columns of a table that are not generated.
func (w *world) written(t *testing.T, table string) string {
	t.Helper()
	return one[string](t, w, `SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns
		WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER'`, table)
}

// another is an expression for another value than the column has.
func (c column) another() string {
	switch {
	case c.name == "state" && c.table == "keys": // the table allows known states only
		return "CASE state WHEN 'revoked' THEN 'retired' ELSE 'revoked' END"
	case c.name == "state" && c.table == "rotations":
		return "CASE state WHEN 'completed' THEN 'cancelled' ELSE 'completed' END"
	case c.kind == "text":
		return "coalesce(" + c.name + ", '') || 'x'"
	case c.kind == "integer", c.kind == "bigint":
		return "coalesce(" + c.name + ", 0) + 1000"
	case c.kind == "boolean":
		return "NOT " + c.name
	case c.kind == "jsonb":
		return "coalesce(" + c.name + ", '{}') || '{\"damaged\": true}'"
	case c.kind == "bytea":
		return "set_byte(" + c.name + ", 0, 255 - get_byte(" + c.name + ", 0))"
	default: // the smallest step that a time can make
		return "coalesce(" + c.name + ", now()) + interval '1 microsecond'"
	}
}

// G4: whatever is wrong in a row, Check says so and Rebuild mends it.
func TestG4CheckFindsAndRebuildMendsDamage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.populate(t)
	// What these keep out must be found too: it may have been done without them.
	w.exec(t, "ALTER TABLE keys DROP CONSTRAINT keys_no_deadline")
	w.exec(t, "DROP TRIGGER keys_one_active_made ON keys; DROP TRIGGER keys_one_active_moved ON keys")
	w.exec(t, "ALTER TABLE rotations DROP CONSTRAINT rotations_ended, DROP CONSTRAINT rotations_arrived, DROP CONSTRAINT rotations_overlap")
	w.exec(t, "ALTER TABLE webhook_endpoints DROP CONSTRAINT webhook_endpoints_state, DROP CONSTRAINT webhook_endpoints_mode, DROP CONSTRAINT webhook_endpoints_level")
	conn := w.connect(t)
	w.check(t, conn)
	before, outside := w.contents(t), w.outside(t)
	for table := range compared {
		if before[table] == "" {
			t.Fatalf("table %s is empty", table)
		}
	}
	try := func(damage, table string, problems ...string) {
		t.Helper()
		w.exec(t, damage)
		report, err := projections.Check(context.Background(), conn)
		if err != nil {
			t.Fatalf("%s: %v", damage, err)
		}
		found := map[string]int{}
		for _, d := range report.Differences {
			found[d.Table+" "+d.Problem]++
		}
		want := map[string]int{}
		for _, p := range problems {
			want[table+" "+p] = 1
		}
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s: found (+) is not what was wrong (-): %s", damage, diff)
		}
		if _, err := projections.Rebuild(context.Background(), conn); err != nil {
			t.Fatalf("rebuild after %s: %v", damage, err)
		}
		if diff := cmp.Diff(before, w.contents(t)); diff != "" {
			t.Fatalf("after %s, Rebuild left: %s", damage, diff)
		}
		w.check(t, conn)
	}

	for _, c := range w.columns(t) {
		try(fmt.Sprintf("UPDATE %[1]s SET %[2]s = %[3]s WHERE ctid = (SELECT max(ctid) FROM %[1]s)", c.table, c.name, c.another()),
			c.table, "missing", "unexpected")
	}
	for table := range compared {
		try(fmt.Sprintf("DELETE FROM %[1]s WHERE ctid = (SELECT max(ctid) FROM %[1]s)", table), table, "missing")
	}
	for table, change := range extraRows {
		for _, c := range change {
			try(fmt.Sprintf("INSERT INTO %[1]s (%[3]s) SELECT %[3]s FROM (SELECT (jsonb_populate_record(r, %[2]s)).* FROM %[1]s r LIMIT 1) r",
				table, c, w.written(t, table)), table, "unexpected")
		}
	}
	if diff := cmp.Diff(outside, w.outside(t)); diff != "" {
		t.Errorf("R16: rebuilding is silent, but: %s", diff)
	}
}

// extraRows says how a copy of a row differs: first in a stream that the log knows, then in one that it does not.
var extraRows = map[string][]string{
	"organizations":     {`'{"id": "org_00000000000000000000000000"}'`},
	"projects":          {`'{"id": "proj_00000000000000000000000000"}'`},
	"environments":      {`'{"id": "env_0", "name": "extra"}'`, `'{"id": "env_0", "project_id": "proj_00000000000000000000000000"}'`},
	"webhook_endpoints": {`'{"id": "ep_00000000000000000000000000"}'`},
	"keys": {
		`'{"id": "key_0", "generation": 99, "secret_digest": "\\x00"}'`,
		`'{"id": "key_0", "lineage_id": "lin_00000000000000000000000000", "secret_digest": "\\x00"}'`,
	},
	"rotations": {
		`'{"id": "rot_0", "state": "completed"}'`,
		`'{"id": "rot_0", "lineage_id": "lin_00000000000000000000000000", "state": "completed"}'`,
	},
	"due_work": {`'{"key_id": "key_0"}'`, `'{"lineage_id": "lin_00000000000000000000000000"}'`},
	"streams":  {`'{"stream_id": "lin_00000000000000000000000000"}'`, `'{"stream_id": "what_ever"}'`},
}

// outside is what a rebuild must not touch: deliveries, their jobs, sealed secrets, the log and its readers.
func (w *world) outside(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, table := range []string{"events", "consumers", "pending_secrets", "endpoint_secrets", "endpoint_certificates", "webhook_deliveries", "webhook_attempts", "river.river_job"} {
		out[table] = one[string](t, w, "SELECT coalesce(string_agg(r::text, E'\\n' ORDER BY r::text), '') FROM "+table+" r")
	}
	return out
}

// A state of another revision is folded again when it is needed, so it is not wrong; its version still must be right.
func TestCheckLooksPastStatesOfAnotherRevision(t *testing.T) {
	t.Parallel()
	w := setup(t)
	m := w.create(t, w.tenant(t))
	conn := w.connect(t)
	w.exec(t, "UPDATE streams SET state_revision = 99, state = 'of another program' WHERE stream_id = $1", m.lineage)
	w.check(t, conn)
	w.exec(t, "UPDATE streams SET version = version + 1 WHERE stream_id = $1", m.lineage)
	report, err := projections.Check(t.Context(), conn)
	if err != nil || len(report.Differences) != 2 {
		t.Errorf("a wrong version beside another revision: got %+v, %v", report, err)
	}
}

// A log that is itself broken is not compared with anything: nothing that follows from it can be trusted.
func TestCheckRefusesABrokenLog(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string]string{
		"hole in the middle": "DELETE FROM events WHERE position = 3",
		"hole at the start":  "DELETE FROM events WHERE position = 1",
		"first one at 0":     "UPDATE events SET position = 0 WHERE position = 1",
		"unknown type":       "UPDATE events SET type = 'Unheard' WHERE position = 3",
		"unknown revision":   "UPDATE events SET revision = 99 WHERE position = 3",
		"unknown stream":     "UPDATE events SET stream_id = 'what_ever' WHERE position = 3",
		"hole in a stream":   "UPDATE events SET version = version + 5 WHERE version = 2",
		"moved by one":       "UPDATE events SET position = position + 1000; UPDATE events SET position = position - 1001",
	} {
		w := setup(t)
		w.rotate(t, w.create(t, w.tenant(t)), time.Hour)
		w.exec(t, damage)
		if report, err := projections.Check(t.Context(), w.connect(t)); err == nil {
			t.Errorf("%s: got %+v, want an error", what, report)
		}
	}
}

// Check reports how much it looked at, so that an empty log does not pass for a good one.
func TestCheckCounts(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.populate(t)
	report, err := projections.Check(t.Context(), w.connect(t))
	if err != nil {
		t.Fatal(err)
	}
	for table := range compared {
		if want := one[int64](t, w, "SELECT count(*) FROM "+table); report.Rows[table] != want {
			t.Errorf("%s: %d rows, want %d", table, report.Rows[table], want)
		}
	}
	if events, streams := one[int64](t, w, "SELECT count(*) FROM events"), one[int64](t, w, "SELECT count(*) FROM streams"); report.Events != events || report.Streams != streams {
		t.Errorf("counted %d events of %d streams, want %d of %d", report.Events, report.Streams, events, streams)
	}
	if one[int](t, w, "SELECT count(*) FROM pg_class WHERE relname LIKE 'folded%'") != 0 {
		t.Error("temporary tables were left")
	}
}
