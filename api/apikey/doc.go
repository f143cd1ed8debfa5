// Package apikey is the HTTP surface for clients of the `/apikey/` page: numeric ids, modes in place of scopes,
// limits to apps and organizations, and errors that are one sentence and `"status":"KO"`.
//
// It translates, and has no rules of its own: keys are the same ones as on the native surface, made and ended by the same
// commands. A mode is shorthand at creation and is derived from the scopes wherever a key is shown (modes.go). A number
// names the key whose id it was computed from (domain.KeyNumber), within the caller's organization.
//
// The key comes in any of three headers; a request that shows two different keys is refused, because somebody else may
// read the other one. With x-limited-key-id the presented key acts as a narrower one (credential.go): that can only lose
// rights, never gain them.
package apikey
