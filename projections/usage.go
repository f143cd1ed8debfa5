package projections

import (
	"cmp"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
)

// UsageConfig says what a Usage works with. Pool is required; the zero value of the rest is usable.
type UsageConfig struct {
	// Pool writes what was counted, with the service's rights.
	Pool *pgxpool.Pool
	// Logger receives outages and losses; nil means none are logged.
	Logger *slog.Logger
	// Every is how often uses are written; 0 means each second.
	Every time.Duration
	// Size is how many keys may have uses that wait, and as many may be on their way; 0 means 131,072, which is some 50 MB
	// in all. It matters only while the database is away or too slow.
	Size int
	// IDs names each life of a replica.
	IDs domain.IDs
}

// Usage counts uses of keys in memory and adds them to the table key_usage each second, so that no use waits for a write.
// A crash loses what was not written yet. What an outage leaves over waits, the latest use and the count of each key; if
// that become too many keys, those used longest ago are dropped, and the log says how many uses that cost.
//
// Clocks of replicas may differ: last_used_at is the latest that any of them said.
type Usage struct {
	cfg    UsageConfig
	boot   string // names this life of the replica
	seed   maphash.Seed
	shards [usageShards]usageShard

	mu     sync.RWMutex // a use is in a shard or in latest: guards the move from one to the other
	latest *flush

	flushing sync.Mutex   // held by the one flush at a time
	failing  bool         // the last flush failed, and the log says so
	losing   bool         // uses were lost in this outage, and the log says so
	dropped  atomic.Int64 // uses that were lost and are not in the log yet
}

const (
	usageShards = 64 // so that requests rarely wait for each other
	usageEvery  = time.Second
	usageSize   = 1 << 17
)

// usageShard holds the uses of some keys that no flush has taken yet.
type usageShard struct {
	mu   sync.Mutex
	uses map[domain.KeyID]use
}

// use is what is known of the use of one key.
type use struct {
	organization domain.OrganizationID
	at           time.Time  // of the latest use, as the database keeps it: UTC, in microseconds
	ip           netip.Addr // where that came from; zero: not known
	count        int64
}

// and adds what is known from elsewhere. Of two latest uses at one moment it is the added one.
func (u use) and(more use) use {
	if more.at.Before(u.at) {
		more.at, more.ip = u.at, u.ip
	}
	more.count += u.count
	return more
}

// NewUsage returns a Usage. It counts from now on, and writes while it runs.
func NewUsage(cfg UsageConfig) *Usage {
	cfg.Every = cmp.Or(cfg.Every, usageEvery)
	cfg.Size = cmp.Or(cfg.Size, usageSize)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	u := &Usage{cfg: cfg, boot: cfg.IDs.New("boot", time.Now()), seed: maphash.MakeSeed(), latest: &flush{first: 1, number: 1}}
	for i := range u.shards {
		u.shards[i].uses = map[domain.KeyID]use{}
	}
	return u
}

// Used counts one use of a key. It touches memory only. An address is kept in one spelling; a text that is none counts as
// not known, because nothing else may get into the table.
func (u *Usage) Used(key *Key, ip string, at time.Time) {
	s := &u.shards[u.shardOf(key.ID)]
	from, _ := netip.ParseAddr(ip)
	one := use{key.OrganizationID, at.UTC().Truncate(time.Microsecond), from.Unmap().WithZone(""), 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	former, known := s.uses[key.ID]
	if !known && len(s.uses) >= max(1, u.cfg.Size/usageShards) {
		u.dropped.Add(s.dropOld())
	}
	s.uses[key.ID] = former.and(one)
}

func (u *Usage) shardOf(id domain.KeyID) uint64 {
	return maphash.String(u.seed, string(id)) % usageShards
}

// dropOld makes room for one key and returns how many uses that costs. Of a few keys it drops the one that was used
// longest ago; to know the oldest of all would take a list in the order of use.
func (s *usageShard) dropOld() int64 {
	const few = 8
	var (
		oldest domain.KeyID
		seen   int
	)
	for id, use := range s.uses {
		if seen == 0 || use.at.Before(s.uses[oldest].at) {
			oldest = id
		}
		if seen++; seen == few {
			break
		}
	}
	count := s.uses[oldest].count
	delete(s.uses, oldest)
	return count
}

// take empties the shard.
func (s *usageShard) take() map[domain.KeyID]use {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.uses
	s.uses = map[domain.KeyID]use{}
	return taken
}

// since adds to what a row says of a key what this replica counted and the row lacks: what waits, and what is on its way
// and not in the row. Whether it is in the row is known if the row was last written by this replica, or by none. If it
// was by another one, what is on its way is not counted for that moment: a count may lag, but never says too much. The
// same goes for a read so slow that another flush has begun meanwhile.
func (u *Usage) since(id domain.KeyID, known use, boot string, flushed int64) use {
	if u == nil {
		return known
	}
	shard := u.shardOf(id)
	s := &u.shards[shard]
	u.mu.RLock()
	defer u.mu.RUnlock()
	underway := u.latest.uses[shard][id]
	if boot != "" && (boot != u.boot || flushed >= u.latest.first) {
		underway.count = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return known.and(underway).and(s.uses[id])
}
