package projections

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// sqlUnused asks only of rotations in overlap, of projects that want it: limits and OFFSET 0 hold the planner to that order.
//
// All of it is seen at one moment: the uses, and in which span they are complete. The span begins where the latest gap ends
// (see sqlUsageGaps), or where counts begin. A replica is taken for a gap before it ceases to hold the end of the span back,
// so that there is no instant at which it is neither.
const sqlUnused = `WITH known AS MATERIALIZED (
		SELECT usage_complete_until() AS until, greatest(to_timestamp(0), (SELECT since FROM usage_series WHERE name = 'usage_days'),
			(SELECT max(flushed_at) + interval '15 seconds' FROM usage_flushes
				WHERE NOT ended AND flushed_at <= clock_timestamp() - interval '20 seconds')) AS since
	)
	SELECT r.lineage_id, r.id, p.id, r.used, r.since, r.until
	FROM (SELECT id, (policy->>'early_retire_seconds')::int * interval '1 second' AS span FROM projects
			WHERE policy->>'early_retire_seconds' IS NOT NULL AND id >= $1 ORDER BY id OFFSET 0) p
		CROSS JOIN LATERAL (
			SELECT r.lineage_id, r.id, u.used, k.since, k.until
			FROM rotations r CROSS JOIN known k
				CROSS JOIN LATERAL (SELECT greatest((SELECT last_used_at FROM key_usage WHERE key_id = r.from_key_id),
					(SELECT max(seen) FROM (SELECT last_seen_at AS seen FROM grace_usage WHERE key_id = r.from_key_id OFFSET 0) g)) AS used OFFSET 0) u
			WHERE r.project_id = p.id AND r.state = 'overlap' AND (r.project_id, r.id) > ($1, $2)
				AND k.until >= clock_timestamp() - $3::interval AND greatest(r.acknowledged_at, u.used, k.since) <= k.until - p.span
			ORDER BY r.id LIMIT $4) r
	ORDER BY p.id, r.id LIMIT $4`

// UnusedKey is the old key of a rotation in overlap that nobody has used for as long as its project's policy says.
type UnusedKey struct {
	LineageID  domain.LineageID
	RotationID domain.RotationID
	ProjectID  domain.ProjectID
	Use        domain.KnownUse
}

// Unused returns up to limit old keys that nobody uses, in their order after one of them. Of a key whose use is not known for
// all of the time it says nothing.
func (r *Reader) Unused(ctx context.Context, after UnusedKey, limit int) ([]UnusedKey, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (k UnusedKey, err error) {
		return k, row.Scan(&k.LineageID, &k.RotationID, &k.ProjectID, &k.Use.LastUsedAt, &k.Use.From, &k.Use.Until)
	}, sqlUnused, after.ProjectID, after.RotationID, domain.MaxUseLag, limit)
}
