package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	inprocess "github.com/rekeyhq/rekey/client"
	"github.com/rekeyhq/rekey/client/embedded"
)

const (
	insideAim = 4 // times what the SHA-256 takes
	// insideFew is how many keys a service uses that has few callers: the processor's caches hold them.
	insideFew = 1_000
	// insideTurn is how many are hashed or verified before it is the other's turn. The reading of the clock must not count.
	insideTurn = 200
	// insideAllocationAim is per verify. What counts uses beside the verifies allocates too, each tenth of a second.
	insideAllocationAim = 0.1
)

// inside verifies in this process, as a service does that has the client in it.
type inside struct {
	verifier *embedded.Verifier
	span     time.Duration
}

func benchInside(ctx context.Context, b *bench) ([]benchFigure, error) {
	p, err := b.start(ctx, roleAPI)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := p.makeKeys(ctx, 1, verifyKeys); err != nil {
		return nil, err
	}
	verifier, err := embedded.Open(ctx, embedded.Config{
		DatabaseURL: p.cfg.DatabaseURL, NATSURL: p.cfg.NATSURL, Key: inprocess.NewSecret(p.rootKey), Name: "bench", Logger: p.cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open the verifier: %w", err)
	}
	defer verifier.Close()
	for s := verifier.State(); !s.InMemory || s.Keys < verifyKeys; s = verifier.State() {
		if time.Sleep(10 * time.Millisecond); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return (&inside{verifier, b.span}).figures(ctx, b.rounds)
}

// figures counts allocations, and measures few keys and then all of them.
func (i *inside) figures(ctx context.Context, rounds int) ([]benchFigure, error) {
	all := make([]string, verifyKeys)
	for n, number := range rand.Perm(verifyKeys) {
		all[n] = fmt.Sprintf("bench-key-%020d", number+1)
	}
	figures := []benchFigure{
		{name: "few keys", unit: "ns", aim: insideAim, atMost: true, note: fmt.Sprintf("%d of the keys in use", insideFew)},
		{name: "all keys", unit: "ns", aim: insideAim, atMost: true, note: fmt.Sprintf("%d keys at random", verifyKeys)},
		{name: "allocations", unit: "per verify", aim: insideAllocationAim, atMost: true},
	}
	var allocations uint64
	for range rounds {
		made, err := i.allocations(ctx, all[:insideFew])
		if err != nil {
			return nil, err
		}
		allocations += made
		figures[2].rounds = append(figures[2].rounds, benchPair{float64(made) / insideAllocations, 1})
	}
	// Last, because the uses of so many keys are still being written for a while.
	for n, secrets := range [][]string{all[:insideFew], all} {
		for range rounds {
			times, err := i.measure(ctx, secrets)
			if err != nil {
				return nil, err
			}
			figures[n].rounds = append(figures[n].rounds, times)
		}
	}
	figures[2].note = fmt.Sprintf("limit: one; %d in %d verifies, those of the writing of uses beside them included", allocations, rounds*insideAllocations)
	return figures, nil
}

// measure hashes and verifies by turns, and returns what one takes at the median of the turns: on a machine that others use
// too, a few turns last a thousand times as long.
func (i *inside) measure(ctx context.Context, secrets []string) (benchPair, error) {
	if err := i.verify(ctx, secrets); err != nil { // the first use of a key makes room for its count
		return benchPair{}, err
	}
	runtime.GC()
	var hashing, verifying []time.Duration
	for began := time.Now(); time.Since(began) < i.span; {
		from := rand.IntN(len(secrets) - insideTurn)
		turn := secrets[from : from+insideTurn]
		start := time.Now()
		hash(turn)
		hashed := time.Now()
		if err := i.verify(ctx, turn); err != nil {
			return benchPair{}, err
		}
		hashing, verifying = append(hashing, hashed.Sub(start)), append(verifying, time.Since(hashed))
	}
	each := func(turns []time.Duration) float64 { return float64(quantile(turns, .5).Nanoseconds()) / insideTurn }
	return benchPair{each(verifying), each(hashing)}, nil
}

// hash is the limit.
func hash(secrets []string) {
	var buffer [128]byte
	for _, secret := range secrets {
		sum := sha256.Sum256(append(buffer[:0], secret...))
		runtime.KeepAlive(&sum)
	}
}

func (i *inside) verify(ctx context.Context, secrets []string) error {
	for _, secret := range secrets {
		verdict, err := i.verifier.Verify(ctx, inprocess.Request{Secret: inprocess.NewSecret(secret)})
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if !verdict.Valid {
			return fmt.Errorf("a key is %s", verdict.Code)
		}
	}
	return nil
}

// insideAllocations is in how many verifies allocations are counted.
const insideAllocations = 1_000_000

// allocations counts those of the whole process while keys are verified.
func (i *inside) allocations(ctx context.Context, secrets []string) (uint64, error) {
	if err := i.verify(ctx, secrets); err != nil {
		return 0, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range insideAllocations / len(secrets) {
		if err := i.verify(ctx, secrets); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs, nil
}
