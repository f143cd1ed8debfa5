package commands_test

import (
	"crypto/rand"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
)

// source is where ids and secrets come from: the operating system, or, once it is seeded, a stream that is the same in
// every run, so that a failed sequence of commands can be run again.
type source struct {
	mu    sync.Mutex
	from  io.Reader
	mints atomic.Int64 // secrets that were drawn, by the size of their draw
}

// mintDraw is how many bytes a new secret takes at a time.
const mintDraw = 48

func (s *source) seed(seed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
}

// Read fills p.
func (s *source) Read(p []byte) (int, error) {
	if len(p) == mintDraw {
		s.mints.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from == nil {
		return rand.Read(p)
	}
	return s.from.Read(p)
}
