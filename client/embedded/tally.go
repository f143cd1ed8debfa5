package embedded

import (
	"net/netip"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/projections/verifier"
)

const (
	tallyShards = 64 // so that verifies rarely wait for each other
	tallySize   = 4096
	// tallyRests is after how many looks without a use a key is forgotten. Until then a use of it costs no allocation.
	tallyRests = 20
)

// tally counts uses for a moment, at the cost of a lock that is rarely waited for and a look into a map.
type tally struct{ shards [tallyShards]tallyShard }

type tallyShard struct {
	mu    sync.Mutex
	keys  map[*verifier.Record]*uses
	users map[user]*uses // of keys in grace
	_     [40]byte       // a line of the processor's cache to each, so that they do not slow each other down
}

// user is a key and the address that still uses it, which matters in grace only.
type user struct {
	record *verifier.Record
	from   netip.Addr
}

type uses struct {
	count int64
	at    time.Time // of the latest
	from  netip.Addr
	rests int
}

// add counts one use, unless too many keys are counted already.
func (t *tally) add(r *verifier.Record, from netip.Addr, at time.Time) bool {
	id := r.ID()
	s := &t.shards[id[len(id)-1]%tallyShards]
	s.mu.Lock()
	u := s.keys[r]
	if u == nil {
		if u = s.other(r, from); u == nil {
			s.mu.Unlock()
			return false
		}
	}
	u.count++
	u.at, u.from = at, from
	s.mu.Unlock()
	return true
}

// other is where the uses of a key in grace, or of one that was not used lately, are counted; nil if there is no room.
func (s *tallyShard) other(r *verifier.Record, from netip.Addr) *uses {
	if r.InGrace() {
		return room(&s.users, user{r, from})
	}
	return room(&s.keys, r)
}

// room returns what counts for a key of a map.
func room[K comparable](counts *map[K]*uses, who K) *uses {
	u := (*counts)[who]
	if u != nil || len(*counts) >= tallySize {
		return u
	}
	if *counts == nil {
		*counts = map[K]*uses{}
	}
	u = &uses{}
	(*counts)[who] = u
	return u
}

// drain hands over what was counted since the last time.
func (t *tally) drain(take func(r *verifier.Record, from netip.Addr, at time.Time, times int64)) {
	for i := range t.shards {
		keys, users := t.shards[i].take()
		for r, u := range keys {
			take(r, u.from, u.at, u.count)
		}
		for who, u := range users {
			take(who.record, u.from, u.at, u.count)
		}
	}
}

func (s *tallyShard) take() (map[*verifier.Record]uses, map[user]uses) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taken(s.keys), taken(s.users)
}

// taken returns what was counted, and forgets what is used no more.
func taken[K comparable](counts map[K]*uses) map[K]uses {
	var out map[K]uses
	for who, u := range counts {
		if u.count > 0 {
			if out == nil {
				out = make(map[K]uses, len(counts))
			}
			out[who] = *u
			u.count, u.rests = 0, 0
		} else if u.rests++; u.rests > tallyRests {
			delete(counts, who)
		}
	}
	return out
}
