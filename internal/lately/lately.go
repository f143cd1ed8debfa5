// Package lately is a bounded map of what was used lately. It keeps two generations: when the young one is full it becomes
// the older one, and what was not used since then is dropped. That is about as good as least-recently-used here, and
// needs no list.
package lately

import "sync"

// Map is safe for concurrent use. The zero value keeps nothing; set Size first.
type Map[K comparable, V any] struct {
	// Size bounds each generation.
	Size int

	mu           sync.Mutex
	young, older map[K]V
}

// Get returns a kept value.
func (m *Map[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.young[key]; ok {
		return v, true
	}
	v, ok := m.older[key]
	if ok {
		m.put(key, v)
	}
	return v, ok
}

// Put keeps a value.
func (m *Map[K, V]) Put(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, value)
}

func (m *Map[K, V]) put(key K, value V) {
	if len(m.young) >= m.Size {
		m.older, m.young = m.young, nil
	}
	if m.young == nil {
		m.young = make(map[K]V)
	}
	m.young[key] = value
}

// Delete drops a value that match approves of.
func (m *Map[K, V]) Delete(key K, match func(V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, generation := range []map[K]V{m.young, m.older} {
		if v, ok := generation[key]; ok && match(v) {
			delete(generation, key)
		}
	}
}
