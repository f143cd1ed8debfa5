package domain

import (
	"slices"
	"time"
)

// MaxBulk bounds how many keys one request may revoke.
const MaxBulk = 10_000

// RevokeAll decides the end of several keys of a lineage, each as Revoke decides it.
func (l *Lineage) RevokeAll(ids []KeyID, reason string, now time.Time) ([]Decided, error) {
	if active := l.Active(); active != nil && slices.Contains(ids, active.KeyID) {
		return l.Revoke(active.KeyID, reason, now) // which takes the others with it
	}
	var out []Decided
	for _, id := range ids {
		decided, err := l.Revoke(id, reason, now)
		if err != nil {
			return nil, err
		}
		out = append(out, decided...)
	}
	return out, nil
}

// CheckReason refuses what cannot stand in a history as the reason of a revocation.
func CheckReason(reason string) error { return validateReason(reason) }
