package projections

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"
)

// ShowUsage makes the Reader's keys show what this replica counted and has not written yet. It is called before the Reader
// is in use.
func (r *Reader) ShowUsage(u *Usage) { r.usage = u }

// withUsage extends a statement that selects keyColumns, in some order, by the use of the keys. The statement comes first,
// so that use is looked up for its rows only; whose they are was judged there, and row security judges again.
func withUsage(sql, order string) string {
	return fmt.Sprintf(`SELECT %s, u.last_used_at, u.last_used_ip, coalesce(u.use_count, 0), coalesce(u.boot_id, ''), coalesce(u.flush_number, 0)
		FROM (%s) k
		LEFT JOIN LATERAL (SELECT last_used_at, last_used_ip, use_count, boot_id, flush_number FROM key_usage WHERE key_id = k.id LIMIT 1) u ON true
		ORDER BY %s`, keyColumns, sql, order)
}

// scanUsedKey scans a row of withUsage, and adds what the replica counted since.
func (r *Reader) scanUsedKey(row pgx.CollectableRow) (*Key, error) {
	var (
		at      *time.Time
		ip      *netip.Addr
		known   use
		boot    string
		flushed int64
	)
	k, err := scanKeyAnd(row, &at, &ip, &known.count, &boot, &flushed)
	if err != nil {
		return nil, err
	}
	if at != nil {
		known.at = at.UTC()
	}
	if ip != nil {
		known.ip = *ip
	}
	known = r.usage.since(k.ID, known, boot, flushed)
	k.LastUsedAt, k.UseCount = optional(known.at), known.count
	if known.ip.IsValid() {
		text := known.ip.String()
		k.LastUsedIP = &text
	}
	return k, nil
}
