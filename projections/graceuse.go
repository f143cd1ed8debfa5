package projections

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
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

// client is who uses one key: an address, and what it says it is.
type client struct {
	key     domain.KeyID
	address string // empty: not known, or one of too many
	agent   string // as address
}

func (c client) compare(other client) int {
	return cmp.Or(cmp.Compare(c.key, other.key), cmp.Compare(c.address, other.address), cmp.Compare(c.agent, other.agent))
}

type graceUse struct {
	lineage     domain.LineageID
	first, last time.Time
	count       int64
}

const (
	// maxClients bounds the memory, and maxClientsOfKey the table: what an agent says of itself has no end. What comes from
	// more clients is counted as from one that is not known.
	maxClients      = 8192
	maxClientsOfKey = 100
	// MaxAgentLength is how much is kept of what a client says it is, in characters.
	MaxAgentLength  = 256
	graceUseEvery   = time.Second
	graceUseTimeout = 5 * time.Second
)

// Clients are written in one order, so that two replicas never wait for each other's rows. Two that find room for the same
// last place both take it, which does no harm.
const sqlAddGraceUses = `WITH seen AS (
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::bigint[])
			AS u(key_id, address, agent, lineage_id, first_seen_at, last_seen_at, use_count)
	), counted AS (
		SELECT s.*, EXISTS (SELECT FROM grace_usage g WHERE g.key_id = s.key_id AND g.address = s.address AND g.agent = s.agent) AS known,
			(SELECT count(*) FROM grace_usage g WHERE g.key_id = s.key_id) AS others
		FROM seen s
	), placed AS (
		SELECT c.*, known OR others + row_number() OVER (PARTITION BY key_id, known ORDER BY address, agent) <= $8 AS kept FROM counted c
	)
	INSERT INTO grace_usage AS g (key_id, address, agent, lineage_id, first_seen_at, last_seen_at, use_count)
	SELECT key_id, CASE WHEN kept THEN address ELSE '' END, CASE WHEN kept THEN agent ELSE '' END, min(lineage_id), min(first_seen_at),
		max(last_seen_at), sum(use_count)::bigint
	FROM placed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
	ON CONFLICT (key_id, address, agent) DO UPDATE SET use_count = g.use_count + excluded.use_count,
		first_seen_at = least(g.first_seen_at, excluded.first_seen_at), last_seen_at = greatest(g.last_seen_at, excluded.last_seen_at)`

// NewGraceUses returns a GraceUses, which writes while it runs. A nil logger means that nothing is logged.
func NewGraceUses(pool *pgxpool.Pool, logger *slog.Logger) *GraceUses {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &GraceUses{pool: pool, logger: logger, uses: map[client]*graceUse{}}
}

// Used counts one use of a key, if the key is in grace. It touches memory only. A text that is no address counts as not
// known, because nothing else may get into the table; of what the client says it is, a line of plain text is kept.
func (g *GraceUses) Used(key *Key, from netip.Addr, agent string, at time.Time) {
	if key.State != domain.GenerationGrace {
		return
	}
	who := client{key: key.ID, agent: plainAgent(agent)}
	if from.IsValid() {
		who.address = from.Unmap().WithZone("").String()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.uses[who]
	if u == nil && len(g.uses) >= maxClients {
		who.address, who.agent = "", ""
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
	var keys, addresses, agents, lineages []string
	var firsts, lasts []time.Time
	var counts []int64
	for _, who := range slices.SortedFunc(maps.Keys(taken), client.compare) {
		u := taken[who]
		keys, addresses, agents = append(keys, string(who.key)), append(addresses, who.address), append(agents, who.agent)
		lineages = append(lineages, string(u.lineage))
		firsts, lasts, counts = append(firsts, u.first), append(lasts, u.last), append(counts, u.count)
	}
	if _, err := g.pool.Exec(ctx, sqlAddGraceUses, keys, addresses, agents, lineages, firsts, lasts, counts, maxClientsOfKey); err != nil {
		return fmt.Errorf("write uses of keys in grace: %w", err)
	}
	return nil
}

// plainAgent cuts what a client says it is down to what can be kept: one line, not too long, and no key.
func plainAgent(agent string) string {
	if len(agent) > 4*MaxAgentLength {
		agent = agent[:4*MaxAgentLength] // in bytes, which is enough for as many characters
	}
	agent = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, agent)
	if runes := []rune(agent); len(runes) > MaxAgentLength {
		agent = string(runes[:MaxAgentLength])
	}
	return domain.WithoutKeys(strings.TrimSpace(agent))
}

const sqlGraceClients = `SELECT address, agent, use_count, first_seen_at, last_seen_at
	FROM grace_usage g JOIN rotations r ON r.from_key_id = g.key_id
	WHERE ` + within + ` AND r.id = $3 ORDER BY last_seen_at DESC, address, agent`

// GraceClient is who was seen using the old key of a rotation after its successor had arrived.
type GraceClient struct {
	Address, Agent          string // empty: not known, or one of too many
	Count                   int64
	FirstSeenAt, LastSeenAt time.Time
}

// GraceClients lists who was seen using the old key of a rotation in its grace, the latest first; for thirty days.
func (r *Reader) GraceClients(ctx context.Context, reach Reach, id domain.RotationID) ([]GraceClient, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (c GraceClient, err error) {
		err = row.Scan(&c.Address, &c.Agent, &c.Count, &c.FirstSeenAt, &c.LastSeenAt)
		c.FirstSeenAt, c.LastSeenAt = c.FirstSeenAt.UTC(), c.LastSeenAt.UTC()
		return c, err
	}, sqlGraceClients, id)
}
