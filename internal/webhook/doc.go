// Package webhook carries a signed message from rekey to a receiver on the internet, once, and says how it went.
//
// It holds the wire form (Message, RotationCreated), the signature of Standard Webhooks (Secret, Sign, Verify), the
// rule for which addresses may be reached (Guard), one attempt over HTTP (Sender), the times between attempts
// (NextDelay), and the other end (Receiver). It knows no database and no queue: whoever calls it stores what happened
// and decides when to call again.
//
// # What it guarantees
//
//   - The bytes that are signed are the bytes that are sent, and every attempt is signed with its own time.
//   - No connection is opened to an address that the Guard refuses. The final address is judged after the name was
//     resolved and before the first packet leaves, so neither rebinding names nor odd spellings get around it, and no
//     proxy from the environment stands in between.
//   - A redirect is never followed: the message, which may hold a secret, goes to the registered URL or nowhere.
//   - An attempt ends within its timeout and holds a few kilobytes of the answer at most, whatever the receiver does.
//     Nothing of the answer is kept: a receiver that echoes the message cannot bring the secret into a log or a table.
//   - A message with a client certificate goes with it or not at all, over connections of its endpoint alone.
//   - A Secret prints as [redacted], and so does a ClientCertificate.
//
// # What it does not
//
// It does not deliver exactly once. An answer can be lost after the receiver acted on it, and the message is then sent
// again with the same webhook-id; receivers must drop ids that they have seen, as Receiver does. It keeps no order
// between messages, either.
//
// # How it fails
//
// Every attempt ends in one Outcome of a closed list, made for decisions and for the owner of the endpoint. Result.Err
// is for the operator: it names addresses and must not be shown to the owner.
//
// One thing is out of reach from here: when a receiver sends more bytes than its answer announced, net/http itself
// prints them through the global logger of package log. A process that sends secrets must point that logger at
// io.Discard.
package webhook
