package projections

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
)

// GraceUses counts who still uses keys whose successor has arrived, by client, so that their owners can be told before
// those keys end. Like Usage it counts in memory and writes each second; what a crash loses is a second of counts that
// only serve a warning.
type GraceUses struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	mu   sync.Mutex
	uses map[client]*graceUse
}

// client is one address that uses one key.
type client struct {
	key     domain.KeyID
	address string // empty: not known, or one of too many
}

func (c client) compare(other client) int {
	return cmp.Or(cmp.Compare(c.key, other.key), cmp.Compare(c.address, other.address))
}

type graceUse struct {
	lineage     domain.LineageID
	first, last time.Time
	count       int64
}

const (
	// maxClients bounds the memory. What comes from more addresses is counted as from one that is not known.
	maxClients      = 8192
	graceUseEvery   = time.Second
	graceUseTimeout = 5 * time.Second
)

const sqlAddGraceUses = `INSERT INTO grace_usage AS g (key_id, address, lineage_id, first_seen_at, last_seen_at, use_count)
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
	ON CONFLICT (key_id, address) DO UPDATE SET use_count = g.use_count + excluded.use_count,
		first_seen_at = least(g.first_seen_at, excluded.first_seen_at), last_seen_at = greatest(g.last_seen_at, excluded.last_seen_at)`

// NewGraceUses returns a GraceUses, which writes while it runs. A nil logger means that nothing is logged.
func NewGraceUses(pool *pgxpool.Pool, logger *slog.Logger) *GraceUses {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &GraceUses{pool: pool, logger: logger, uses: map[client]*graceUse{}}
}

// Used counts one use of a key, if the key is in grace. It touches memory only. A text that is no address counts as not
// known, because nothing else may get into the table.
func (g *GraceUses) Used(key *Key, address string, at time.Time) {
	if key.State != domain.GenerationGrace {
		return
	}
	who := client{key: key.ID}
	if from, err := netip.ParseAddr(address); err == nil {
		who.address = from.Unmap().WithZone("").String()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.uses[who]
	if u == nil && len(g.uses) >= maxClients {
		who.address = ""
		u = g.uses[who]
	}
	if u == nil {
		u = &graceUse{lineage: key.LineageID, first: at}
		g.uses[who] = u
	}
	u.last, u.count = at, u.count+1
}

// Run writes what was counted until ctx ends, and then what is left.
func (g *GraceUses) Run(ctx context.Context) {
	ticker := time.NewTicker(graceUseEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			g.write(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
			g.write(context.WithoutCancel(ctx))
		}
	}
}

func (g *GraceUses) write(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, graceUseTimeout)
	defer cancel()
	if err := g.Flush(ctx); err != nil {
		g.logger.Warn("uses of keys in grace are lost: they cannot be written", "error", err)
	}
}

// Flush writes what was counted. What cannot be written is dropped: it is only counted to warn, and a count that may be
// written twice would warn of what was not.
func (g *GraceUses) Flush(ctx context.Context) error {
	g.mu.Lock()
	taken := g.uses
	g.uses = map[client]*graceUse{}
	g.mu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	var keys, addresses, lineages []string
	var firsts, lasts []time.Time
	var counts []int64
	// In one order, so that two replicas never wait for each other's rows.
	for _, who := range slices.SortedFunc(maps.Keys(taken), client.compare) {
		u := taken[who]
		keys, addresses, lineages = append(keys, string(who.key)), append(addresses, who.address), append(lineages, string(u.lineage))
		firsts, lasts, counts = append(firsts, u.first), append(lasts, u.last), append(counts, u.count)
	}
	if _, err := g.pool.Exec(ctx, sqlAddGraceUses, keys, addresses, lineages, firsts, lasts, counts); err != nil {
		return fmt.Errorf("write uses of keys in grace: %w", err)
	}
	return nil
}
