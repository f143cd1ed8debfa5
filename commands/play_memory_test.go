package commands_test

import (
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// startMemory lets a verifier follow what the play does.
func (p *play) startMemory() {
	r := p.replicas[len(p.replicas)-1]
	p.memory = verifier.New(verifier.Config{
		Reader: r.reader, Pool: r.lookups, Log: r.store, Now: p.w.clock.Now, RenewEvery: 20 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { p.memory.Run(ctx) })
	p.stopMemory = func() { cancel(); done.Wait() }
}

// assertMemory asserts that a verifier which followed the log says of every secret what the tables say, and that it has
// nothing else in memory.
func (p *play) assertMemory(t fataler) {
	t.Helper()
	defer p.stopMemory()
	ctx := context.Background()
	head, err := p.replicas[0].store.Head(ctx, eventstore.Lifecycle)
	if err != nil {
		t.Fatalf("read the head: %v", err)
	}
	until(t, "the verifier has applied the log", func() bool {
		s := p.memory.State()
		return s.Trusted && s.Applied == head
	})
	if live := one[int](t, p.w, "SELECT count(*) FROM keys WHERE state IN ('pending', 'active', 'grace')"); live != p.memory.State().Keys {
		t.Errorf("%d keys are in memory, and %d live", p.memory.State().Keys, live)
	}
	for _, k := range p.keys {
		if !k.secret.IsZero() {
			p.assertRemembered(t, k)
		}
	}
}

func (p *play) assertRemembered(t fataler, k known) {
	t.Helper()
	request := projections.VerifyRequest{Reach: projections.ReachOf(k.by.Caller), Secret: k.secret.Reveal()}
	want, err := p.replicas[0].verifier.Verify(context.Background(), request)
	if err != nil {
		t.Fatalf("verify from the tables: %v", err)
	}
	got, err := p.memory.Verify(context.Background(), &request)
	if err != nil {
		t.Fatalf("verify from memory: %v", err)
	}
	if got.Code != want.Code || got.Status != want.Status || (got.Key == nil) != (want.Key == nil) {
		t.Errorf("key %s is %s, %s from memory, and %s, %s in the tables", k.id, got.Code, got.Status, want.Code, want.Status)
	}
	if want.Status.Valid() && !got.Memory {
		t.Errorf("the live key %s is not in memory", k.id)
	}
	if want.Key == nil || got.Key == nil {
		return
	}
	a, b := got.Key.Key(), verifier.Pack(want.Key).Key()
	if a.ID != b.ID || a.Name != b.Name || !a.Resources.Covers(b.Resources) || !b.Resources.Covers(a.Resources) || a.State != b.State ||
		!sameDeadline(a, b) || len(a.Scopes) != len(b.Scopes) || !sameJSON(a.Metadata, b.Metadata) {
		t.Errorf("from memory %+v, in the tables %+v", a, b)
	}
}

// sameJSON compares texts of which Postgres has put one into an order of its own.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func sameDeadline(a, b *projections.Key) bool {
	same := func(x, y *time.Time) bool { return x == y || x != nil && y != nil && x.Equal(*y) }
	id := func(k *domain.KeyID) domain.KeyID {
		if k == nil {
			return ""
		}
		return *k
	}
	return same(a.ExpiresAt, b.ExpiresAt) && same(a.GraceExpiresAt, b.GraceExpiresAt) && id(a.ReplacedBy) == id(b.ReplacedBy)
}
