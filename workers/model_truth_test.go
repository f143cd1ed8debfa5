package workers

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// never are questions to the database whose answer must be nothing at any moment. now is the model's.
var never = map[string]string{
	"lineages with several rotations that wait": `SELECT count(*) FROM (SELECT FROM rotations WHERE state IN ('delivering', 'stalled')
		GROUP BY lineage_id HAVING count(*) > 1) l`,
	"lineages with several active or several pending keys": `SELECT count(*) FROM (SELECT FROM keys WHERE state IN ('active', 'pending')
		GROUP BY lineage_id, state HAVING count(*) > 1) l`,
	"lineages with more keys in grace than are allowed": `SELECT count(*) FROM (SELECT FROM keys WHERE state = 'grace'
		AND grace_expires_at > (SELECT at FROM now) GROUP BY lineage_id HAVING count(*) > 3) l`,
	"G2: keys with a deadline though their successor waits": `SELECT count(*) FROM rotations r JOIN keys k ON k.id = r.from_key_id
		WHERE r.state IN ('delivering', 'stalled') AND (k.state <> 'active' OR k.grace_expires_at IS NOT NULL)`,
	"secrets that wait for no rotation, or rotations without their secret": `SELECT count(*) FROM pending_secrets s
		FULL JOIN (SELECT * FROM rotations WHERE state IN ('delivering', 'stalled')) r ON r.id = s.rotation_id WHERE s.key_id IS DISTINCT FROM r.to_key_id`,
	"waiting rotations that nothing will time out": `SELECT count(*) FROM rotations r WHERE r.state IN ('delivering', 'stalled')
		AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'timeout' AND d.key_id = r.to_key_id)`,
	"overlaps that nothing will end": `SELECT count(*) FROM rotations r WHERE r.state = 'overlap'
		AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'grace' AND d.key_id = r.from_key_id)`,
	// One that waits for its first use, or for the claim, waits for somebody else; its deadline is above.
	"rotations on their way that nobody carries": `SELECT count(*) FROM rotations r WHERE r.state = 'delivering' AND r.endpoint_id IS NOT NULL
		AND NOT EXISTS (SELECT FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
			WHERE d.rotation_id = r.id AND d.type = 'key.rotation.created' AND (d.state = 'pending' OR d.state = 'held' AND e.state = 'paused'
				OR d.state = 'delivered' AND r.ack_demand = 'first_use'))`,
	"stalled rotations without an alarm": `SELECT count(*) FROM rotations r WHERE r.state = 'stalled' AND NOT EXISTS (SELECT FROM events e
		WHERE e.type IN ('RotationStalled', 'RotationTimedOut') AND e.data->>'rotation_id' = r.id)`,
	"rotations that were acknowledged by less than was demanded": `SELECT count(*) FROM rotations
		WHERE ack_demand = 'first_use' AND ack_level IN ('accepted', 'proof') OR ack_demand = 'proof' AND ack_level = 'accepted'`,
	"messages held for an endpoint that takes them": `SELECT count(*) FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
		WHERE d.state = 'held' AND e.state = 'active'`,
}

// sqlNever asks all of them at once.
var sqlNever = func() string {
	var parts []string
	for what, sql := range never {
		parts = append(parts, fmt.Sprintf(`SELECT n || ' %s' FROM (%s) q(n) WHERE n > 0`, what, sql))
	}
	return `WITH now AS (SELECT $1::timestamptz AS at) ` + strings.Join(parts, ` UNION ALL `)
}()

// afterAll are questions whose answer must be nothing once everybody works again and all time is over.
var afterAll = map[string]string{
	"rotations that have not ended": `SELECT count(*) FROM rotations WHERE state IN ('delivering', 'stalled', 'overlap')`,
	"secrets taken back without a word": `SELECT count(*) FROM rotations r JOIN webhook_deliveries d ON d.rotation_id = r.id
		WHERE d.type = 'key.rotation.created' AND d.attempts > 0 AND d.last_outcome IS DISTINCT FROM 'superseded'
			AND r.state IN ('cancelled', 'superseded', 'rolled_back') AND NOT EXISTS (SELECT FROM webhook_deliveries c
				WHERE c.rotation_id = r.id AND c.type = 'key.rotation.cancelled' AND c.endpoint_id = d.endpoint_id)`,
	"secrets that wait":                `SELECT count(*) FROM pending_secrets`,
	"messages that have not been sent": `SELECT count(*) FROM webhook_deliveries WHERE state IN ('pending', 'held')`,
	"work that is due":                 `SELECT count(*) FROM due_work`,
}

// assertTruth asserts what holds at any moment when the processes rest.
func (m *model) assertTruth(t fataler) {
	t.Helper()
	for _, broken := range all[string](t, m, sqlNever, m.clock.Now()) {
		t.Errorf("%s", broken)
	}
	m.assertFold(t)
	m.assertLog(t)
	for i, r := range m.receivers {
		r.mu.Lock()
		for _, p := range r.problems {
			t.Errorf("receiver %d: %s", i, p)
		}
		r.problems = nil
		r.mu.Unlock()
	}
}

// left counts what has not ended.
func (m *model) left(t fataler) map[string]int {
	t.Helper()
	left := map[string]int{}
	for what, sql := range afterAll {
		if n := ask[int](t, m, sql); n != 0 {
			left[what] = n
		}
	}
	return left
}

// dump shows what there is that has not ended, for who reads a failure.
func (m *model) dump() {
	for _, sql := range []string{
		`SELECT coalesce(string_agg(r::text, chr(10)), '') FROM rotations r WHERE state IN ('delivering', 'stalled', 'overlap')`,
		`SELECT coalesce(string_agg(d::text, chr(10)), '') FROM due_work d`,
		`SELECT coalesce(string_agg(d::text, chr(10)), '') FROM webhook_deliveries d WHERE state IN ('pending', 'held')`,
		`SELECT coalesce(string_agg(e.id || e.state, chr(10)), '') FROM webhook_endpoints e`,
		`SELECT coalesce(string_agg(h::text, chr(10)), '') FROM endpoint_health h`,
		`SELECT coalesce(string_agg(concat_ws(' ', e.position, e.stream_id, e.type, e.occurred_at, e.actor, e.data->>'rotation_id', e.data->>'key_id',
			e.data->>'reason'), chr(10) ORDER BY e.position), '') FROM events e`,
	} {
		m.t.Logf("%v: %s", m.clock.Now(), ask[string](m.t, m, sql))
	}
}

// assertFold asserts that the tables are what the log says (G4).
func (m *model) assertFold(t fataler) {
	t.Helper()
	conn, err := m.owner.Acquire(context.Background())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Release()
	report, err := projections.Check(context.Background(), conn.Conn())
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for _, d := range report.Differences {
		t.Errorf("%s row in %s: %s", d.Problem, d.Table, d.Row)
	}
}

// fate is what the log promises a key, told without the fold.
type fate struct {
	ended bool
	until *time.Time
}

// assertLog asserts that each secret that somebody holds is judged as the log promises, and that no old key has got a
// deadline without a sign that was given, and that was good enough (G2).
func (m *model) assertLog(t fataler) {
	t.Helper()
	records, err := eventstore.ReadLane(context.Background(), m.owner, eventstore.Lifecycle, 0, 100_000)
	if err != nil {
		t.Fatalf("read the log: %v", err)
	}
	fates := map[domain.KeyID]*fate{}
	for _, r := range records {
		m.tell(t, fates, r)
	}
	held := map[string]bool{}
	for _, line := range m.lines {
		for _, secret := range line.secrets {
			held[secret] = true
		}
	}
	for _, r := range m.receivers {
		for _, secret := range r.held() {
			held[secret] = true
		}
	}
	now := m.clock.Now()
	for secret := range held {
		verdict := m.status(t, secret)
		if verdict.Key == nil {
			t.Errorf("a secret that was handed out is not known")
			continue
		}
		f := fates[verdict.Key.ID]
		if want := !f.ended && (f.until == nil || now.Before(*f.until)); verdict.Valid() != want {
			t.Errorf("key %s is %s; the log says %+v at %v", verdict.Key.ID, verdict.Status, *f, now)
		}
	}
}

// tell goes on with the fates of keys by one event.
func (m *model) tell(t fataler, fates map[domain.KeyID]*fate, r eventstore.Record) {
	t.Helper()
	end := func(ids ...domain.KeyID) {
		for _, id := range ids {
			fates[id].ended = true
		}
	}
	grace := func(id domain.KeyID, until time.Time) {
		fates[id].until = &until
		if !until.After(r.OccurredAt) { // a grace of nothing ends at once, and does not come back with a clock that is set back
			end(id)
		}
	}
	switch d := r.Data.(type) {
	case domain.Created:
		fates[d.KeyID] = &fate{}
	case domain.Rotated:
		fates[d.KeyID] = &fate{}
		if d.Acknowledged != "" {
			grace(d.PreviousKeyID, *d.GraceExpiresAt)
		}
		end(d.RevokedKeyIDs...)
	case domain.RotationAcknowledged:
		grace(d.PreviousKeyID, d.GraceExpiresAt)
		if !m.signed(d) {
			t.Errorf("position %d: rotation %s was acknowledged by %s, and nobody gave that sign", r.Position, d.RotationID, d.Level)
		}
	case domain.RotationCancelled:
		end(d.KeyID)
	case domain.RotationRolledBack:
		fates[d.KeyID].until = nil
		grace(d.ReplacedKeyID, d.GraceExpiresAt)
	case domain.GraceChanged:
		fates[d.KeyID].until = &d.GraceExpiresAt
	case domain.GraceExpired:
		end(d.KeyID)
		if last, used := m.lastUse[d.KeyID]; d.Reason == domain.ReasonUnused &&
			(r.OccurredAt.Sub(*d.UnusedSince) < modelEarlyRetire || used && r.OccurredAt.Sub(last) < modelEarlyRetire) {
			t.Errorf("position %d: key %s ended as unused since %v; it was used at %v", r.Position, d.KeyID, d.UnusedSince, last)
		}
	case domain.Revoked:
		end(d.KeyIDs...)
	case domain.Expired:
		end(d.KeyIDs...)
	}
}

// signed reports whether somebody gave the sign that a rotation was acknowledged by. An address at which a secret is
// fetched is no secret: that it arrived says nothing.
func (m *model) signed(d domain.RotationAcknowledged) bool {
	switch d.Level {
	case domain.AckForced:
		return m.used[d.RotationID] == d.Level || m.policy == domain.TimeoutExpireOld
	case domain.AckFirstUse, domain.AckClaim:
		return m.used[d.RotationID] == d.Level
	}
	for _, r := range m.receivers {
		r.mu.Lock()
		level, given := r.signs[string(d.RotationID)]
		_, has := r.secrets[string(d.RotationID)]
		r.mu.Unlock()
		if given && has && level.Meets(d.Level) {
			return true
		}
	}
	return false
}
