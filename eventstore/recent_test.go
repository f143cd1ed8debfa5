package eventstore

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// What the window answers is always the same as the log: consecutive, from the asked position on, and for good.
func TestRecentAnswersAsTheLogWould(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	var window recent
	if _, ok := window.after(0, 10); ok {
		t.Error("an empty window answered")
	}
	type answer struct {
		after   int64
		records []Record
	}
	var kept []answer
	check := func(a answer) {
		t.Helper()
		for i, r := range a.records {
			if r.Position != a.after+1+int64(i) {
				t.Fatalf("record %d after %d is at %d", i, a.after, r.Position)
			}
		}
	}
	hits, head := 0, int64(0)
	for range 8000 {
		if random.IntN(2000) == 0 {
			head += 1 + random.Int64N(5) // committed by somebody else
		}
		batch := make([]Record, random.IntN(20))
		for i := range batch {
			head++
			batch[i].Position = head
		}
		window.add(batch)
		after, limit := max(0, head-random.Int64N(3*recentSize)), 1+random.IntN(600)
		records, ok := window.after(after, limit)
		if !ok {
			continue
		}
		hits++
		if len(records) == 0 || len(records) > limit || (len(records) < limit && records[len(records)-1].Position != head) {
			t.Fatalf("after %d of %d, limit %d: %d records", after, head, limit, len(records))
		}
		kept = append(kept, answer{after, records})
		check(kept[len(kept)-1])
		if len(window.records) > 2*recentSize {
			t.Fatalf("the window holds %d records", len(window.records))
		}
	}
	for _, a := range kept { // what was answered does not change under the reader
		check(a)
	}
	if hits < 500 {
		t.Errorf("only %d answers", hits)
	}
	if _, ok := window.after(head, 1); ok {
		t.Error("it answered for what it cannot know")
	}
}

// Writers of one process add in any order, while readers read. The window may forget, never lie.
func TestRecentIsSafeForManyAtATime(t *testing.T) {
	t.Parallel()
	var window recent
	var mu sync.Mutex
	head := int64(0)
	var writers, readers sync.WaitGroup
	over := make(chan struct{})
	for range 3 {
		writers.Go(func() {
			for range 500 {
				batch := make([]Record, 30)
				mu.Lock() // the lane
				for i := range batch {
					head++
					batch[i].Position = head
				}
				mu.Unlock()
				window.add(batch)
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for at := int64(0); ; at += 7 {
				select {
				case <-over:
					return
				default:
				}
				mu.Lock()
				at = max(at, head-2*recentSize)
				mu.Unlock()
				records, _ := window.after(at, 50)
				for i, r := range records {
					if r.Position != at+1+int64(i) {
						t.Errorf("record %d after %d is at %d", i, at, r.Position)
						return
					}
				}
			}
		})
	}
	writers.Wait()
	close(over)
	readers.Wait()
}
