// Package workers is what rekey does by itself: it rotates keys on their interval, records what time has ended, delivers
// signed webhooks, and relays the log to NATS.
//
// # What it guarantees
//
//   - Due work sits in indexed tables; a River job sweeps them each second, in batches, on any replica. Nothing is
//     scheduled per key, and a piece of work that fails is put aside and delays no other.
//   - Workers are idempotent. A kill at any instant repeats at most one attempt of a webhook, under the same webhook-id.
//   - An old secret never gets its deadline before its successor was acknowledged (guarantee G2).
//   - An endpoint that is slow, dead or gone delays no other: it has few places at once, is left alone after failures in a
//     row and then tried by one delivery at a time, and what is meant for it meanwhile is held, not dropped.
//   - What is told over HTTP is told over NATS, under the same id, with the same bytes, and never with a readable secret.
//   - Job arguments hold ids only; no secret is in a job, a log or an attempt.
//
// # What it does not
//
// Expiry and grace do not depend on it: they are judged by time wherever a key is used, workers or no workers.
package workers
