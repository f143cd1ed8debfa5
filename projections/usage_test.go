package projections_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// usageWorld is a database and keys that exist for the counting only: it does not look whether they do.
type usageWorld struct {
	world
	usage *projections.Usage
	logs  *logBuffer
}

func setupUsage(t *testing.T, adjust ...func(*projections.UsageConfig)) *usageWorld {
	t.Helper()
	db := dbtest.New(t)
	w := &usageWorld{world: world{db: db, owner: ownerPool(t, db), clock: newClock()}, logs: &logBuffer{}}
	w.usage = w.replica(t, adjust...)
	return w
}

// replica is one more process that counts.
func (w *usageWorld) replica(t *testing.T, adjust ...func(*projections.UsageConfig)) *projections.Usage {
	t.Helper()
	cfg := projections.UsageConfig{Logger: slog.New(slog.NewTextHandler(w.logs, nil))}
	for _, f := range adjust {
		f(&cfg)
	}
	if cfg.Pool == nil {
		cfg.Pool = w.db.Pool(t)
	}
	return projections.NewUsage(cfg)
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// usedKey is a key as far as counting goes.
func usedKey(i int) *projections.Key {
	return &projections.Key{
		ID: domain.KeyID(fmt.Sprintf("key_%026d", i)), LineageID: domain.LineageID(fmt.Sprintf("lin_%026d", i)), Generation: 1,
		OrganizationID: "org_a", ProjectID: "proj_a", State: domain.GenerationActive,
	}
}

// usageRow is a row of key_usage.
type usageRow struct {
	Organization string
	At           time.Time
	IP           netip.Addr // zero: null
	Count        int64
}

// rows reads the table.
func (w *usageWorld) rows(t *testing.T) map[domain.KeyID]usageRow {
	t.Helper()
	w.projected(t)
	found, err := w.owner.Query(context.Background(), `SELECT key_id, organization_id, last_used_at, last_used_ip, use_count FROM key_usage`)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	out := map[domain.KeyID]usageRow{}
	for found.Next() {
		var (
			id domain.KeyID
			r  usageRow
			ip *netip.Addr
		)
		if err := found.Scan(&id, &r.Organization, &r.At, &ip, &r.Count); err != nil {
			t.Fatal(err)
		}
		if ip != nil {
			r.IP = *ip
		}
		r.At = r.At.UTC()
		out[id] = r
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *usageWorld) wantRows(t *testing.T, want map[domain.KeyID]usageRow) {
	t.Helper()
	if diff := cmp.Diff(want, w.rows(t), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("key_usage (-want +got):\n%s", diff)
	}
}

func flushed(t *testing.T, u *projections.Usage) {
	t.Helper()
	if err := u.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// projected adds to the tables what is in the lane.
func (w *world) projected(t testing.TB) {
	t.Helper()
	p := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: w.owner})
	eventually(t, "all is in the tables", func() bool {
		if _, err := p.Apply(context.Background()); err != nil {
			t.Fatal(err)
		}
		return one[bool](t, w, `SELECT position = coalesce((SELECT max(position) FROM events WHERE lane = 2), 0) FROM usage_projection`) &&
			one[int](t, w, `SELECT count(*)::int FROM usage_flushes WHERE applied_until < complete_until`) == 0
	})
}

// counted flushes, and adds to the tables what is in the lane.
func (w *world) counted(t *testing.T, u *projections.Usage) {
	t.Helper()
	flushed(t, u)
	w.projected(t)
}

// project runs a UsageProjection until the function it returns is called, which waits for its end.
func (w *world) project(t testing.TB, adjust ...func(*projections.UsageProjectionConfig)) (stop func()) {
	t.Helper()
	cfg := projections.UsageProjectionConfig{Pool: w.db.Pool(t), Poll: 2 * time.Millisecond}
	for _, f := range adjust {
		f(&cfg)
	}
	p := projections.NewUsageProjection(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { p.Run(ctx) })
	return func() { cancel(); group.Wait() }
}

// run runs a Usage until the function it returns is called, which waits for its end.
func run(u *projections.Usage) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { u.Run(ctx) })
	return func() { cancel(); group.Wait() }
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

const fromA, fromB = "198.51.100.1", "2001:db8::2"

var (
	addrA = netip.MustParseAddr(fromA)
	addrB = netip.MustParseAddr(fromB)
)

func TestUsage(t *testing.T) {
	t.Parallel()

	t.Run("KeepsTheLatestUseAndCountsAll", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t)
		at := w.clock.Now()
		one, two, three := usedKey(1), usedKey(2), usedKey(3)
		w.usage.Used(one, fromA, at)
		w.usage.Used(one, fromB, at.Add(2*time.Second+1500*time.Nanosecond))
		w.usage.Used(one, fromA, at.Add(time.Second)) // late to be counted, and not the latest
		w.usage.Used(two, "not an address", at)
		w.usage.Used(three, "::ffff:198.51.100.1", at.In(time.FixedZone("east", 3600)))
		flushed(t, w.usage)
		want := map[domain.KeyID]usageRow{
			one.ID:   {"org_a", at.Add(2*time.Second + time.Microsecond), addrB, 3},
			two.ID:   {"org_a", at, netip.Addr{}, 1},
			three.ID: {"org_a", at, addrA, 1},
		}
		w.wantRows(t, want)
		flushed(t, w.usage) // nothing new
		w.wantRows(t, want)
		w.usage.Used(one, "fe80::1%eth0", at.Add(3*time.Second)) // the latest: its address goes with it
		w.usage.Used(two, fromB, at.Add(-time.Second))           // before what is known
		w.usage.Used(three, fromB, at)                           // at the same moment, but later
		flushed(t, w.usage)
		w.wantRows(t, map[domain.KeyID]usageRow{
			one.ID:   {"org_a", at.Add(3 * time.Second), netip.MustParseAddr("fe80::1"), 4},
			two.ID:   {"org_a", at, netip.Addr{}, 2},
			three.ID: {"org_a", at, addrB, 2},
		})
	})

	t.Run("IsWrittenWhileItRunsAndAtTheEnd", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t, func(c *projections.UsageConfig) { c.Every = 10 * time.Millisecond })
		stop := run(w.usage)
		w.usage.Used(usedKey(1), fromA, w.clock.Now())
		eventually(t, "the use is written", func() bool { return w.rows(t)[usedKey(1).ID].Count == 1 })
		stop()
		idle := w.replica(t, func(c *projections.UsageConfig) { c.Every = time.Hour })
		stop = run(idle)
		idle.Used(usedKey(1), fromB, w.clock.Now().Add(time.Second))
		stop()
		w.wantRows(t, map[domain.KeyID]usageRow{usedKey(1).ID: {"org_a", w.clock.Now().Add(time.Second), addrB, 2}})
		if logs := w.logs.String(); logs != "" {
			t.Errorf("it logs:\n%s", logs)
		}
	})

	t.Run("ForgetsReplicasThatEnded", func(t *testing.T) {
		t.Parallel()
		w := setupUsage(t, func(c *projections.UsageConfig) { c.Every = time.Hour })
		w.exec(t, `INSERT INTO usage_flushes VALUES ('boot_old', 7, now() - interval '8 days'), ('boot_new', 7, now() - interval '6 days')`)
		run(w.usage)()
		if left := one[[]string](t, &w.world, `SELECT array_agg(boot_id) FROM usage_flushes WHERE boot_id LIKE 'boot%'`); !slices.Equal(left, []string{"boot_new"}) {
			t.Errorf("left: %v", left)
		}
	})
}

// Two replicas count 20,000 uses of the same keys in any order of time, and write meanwhile. All are counted, and
// last_used_at is the latest, with the address that it was from.
func TestUsageOfTwoReplicas(t *testing.T) {
	t.Parallel()
	const uses, keys, writers = 20_000, 300, 4
	w := setupUsage(t)
	often := func(c *projections.UsageConfig) { c.Every = 2 * time.Millisecond }
	replicas := []*projections.Usage{w.replica(t, often), w.replica(t, often)}
	var stops []func()
	for _, u := range replicas {
		stops = append(stops, run(u))
	}
	var mu sync.Mutex
	want := map[domain.KeyID]usageRow{}
	order := rand.Perm(uses)
	together(writers, func(writer int) {
		for i := writer; i < uses; i += writers {
			key, at := usedKey(order[i]%keys), w.clock.Now().Add(time.Duration(order[i])*time.Microsecond)
			ip := netip.AddrFrom4([4]byte{10, 0, byte(order[i] >> 8), byte(order[i])})
			replicas[i%2].Used(key, ip.String(), at)
			mu.Lock()
			row := want[key.ID]
			row.Organization, row.Count = "org_a", row.Count+1
			if at.After(row.At) {
				row.At, row.IP = at, ip
			}
			want[key.ID] = row
			mu.Unlock()
			if i%1000 < writers { // beside those by time
				if err := replicas[i%2].Flush(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for _, stop := range stops {
		stop()
	}
	w.wantRows(t, want)
	if flushes := one[int64](t, &w.world, `SELECT sum(number)::bigint FROM usage_flushes`); flushes < 6 {
		t.Errorf("only %d flushes: they hardly met", flushes)
	}
	if logs := w.logs.String(); logs != "" {
		t.Errorf("it logs:\n%s", logs)
	}
}

// While the database is away a bounded number of keys wait. Those that were used lately stay, and what is lost is told.
func TestUsageIsBounded(t *testing.T) {
	t.Parallel()
	const size, keys = 640, 5000
	w := setupUsage(t, func(c *projections.UsageConfig) { c.Size = size })
	hot := usedKey(0)
	for i := 1; i <= keys; i++ {
		at := w.clock.Now().Add(time.Duration(i) * time.Second)
		w.usage.Used(usedKey(i), fromA, at)
		w.usage.Used(hot, fromB, at)
	}
	flushed(t, w.usage)
	rows := w.rows(t)
	if len(rows) > size || len(rows) < size/2 {
		t.Errorf("%d keys are kept of a size of %d", len(rows), size)
	}
	if got := rows[hot.ID].Count; got != keys {
		t.Errorf("of a key in constant use %d uses are left of %d", got, keys)
	}
	if oldest := one[time.Time](t, &w.world, `SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY last_used_at) FROM key_usage`); oldest.Before(w.clock.Now().Add(keys * 3 / 4 * time.Second)) {
		t.Errorf("half of what is kept is older than %s", oldest)
	}
	var kept int64
	for _, r := range rows {
		kept += r.Count
	}
	if want := fmt.Sprintf("uses=%d ", 2*keys-kept); strings.Count(w.logs.String(), "uses are lost") != 1 || !strings.Contains(w.logs.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, w.logs)
	}
}

// TestUsageLeavesNothing starts and stops it as a process does.
func TestUsageLeavesNothing(t *testing.T) {
	w := setupUsage(t, func(c *projections.UsageConfig) { c.Every = time.Millisecond })
	flushed(t, w.usage) // the pools are up
	before := goleak.IgnoreCurrent()
	for range 3 {
		stop := run(w.usage)
		w.usage.Used(usedKey(1), fromA, w.clock.Now())
		stop()
	}
	goleak.VerifyNone(t, before)
	if got := w.rows(t)[usedKey(1).ID].Count; got != 3 {
		t.Errorf("%d uses are written of 3", got)
	}
}

// TestUsedMakesNoGarbage: a use of a key that has one already allocates nothing.
func TestUsedMakesNoGarbage(t *testing.T) {
	u, key, at := projections.NewUsage(projections.UsageConfig{}), usedKey(1), time.Now()
	u.Used(key, fromA, at)
	if n := testing.AllocsPerRun(100, func() { u.Used(key, fromB, at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkUsed(b *testing.B) {
	u, at := projections.NewUsage(projections.UsageConfig{}), time.Now()
	keys := make([]*projections.Key, 100_000)
	for i := range keys {
		keys[i] = usedKey(i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			u.Used(keys[i%len(keys)], fromA, at)
		}
	})
}
