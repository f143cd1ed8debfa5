package eventstore_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// versions is a small read model: one row per stream, written in the order of the ids as every projection must.
type versions struct{}

type versionRows map[string]int64

func (versions) Collect() eventstore.Collector { return versionRows{} }

func (v versionRows) Event(e domain.Event, state domain.State) error {
	if e.Version != state.StreamVersion() {
		return fmt.Errorf("event of version %d with the state of version %d", e.Version, state.StreamVersion())
	}
	v[e.StreamID] = e.Version
	return nil
}

func (v versionRows) Queue(batch *pgx.Batch) error {
	for _, id := range slices.Sorted(maps.Keys(v)) {
		batch.Queue("INSERT INTO versions VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET version = excluded.version", id, v[id])
	}
	return nil
}

// Two replicas with two writers each work on the same few lineages, projects and organizations, reading and writing them
// in every combination and beginning the same new ones. One lock order everywhere means that no deadlock ever shows.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	b.exec(t, `CREATE TABLE versions (id text PRIMARY KEY, version bigint); GRANT ALL ON versions TO rekey_app;
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''50ms''', current_database()); END $$`)
	var mu sync.Mutex
	failed, joined := map[string]int{}, 0
	var stores []*eventstore.Store
	for i := range 2 {
		stores = append(stores, b.another(t, func(c *eventstore.Config) {
			c.Pool, c.Projection, c.MaxBatch = b.poolNamed(t, fmt.Sprint("deadlock ", i)), versions{}, 4
			c.Writers = 2
			c.Observe = func(commands, _ int, _ time.Duration, err error) {
				mu.Lock()
				defer mu.Unlock()
				joined = max(joined, commands)
				if err != nil {
					failed[stateOf(err)]++
				}
			}
		}))
	}
	streams := map[string][]string{}
	for _, prefix := range []string{domain.PrefixLineage, domain.PrefixEndpoint, domain.PrefixProject, domain.PrefixOrganization} {
		for range 4 {
			streams[prefix] = append(streams[prefix], newID(prefix))
		}
	}
	var callers sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	told := map[domain.Code]int{}
	for i := range 12 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for n := 0; time.Now().Before(end); n++ {
				// Everybody makes up the same few new ids at about the same time.
				fresh := fmt.Sprintf("%s_new%05d", domain.PrefixLineage, n/4)
				_, err := stores[i%2].Execute(t.Context(), overlapping(random, streams, fresh))
				mu.Lock()
				told[code(err)]++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	delete(failed, "40001") // two that begin one stream collide, and are tried again
	if len(failed) != 0 {
		t.Errorf("transactions failed: %v", failed)
	}
	if len(told) != 1 || told[""] < 100 || joined < 2 {
		t.Errorf("told %v, joined at most %d", told, joined)
	}
	b.checkLog(t)
	if n := one[int](t, b, "SELECT count(*) FROM streams s FULL JOIN versions v ON v.id = s.stream_id WHERE v.version IS DISTINCT FROM s.version"); n != 0 {
		t.Errorf("%d rows of the read model differ from the heads", n)
	}
	t.Logf("told %v, joined up to %d", told, joined)
}

// overlapping is a command that writes some streams and reads others, in random order.
func overlapping(random *rand.Rand, streams map[string][]string, fresh string) eventstore.Command {
	var writes, reads []string
	for _, prefix := range []string{domain.PrefixLineage, domain.PrefixEndpoint, domain.PrefixProject, domain.PrefixOrganization} {
		for _, id := range streams[prefix] {
			switch random.IntN(6) {
			case 0:
				writes = append(writes, id)
			case 1, 2:
				reads = append(reads, id)
			}
		}
	}
	if random.IntN(2) == 0 || len(writes) == 0 {
		writes = append(writes, fresh)
	}
	random.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	random.Shuffle(len(reads), func(i, j int) { reads[i], reads[j] = reads[j], reads[i] })
	c := touch("overlapping", writes...)
	c.Reads = reads
	return c
}
