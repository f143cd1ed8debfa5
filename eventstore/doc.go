// Package eventstore is the log: it appends events, joins the commands of a process into few transactions, and reads
// lanes without gaps.
//
// # What it guarantees
//
//   - Positions of a lane are contiguous and in commit order, so a reader that asserts n+1 after n has missed nothing.
//     Readers here do assert it, and stop with a GapError rather than go on.
//   - A command is decided on the locked, current state of its streams, and its events, its read-model rows and its
//     attached rows commit together or not at all.
//   - Commands that wait at the same time are decided one after the other and committed in one transaction; an error of
//     one fails that one alone.
//   - An effect of a Consumer and its checkpoint commit together, so each event has its effect exactly once.
//
// # How it fails
//
// While Postgres cannot be reached, commands fail with unavailable and nothing was done. If the connection breaks between
// sending COMMIT and its answer, the outcome is unknown, and the command says so; a caller that retries must be able to
// tell (an Idempotency-Key does). A full queue refuses at once instead of growing.
//
// # Lock order
//
// Stream heads (lineages and endpoints by id, then organizations and projects by id), then read-model rows, then the heads
// of new streams by id, then the lane. Every command, sweep and rebuild keeps to it, so they cannot deadlock. Attached rows
// are written in the order of the commands: two commands that attach to one row name a common stream in Writes.
package eventstore
