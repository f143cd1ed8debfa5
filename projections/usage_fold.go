package projections

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// usageFold joins events: what each key, and each project, is to be given. Ids of the two differ in their prefix.
type usageFold map[string]*subjectUse

type subjectUse struct {
	organization domain.OrganizationID
	project      domain.ProjectID
	lineage      domain.LineageID // empty: it is a project's
	count        int64
	at           time.Time // of the latest use, if there was one
	ip           string
	hours        []usageHour // by the hour that was heard of first
}

type usageHour struct {
	start         time.Time
	count, denied int64
}

// add adds one event. Of two latest uses of a key at one moment it is the later event's.
func (s usageFold) add(e *domain.Event, used *domain.Used) {
	total := usageHour{start: used.Hour}
	for i, key := range used.KeyIDs {
		of := s[string(key)]
		if of == nil {
			of = &subjectUse{organization: e.OrganizationID, project: e.ProjectID, lineage: used.LineageIDs[i]}
			s[string(key)] = of
		}
		h := usageHour{used.Hour, used.UseCounts[i], used.Denied(i)}
		if h.count > 0 {
			if at := used.LastUsedAt(i); of.count == 0 || !at.Before(of.at) {
				of.at, of.ip = at, used.LastUsedIPs[i]
			}
		}
		of.addHour(h)
		total.count, total.denied = total.count+h.count, total.denied+h.denied
	}
	of := s[string(e.ProjectID)]
	if of == nil {
		of = &subjectUse{organization: e.OrganizationID, project: e.ProjectID}
		s[string(e.ProjectID)] = of
	}
	of.addHour(total)
}

func (u *subjectUse) addHour(h usageHour) {
	u.count += h.count
	for i := range u.hours {
		if u.hours[i].start.Equal(h.start) {
			u.hours[i].count += h.count
			u.hours[i].denied += h.denied
			return
		}
	}
	u.hours = append(u.hours, h)
}

// days are the hours by the day.
func (u *subjectUse) days() []usageHour {
	byDay := subjectUse{}
	for _, h := range u.hours {
		h.start = UsageDay.Floor(h.start)
		byDay.addHour(h)
	}
	return byDay.hours
}

const (
	sqlMakeSeries = `SELECT make_series_partitions(day) FROM unnest($1::timestamptz[]) AS d(day)`
	sqlAddUses    = `INSERT INTO key_usage AS u (key_id, organization_id, last_used_at, last_used_ip, use_count)
		SELECT k.key, k.organization, k.at, nullif(k.ip, '')::inet, k.count
		FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::int8[]) AS k(key, organization, at, ip, count)
		ON CONFLICT (key_id) DO UPDATE SET
			last_used_at = greatest(u.last_used_at, excluded.last_used_at),
			last_used_ip = CASE WHEN excluded.last_used_at >= u.last_used_at THEN excluded.last_used_ip ELSE u.last_used_ip END,
			use_count = u.use_count + excluded.use_count`
	addSeries = ` AS s (subject_id, start, organization_id, project_id, lineage_id, use_count, denied_count)
		SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[])
		ON CONFLICT (subject_id, start) DO UPDATE SET
			use_count = s.use_count + excluded.use_count, denied_count = s.denied_count + excluded.denied_count`
	sqlAddHours = `INSERT INTO usage_hours` + addSeries
	sqlAddDays  = `INSERT INTO usage_days` + addSeries
)

// usageChunk is how many subjects are sent in one round trip.
const usageChunk = 4000

// write adds the sums to the tables.
func (s usageFold) write(ctx context.Context, tx pgx.Tx) error {
	if len(s) == 0 {
		return nil
	}
	if err := s.makeSeries(ctx, tx); err != nil {
		return err
	}
	// In the order of the indexes, which costs the least, and in which a replica of the version before locks rows.
	for subjects := range slices.Chunk(slices.Sorted(maps.Keys(s)), usageChunk) {
		var keys keyRows
		var hours, days seriesRows
		for _, subject := range subjects {
			of := s[subject]
			if of.lineage != "" && of.count > 0 {
				keys.add(subject, of)
			}
			hours.add(subject, of, of.hours)
			days.add(subject, of, of.days())
		}
		var batch pgx.Batch
		batch.Queue(sqlAddUses, keys.subjects, keys.organizations, keys.at, keys.ips, keys.counts)
		batch.Queue(sqlAddHours, hours.args()...)
		batch.Queue(sqlAddDays, days.args()...)
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("add uses to the tables: %w", err)
		}
	}
	return nil
}

// makeSeries makes what partitions are missing. They were usually made long ago; a clock that is wrong must not keep uses
// from being counted.
func (s usageFold) makeSeries(ctx context.Context, tx pgx.Tx) error {
	days := map[time.Time]bool{}
	for _, of := range s {
		if of.lineage == "" { // a project has every hour of its keys
			for _, h := range of.hours {
				days[UsageDay.Floor(h.start)] = true
			}
		}
	}
	if _, err := tx.Exec(ctx, sqlMakeSeries, slices.SortedFunc(maps.Keys(days), time.Time.Compare)); err != nil {
		return fmt.Errorf("make partitions of series: %w", err)
	}
	return nil
}

// keyRows are rows of key_usage, column by column.
type keyRows struct {
	subjects, organizations, ips []string
	at                           []time.Time
	counts                       []int64
}

func (r *keyRows) add(subject string, of *subjectUse) {
	r.subjects, r.organizations = append(r.subjects, subject), append(r.organizations, string(of.organization))
	r.at, r.ips, r.counts = append(r.at, of.at), append(r.ips, of.ip), append(r.counts, of.count)
}

// seriesRows are rows of a series, column by column.
type seriesRows struct {
	subjects, organizations, projects, lineages []string
	starts                                      []time.Time
	counts, denied                              []int64
}

func (r *seriesRows) add(subject string, of *subjectUse, hours []usageHour) {
	for _, h := range hours {
		r.subjects, r.starts = append(r.subjects, subject), append(r.starts, h.start)
		r.organizations, r.projects = append(r.organizations, string(of.organization)), append(r.projects, string(of.project))
		r.lineages = append(r.lineages, string(of.lineage))
		r.counts, r.denied = append(r.counts, h.count), append(r.denied, h.denied)
	}
}

func (r *seriesRows) args() []any {
	return []any{r.subjects, r.starts, r.organizations, r.projects, r.lineages, r.counts, r.denied}
}
