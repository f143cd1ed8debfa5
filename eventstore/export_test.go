package eventstore

// Waiting is how many commands wait in the queue, so that a test can join a known set of them.
func (s *Store) Waiting() int { return len(s.queue) }
