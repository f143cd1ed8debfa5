package verifier

import (
	"encoding/binary"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// KeyID names the key.
func (r *Record) KeyID() string { return r.key.ID(domain.PrefixKey) }

// LineageID names the key's lineage.
func (r *Record) LineageID() string { return r.lineage.ID(domain.PrefixLineage) }

// OrganizationID names the tenant that the key is of.
func (r *Record) OrganizationID() domain.OrganizationID { return r.place.organization }

// ProjectID names the project that the key is of.
func (r *Record) ProjectID() domain.ProjectID { return r.place.project }

// EnvironmentID names the environment that the key is of.
func (r *Record) EnvironmentID() domain.EnvironmentID { return r.place.environment }

// Made is when the key was made, to the millisecond: its id tells it.
func (r *Record) Made() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(r.key[:8]) >> 16)).UTC()
}

// GraceEnds is when the grace of a key that is in grace ends; the zero time if it is not in grace, or without end.
func (r *Record) GraceEnds() time.Time {
	if r.state != grace || r.graceExpiresAt == 0 {
		return time.Time{}
	}
	return time.UnixMicro(r.graceExpiresAt).UTC()
}

// Ends is when the key ends if nothing else happens, by expiry or because its grace is over; the zero time if never.
func (r *Record) Ends() time.Time {
	ends := r.GraceEnds()
	if r.expiresAt != 0 && (ends.IsZero() || r.expiresAt < r.graceExpiresAt) {
		ends = time.UnixMicro(r.expiresAt).UTC()
	}
	return ends
}
