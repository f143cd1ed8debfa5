// Package accountkeys is the surface of account pages that manage their own keys: camelCase, answers in an envelope, and
// three scopes that are plain words. It translates; the keys and the commands are those of every other surface.
//
// It stands at /api/v1/keys and at /v1/keys, since clients of such pages use both. Only the scopes read, write and delete
// (and *) count here, and only those three can be given to a new key. A new key belongs to the project and the environment
// of the key that asks for it; what it does not name, such as resources and an end, it has from that key too.
package accountkeys
