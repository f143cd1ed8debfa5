// Package domain holds what rekey knows about keys and nothing about how it is stored or served: words, rules and
// state machines, as pure functions of (state, command, now) and (state, event). It imports the standard library only.
//
// # Words
//
// A key is one secret and its settings. A lineage is a key and all its successors: one event stream, one history. Each
// key of a lineage is a generation, numbered from 1. A rotation is the hand-over from one generation to the next; the
// grace is the span in which the old generation stays valid after the new one is known to have arrived.
//
// # States of a generation
//
//	            Created / Rotated (acknowledged by its own answer)
//	                 |
//	Rotated      +---v----+  next generation acknowledged   +-------+  GraceExpired   +---------+
//	(scheduled)  | active |-------------------------------->| grace |---------------->| retired |
//	    |        +---^----+                                 +-------+                 +---------+
//	+---v-----+      |
//	| pending |------+ RotationAcknowledged
//	+---------+
//
// Every live state also ends by Revoked (revoked) or Expired (expired); a pending one by RotationCancelled (discarded).
//
// # Invariants
//
//   - A lineage has at most one active and at most one pending generation.
//   - A generation gets a deadline only once its successor is acknowledged (no lock-out, guarantee G2).
//   - A deadline never moves later than the lineage's own expiry.
//   - An ended generation never comes back.
//   - Folding a stream is total: Apply never fails on a known event, and decisions alone refuse commands.
//
// Expiry and grace are judged by time wherever a key is used (Generation.StatusAt); the events Expired and GraceExpired
// record what time has already decided, so late workers never keep a dead key alive.
package domain
