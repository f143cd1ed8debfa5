// Package verifier answers verifies from memory, and yet strictly: once a command that takes a right away has answered, no
// verify that starts later says valid, on any replica, also under a partition (guarantee G1).
//
// # How
//
// A Verifier keeps all live keys in memory: it loads them from the read model and follows the log. It trusts its memory
// only while it holds a lease, a row in Postgres that it renews each second and that says up to where it has applied the
// log. A command that takes a right away commits, and then waits at the Barrier until each lease has applied it or has run
// out. Who cannot renew stops trusting its memory before the database's clock lets the lease run out, and answers from
// Postgres, or not at all.
//
// # Why it is right
//
//   - Trust ends a margin before the lease, counted from before the renewal was sent, on the monotonic clock; the wall clock
//     is looked at too, because a machine that slept has a monotonic clock that did not move.
//   - A lease that had run out, or whose renewal was answered after the trust in it had ended, is begun anew: the log's head
//     is read after that, and memory is trusted once it has reached that head. So what was committed while nobody waited for
//     this verifier is applied before it answers.
//   - A verifier that has not applied what the log held a renewal ago does not renew. So without any word from it a command
//     knows after two lives of a lease that it holds everywhere, and every wait is bounded.
//   - Each renewal also asks whether the event that was applied last is still the one at its position. A database that was
//     restored to an earlier state is noticed, and memory is loaded again.
//
// A hint over NATS makes the usual wait a few milliseconds; without it verifiers find out by polling.
//
// # How it fails
//
// Without Postgres a verify is answered from memory until the trust ends, and then refused as unavailable. A key that is
// not in memory is looked up in Postgres once, and what is found there to be unknown or ended is remembered, within bounds.
package verifier
