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
//	    |        +---^--^-+<--------------------------------+-------+                 +---------+
//	+---v-----+      |  |      RotationRolledBack (and the newer one goes into grace)
//	| pending |------+ RotationAcknowledged
//	+---------+
//
// Every live state also ends by Revoked (revoked) or Expired (expired); a pending one by RotationCancelled (discarded). A
// rotation because of a compromise revokes the older generations with the event that makes the new one.
//
// # States of a rotation
//
//	Rotated     +------------+  RotationAcknowledged   +---------+  GraceExpired   +-----------+
//	----------->| delivering |------------------------>| overlap |---------------->| completed |
//	            +--+------^--+                         +--^---+--+                 +-----------+
//	RotationStalled|      |RotationRedelivered            |   +---- RotationRolledBack ----> rolled_back
//	            +--v------+--+                            |
//	            |  stalled   |----------------------------+
//	            +------------+
//
// One that waits (delivering, stalled) ends as cancelled, or as superseded by another one. Whatever ends the lineage ends
// its live rotations as aborted; an overlap that ends with the lineage's own life was completed.
//
// A rotation that waits for longer than the policy's longest overlap is held (RotationTimedOut, each day again), cancelled,
// or goes on as if its secret had arrived, as the policy says. Old and new key share the end of their lineage, so an old
// key never reaches its end while its successor lives on.
//
// # Invariants
//
//   - A lineage has at most one active and at most one pending generation, and at most one rotation that waits.
//   - A generation gets a deadline only once its successor is acknowledged (no lock-out, guarantee G2).
//   - A deadline never moves later than the lineage's own expiry, and only if somebody asks for it.
//   - The grace runs from the acknowledgment, however long the secret took to arrive.
//   - An ended generation never comes back.
//   - Folding a stream is total: Apply never fails on a known event, and decisions alone refuse commands.
//   - Folding needs no time zones: a decision looks them up for the policy's window, and its event says what came of it.
//
// Expiry and grace are judged by time wherever a key is used (Generation.StatusAt); the events Expired and GraceExpired
// record what time has already decided, so late workers never keep a dead key alive.
package domain
