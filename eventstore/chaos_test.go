package eventstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// chaos is several writers and readers whose connections are killed at random.
type chaos struct {
	*bundle
	stores  []*eventstore.Store
	streams []string
	until   time.Time

	mu    sync.Mutex
	fates map[string]fate
}

// fate is what a command was told.
type fate struct {
	code      domain.Code
	events    int
	positions []int64
}

// Every acknowledged command is in the log exactly once and whole, one of unknown outcome at most once, all others not at
// all; each reader sees 1..head exactly once and in order; each position has its effect exactly once.
func TestChaos(t *testing.T) {
	t.Parallel()
	c := startChaos(t, 3*time.Second)
	var writers, readers sync.WaitGroup
	for i := range 6 {
		writers.Go(func() { c.write(t, i) })
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	over := make(chan struct{}) // closed when writing is over and final is known
	var final int64
	seen := make([][]int64, 3)
	for i := range seen {
		readers.Go(func() { seen[i] = c.read(ctx, t, i, over, &final) })
	}
	for _, store := range c.stores {
		readers.Go(func() { c.consume(ctx, t, store, over, &final) })
	}
	c.kill(t)
	writers.Wait()
	final = one[int64](t, c.bundle, "SELECT max(position) FROM events")
	close(over)
	readers.Wait()

	c.checkLog(t)
	c.checkFates(t)
	for i, got := range seen {
		if int64(len(got)) != final || !isRange(got) {
			t.Errorf("reader %d saw %d of %d positions, in order %v", i, len(got), final, isRange(got))
		}
	}
	if got := one[string](t, c.bundle, "SELECT count(*) || ' ' || count(DISTINCT position) || ' ' || max(position) FROM effects"); got != fmt.Sprint(final, " ", final, " ", final) {
		t.Errorf("effects (all, distinct, last) are %s of %d", got, final)
	}
}

func startChaos(t *testing.T, length time.Duration) *chaos {
	t.Helper()
	c := &chaos{bundle: setupIdle(t), fates: map[string]fate{}}
	c.exec(t, `CREATE TABLE attached (label text PRIMARY KEY); CREATE TABLE effects (position bigint);
		GRANT ALL ON attached, effects TO rekey_app`)
	for i := range 2 {
		c.stores = append(c.stores, c.another(t, func(cfg *eventstore.Config) {
			cfg.Pool, cfg.Readers = c.poolNamed(t, fmt.Sprint("chaos writer ", i)), c.poolNamed(t, fmt.Sprint("chaos reader ", i))
			cfg.Poll, cfg.Writers = 10*time.Millisecond, 1+i
		}))
	}
	for _, store := range c.stores { // they have started before anything is killed
		if _, err := store.Execute(t.Context(), touch("nothing")); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{domain.PrefixLineage, domain.PrefixLineage, domain.PrefixLineage, domain.PrefixProject, domain.PrefixOrganization} {
		c.streams = append(c.streams, newID(prefix))
	}
	c.until = time.Now().Add(length)
	return c
}

// write sends random commands, a few at a time, and notes what it was told.
func (c *chaos) write(t *testing.T, writer int) {
	random := rand.New(rand.NewPCG(uint64(writer), 1))
	for n := 0; time.Now().Before(c.until); n++ {
		commands := make([]eventstore.Command, 1+random.IntN(3))
		sizes := make([]int, len(commands))
		for i := range commands {
			commands[i], sizes[i] = c.command(random, fmt.Sprintf("%d.%d.%d", writer, n, i))
		}
		outcomes := c.stores[random.IntN(2)].ExecuteAll(t.Context(), commands)
		c.mu.Lock()
		for i, o := range outcomes {
			c.fates[commands[i].RequestID] = fate{code(o.Err), sizes[i], positions(o.Records)}
		}
		c.mu.Unlock()
	}
}

// command makes a random command: on old streams, new ones or both; one in eight refuses, one in eight fails in Postgres.
func (c *chaos) command(random *rand.Rand, label string) (eventstore.Command, int) {
	var streams []string
	for _, i := range random.Perm(len(c.streams))[:random.IntN(3)] {
		streams = append(streams, c.streams[i])
	}
	if len(streams) == 0 || random.IntN(2) == 0 {
		streams = append(streams, newID(domain.PrefixLineage))
	}
	command := touch(label, streams...)
	command.Reads = []string{c.streams[random.IntN(len(c.streams))]}
	command.Attach = func(batch *pgx.Batch, _ []domain.Event) error {
		batch.Queue("INSERT INTO attached VALUES ($1)", label)
		return nil
	}
	switch random.IntN(8) {
	case 0:
		command.Decide = func(eventstore.View, time.Time) ([]domain.Decided, error) { return nil, domain.NotFound("key") }
	case 1:
		command.Attach = func(batch *pgx.Batch, _ []domain.Event) error {
			batch.Queue("INSERT INTO attached VALUES ($1), ($1)", label)
			return nil
		}
	}
	return command, len(streams)
}

// read follows the log with Store.Read until it has reached the final head. Its reads are cut off at random; it goes on
// where it was.
func (c *chaos) read(ctx context.Context, t *testing.T, reader int, over chan struct{}, final *int64) (seen []int64) {
	random := rand.New(rand.NewPCG(uint64(reader), 2))
	store := c.stores[reader%2]
	for at := int64(0); ctx.Err() == nil; {
		some, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(10_000))*time.Microsecond+time.Millisecond)
		records, err := store.Read(some, eventstore.Lifecycle, at, 1+random.IntN(100))
		cancel()
		if err == nil {
			for _, r := range records {
				seen, at = append(seen, r.Position), r.Position
			}
		}
		select {
		case <-over:
			if at == *final {
				return seen
			}
		default:
		}
		if len(records) == 0 {
			_ = store.Wait(ctx, eventstore.Lifecycle, at)
		}
	}
	t.Errorf("reader %d did not reach the head", reader)
	return seen
}

// consume runs a consumer, stops it at random and starts it again, until the checkpoint has reached the final head.
func (c *chaos) consume(ctx context.Context, t *testing.T, store *eventstore.Store, over chan struct{}, final *int64) {
	for ctx.Err() == nil {
		some, cancel := context.WithTimeout(ctx, 20*time.Millisecond+rand.N(200*time.Millisecond))
		err := store.Consume(some, eventstore.Consumer{Name: "effects", Apply: func(ctx context.Context, tx pgx.Tx, records []eventstore.Record) error {
			_, err := tx.Exec(ctx, "INSERT INTO effects SELECT unnest($1::bigint[])", positions(records))
			return err
		}})
		cancel()
		if err != nil {
			t.Error(err)
		}
		select {
		case <-over:
			if at, err := store.Checkpoint(ctx, "effects"); err == nil && at == *final {
				return
			}
		default:
		}
	}
	t.Error("the consumer did not reach the head")
}

// kill ends random sessions of the stores until the time is over.
func (c *chaos) kill(t *testing.T) {
	kills := 0
	for time.Now().Before(c.until) {
		kills += one[int](t, c.bundle, `WITH victim AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'chaos %'
			AND datname = current_database() ORDER BY random() LIMIT 1) SELECT count(pg_terminate_backend(pid)) FROM victim`)
		time.Sleep(rand.N(40 * time.Millisecond))
	}
	if kills < 20 {
		t.Errorf("only %d sessions were killed", kills)
	}
}

// checkFates compares what each command was told with what the log and the attached rows say.
func (c *chaos) checkFates(t *testing.T) {
	t.Helper()
	type found struct {
		positions []int64
		attached  int
	}
	log := map[string]found{}
	rows, err := c.owner.Query(t.Context(), `SELECT request_id, array_agg(position ORDER BY position),
		(SELECT count(*) FROM attached WHERE label = request_id) FROM events GROUP BY request_id`)
	if err != nil {
		t.Fatal(err)
	}
	var label string
	var f found
	if _, err := pgx.ForEachRow(rows, []any{&label, &f.positions, &f.attached}, func() error {
		log[label] = found{slices.Clone(f.positions), f.attached}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	told := map[domain.Code]int{}
	for label, fate := range c.fates {
		told[fate.code]++
		in, done := log[label]
		whole := len(in.positions) == fate.events && in.attached == 1
		switch {
		case fate.code == "" && (!whole || !slices.Equal(in.positions, fate.positions)):
			t.Errorf("%s was acknowledged at %v, the log has %+v", label, fate.positions, in)
		case fate.code == domain.CodeOutcomeUnknown && done && !whole:
			t.Errorf("%s is there in part: %+v", label, in)
		case fate.code != "" && fate.code != domain.CodeOutcomeUnknown && done:
			t.Errorf("%s was told %s, the log has %+v", label, fate.code, in)
		}
	}
	if len(log) > len(c.fates) || told[""] == 0 || told[domain.CodeNotFound] == 0 || told[domain.CodeInternal] == 0 {
		t.Errorf("%d labels in the log, told %v", len(log), told)
	}
	if got := one[int](t, c.bundle, "SELECT count(*) FROM attached"); got != len(log) {
		t.Errorf("%d attached rows for %d commands", got, len(log))
	}
	t.Logf("told %v", told)
}

// isRange reports whether the positions are 1, 2, 3 and so on.
func isRange(positions []int64) bool {
	for i, p := range positions {
		if p != int64(i)+1 {
			return false
		}
	}
	return true
}
