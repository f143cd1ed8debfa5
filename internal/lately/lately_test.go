package lately_test

import (
	"testing"

	"github.com/rekeyhq/rekey/internal/lately"
)

func always(int) bool { return true }

func TestMap(t *testing.T) {
	t.Parallel()
	t.Run("KeepsWhatIsUsed", func(t *testing.T) {
		m := lately.Map[int, int]{Size: 10}
		for i := range 1000 {
			m.Put(i, i)
			if v, ok := m.Get(0); !ok || v != 0 {
				t.Fatalf("after %d others, 0 is %d, %t", i, v, ok)
			}
		}
	})
	t.Run("IsBounded", func(t *testing.T) {
		m := lately.Map[int, int]{Size: 10}
		for i := range 1000 {
			m.Put(i, i)
		}
		kept := 0
		for i := range 1000 {
			if _, ok := m.Get(i); ok {
				kept++
			}
		}
		if kept == 0 || kept > 20 {
			t.Fatalf("%d of 1000 are kept, want at most two generations of 10", kept)
		}
	})
	t.Run("Deletes", func(t *testing.T) {
		m := lately.Map[int, int]{Size: 2}
		for i := range 3 { // 0 and 1 are in the older generation
			m.Put(i, i*10)
		}
		m.Delete(0, func(v int) bool { return v != 0 })
		if _, ok := m.Get(0); !ok {
			t.Fatal("deleted what did not match")
		}
		for i := range 3 {
			m.Delete(i, always)
			if _, ok := m.Get(i); ok {
				t.Fatalf("%d is still there", i)
			}
		}
	})
}
