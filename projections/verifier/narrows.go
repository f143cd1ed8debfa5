package verifier

import (
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// narrowing are the settings whose change may take a right away. A change of the others may be known everywhere a moment
// later.
var narrowing = []string{"scopes", "resources", "expires_at", "enabled", "allowed_ips", "rate_limit", "usage_limit"}

// soon is a deadline that a verifier might learn of too late: within it what the event says is waited for, beyond it a
// lease has run out long before.
const soon = 10 * time.Second

// Narrows reports whether after an event a secret may be good for less than before, now or very soon. A command whose
// event does so is answered once every verifier has applied it.
func Narrows(e domain.Event) bool {
	switch d := e.Data.(type) {
	case domain.Rotated:
		return len(d.RevokedKeyIDs) > 0 || d.Acknowledged != "" && isSoon(d.GraceExpiresAt, e.OccurredAt)
	case domain.RotationAcknowledged:
		return isSoon(&d.GraceExpiresAt, e.OccurredAt)
	case domain.Updated:
		return slices.ContainsFunc(d.Changed, func(field string) bool { return slices.Contains(narrowing, field) })
	}
	return Changes(e)
}

// Changes reports whether after an event a verify may say something else of a key that there was before.
func Changes(e domain.Event) bool {
	return domain.StreamKind(e.StreamID) == domain.PrefixLineage && changesKeys(e.Data)
}

// isSoon reports whether a deadline is soon after a moment. No deadline at all is that of a key that ends at once.
func isSoon(deadline *time.Time, at time.Time) bool {
	return deadline == nil || deadline.Sub(at) < soon
}

// changesKeys reports whether an event of a lineage may change what a verify says. What is not known here may.
func changesKeys(payload domain.Payload) bool {
	switch payload.(type) {
	case domain.Created, domain.RotationStalled, domain.RotationRedelivered, domain.RotationTimedOut, domain.RotationDeferred,
		domain.RotationBlocked, domain.KeyExpiring, domain.UsedInGrace, domain.RedeliveryRequested, domain.RotationClaimedAgain, domain.LeakReported:
		return false
	}
	return true
}
