package projections

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// source answers fetches from a map, one at a time per token that the test gives, and remembers what was asked.
type source struct {
	mu     sync.Mutex
	asked  [][]int
	under  int // fetches under way
	most   int // fetches that were under way at once
	values map[int]string
	err    error
	let    chan struct{} // nil: fetches do not wait
}

func (s *source) fetch(ctx context.Context, keys []int) (map[int]string, error) {
	s.mu.Lock()
	s.asked = append(s.asked, slices.Sorted(slices.Values(keys)))
	s.under++
	s.most = max(s.most, s.under)
	found, err := maps.Clone(s.values), s.err // what is true when the fetch begins
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.under--
		s.mu.Unlock()
	}()
	if s.let != nil {
		select {
		case <-s.let:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return found, err
}

func (s *source) set(key int, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = value
}

func (s *source) lookup() *lookup[int, string] {
	return &lookup[int, string]{fetch: s.fetch}
}

// answer is what get returned.
type answer struct {
	value string
	ok    bool
	err   error
}

func ask(ctx context.Context, l *lookup[int, string], key int) chan answer {
	out := make(chan answer, 1)
	go func() {
		value, ok, err := l.get(ctx, key)
		out <- answer{value, ok, err}
	}()
	return out
}

// Reads that wait at the same time are one query, each key asked for once.
func TestLookupJoinsWaitingReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{1: "one", 2: "two"}, let: make(chan struct{})}
		l := s.lookup()
		first := ask(t.Context(), l, 1)
		synctest.Wait()
		var rest []chan answer
		for i := range 300 {
			rest = append(rest, ask(t.Context(), l, 1+i%3))
		}
		synctest.Wait()
		s.let <- struct{}{}
		s.let <- struct{}{}
		if got := <-first; got != (answer{"one", true, nil}) {
			t.Errorf("the first read got %+v", got)
		}
		want := []answer{{"one", true, nil}, {"two", true, nil}, {"", false, nil}}
		for i, out := range rest {
			if got := <-out; got != want[i%3] {
				t.Fatalf("read %d got %+v, want %+v", i, got, want[i%3])
			}
		}
		if len(s.asked) != 2 || !slices.Equal(s.asked[0], []int{1}) || !slices.Equal(s.asked[1], []int{1, 2, 3}) {
			t.Errorf("301 reads asked %v", s.asked)
		}
	})
}

// The rule that keeps joined reads as fresh as reads of their own: a query that is under way does not answer a read that
// was asked for later, because it may have looked before the last commit.
func TestLookupNeverAnswersFromAFetchThatBeganEarlier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{1: "old"}, let: make(chan struct{})}
		l := s.lookup()
		early := ask(t.Context(), l, 1)
		synctest.Wait() // its fetch has begun and looked
		s.set(1, "new")
		late := ask(t.Context(), l, 1)
		synctest.Wait()
		close(s.let)
		if got := <-early; got.value != "old" {
			t.Errorf("the early read got %+v", got)
		}
		if got := <-late; got.value != "new" {
			t.Errorf("the read after the change got %+v", got)
		}
	})
}

// The same rule under real concurrency: no read may return less than was written before it was asked for.
func TestLookupIsFreshUnderLoad(t *testing.T) {
	var written atomic.Int64
	l := &lookup[int, int64]{fetch: func(_ context.Context, keys []int) (map[int]int64, error) {
		seen := written.Load()
		found := map[int]int64{}
		for _, k := range keys {
			found[k] = seen
		}
		return found, nil
	}}
	var readers sync.WaitGroup
	for i := range 16 {
		readers.Go(func() {
			for range 2000 {
				least := written.Add(1)
				if got, ok, err := l.get(t.Context(), i%4); err != nil || !ok || got < least {
					t.Errorf("a read after write %d saw %d (%v, %v)", least, got, ok, err)
					return
				}
			}
		})
	}
	readers.Wait()
}

// One query at a time, and none is forgotten: at rest nobody waits and nobody works.
func TestLookupRunsOneFetchAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{}, let: make(chan struct{})}
		l := s.lookup()
		var all []chan answer
		for i := range 10 {
			all = append(all, ask(t.Context(), l, i))
			synctest.Wait()
		}
		close(s.let)
		for _, out := range all {
			<-out
		}
		if s.most != 1 || len(s.asked) != 2 {
			t.Errorf("%d fetches at once, %d in all, want 1 and 2", s.most, len(s.asked))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if l.running || l.next != nil {
			t.Errorf("at rest running is %v and %v waits", l.running, l.next)
		}
		<-ask(t.Context(), l, 1)
		if len(s.asked) != 3 {
			t.Errorf("after the rest %d fetches", len(s.asked))
		}
	})
}

// Waiting for company must not cost those who come alone, nor go on for longer than it says.
func TestLookupWaitsForCompanyOnlyInACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{}}
		l := s.lookup()
		for range 3 {
			began := time.Now()
			<-ask(t.Context(), l, 1)
			if took := time.Since(began); took != 0 {
				t.Errorf("a lonely read took %v", took)
			}
			time.Sleep(time.Second)
		}
		s.let = make(chan struct{})
		crowd := []chan answer{ask(t.Context(), l, 1)}
		synctest.Wait()
		for i := range 10 {
			crowd = append(crowd, ask(t.Context(), l, i))
		}
		synctest.Wait()
		close(s.let)
		for _, out := range crowd {
			<-out
		}
		began := time.Now()
		<-ask(t.Context(), l, 1)
		if took := time.Since(began); took > lookupGather {
			t.Errorf("a read after a crowd took %v", took)
		}
	})
}

// An error is the answer of those who waited for that fetch, and of nobody else.
func TestLookupPassesErrorsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		s := &source{err: broken, let: make(chan struct{})}
		l := s.lookup()
		failing := []chan answer{ask(t.Context(), l, 1)}
		synctest.Wait()
		failing = append(failing, ask(t.Context(), l, 1), ask(t.Context(), l, 2))
		synctest.Wait()
		s.let <- struct{}{}
		synctest.Wait() // the second fetch has begun and failed
		s.mu.Lock()
		s.err, s.values = nil, map[int]string{1: "one"}
		s.mu.Unlock()
		healed := ask(t.Context(), l, 1)
		synctest.Wait()
		close(s.let)
		for i, out := range failing {
			if got := <-out; !errors.Is(got.err, broken) || got.ok {
				t.Errorf("read %d got %+v, want the error", i, got)
			}
		}
		if got := <-healed; got != (answer{"one", true, nil}) {
			t.Errorf("the read after the fault got %+v", got)
		}
	})
}

// A caller who goes away leaves at once; the others still get their answer.
func TestLookupCallerLeavesEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{1: "one"}, let: make(chan struct{})}
		l := s.lookup()
		ctx, cancel := context.WithCancel(t.Context())
		impatient, patient := ask(ctx, l, 1), ask(t.Context(), l, 1)
		synctest.Wait()
		cancel()
		if got := <-impatient; !errors.Is(got.err, context.Canceled) {
			t.Errorf("the caller who left got %+v", got)
		}
		close(s.let)
		if got := <-patient; got != (answer{"one", true, nil}) {
			t.Errorf("the caller who stayed got %+v", got)
		}
	})
}

// A store that does not answer cannot hold reads for longer than the time that a query has.
func TestLookupEndsAFetchThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{let: make(chan struct{})}
		l := s.lookup()
		began := time.Now()
		if _, _, err := l.get(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != lookupTimeout {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

// A store that swallows everything must not pile up those who ask it: while one read finds out whether it is back, all others
// are refused at once, and once it is back nobody is.
func TestLookupRefusesAtOnceWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{values: map[int]string{1: "one"}, let: make(chan struct{})}
		l := s.lookup()
		began := time.Now()
		first := ask(t.Context(), l, 1)
		synctest.Wait()
		joined := ask(t.Context(), l, 1) // waits for the round after the one that hangs
		for _, out := range []chan answer{first, joined} {
			if got := <-out; !errors.Is(got.err, context.DeadlineExceeded) || time.Since(began) != lookupTimeout {
				t.Errorf("a read of the beginning got %+v after %s", got, time.Since(began))
			}
		}
		synctest.Wait()
		trial := ask(t.Context(), l, 1)
		synctest.Wait()
		began = time.Now()
		for range 100 {
			if got := <-ask(t.Context(), l, 1); !errors.Is(got.err, context.DeadlineExceeded) || time.Since(began) != 0 {
				t.Fatalf("a read meanwhile got %+v after %s", got, time.Since(began))
			}
		}
		s.let <- struct{}{}
		if got := <-trial; got != (answer{"one", true, nil}) {
			t.Errorf("the read that found out got %+v", got)
		}
		close(s.let)
		for range 100 {
			if got := <-ask(t.Context(), l, 1); got != (answer{"one", true, nil}) {
				t.Fatalf("a read afterwards got %+v", got)
			}
		}
		if len(s.asked) != 102 {
			t.Errorf("the store was asked %d times", len(s.asked))
		}
	})
}

// Not parallel, so that no other test's goroutines are about.
func TestLookupLeavesNoGoroutines(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s := &source{values: map[int]string{}}
	l := s.lookup()
	var readers sync.WaitGroup
	for i := range 50 {
		readers.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				cancel()
			}
			_, _, _ = l.get(ctx, i)
			cancel()
		})
	}
	readers.Wait()
	goleak.VerifyNone(t, ignore)
}
