package commands_test

import (
	"context"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

const liveInDeleted = "live keys in deleted projects"

// none are questions to the database whose answer must be nothing, whatever was commanded.
var none = map[string]string{
	"positions that are not 1..n": `SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM events WHERE lane = 1) p
		WHERE position <> n`,
	"versions that are not 1..n in the order of the positions": `SELECT count(*) FROM (SELECT version,
		row_number() OVER (PARTITION BY stream_id ORDER BY position) AS n FROM events WHERE lane = 1) v WHERE version <> n`,
	"heads that differ from the log": `SELECT count(*) FROM streams s FULL JOIN
		(SELECT stream_id, max(version) AS version FROM events GROUP BY stream_id) e USING (stream_id) WHERE s.version IS DISTINCT FROM e.version`,
	"lineages with several active keys":  `SELECT count(*) FROM (SELECT FROM keys WHERE state = 'active' GROUP BY lineage_id HAVING count(*) > 1) l`,
	"lineages with several pending keys": `SELECT count(*) FROM (SELECT FROM keys WHERE state = 'pending' GROUP BY lineage_id HAVING count(*) > 1) l`,
	"lineages that live without an active key, beside graces": `SELECT count(*) FROM (SELECT FROM keys GROUP BY lineage_id
		HAVING bool_or(state = 'pending') AND NOT bool_or(state = 'active')) l`,
	"keys in grace beyond the allowed": `SELECT count(*) FROM (SELECT FROM keys WHERE state = 'grace' GROUP BY lineage_id HAVING count(*) > 3) l`,
	"G2: keys with a deadline though their successor waits": `SELECT count(*) FROM rotations r JOIN keys k ON k.id = r.from_key_id
		WHERE r.state IN ('delivering', 'stalled') AND (k.state <> 'active' OR k.grace_expires_at IS NOT NULL)`,
	"lineages with several rotations that wait": `SELECT count(*) FROM (SELECT FROM rotations WHERE state IN ('delivering', 'stalled')
		GROUP BY lineage_id HAVING count(*) > 1) l`,
	"rotations that overlap without a key in grace, or with another deadline": `SELECT count(*) FROM rotations r JOIN keys k ON k.id = r.from_key_id
		WHERE r.state = 'overlap' AND (k.state <> 'grace' OR k.grace_expires_at <> r.grace_expires_at OR k.replaced_by_key_id IS NULL)`,
	"rotations that have ended and may still change": `SELECT count(*) FROM rotations r JOIN keys k ON k.id = r.to_key_id
		WHERE r.state IN ('cancelled', 'superseded', 'aborted') AND k.state IN ('pending', 'active', 'grace')`,
	"rotations that were acknowledged by less than was demanded": `SELECT count(*) FROM rotations
		WHERE ack_demand = 'first_use' AND ack_level IN ('accepted', 'proof') OR ack_demand = 'proof' AND ack_level = 'accepted'`,
	"keys that authenticate without a rotation, beside those that were rolled back": `SELECT count(*) FROM keys k
		WHERE k.state = 'grace' AND NOT EXISTS (SELECT FROM rotations r WHERE r.from_key_id = k.id AND r.state = 'overlap')
			AND NOT EXISTS (SELECT FROM rotations r WHERE r.to_key_id = k.id AND r.state = 'rolled_back')`,
	"waiting rotations that nothing will ever time out": `SELECT count(*) FROM rotations r
		WHERE r.state IN ('delivering', 'stalled') AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'timeout' AND d.key_id = r.to_key_id)`,
	"secrets that wait for no rotation, or rotations without their secret": `SELECT count(*) FROM pending_secrets s
		FULL JOIN (SELECT * FROM rotations WHERE state IN ('delivering', 'stalled')) r ON r.id = s.rotation_id
		WHERE s.key_id IS DISTINCT FROM r.to_key_id`,
	liveInDeleted: `SELECT count(*) FROM keys k JOIN projects p ON p.id = k.project_id
		WHERE p.deleted_at IS NOT NULL AND k.state IN ('pending', 'active', 'grace')`,
	"endpoints without a signing secret, or the reverse": `SELECT count(*) FROM webhook_endpoints e
		FULL JOIN endpoint_secrets s ON s.endpoint_id = e.id WHERE e.id IS NULL OR s.endpoint_id IS NULL`,
	"endpoints without the client certificate that they show, or the reverse": `SELECT count(*) FROM
		(SELECT id, client_certificate->>'digest' AS digest FROM webhook_endpoints WHERE client_certificate IS NOT NULL) e
		FULL JOIN endpoint_certificates c ON c.endpoint_id = e.id AND c.digest = e.digest WHERE e.id IS NULL OR c.endpoint_id IS NULL`,
}

// assertTruth asserts what must hold after any sequence.
func (p *play) assertTruth(t fataler) {
	t.Helper()
	p.w.check(t)
	for what, sql := range none {
		if n := one[int](t, p.w, sql); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	p.assertRevoked(t)
	p.assertSecrets(t)
	p.assertMemory(t)
	for rotation, n := range p.claimed {
		if n > 1 {
			t.Errorf("rotation %s was claimed %d times", rotation, n)
		}
	}
}

// assertRevoked follows who is active through the log, in its own words, and asserts that nothing of a lineage lives on
// once its active key was revoked. What was answered as revoked must be so too.
func (p *play) assertRevoked(t fataler) {
	t.Helper()
	records, err := eventstore.ReadLane(context.Background(), p.w.owner, eventstore.Lifecycle, 0, 100_000)
	if err != nil {
		t.Fatalf("read the log: %v", err)
	}
	active, ended := map[string]domain.KeyID{}, map[string]bool{}
	for _, r := range records {
		if ended[r.StreamID] {
			t.Errorf("position %d: %s goes on after its active key was revoked", r.Position, r.StreamID)
		}
		switch d := r.Data.(type) {
		case domain.Created:
			active[r.StreamID] = d.KeyID
		case domain.Rotated:
			if d.Acknowledged != "" {
				active[r.StreamID] = d.KeyID
			}
		case domain.RotationAcknowledged:
			active[r.StreamID] = d.KeyID
		case domain.RotationRolledBack:
			active[r.StreamID] = d.KeyID
		case domain.Revoked:
			ended[r.StreamID] = d.KeyID == active[r.StreamID]
		}
	}
	for lineage, is := range ended {
		if n := one[int](t, p.w, "SELECT count(*) FROM keys WHERE lineage_id = $1 AND state IN ('pending', 'active', 'grace')", lineage); is && n != 0 {
			t.Errorf("%d keys of %s live on after its active key was revoked", n, lineage)
		}
	}
	for _, id := range p.revoked {
		if state := one[string](t, p.w, "SELECT state FROM keys WHERE id = $1", id); domain.GenerationState(state).Live() {
			t.Errorf("key %s was revoked and is %s", id, state)
		}
	}
}

// assertSecrets asserts that every secret that was answered is that of its key, that every secret that waits is that of
// the key it waits for (a decision may have run several times), and that every signing secret is its endpoint's.
func (p *play) assertSecrets(t fataler) {
	t.Helper()
	ctx := context.Background()
	for i, k := range p.keys {
		if k.secret.IsZero() {
			continue
		}
		r := p.replicas[i%len(p.replicas)]
		v, err := r.verifier.Verify(ctx, projections.VerifyRequest{Reach: projections.ReachOf(k.by.Caller), Secret: k.secret.Reveal()})
		if err != nil || v.Key == nil || v.Key.ID != k.id {
			t.Errorf("the secret of key %s finds %+v, %v", k.id, v.Key, err)
		}
	}
	for _, w := range p.rotations {
		secret, err := p.w.OpenPending(ctx, w.rotation)
		if err != nil {
			t.Errorf("open the secret of %s: %v", w.rotation, err)
		}
		if secret.IsZero() {
			continue
		}
		digest := secret.Digest()
		if n := one[int](t, p.w, `SELECT count(*) FROM keys k JOIN rotations r ON r.to_key_id = k.id
			WHERE r.id = $1 AND k.state = 'pending' AND k.secret_digest = $2`, w.rotation, digest[:]); n != 1 {
			t.Errorf("the secret that waits for %s is not its key's", w.rotation)
		}
	}
	for id, secret := range p.hooks {
		found, err := p.w.SigningKeys(ctx, []domain.EndpointID{id})
		if err != nil || newest(found[id]).Reveal() != secret.Reveal() {
			t.Errorf("the signing secret of %s is another than was answered: %v", id, err)
		}
	}
}
