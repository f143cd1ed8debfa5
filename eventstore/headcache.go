package eventstore

import "github.com/rekeyhq/rekey/internal/lately"

// headCacheSize bounds a generation of the heads that one writer keeps.
const headCacheSize = 16384

// headCache keeps the heads that a writer met lately, with their states. The writer's first step alone uses the states;
// its second step may drop entries at the same time.
type headCache struct{ heads lately.Map[string, *head] }

// get returns a kept head, or nil.
func (c *headCache) get(id string) *head {
	h, ok := c.heads.Get(id)
	if !ok || h.untrue.Load() {
		return nil
	}
	return h
}

// keep takes over the heads of a batch that was decided, as they will be once it is committed.
func (c *headCache) keep(heads map[string]*head) {
	for id, h := range heads {
		h.expected = h.state.StreamVersion()
		c.heads.Put(id, h)
	}
}

// forget drops the heads of a batch that failed: their states tell of what did not happen. Whoever took them over
// meanwhile learns it from the mark.
func (c *headCache) forget(heads map[string]*head) {
	for id, h := range heads {
		h.untrue.Store(true)
		c.heads.Delete(id, func(kept *head) bool { return kept == h })
	}
}

// drop drops whatever is kept of the streams that commands wrote on locked heads.
func (c *headCache) drop(batch []*pending) {
	for _, p := range batch {
		for _, id := range p.command.Writes {
			c.heads.Delete(id, func(*head) bool { return true })
		}
	}
}
