package projections_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// counts are uses and denials of something.
type counts struct{ Used, Denied int64 }

func (c counts) and(used, denied int64) counts { return counts{c.Used + used, c.Denied + denied} }

// bucket is a row of a series.
type bucket struct {
	Subject string
	Start   int64
}

// tables are what all tables together say of use.
type tables struct {
	Keys  map[domain.KeyID]int64
	Hours map[bucket]counts
	Days  map[bucket]counts
}

// readTables reads the tables.
func (w *usageWorld) readTables(t testing.TB) tables {
	t.Helper()
	out := tables{map[domain.KeyID]int64{}, map[bucket]counts{}, map[bucket]counts{}}
	var id string
	var start time.Time
	var used, denied int64
	read := func(sql string, into []any, take func()) {
		t.Helper()
		rows, err := w.owner.Query(context.Background(), sql)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			take()
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	read(`SELECT key_id, use_count FROM key_usage`, []any{&id, &used}, func() { out.Keys[domain.KeyID(id)] = used })
	all := []any{&id, &start, &used, &denied}
	read(`SELECT subject_id, start, use_count, denied_count FROM usage_hours`, all, func() { out.Hours[bucket{id, start.Unix()}] = counts{used, denied} })
	read(`SELECT subject_id, start, use_count, denied_count FROM usage_days`, all, func() { out.Days[bucket{id, start.Unix()}] = counts{used, denied} })
	return out
}

// lane reads all events of use, which must be contiguous, and in order in each replica's stream.
func (w *usageWorld) lane(t testing.TB) (records []eventstore.Record) {
	t.Helper()
	versions, ids := map[string]int64{}, map[domain.EventID]bool{}
	for {
		page, err := eventstore.ReadLane(context.Background(), w.owner, eventstore.Usage, int64(len(records)), 5000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if domain.StreamKind(r.StreamID) != domain.PrefixUsage || r.Version != versions[r.StreamID]+1 || ids[r.ID] {
				t.Fatalf("position %d is %s version %d of %s after %d", r.Position, r.ID, r.Version, r.StreamID, versions[r.StreamID])
			}
			versions[r.StreamID], ids[r.ID] = r.Version, true
		}
		if records = append(records, page...); len(page) < 5000 {
			return records
		}
	}
}

// fold is what the events say, and the reason why the tables may be dropped: all of them follow from the lane.
func fold(records []eventstore.Record) tables {
	out := tables{map[domain.KeyID]int64{}, map[bucket]counts{}, map[bucket]counts{}}
	for _, r := range records {
		e := r.Data.(domain.Used)
		for i, key := range e.KeyIDs {
			used, denied := e.UseCounts[i], e.Denied(i)
			if used > 0 {
				out.Keys[key] += used
			}
			for _, subject := range []string{string(key), string(r.ProjectID)} {
				hour, day := bucket{subject, e.Hour.Unix()}, bucket{subject, e.Hour.Truncate(24 * time.Hour).Unix()}
				out.Hours[hour] = out.Hours[hour].and(used, denied)
				out.Days[day] = out.Days[day].and(used, denied)
			}
		}
	}
	return out
}

// wantFold asserts that the tables are what the lane says.
func (w *usageWorld) wantFold(t testing.TB) tables {
	t.Helper()
	w.projected(t)
	got := w.readTables(t)
	if diff := cmp.Diff(fold(w.lane(t)), got); diff != "" {
		t.Errorf("what the events say, and what the tables say (-events +tables):\n%s", diff)
	}
	return got
}

// G7: two replicas count a million verifies while they write, and every table, the events included, has each of them once.
func TestG7AMillionVerifies(t *testing.T) {
	t.Parallel()
	const verifies, keys, clients = 1_000_000, 700, 8
	w := setupUsage(t)
	often := func(c *projections.UsageConfig) { c.Every = 50 * time.Millisecond }
	replicas := []*projections.Usage{w.replica(t, often), w.replica(t, often)}
	used := make([]*projections.Key, keys)
	for i := range used {
		used[i] = usedKey(i)
		used[i].ProjectID = domain.ProjectID(fmt.Sprintf("proj_%d", i%3))
	}
	// Two processes take turns at the tables meanwhile, a few events at a time.
	few := func(c *projections.UsageProjectionConfig) { c.MaxEvents = 5 }
	stops := []func(){w.project(t, few), w.project(t, few)}
	for _, u := range replicas {
		stops = append(stops, run(u))
	}
	var denied atomic.Int64
	at := w.clock.Now().Add(-time.Hour) // so that they are in two hours
	together(clients, func(client int) {
		random := rand.New(rand.NewPCG(1, uint64(client)))
		for i := client; i < verifies; i += clients {
			key, moment := used[random.IntN(keys)], at.Add(time.Duration(random.IntN(7200))*time.Second)
			if random.IntN(10) == 0 {
				denied.Add(1)
				replicas[i%2].Denied(key, moment)
			} else {
				replicas[i%2].Used(key, fromA, moment)
			}
		}
	})
	for _, stop := range stops {
		stop()
	}
	got := w.wantFold(t)
	want := counts{verifies - denied.Load(), denied.Load()}
	sums := map[string]counts{}
	for _, n := range got.Keys {
		sums["keys"] = sums["keys"].and(n, 0)
	}
	for name, series := range map[string]map[bucket]counts{"hours": got.Hours, "days": got.Days} {
		for b, n := range series {
			name := name + " of " + domain.StreamKind(b.Subject)
			sums[name] = sums[name].and(n.Used, n.Denied)
		}
	}
	if diff := cmp.Diff(map[string]counts{
		"keys": {Used: want.Used}, "hours of key": want, "days of key": want, "hours of proj": want, "days of proj": want,
	}, sums); diff != "" {
		t.Errorf("sums (-want +got):\n%s", diff)
	}
	if logs := w.logs.String(); logs != "" {
		t.Errorf("it logs:\n%s", logs)
	}
}

// G7: whatever is used, denied, written, written again because its answer was lost, or lost in a crash: the tables are the
// fold of the events, and of a replica that did not crash each use is there once.
//
// Not parallel, because how much rapid tries is set for the whole process.
func TestG7TablesAreTheFoldOfTheEvents(t *testing.T) {
	for name, value := range map[string]string{"rapid.checks": "8", "rapid.steps": "40", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	w := setupUsage(t)
	type counter struct {
		*projections.Usage
		line *line
	}
	next := 0
	rapid.Check(t, func(rt *rapid.T) {
		start := func() counter {
			l, pool := w.connectThrough(t)
			return counter{w.replica(t, func(c *projections.UsageConfig) { c.Pool = pool }), l}
		}
		replicas := []counter{start(), start()}
		// What fills the tables, over a line that breaks too.
		broken, pool := w.connectThrough(t)
		newProjection := func() *projections.UsageProjection {
			return projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: pool, MaxEvents: 3})
		}
		projection := newProjection()
		next += 10
		keys := make([]*projections.Key, 5)
		for i := range keys {
			keys[i] = usedKey(next + i)
		}
		said, lost := map[domain.KeyID]int64{}, map[domain.KeyID]int64{}
		unwritten := []map[domain.KeyID]int64{{}, {}}
		pick := func(rt *rapid.T) int { return rapid.IntRange(0, 1).Draw(rt, "replica") }
		moment := func(rt *rapid.T) time.Time {
			return w.clock.Now().Add(time.Duration(rapid.Int64Range(-40*24*3600, 3*3600).Draw(rt, "second")) * time.Second)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"Use": func(rt *rapid.T) {
				i, key := pick(rt), rapid.SampledFrom(keys).Draw(rt, "key")
				for range rapid.IntRange(1, 5).Draw(rt, "times") {
					replicas[i].Used(key, fromA, moment(rt))
					said[key.ID]++
					unwritten[i][key.ID]++
				}
			},
			"Deny": func(rt *rapid.T) { replicas[pick(rt)].Denied(rapid.SampledFrom(keys).Draw(rt, "key"), moment(rt)) },
			"Flush": func(rt *rapid.T) {
				i := pick(rt)
				flushed(t, replicas[i].Usage)
				clear(unwritten[i])
			},
			"LoseAnswer": func(rt *rapid.T) {
				i := pick(rt)
				flushed(t, replicas[i].Usage) // the next one is the first of its kind on the line
				clear(unwritten[i])
				key := rapid.SampledFrom(keys).Draw(rt, "key")
				replicas[i].Used(key, fromB, moment(rt))
				said[key.ID]++
				replicas[i].line.loseNextAnswer()
				if err := replicas[i].Flush(t.Context()); err == nil {
					rt.Fatal("the answer was not lost")
				}
			},
			"Apply": func(rt *rapid.T) {
				if _, err := projection.Apply(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"ApplyAndBreak": func(rt *rapid.T) {
				broken.breakNextCommit(rapid.Bool().Draw(rt, "before the commit"))
				if _, err := projection.Apply(t.Context()); err == nil {
					rt.Fatal("it was not told that the line broke")
				}
				if rapid.Bool().Draw(rt, "and crash") {
					projection = newProjection()
				}
			},
			"Crash": func(rt *rapid.T) {
				i := pick(rt)
				for id, n := range unwritten[i] {
					lost[id] += n
				}
				clear(unwritten[i])
				replicas[i] = start()
			},
		})
		for _, u := range replicas {
			flushed(t, u.Usage)
		}
		got := w.wantFold(t)
		for id, n := range said {
			if want := n - lost[id]; got.Keys[id] != want {
				rt.Fatalf("key %s has %d uses, want %d", id, got.Keys[id], want)
			}
		}
	})
}

// The lane for usage is its own: no command waits for it, and it waits for no command (R46).
func TestR46UsageMeetsNoCommand(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	key := usedKey(1)
	tx, err := w.connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, sql := range []string{
		"SELECT move_heads(ARRAY['" + string(key.LineageID) + "'], ARRAY[0], ARRAY[1], 1::smallint, ARRAY['{}'], '{}', '{}')",
		"SELECT append_events(1::smallint, ARRAY['evt_1'], ARRAY['" + string(key.LineageID) + "'], ARRAY[1], ARRAY['org_a'], ARRAY['proj_a'], ARRAY['Created'], ARRAY[1::smallint], ARRAY[now()], ARRAY['key_maker'], ARRAY[''], ARRAY['{}'])",
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.usage.Used(key, fromA, w.clock.Now())
	w.counted(t, w.usage) // while a command holds the lineage, its lane, and has not committed
	if n := len(w.lane(t)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if got := w.lane(t)[0]; got.Actor != domain.ActorUsage || got.OrganizationID != "org_a" || got.ProjectID != "proj_a" {
		t.Errorf("the event is %+v", got.Event)
	}
}

// R46: what fills the tables does not keep flushes, and does not wait for readers of the tables.
func TestR46FlushesDoNotWaitForTheTables(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	w.usage.Used(usedKey(1), fromA, w.clock.Now())
	w.counted(t, w.usage)
	tx, err := w.connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`SELECT FROM usage_projection FOR UPDATE`, `SELECT FROM key_usage FOR UPDATE`, `LOCK usage_hours, usage_days IN SHARE MODE`} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.usage.Used(usedKey(1), fromA, w.clock.Now())
	flushed(t, w.usage)
	p := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: w.db.Pool(t)})
	if more, err := p.Apply(t.Context()); more || err != nil { // another one is at it: this one goes its way
		t.Errorf("it found more: %v, %v", more, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantFold(t)
}

// R48: when little is going on, a first use, and one in grace, is in the tables within a second: each step is started by
// time, so what is shown here is that nothing else has to happen.
func TestR48UsesAreSeenByThemselves(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	stops := []func(){run(w.usage), w.project(t, func(c *projections.UsageProjectionConfig) { c.Poll = 0 })}
	grace := usedKey(2)
	grace.State, grace.ProjectID = domain.GenerationGrace, "proj_b"
	w.usage.Used(usedKey(1), fromA, w.clock.Now())
	w.usage.Used(grace, fromA, w.clock.Now())
	began := time.Now()
	eventually(t, "both are in the table", func() bool { return one[int](t, &w.world, `SELECT count(*)::int FROM key_usage`) == 2 })
	t.Logf("after %s", time.Since(began))
	for _, stop := range stops {
		stop()
	}
	for _, r := range w.lane(t) {
		if e := r.Data.(domain.Used); slices.Contains(e.KeyIDs, grace.ID) && !slices.Equal(e.InGrace, e.KeyIDs) {
			t.Errorf("the event of the key in grace is %+v", e)
		}
	}
}

// The lane grows over its partitions without a gap, and what is old is dropped without touching the head.
func TestUsageIsDroppedByAge(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	count := func(keys int) {
		for i := range keys {
			key := usedKey(i)
			key.ProjectID = domain.ProjectID(fmt.Sprintf("proj_%d", i)) // an event for each
			w.usage.Used(key, fromA, w.clock.Now())
		}
		flushed(t, w.usage)
	}
	count(12_000) // the first partition has room for 10,000
	w.lane(t)
	drop := func() (n int) {
		t.Helper()
		for {
			dropped := one[int](t, &w.world, `SELECT drop_old_usage('90 days', '90 days', '700 days')`)
			if n += dropped; dropped == 0 {
				return n
			}
		}
	}
	aged := func(age string) (first int64) {
		t.Helper()
		w.exec(t, `UPDATE events SET occurred_at = now() - $1::interval WHERE lane = 2`, age)
		drop()
		return one[int64](t, &w.world, `SELECT min(position) FROM events WHERE lane = 2`)
	}
	if first := aged("91 days"); first != 1 {
		t.Fatalf("events that are in no table yet are dropped: the first is %d", first)
	}
	w.wantFold(t)
	if first := aged("0 days"); first != 1 {
		t.Fatalf("events of now are dropped: the first is %d", first)
	}
	if first := aged("91 days"); first != 10_000 {
		t.Errorf("the first event that is left is %d", first)
	}
	count(3)
	if head := one[int64](t, &w.world, `SELECT max(position) FROM events WHERE lane = 2`); head != 12_003 {
		t.Errorf("the head is %d", head)
	}

	// A replica whose clock stands in the past, or far ahead, is counted where it says; the past is dropped soon.
	long := time.Date(2001, 1, 1, 0, 30, 0, 0, time.UTC)
	w.usage.Used(usedKey(1), fromA, long)
	w.usage.Used(usedKey(1), fromA, time.Date(2050, 1, 1, 0, 30, 0, 0, time.UTC))
	w.counted(t, w.usage)
	if n := one[int64](t, &w.world, `SELECT count(*) FROM usage_hours WHERE start = $1`, long.Truncate(time.Hour)); n != 2 {
		t.Errorf("%d rows of long ago", n)
	}
	if n := drop(); n < 2 {
		t.Errorf("%d partitions of long ago were dropped", n)
	}
	if n := one[int64](t, &w.world, `SELECT count(*) FROM usage_days WHERE start < '2002-01-01'`); n != 0 {
		t.Errorf("%d rows of long ago are left", n)
	}
	if since := one[time.Time](t, &w.world, `SELECT since FROM usage_series WHERE name = 'usage_days'`); since.Before(long) {
		t.Errorf("the series says that it goes back to %s", since)
	}
	if _, err := w.db.Pool(t).Exec(t.Context(), `SELECT drop_old_usage('1 hour', '90 days', '700 days')`); err == nil {
		t.Error("what is an hour old could be dropped")
	}
}

// Partitions hold about a day: each one that fills in less makes the next ones larger, and slow ones smaller.
func TestUsagePartitionsFollowTheRate(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	sizes := func() []int64 {
		return one[[]int64](t, &w.world, `SELECT array_agg(end_position - first_position ORDER BY first_position) FROM usage_partitions`)
	}
	more := func(n int64) { w.exec(t, `SELECT make_usage_partitions($1)`, n) }
	more(1_000_000)
	if got := sizes(); !slices.Equal(got[:4], []int64{10_000, 20_000, 40_000, 80_000}) {
		t.Errorf("in a rush: %v", got)
	}
	room := one[int64](t, &w.world, `SELECT max(end_position) FROM usage_partitions`)
	w.exec(t, `UPDATE usage_partitions SET made_at = now() - interval '3 days'`)
	more(room)
	if got := sizes(); got[len(got)-2] != got[len(got)-3]/2 {
		t.Errorf("slower: %v", got)
	}
}

// G7: use_complete_until is honest at every moment. Two replicas count, write and now and then cannot; every use that was
// counted before the moment that any of them names is in the table by then.
func TestG7CompleteUntilIsHonest(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	l, pool := w.connectThrough(t)
	often := func(c *projections.UsageConfig) { c.Every = 20 * time.Millisecond }
	replicas := []*projections.Usage{w.replica(t, often), w.replica(t, often, func(c *projections.UsageConfig) { c.Pool = pool })}
	// The tables follow a few events at a time, so that they often have not got all that there is.
	slow := func(c *projections.UsageProjectionConfig) { c.MaxEvents = 10 }
	stops := []func(){w.project(t, slow), w.project(t, slow)}
	for _, u := range replicas {
		if err := u.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, run(u))
	}
	var mu sync.Mutex
	var counted []time.Time // when each use was, after it was counted
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i, u := range replicas {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				u.Used(usedKey(i*10+n%10), fromA, time.Now())
				mu.Lock()
				counted = append(counted, time.Now())
				mu.Unlock()
				if n%50 == 0 {
					time.Sleep(time.Millisecond) // so that it is not too many
				}
			}
		})
	}
	moved, former := 0, time.Time{}
	for round, end := 0, time.Now().Add(time.Minute); moved < 8 && time.Now().Before(end); round++ {
		if round%30 == 10 {
			l.set(true)
		}
		if round%30 == 20 {
			l.set(false)
		}
		until := w.completeUntil(t)
		sum := one[int64](t, &w.world, `SELECT coalesce(sum(use_count), 0)::bigint FROM key_usage`)
		if until == nil {
			eventually(t, "it is known", func() bool { return w.completeUntil(t) != nil })
			continue
		}
		if until.After(former) {
			moved, former = moved+1, *until
		}
		mu.Lock()
		var before int64
		for _, at := range counted {
			if at.Before(*until) {
				before++
			}
		}
		mu.Unlock()
		if before > sum {
			t.Errorf("round %d: %d uses were counted before %s, and the table has %d", round, before, until, sum)
		}
	}
	cancel()
	clients.Wait()
	for _, stop := range stops {
		stop()
	}
	if moved < 8 {
		t.Errorf("in a minute it moved %d times only", moved)
	}
	w.wantFold(t)
}

// completeUntil reads up to when counts are complete; nil: it is not known.
func (w *world) completeUntil(t testing.TB) *time.Time {
	t.Helper()
	return one[*time.Time](t, w, `SELECT usage_complete_until()`)
}

// complete is up to when counts are complete after a flush of a replica.
func (w *usageWorld) complete(t *testing.T, u *projections.Usage) time.Time {
	t.Helper()
	w.counted(t, u)
	at := w.completeUntil(t)
	if at == nil {
		t.Fatal("it is not known")
	}
	return *at
}

// G7: a replica that stops without a word holds the moment back at its last flush, and half a minute later has left a gap,
// which the series show; one that stops in good order leaves none.
func TestG7ACrashLeavesAGap(t *testing.T) {
	t.Parallel()
	world := setup(t)
	w := &usageWorld{world: *world, logs: &logBuffer{}}
	n := w.tenant(t)
	key := usedKey(1)
	key.OrganizationID, key.ProjectID = n.organization, n.project
	live := w.replica(t)
	boots := func() []string {
		return one[[]string](t, &w.world, `SELECT array_agg(boot_id ORDER BY boot_id) FROM usage_flushes WHERE NOT ended`)
	}
	w.counted(t, live)
	first := boots()[0]

	crashed := w.replica(t)
	crashed.Used(key, fromA, time.Now())
	w.counted(t, crashed)
	last := *w.completeUntil(t)
	crashed.Used(key, fromA, time.Now()) // is lost
	own := one[time.Time](t, &w.world, `SELECT complete_until FROM usage_flushes WHERE NOT ended AND boot_id <> $1`, first)
	for range 3 {
		if at := w.complete(t, live); at.After(own) || at.Before(last) {
			t.Fatalf("with a replica that is silent since %s counts are complete until %s", own, at)
		}
	}
	series := func() []projections.UsageBucket {
		t.Helper()
		buckets, _, err := w.reader.UsageSeries(t.Context(), projections.UsageQuery{
			Reach: n.reach(), Key: key.ID, Step: projections.UsageHour, From: time.Now().Add(-5 * time.Hour), To: time.Now(),
		})
		if err != nil || len(buckets) != 6 {
			t.Fatalf("%v, %v", buckets, err)
		}
		return buckets
	}
	// What is over long before is complete, the hour that is not over is not.
	if got := series(); !got[2].Complete || got[5].Complete {
		t.Errorf("with a silent replica: %+v", got)
	}
	other := boots()[slices.IndexFunc(boots(), func(s string) bool { return s != first })]
	w.exec(t, `UPDATE usage_flushes SET complete_until = now() - interval '3 hours', applied_until = now() - interval '3 hours', flushed_at = now() - interval '3 hours'
		WHERE boot_id = $1`, other)
	at := w.complete(t, live)
	if !at.After(own) {
		t.Errorf("half a minute later counts are complete until %s only, and before that until %s", at, own)
	}
	gap := time.Now().Add(-3 * time.Hour).Truncate(time.Hour)
	for _, b := range series() {
		over := !b.Start.Add(time.Hour).After(at)
		if want := over && !b.Start.Equal(gap) && !b.Start.Equal(gap.Add(time.Hour)); b.Complete != want && !b.Start.Equal(gap.Add(time.Hour)) {
			t.Errorf("the hour of %s is complete: %v, with a gap in that of %s", b.Start, b.Complete, gap)
		}
	}
	// It was only cut off, and comes back with all that it had: there is no gap any more.
	flushed(t, crashed)
	if got := series(); got[2].Complete || got[5].Used != 1 {
		t.Errorf("when it is back, and what it had is in no table yet: %+v", got)
	}
	w.projected(t)
	if got := series(); !got[2].Complete || !got[3].Complete || got[5].Used != 2 {
		t.Errorf("when it is back: %+v", got)
	}

	run2 := w.replica(t)
	stop := run(run2)
	eventually(t, "it is there", func() bool { return len(boots()) == 3 })
	run2.Used(key, fromA, time.Now())
	stop()
	held := *w.completeUntil(t)
	flushed(t, live)
	if at := *w.completeUntil(t); at.After(held) {
		t.Errorf("with uses that are in no table yet, of one that stopped, counts are complete until %s", at)
	}
	w.exec(t, `UPDATE usage_flushes SET flushed_at = now() - interval '1 day' WHERE ended`)
	if at := *w.completeUntil(t); at.After(held) {
		t.Errorf("a day later, with those uses in no table yet, counts are complete until %s", at)
	}
	if got := boots(); len(got) != 2 {
		t.Errorf("after one stopped in good order: %v", got)
	}
	before := w.complete(t, live)
	flushed(t, crashed)
	if at := w.complete(t, live); !at.After(before) {
		t.Errorf("one that stopped holds it back at %s", at)
	}

	// A key shows it, and before any replica is known shows none.
	k, err := w.reader.Key(t.Context(), n.reach(), w.create(t, n).key)
	if err != nil || k.UseCompleteUntil == nil || !k.UseCompleteUntil.Equal(*w.completeUntil(t)) {
		t.Errorf("a key shows %v, %v", k, err)
	}
	w.exec(t, `DELETE FROM usage_flushes`)
	if k, err = w.reader.Key(t.Context(), n.reach(), k.ID); err != nil || k.UseCompleteUntil != nil {
		t.Errorf("before the first flush a key shows %v, %v", k.UseCompleteUntil, err)
	}
}

// Of keys, lineages, projects and all in reach: each series is the sum of its parts, and only of one's own.
func TestUsageSeries(t *testing.T) {
	t.Parallel()
	w := setup(t)
	u := w.counting(t)
	acme, evil := w.tenant(t), w.tenant(t)
	at := w.clock.Now()
	keyOf := func(n tenant, i int, project domain.ProjectID) *projections.Key {
		k := usedKey(i)
		k.OrganizationID, k.ProjectID = n.organization, project
		return k
	}
	old, fresh, other := keyOf(acme, 1, acme.project), keyOf(acme, 2, acme.project), keyOf(acme, 3, "proj_other")
	fresh.LineageID = old.LineageID
	foreign := keyOf(evil, 4, evil.project)
	for i, k := range []*projections.Key{old, fresh, other, foreign} {
		for range 1 << i {
			u.Used(k, fromA, at)
		}
		u.Used(k, fromA, at.Add(-25*time.Hour))
		u.Denied(k, at)
	}
	w.counted(t, u)
	sum := func(q projections.UsageQuery) (all []counts) {
		t.Helper()
		q.From, q.To = at.Add(-26*time.Hour), at.Add(time.Minute)
		if q.Reach.Organization == "" {
			q.Reach = acme.reach()
		}
		for _, q.Step = range []projections.UsageStep{projections.UsageHour, projections.UsageDay} {
			buckets, _, err := w.reader.UsageSeries(t.Context(), q)
			if err != nil || len(buckets) != map[projections.UsageStep]int{"hour": 27, "day": 2}[q.Step] {
				t.Fatalf("%d buckets, %v", len(buckets), err)
			}
			var n counts
			for i, b := range buckets {
				if i > 0 && !b.Start.Equal(buckets[i-1].Start.Add(q.Step.Length())) {
					t.Errorf("%s comes after %s", b.Start, buckets[i-1].Start)
				}
				n = n.and(b.Used, b.Denied)
			}
			all = append(all, n)
		}
		return all
	}
	for name, c := range map[string]struct {
		query projections.UsageQuery
		want  counts
	}{
		"a key":                          {projections.UsageQuery{Key: old.ID}, counts{2, 1}},
		"its successor":                  {projections.UsageQuery{Key: fresh.ID}, counts{3, 1}},
		"the lineage":                    {projections.UsageQuery{Lineage: old.LineageID}, counts{5, 2}},
		"a key of the lineage":           {projections.UsageQuery{Lineage: old.LineageID, Key: old.ID, Project: acme.project}, counts{2, 1}},
		"a key of another lineage":       {projections.UsageQuery{Lineage: other.LineageID, Key: old.ID}, counts{}},
		"a key of another project":       {projections.UsageQuery{Project: "proj_other", Key: old.ID}, counts{}},
		"the lineage in another project": {projections.UsageQuery{Lineage: old.LineageID, Project: "proj_other"}, counts{}},
		"the project":                    {projections.UsageQuery{Project: acme.project}, counts{5, 2}},
		"all":                            {projections.UsageQuery{}, counts{10, 3}},
		"all in a limited reach":         {projections.UsageQuery{Reach: projections.Reach{Organization: acme.organization, Projects: []string{"proj_other"}}}, counts{5, 1}},
		"a key out of a limited reach":   {projections.UsageQuery{Key: old.ID, Reach: projections.Reach{Organization: acme.organization, Projects: []string{}}}, counts{}},
		"a foreign key":                  {projections.UsageQuery{Key: foreign.ID}, counts{}},
		"a foreign lineage":              {projections.UsageQuery{Lineage: foreign.LineageID}, counts{}},
		"a foreign project":              {projections.UsageQuery{Project: evil.project}, counts{}},
		"the neighbour's all":            {projections.UsageQuery{Reach: evil.reach()}, counts{9, 1}},
	} {
		for step, got := range sum(c.query) {
			if got != c.want {
				t.Errorf("%s (step %d): %+v, want %+v", name, step, got, c.want)
			}
		}
	}
	// What was used before there were series, or was dropped, is not known to be complete.
	w.exec(t, `UPDATE usage_series SET since = $1`, at.Add(-time.Hour).Truncate(time.Hour))
	buckets, until, err := w.reader.UsageSeries(t.Context(), projections.UsageQuery{Reach: acme.reach(), Step: projections.UsageHour, From: at.Add(-3 * time.Hour), To: at.Add(time.Minute)})
	if err != nil || until == nil {
		t.Fatal(until, err)
	}
	for i, want := range []bool{false, false, true, true} {
		if buckets[i].Complete != want {
			t.Errorf("the bucket of %s is complete: %v", buckets[i].Start, buckets[i].Complete)
		}
	}
}

// The payload is as it is documented.
func TestUsedIsReadable(t *testing.T) {
	t.Parallel()
	w := setupUsage(t)
	w.usage.Denied(usedKey(1), w.clock.Now())
	flushed(t, w.usage)
	record := w.lane(t)[0]
	var raw map[string]any
	if err := json.Unmarshal(record.Raw, &raw); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"flush": 1.0, "hour": "2026-03-01T12:00:00Z", "key_ids": []any{string(usedKey(1).ID)}, "lineage_ids": []any{string(usedKey(1).LineageID)},
		"generations": []any{1.0}, "use_counts": []any{0.0}, "last_used": []any{0.0}, "last_used_ips": []any{""}, "denied_counts": []any{1.0},
	}
	if diff := cmp.Diff(want, raw); diff != "" {
		t.Error(diff)
	}
	if rows := w.rows(t); len(rows) != 0 {
		t.Errorf("a denial made a row of use: %v", rows)
	}
}
