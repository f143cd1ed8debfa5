// Package github speaks the protocol of GitHub's secret scanning partner program: GitHub found what looks like our keys in
// public places, posts them in one signed batch, and takes the answer as feedback on each.
//
// # What it guarantees
//
// Nothing of a batch is believed before its signature was checked over the very bytes that came, with a key that the
// operator configured; nothing is ever fetched. The feedback names tokens by their hash, never by themselves.
//
// # How it fails
//
// Keys that cannot be read fail the start, not a request. A batch that is not signed by a known key is ErrNotGitHub, without
// a word on what is wrong with it.
package github
