package embedded

import (
	"net/netip"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// TestRole compares the name with where it is from.
func TestRole(t *testing.T) {
	t.Parallel()
	if role != migrations.Role {
		t.Errorf("the role is %s, not %s", role, migrations.Role)
	}
}

func record(state domain.GenerationState) *verifier.Record {
	return verifier.Pack(&projections.Key{
		ID: domain.KeyID(domain.IDs{}.New(domain.PrefixKey, time.Now())), LineageID: domain.LineageID(domain.IDs{}.New(domain.PrefixLineage, time.Now())),
		State: state,
	})
}

// TestTally counts uses: each once, by address only in grace, and of a bounded number of keys.
func TestTally(t *testing.T) {
	t.Parallel()
	type taken struct {
		from  netip.Addr
		times int64
	}
	one, two := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	active, graced := record(domain.GenerationActive), record(domain.GenerationGrace)
	var c tally
	got := map[*verifier.Record][]taken{}
	drain := func() {
		clear(got)
		c.drain(func(r *verifier.Record, from netip.Addr, _ time.Time, times int64) {
			got[r] = append(got[r], taken{from, times})
		})
	}
	for range 3 {
		for _, r := range []*verifier.Record{active, graced} {
			c.add(r, one, time.Now())
			c.add(r, two, time.Now())
		}
		drain()
		if len(got[active]) != 1 || got[active][0] != (taken{two, 2}) || len(got[graced]) != 2 || got[graced][0].times != 1 || got[graced][1].times != 1 {
			t.Fatalf("it counted %v of an active key and %v of one in grace", got[active], got[graced])
		}
	}
	for range tallyRests + 1 {
		if drain(); len(got) != 0 {
			t.Fatalf("it counted %v twice", got)
		}
	}
	for i := range c.shards {
		if left := len(c.shards[i].keys) + len(c.shards[i].users); left != 0 {
			t.Fatalf("it remembers %d keys that are used no more", left)
		}
	}
	var refused int
	for range tallyShards*tallySize + 5000 {
		if !c.add(record(domain.GenerationActive), one, time.Now()) {
			refused++
		}
	}
	if refused < 5000 {
		t.Errorf("it refused %d keys, and takes any number", refused)
	}
}
