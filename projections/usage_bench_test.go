package projections_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// benchKeys is how many keys a replica has in use that verifies 26,000 times a second.
const benchKeys = 100_000

type usageBench struct {
	*usageWorld
	keys []projections.UsedKey
	addr netip.Addr
}

func newUsageBench(b *testing.B) *usageBench {
	db := dbtest.New(b)
	w := &usageBench{usageWorld: &usageWorld{world: world{db: db, owner: db.OwnerPool(b), clock: newClock()}, logs: &logBuffer{}}, addr: addrA}
	w.usage = projections.NewUsage(projections.UsageConfig{Pool: db.Pool(b)})
	w.keys = make([]projections.UsedKey, benchKeys)
	now := time.Now()
	for i := range w.keys {
		k := &w.keys[i]
		k.Key, _ = domain.UUIDOf(domain.PrefixKey, domain.IDs{}.New(domain.PrefixKey, now))
		k.Lineage, _ = domain.UUIDOf(domain.PrefixLineage, domain.IDs{}.New(domain.PrefixLineage, now))
		k.Organization, k.Project, k.Generation = "org_01jz8q0v6me5et8b3k2c9d4x7a", "proj_01jz8q0v6me5et8b3k2c9d4x7a", 1
	}
	return w
}

// use counts n uses of keys at random, as half a second of verifies does.
func (w *usageBench) use(n int) {
	now := time.Now()
	for range n {
		w.usage.Count(&w.keys[rand.IntN(len(w.keys))], w.addr, now, true)
	}
}

// cost is processor time: of this process, and of the server.
type cost struct{ own, server time.Duration }

func (w *usageBench) cost(b *testing.B) cost {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return cost{time.Duration(used.Utime.Nano() + used.Stime.Nano()), w.serverTime(b)}
}

// serverTime sums the time of all processes of the server that serve this database, and of those that write for them. It is
// known on Linux only, and of a server on this machine.
func (w *usageBench) serverTime(b *testing.B) (total time.Duration) {
	b.Helper()
	rows, err := w.owner.Query(context.Background(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database() OR backend_type <> 'client backend'`)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			b.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		for _, field := range fields[11:13] { // user and system, in hundredths of a second
			n, _ := strconv.ParseInt(field, 10, 64)
			total += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return total
}

// and adds what was spent between two moments.
func (c cost) and(from, to cost) cost {
	return cost{c.own + to.own - from.own, c.server + to.server - from.server}
}

func (c cost) report(b *testing.B, uses int) {
	b.Helper()
	b.ReportMetric(float64(c.own.Nanoseconds())/float64(uses), "go-ns/use")
	b.ReportMetric(float64(c.server.Nanoseconds())/float64(uses), "postgres-ns/use")
}

// BenchmarkUsageFlush writes half a second of 26,000 verifies a second, of 100,000 keys.
func BenchmarkUsageFlush(b *testing.B) {
	const uses = 13_000
	w := newUsageBench(b)
	w.use(uses)
	w.flush(b)
	spent, n := cost{}, 0
	for b.Loop() {
		b.StopTimer()
		w.use(uses)
		before := w.cost(b)
		b.StartTimer()
		w.flush(b)
		n++
		spent = spent.and(before, w.cost(b))
	}
	spent.report(b, n*uses)
}

func (w *usageBench) flush(b *testing.B) {
	b.Helper()
	if err := w.usage.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkUsageProjection adds the verifies of some seconds to the tables in one run: the more seconds, the more are joined.
func BenchmarkUsageProjection(b *testing.B) {
	for _, seconds := range []int{1, 10, 35} {
		b.Run(fmt.Sprintf("%ds", seconds), func(b *testing.B) {
			w := newUsageBench(b)
			p := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: w.db.Pool(b)})
			apply := func() {
				for more := true; more; {
					var err error
					if more, err = p.Apply(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			}
			for range 20 { // most keys have their rows
				w.use(benchKeys / 2)
				w.flush(b)
			}
			apply()
			uses, spent := 0, cost{}
			for b.Loop() {
				b.StopTimer()
				for range 2 * seconds {
					w.use(13_000)
					w.flush(b)
					uses += 13_000
				}
				before := w.cost(b)
				b.StartTimer()
				apply()
				spent = spent.and(before, w.cost(b))
			}
			spent.report(b, uses)
		})
	}
}
