// Package embedded verifies keys in the memory of your own process, for services that can reach rekey's Postgres.
//
// A Verifier here is the one that rekey itself has: it keeps all live keys in memory, follows the log of events, and trusts
// its memory only while it holds a lease in Postgres. So it keeps guarantee G1 as rekey's own replicas do: a revoke is
// answered once this process, too, has applied it or has stopped trusting its memory, and no verify that starts later
// says valid. It is a client.Verifier, exchangeable with the one over HTTP.
//
// # What it costs
//
// A verify from memory takes no allocation and little more than twice or three times what the SHA-256 of the secret takes,
// as long as the processor's caches hold the keys that are used (the benchmark prints it). A key takes less than 250 bytes of memory. A few
// connections to Postgres are kept; each second there is a renewal of the lease and, if keys were used, a write of the counts.
//
// # What it needs
//
// A login that is a member of the role rekey_app, and a rekey key that holds keys:verify: only keys of that key's
// organization, and of its projects if it is limited to some, are found. It is looked at with every verify, so revoking it
// ends what this process can verify. The login, however, may do all that rekey itself does in the database: give it to
// services that you trust with that, and let all others use package client.
//
// NATS is optional. With it revokes are known here within milliseconds, without it by polling, within some fifty.
//
// # How it fails
//
// Without Postgres it answers from memory until its lease ends, three seconds at most; then there are errors of the kind
// client.ErrUnavailable, never old answers. When Postgres is back it catches up before it trusts its memory again. A process
// that is frozen holds up revokes by two lives of a lease at most, and wakes up without trust.
//
// Uses are counted in memory and written each second; a crash loses what was not written.
package embedded
