// Package commands is everything that rekey can be told to do, whichever surface, job or program asks. Each command loads
// nothing itself: it names the streams it needs, is decided by the domain on their current state, and is joined with
// others by the event store. The surfaces translate to and from these commands and have no rules of their own.
//
// Plaintext secrets leave this package only in the answers to those who may have them; what must wait is sealed here.
package commands
