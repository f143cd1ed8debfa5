package projections

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// UsageQuery selects a series of uses. Key, Lineage and Project narrow it; without them it is the sum of all in reach.
type UsageQuery struct {
	Reach   Reach
	Key     domain.KeyID
	Lineage domain.LineageID
	Project domain.ProjectID
	// Step is how long a bucket is.
	Step UsageStep
	// From and To bound the series; From is inside the first bucket, and To is exclusive.
	From, To time.Time
}

// UsageStep is how long a bucket of a series is.
type UsageStep string

// Steps of series.
const (
	UsageHour UsageStep = "hour"
	UsageDay  UsageStep = "day"
)

// Length is how long a bucket is. Days are those of UTC, which all have 24 hours.
func (s UsageStep) Length() time.Duration {
	if s == UsageDay {
		return 24 * time.Hour
	}
	return time.Hour
}

// Floor is the start of the bucket that a moment is in.
func (s UsageStep) Floor(at time.Time) time.Time { return at.UTC().Truncate(s.Length()) }

// UsageBucket counts the uses within one step.
type UsageBucket struct {
	Start  time.Time
	Used   int64
	Denied int64
	// Complete says that nothing more is to come, and nothing is known to be missing.
	Complete bool
}

// The rows of a subject are those of a key or of a project; the rows of a project have an empty lineage, so those of no
// lineage are the sum of everything.
const (
	usageSums         = `SELECT start, sum(use_count)::bigint, sum(denied_count)::bigint FROM `
	usageOf           = ` WHERE ` + within + ` AND subject_id = $5 AND start >= $3 AND start < $4 AND ($6 = '' OR project_id = $6) AND ($7 = '' OR lineage_id = $7) GROUP BY start ORDER BY start`
	usageOfLineage    = ` WHERE ` + within + ` AND lineage_id = $5 AND start >= $3 AND start < $4 AND ($6 = '' OR project_id = $6) GROUP BY start ORDER BY start`
	sqlHoursOf        = usageSums + `usage_hours` + usageOf
	sqlHoursOfLineage = usageSums + `usage_hours` + usageOfLineage
	sqlDaysOf         = usageSums + `usage_days` + usageOf
	sqlDaysOfLineage  = usageSums + `usage_days` + usageOfLineage
	// A replica that was heard of last some time ago, and did not say that it ended, has crashed or is cut off. It may have
	// counted for a while after: until the flush that was under way was given up, and its lease had run out. A series that
	// was dropped by age, or did not exist yet, is a gap too.
	sqlUsageGaps = `SELECT complete_until, flushed_at + interval '15 seconds' FROM usage_flushes
			WHERE NOT ended AND flushed_at <= clock_timestamp() - interval '30 seconds'
				AND complete_until < $2 AND flushed_at + interval '15 seconds' > $1
		UNION ALL SELECT $1, since FROM usage_series WHERE name = $3 AND since > $1`
)

// UsageSeries returns a bucket for each step from From until To, oldest first, and up to when the counts of all replicas are
// complete, by the database's clock: each verify that was answered before is in them, except where a crash left a gap. That is
// nil while it is not known.
func (r *Reader) UsageSeries(ctx context.Context, q UsageQuery) ([]UsageBucket, *time.Time, error) {
	from := q.Step.Floor(q.From)
	complete, gaps, err := r.usageGaps(ctx, from, q.To, q.Step) // before the counts: more may come meanwhile
	if err != nil {
		return nil, nil, err
	}
	found, err := r.usageSums(ctx, q, from)
	if err != nil {
		return nil, nil, err
	}
	buckets := []UsageBucket{}
	for start := from; start.Before(q.To); start = start.Add(q.Step.Length()) {
		b := UsageBucket{Start: start}
		if len(found) > 0 && found[0].Start.Equal(start) {
			b.Used, b.Denied, found = found[0].Used, found[0].Denied, found[1:]
		}
		end := start.Add(q.Step.Length())
		b.Complete = complete != nil && !complete.Before(end)
		for _, g := range gaps {
			b.Complete = b.Complete && !(g.from.Before(end) && g.to.After(start))
		}
		buckets = append(buckets, b)
	}
	return buckets, complete, nil
}

// usageSums reads what there is. A bucket without uses has no row.
func (r *Reader) usageSums(ctx context.Context, q UsageQuery, from time.Time) ([]UsageBucket, error) {
	scan := func(row pgx.CollectableRow) (b UsageBucket, err error) {
		err = row.Scan(&b.Start, &b.Used, &b.Denied)
		b.Start = b.Start.UTC()
		return b, err
	}
	subject := cmp.Or(string(q.Key), string(q.Project))
	switch byDay := q.Step == UsageDay; {
	case q.Key == "" && (q.Lineage != "" || q.Project == "") && byDay:
		return collectWithin(ctx, r, q.Reach, scan, sqlDaysOfLineage, from, q.To, string(q.Lineage), string(q.Project))
	case q.Key == "" && (q.Lineage != "" || q.Project == ""):
		return collectWithin(ctx, r, q.Reach, scan, sqlHoursOfLineage, from, q.To, string(q.Lineage), string(q.Project))
	case byDay:
		return collectWithin(ctx, r, q.Reach, scan, sqlDaysOf, from, q.To, subject, string(q.Project), string(q.Lineage))
	default:
		return collectWithin(ctx, r, q.Reach, scan, sqlHoursOf, from, q.To, subject, string(q.Project), string(q.Lineage))
	}
}

// usageGap is a span in which uses are missing.
type usageGap struct{ from, to time.Time }

// usageGaps reads up to when counts are complete, and the gaps before.
func (r *Reader) usageGaps(ctx context.Context, from, to time.Time, step UsageStep) (complete *time.Time, gaps []usageGap, err error) {
	if err := r.pool.QueryRow(ctx, `SELECT usage_complete_until()`).Scan(&complete); err != nil {
		return nil, nil, unavailable(err)
	}
	gaps, err = collect(ctx, r.pool, func(row pgx.CollectableRow) (g usageGap, err error) {
		return g, row.Scan(&g.from, &g.to)
	}, sqlUsageGaps, from, to, "usage_"+string(step)+"s")
	return inUTC(complete), gaps, err
}
