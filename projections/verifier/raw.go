package verifier

import (
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// What follows tells of a record as it lies in memory, without an allocation.

// ID is the key's id without its prefix.
func (r *Record) ID() domain.UUID { return r.key }

// Lineage is the id of the key's lineage, without its prefix.
func (r *Record) Lineage() domain.UUID { return r.lineage }

// ReplacedBy is the id of the key's successor, without its prefix; zero: it has none.
func (r *Record) ReplacedBy() domain.UUID {
	if r.more == nil {
		return domain.UUID{}
	}
	return r.more.replacedBy
}

// Generation is the key's number in its lineage.
func (r *Record) Generation() int { return int(r.generation) }

// Name is what people call the key.
func (r *Record) Name() string { return r.name() }

// Metadata is the owner's JSON object; empty: none.
func (r *Record) Metadata() string { return r.metadata() }

// ExpiresAt is the end of the key's life; zero: it has none.
func (r *Record) ExpiresAt() time.Time { return moment(r.expiresAt) }

// GraceExpiresAt is the end of the key's grace, also when that is over; zero: it has none.
func (r *Record) GraceExpiresAt() time.Time { return moment(r.graceExpiresAt) }

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
