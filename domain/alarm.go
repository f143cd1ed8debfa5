package domain

import "time"

// Types of events that only tell somebody something: nothing of a key changes by them.
const (
	TypeKeyExpiring          Type = "KeyExpiring"
	TypeUsedInGrace          Type = "UsedInGrace"
	TypeRotationClaimedAgain Type = "RotationClaimedAgain"
)

// KeyExpiring announces that a lineage ends soon.
type KeyExpiring struct {
	KeyID     KeyID     `json:"key_id"`
	ExpiresAt time.Time `json:"expires_at"`
	DaysLeft  int       `json:"days_left"` // 7, 3 or 1, rounded up
}

// UsedInGrace says who still uses a key whose successor has arrived. It is recorded at most once an hour for each client.
type UsedInGrace struct {
	RotationID      RotationID `json:"rotation_id,omitempty"`
	KeyID           KeyID      `json:"key_id"`
	ReplacedByKeyID KeyID      `json:"replaced_by_key_id"`
	GraceExpiresAt  time.Time  `json:"grace_expires_at"`
	Address         string     `json:"address,omitempty"`
	Agent           string     `json:"user_agent,omitempty"` // what the client says it is. Since revision 2
	Count           int64      `json:"count"`                // since FirstSeenAt
	FirstSeenAt     time.Time  `json:"first_seen_at"`
	LastSeenAt      time.Time  `json:"last_seen_at"`
}

// RotationClaimedAgain is the alarm that an address at which a secret can be fetched once was used a second time: two
// parties hold it, and only one of them got the secret.
type RotationClaimedAgain struct {
	RotationID RotationID `json:"rotation_id"`
}

// Type returns the stable name.
func (KeyExpiring) Type() Type { return TypeKeyExpiring }

// Type returns the stable name.
func (UsedInGrace) Type() Type { return TypeUsedInGrace }

// Type returns the stable name.
func (RotationClaimedAgain) Type() Type { return TypeRotationClaimedAgain }

// DueWarn is the time to announce that a lineage ends soon.
const DueWarn DueKind = "warn"

// warnBefore is how many days before its end a lineage is announced to end.
var warnBefore = []int{7, 3, 1}

const oneDay = 24 * time.Hour

// warningDue is when the next announcement is due, if there is one. One whose time had come before the end was chosen, or
// before the last one was made, is left out: a key made for two days is announced once.
func (l *Lineage) warningDue() (time.Time, bool) {
	if l.Settings.ExpiresAt == nil || l.Active() == nil {
		return time.Time{}, false
	}
	since := l.UpdatedAt
	if l.WarnedAt != nil && l.WarnedAt.After(since) {
		since = *l.WarnedAt
	}
	for _, days := range warnBefore {
		if at := l.Settings.ExpiresAt.Add(-time.Duration(days) * oneDay); at.After(since) {
			return at, true
		}
	}
	return time.Time{}, false
}

// Warn decides to announce that the lineage ends soon. Announcements that were missed collapse into one.
func (l *Lineage) Warn(now time.Time) ([]Decided, error) {
	at, due := l.warningDue()
	if !due || now.Before(at) || !now.Before(*l.Settings.ExpiresAt) {
		return nil, nil
	}
	left := l.Settings.ExpiresAt.Sub(now)
	return []Decided{l.decided(KeyExpiring{
		KeyID: l.Active().KeyID, ExpiresAt: *l.Settings.ExpiresAt, DaysLeft: int((left + oneDay - 1) / oneDay),
	})}, nil
}

// GraceUse is what was counted of one client that uses a key in grace.
type GraceUse struct {
	KeyID                 KeyID
	Address               string // empty: not known
	Agent                 string // what it says it is; empty: not known
	Count                 int64
	FirstSeenAt, LastSeen time.Time
}

// NoteGraceUse decides to tell of a client that still uses a key in grace. Once the grace is over there is nobody to warn.
func (l *Lineage) NoteGraceUse(u GraceUse, now time.Time) []Decided {
	g := l.Generation(u.KeyID)
	if g == nil || l.StatusAt(g, now) != StatusGrace {
		return nil
	}
	used := UsedInGrace{
		KeyID: u.KeyID, ReplacedByKeyID: g.ReplacedBy, GraceExpiresAt: *g.GraceExpiresAt,
		Address: u.Address, Agent: u.Agent, Count: u.Count, FirstSeenAt: u.FirstSeenAt, LastSeenAt: u.LastSeen,
	}
	for _, r := range l.Rotations {
		if r.FromKeyID == u.KeyID {
			used.RotationID = r.ID
		}
	}
	return []Decided{l.decided(used)}
}

// ClaimedAgain decides the alarm of a second claim.
func (l *Lineage) ClaimedAgain(id RotationID) []Decided {
	return []Decided{l.decided(RotationClaimedAgain{RotationID: id})}
}
