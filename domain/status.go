package domain

import "time"

// Status is what a key is at a moment, as its owner sees it.
type Status string

// Statuses of a key.
const (
	StatusActive  Status = "active"
	StatusPending Status = "pending"
	StatusGrace   Status = "grace"
	StatusRevoked Status = "revoked"
	StatusExpired Status = "expired"
	StatusRetired Status = "retired"
)

// Valid reports whether a key of this status authenticates.
func (s Status) Valid() bool {
	return s == StatusActive || s == StatusPending || s == StatusGrace
}

// StatusAt judges a generation by its state and the clock. A deadline is exclusive: at the instant itself the key is
// refused. Time decides even where the event that records it has not been written yet.
func StatusAt(state GenerationState, expiresAt, graceExpiresAt *time.Time, now time.Time) Status {
	switch state {
	case GenerationRevoked, GenerationDiscarded:
		return StatusRevoked
	case GenerationRetired:
		return StatusRetired
	case GenerationExpired:
		return StatusExpired
	case GenerationGrace:
		if graceExpiresAt != nil && !now.Before(*graceExpiresAt) {
			return StatusRetired
		}
	}
	if expiresAt != nil && !now.Before(*expiresAt) {
		return StatusExpired
	}
	switch state {
	case GenerationPending:
		return StatusPending
	case GenerationGrace:
		return StatusGrace
	}
	return StatusActive
}

// StatusAt judges one generation of the lineage.
func (l *Lineage) StatusAt(g *Generation, now time.Time) Status {
	return StatusAt(g.State, l.Settings.ExpiresAt, g.GraceExpiresAt, now)
}
