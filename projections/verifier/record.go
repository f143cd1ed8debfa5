package verifier

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// Record is a key as it is kept in memory: what a verify needs, in about 150 bytes beside its name. It never
// changes; a change of the key is another Record.
type Record struct {
	// What every verify looks at stands first, in two lines of the processor's cache.
	digest domain.Digest
	place  *place
	grant  *grant
	more   *more // what few keys have; nil: nothing of it
	// genuine says that the key's secret was presented before and has the form of one. A digest is of one secret only, so
	// that need not be looked at again.
	genuine        atomic.Bool
	state          state
	operator       bool
	disabled       bool
	expiresAt      int64 // in microseconds; 0: never
	graceExpiresAt int64 // in microseconds; 0: none

	key, lineage domain.UUID
	text         string // the name, then the metadata
	generation   uint32
	nameLength   uint16
}

// more is what few keys have.
type more struct {
	replacedBy domain.UUID // zero: nothing
	rotation   domain.UUID // zero: none
	allowedIPs domain.Networks
	limits     *projections.KeyLimits // nil: none
}

// state is the state of a generation in a byte.
type state uint8

const (
	active state = iota
	pending
	grace
	retired
	revoked
	discarded
	expired
)

var generationStates = [...]domain.GenerationState{
	active: domain.GenerationActive, pending: domain.GenerationPending, grace: domain.GenerationGrace, retired: domain.GenerationRetired,
	revoked: domain.GenerationRevoked, discarded: domain.GenerationDiscarded, expired: domain.GenerationExpired,
}

func stateOf(s domain.GenerationState) (state, bool) {
	i := slices.Index(generationStates[:], s)
	return state(i), i >= 0
}

// ended reports whether a key in this state never lives again.
func (s state) ended() bool { return s > grace }

// statusAt judges as domain.StatusAt does, on times in microseconds. A deadline is exclusive. No record has no status.
func (r *Record) statusAt(now int64) domain.Status {
	switch {
	case r == nil:
		return ""
	case r.state == revoked, r.state == discarded:
		return domain.StatusRevoked
	case r.state == retired:
		return domain.StatusRetired
	case r.state == expired:
		return domain.StatusExpired
	case r.state == grace && r.graceExpiresAt != 0 && now >= r.graceExpiresAt:
		return domain.StatusRetired
	case r.expiresAt != 0 && now >= r.expiresAt:
		return domain.StatusExpired
	case r.state == pending:
		return domain.StatusPending
	case r.state == grace:
		return domain.StatusGrace
	}
	return domain.StatusActive
}

// Pending reports whether the key's secret is not known to have arrived.
func (r *Record) Pending() bool { return r.state == pending }

// InGrace reports whether the key's successor has arrived.
func (r *Record) InGrace() bool { return r.state == grace }

// Scopes are what the key may do. Nobody changes them.
func (r *Record) Scopes() domain.Scopes { return r.grant.scopes }

// Reach is how far the key sees as a caller of rekey's own API.
func (r *Record) Reach() projections.Reach { return r.grant.reach(r.place.organization) }

// MayUseFrom reports whether the key may be used from an address. One that is zero is not known to be allowed.
func (r *Record) MayUseFrom(address netip.Addr) bool {
	return r.more == nil || r.more.allowedIPs.Allow(address)
}

// Used is what counting needs of the key.
func (r *Record) Used() projections.UsedKey {
	return projections.UsedKey{
		Key: r.key, Lineage: r.lineage, Organization: r.place.organization, Project: r.place.project,
		Generation: r.generation, Grace: r.state == grace,
	}
}

func (r *Record) facts(status domain.Status) projections.Facts {
	f := projections.Facts{Status: status, Disabled: r.disabled, Scopes: r.grant.scopes, Resources: r.grant.resources}
	if r.more != nil {
		f.AllowedIPs = r.more.allowedIPs
	}
	return f
}

func (r *Record) limits() *projections.KeyLimits {
	if r.more == nil {
		return nil
	}
	return r.more.limits
}

func (r *Record) name() string     { return r.text[:r.nameLength] }
func (r *Record) metadata() string { return r.text[r.nameLength:] }

// Pack makes a record that shares nothing; of no key it is nil.
func Pack(k *projections.Key) *Record {
	if k == nil {
		return nil
	}
	return record(k, placeOf(k), grantOf(k))
}

func record(k *projections.Key, place *place, grant *grant) *Record {
	key, _ := domain.UUIDOf(domain.PrefixKey, string(k.ID)) // both are ours, and so well-formed
	lineage, _ := domain.UUIDOf(domain.PrefixLineage, string(k.LineageID))
	state, _ := stateOf(k.State)
	return &Record{
		digest: k.Secret.Digest, key: key, lineage: lineage,
		place: place, grant: grant, text: k.Name + compact(k.Metadata), more: moreOf(k),
		expiresAt: micros(k.ExpiresAt), graceExpiresAt: micros(k.GraceExpiresAt), generation: uint32(k.Generation),
		nameLength: uint16(len(k.Name)), state: state, operator: k.Operator, disabled: k.Disabled,
	}
}

// compact is a JSON text without the spaces that Postgres puts in.
func compact(text json.RawMessage) string {
	var out bytes.Buffer
	if len(text) == 0 || json.Compact(&out, text) != nil {
		return string(text)
	}
	return out.String()
}

func moreOf(k *projections.Key) *more {
	var m more
	if k.ReplacedBy != nil {
		m.replacedBy, _ = domain.UUIDOf(domain.PrefixKey, string(*k.ReplacedBy))
	}
	if k.RotationID != nil {
		m.rotation, _ = domain.UUIDOf(domain.PrefixRotation, string(*k.RotationID))
	}
	m.allowedIPs, m.limits = k.AllowedIPs, k.Limits
	if m.replacedBy == (domain.UUID{}) && m.rotation == (domain.UUID{}) && len(m.allowedIPs) == 0 && m.limits == nil {
		return nil
	}
	return &m
}

func micros(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	t := time.UnixMicro(micros).UTC()
	return &t
}

// Key unpacks the record, as far as it goes: what a verify does not need is not in it.
func (r *Record) Key() *projections.Key {
	k := &projections.Key{
		ID: domain.KeyID(r.key.ID(domain.PrefixKey)), LineageID: domain.LineageID(r.lineage.ID(domain.PrefixLineage)),
		Generation: int(r.generation), OrganizationID: r.place.organization, ProjectID: r.place.project, EnvironmentID: r.place.environment,
		Name: r.name(), Secret: domain.SecretFacts{Digest: r.digest}, Scopes: r.grant.scopes, Resources: r.grant.resources,
		State: generationStates[r.state], Operator: r.operator, Disabled: r.disabled,
		ExpiresAt: timeOf(r.expiresAt), GraceExpiresAt: timeOf(r.graceExpiresAt),
	}
	if text := r.metadata(); text != "" {
		k.Metadata = json.RawMessage(text)
	}
	if r.more != nil {
		k.AllowedIPs, k.Limits = r.more.allowedIPs, r.more.limits
	}
	if m := r.more; m != nil && m.replacedBy != (domain.UUID{}) {
		id := domain.KeyID(m.replacedBy.ID(domain.PrefixKey))
		k.ReplacedBy = &id
	}
	if m := r.more; m != nil && m.rotation != (domain.UUID{}) {
		id := domain.RotationID(m.rotation.ID(domain.PrefixRotation))
		k.RotationID = &id
	}
	return k
}
