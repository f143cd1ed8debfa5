package eventstore

import "sync"

// headCacheSize bounds the heads that one writer keeps; a generation of them is dropped when the next is full.
const headCacheSize = 16384

// headCache keeps the heads that a writer met lately, with their states. The writer's first step alone uses the states;
// its second step may drop entries at the same time.
type headCache struct {
	mu           sync.Mutex
	young, older map[string]*head
}

// get returns a kept head, or nil.
func (c *headCache) get(id string) *head {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.young[id]; h != nil {
		return h
	}
	h := c.older[id]
	if h != nil {
		c.put(id, h)
	}
	return h
}

// keep takes over the heads of a batch that was decided, as they will be once it is committed.
func (c *headCache) keep(heads map[string]*head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, h := range heads {
		h.expected = h.state.StreamVersion()
		c.put(id, h)
	}
}

func (c *headCache) put(id string, h *head) {
	if len(c.young) >= headCacheSize {
		c.older, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[string]*head)
	}
	c.young[id] = h
}

// forget drops the heads of a batch that failed: their states tell of what did not happen.
func (c *headCache) forget(heads map[string]*head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, h := range heads {
		for _, generation := range []map[string]*head{c.young, c.older} {
			if generation[id] == h {
				delete(generation, id)
			}
		}
	}
}

// drop drops whatever is kept of the streams that commands wrote on locked heads.
func (c *headCache) drop(batch []*pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range batch {
		for _, id := range p.command.Writes {
			delete(c.young, id)
			delete(c.older, id)
		}
	}
}
