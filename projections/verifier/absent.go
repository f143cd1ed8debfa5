package verifier

import (
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/lately"
)

// absentSize bounds a generation of what is remembered beside the live keys: some ten megabytes in all.
const absentSize = 1 << 15

// absent remembers secrets that are of no live key: unknown ones, and those of keys that have ended. So a client that
// tries one again and again costs Postgres one lookup. Live keys are looked for before, so what is remembered here too long
// makes no live key absent.
type absent struct {
	seen *lately.Map[domain.Digest, *Record]
}

func newAbsent() absent {
	return absent{&lately.Map[domain.Digest, *Record]{Size: absentSize}}
}

// get returns the ended key of a digest, nil if there is none, and whether that is known.
func (a absent) get(d domain.Digest) (*Record, bool) { return a.seen.Get(d) }

func (a absent) put(d domain.Digest, ended *Record) { a.seen.Put(d, ended) }

// forget is told of a key that is live now.
func (a absent) forget(d domain.Digest) { a.seen.Delete(d, func(*Record) bool { return true }) }
