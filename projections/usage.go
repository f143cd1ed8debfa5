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
	// Every is how often uses are written; 0 means twice a second, so that each is seen within a second.
	Every time.Duration
	// Size is how many keys may have uses that wait, and as many may be on their way; 0 means 131,072, which is some 50 MB
	// in all. It matters only while the database is away or too slow.
	Size int
	// IDs names each life of a replica, and the events that it appends.
	IDs domain.IDs
}

// Usage counts uses of keys in memory and appends them to the lane for usage twice a second, so that no use waits for a write;
// a UsageProjection adds them to the tables. A crash loses what was not written yet. What an outage leaves over waits, the
// latest use and the counts of each key; if that become too many keys, those used longest ago are dropped, and the log says
// how many uses that cost.
//
// Clocks of replicas may differ: last_used_at is the latest that any of them said, and a use is in the hour that its replica
// said. Up to when counts are complete is by the database's clock.
type Usage struct {
	cfg    UsageConfig
	boot   string // names this life of the replica, and its stream of events
	began  time.Time
	seed   maphash.Seed
	shards [usageShards]usageShard

	flushing   sync.Mutex // held by the one flush at a time, and guards what follows
	waiting    *flush     // was taken and is not known to be written
	text       map[usageGroup]*domain.UsedText
	registered bool
	clock      databaseClock
	number     int64     // of the last flush
	version    int64     // of the last event
	until      time.Time // up to when all of this replica's uses are written, by the database's clock
	failing    bool      // the last flush failed, and the log says so
	losing     bool      // uses were lost in this outage, and the log says so

	dropped atomic.Int64 // uses that were lost and are not in the log yet
}

const (
	usageShards = 64 // so that requests rarely wait for each other
	usageEvery  = 500 * time.Millisecond
	usageSize   = 1 << 17
)

// usageShard holds the uses of some keys that no flush has taken yet.
type usageShard struct {
	mu   sync.Mutex
	uses map[domain.UUID]use
	// spare is empty, and has the room that the last flush needed: to make it anew would be garbage, and to let a map grow
	// costs who counts. Only a flush touches it.
	spare map[domain.UUID]use
	_     [40]byte // a line of the processor's cache to each, so that they do not slow each other down
}

// NewUsage returns a Usage. It counts from now on, and writes while it runs.
func NewUsage(cfg UsageConfig) *Usage {
	cfg.Every = cmp.Or(cfg.Every, usageEvery)
	cfg.Size = cmp.Or(cfg.Size, usageSize)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	u := &Usage{
		cfg: cfg, boot: cfg.IDs.New(domain.PrefixUsage, now), began: now, seed: maphash.MakeSeed(),
		text: map[usageGroup]*domain.UsedText{},
	}
	for i := range u.shards {
		u.shards[i].uses, u.shards[i].spare = map[domain.UUID]use{}, map[domain.UUID]use{}
	}
	return u
}

// Used counts one use of a key, where its verdict was valid. It touches memory only. An address is kept in one spelling; a
// text that is none counts as not known, because nothing else may get into the table.
func (u *Usage) Used(key *Key, ip string, at time.Time) {
	from, _ := netip.ParseAddr(ip)
	if of, ok := usedKeyOf(key); ok {
		u.Count(&of, from, at, true)
	}
}

// Denied counts one verify that found the key and did not say valid. That is no use of the key.
func (u *Usage) Denied(key *Key, at time.Time) {
	if of, ok := usedKeyOf(key); ok {
		u.Count(&of, netip.Addr{}, at, false)
	}
}

// UsedKey is what counting needs of a key.
type UsedKey struct {
	Key, Lineage domain.UUID
	Organization domain.OrganizationID
	Project      domain.ProjectID
	Generation   uint32
	Grace        bool // its successor has arrived
}

// usedKeyOf is false for an id that no key has.
func usedKeyOf(k *Key) (UsedKey, bool) {
	id, ok := domain.UUIDOf(domain.PrefixKey, string(k.ID))
	lineage, _ := domain.UUIDOf(domain.PrefixLineage, string(k.LineageID))
	return UsedKey{
		Key: id, Lineage: lineage, Organization: k.OrganizationID, Project: k.ProjectID, Generation: uint32(k.Generation),
		Grace: k.State == domain.GenerationGrace,
	}, ok
}

// Count counts one verify of a key, from an address that may be zero, for who has no Key at hand. It touches memory only,
// and allocates nothing for a key that has a use which waits.
func (u *Usage) Count(key *UsedKey, from netip.Addr, at time.Time, valid bool) {
	one := oneUse(key, from.Unmap().WithZone(""), at.UnixMicro(), valid)
	s := &u.shards[u.shardOf(key.Key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	former, known := s.uses[key.Key]
	if !known && len(s.uses) >= max(1, u.cfg.Size/usageShards) {
		u.dropped.Add(s.dropOld())
	}
	s.uses[key.Key] = former.and(&one)
}

func (u *Usage) shardOf(id domain.UUID) uint64 {
	return maphash.Bytes(u.seed, id[:]) % usageShards
}

// dropOld makes room for one key and returns how many uses that costs. Of a few keys it drops the one that was used
// longest ago; to know the oldest of all would take a list in the order of use.
func (s *usageShard) dropOld() int64 {
	const few = 8
	var (
		oldest domain.UUID
		seen   int
	)
	for id, use := range s.uses {
		if seen == 0 || use.at < s.uses[oldest].at {
			oldest = id
		}
		if seen++; seen == few {
			break
		}
	}
	dropped := s.uses[oldest]
	delete(s.uses, oldest)
	return dropped.all()
}

// take empties the shard. What it returns is given back, once it was read.
func (s *usageShard) take() map[domain.UUID]use {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.uses
	s.uses = s.spare
	return taken
}

func (s *usageShard) giveBack(taken map[domain.UUID]use) {
	clear(taken)
	s.spare = taken
}
