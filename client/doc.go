// Package client asks rekey whether a key that was presented to your service is valid.
//
//	keys, err := client.New("https://rekey.example.com", os.Getenv("REKEY_KEY"))
//	...
//	mux.Handle("GET /orders", client.Require(keys, "orders:read")(orders))
//
// There are two forms of a Verifier, which are exchangeable. Client asks over HTTP and needs nothing but the address and a
// key that holds keys:verify. Package client/embedded keeps all keys in the memory of your own process, for services that
// can reach rekey's Postgres: a verify takes less than a microsecond there. Both keep guarantee G1: once rekey has answered
// a revoke, no verify that starts later says valid.
//
// # What it guarantees
//
//   - It fails closed. A Verdict is valid only if rekey said so in an answer that could be read and makes sense. Without an
//     answer there is an error, and the middleware answers 503.
//   - It takes a bounded time: two seconds unless told otherwise, all attempts and pauses between them included.
//   - Secrets show themselves nowhere: a Secret that is printed, logged or marshalled is [redacted].
//
// # How it fails
//
// Errors are of type *Error and of one of three kinds, for errors.Is: ErrRefused (rekey does not accept your own key, or it
// lacks keys:verify), ErrBadRequest (rekey does not accept what you ask, and says which field) and ErrUnavailable
// (no answer now). Only the last is tried again.
package client
