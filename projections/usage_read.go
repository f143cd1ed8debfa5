package projections

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"
)

// withUsage extends a statement that selects keyColumns, in some order, by the use of the keys, and up to when that is
// complete. The statement comes first, so that use is looked up for its rows only; whose they are was judged there, and row
// security judges again.
func withUsage(sql, order string) string {
	return fmt.Sprintf(`SELECT %s, u.last_used_at, u.last_used_ip, coalesce(u.use_count, 0), (SELECT usage_complete_until())
		FROM (%s) k
		LEFT JOIN LATERAL (SELECT last_used_at, last_used_ip, use_count FROM key_usage WHERE key_id = k.id LIMIT 1) u ON true
		ORDER BY %s`, keyColumns, sql, order)
}

// scanUsedKey scans a row of withUsage.
func scanUsedKey(row pgx.CollectableRow) (*Key, error) {
	var (
		at, complete *time.Time
		ip           *netip.Addr
		count        int64
	)
	k, err := scanKeyAnd(row, &at, &ip, &count, &complete)
	if err != nil {
		return nil, err
	}
	k.LastUsedAt, k.UseCount, k.UseCompleteUntil = inUTC(at), count, inUTC(complete)
	if ip != nil {
		text := ip.String()
		k.LastUsedIP = &text
	}
	return k, nil
}
