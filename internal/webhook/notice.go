package webhook

import (
	"fmt"
	"time"
)

// RotationAcknowledged gives the body of key.rotation.acknowledged. level is the sign that counted; graceExpiresAt is when
// the old key ends, or the zero time if it has no end.
func RotationAcknowledged(at time.Time, r Rotation, level string, graceExpiresAt time.Time) ([]byte, error) {
	return r.notice(TypeRotationAcknowledged, at, level != "", struct {
		Rotation
		AckedBy        string     `json:"acknowledged_by"`
		GraceExpiresAt *time.Time `json:"grace_expires_at"`
	}{r.utc(), level, orNull(graceExpiresAt)})
}

// RotationStalled gives the body of key.rotation.stalled. reason is a stable code, such as an Outcome.
func RotationStalled(at time.Time, r Rotation, reason string) ([]byte, error) {
	return r.notice(TypeRotationStalled, at, reason != "", struct {
		Rotation
		Reason string `json:"reason"`
	}{r.utc(), reason})
}

// RotationCompleted gives the body of key.rotation.completed.
func RotationCompleted(at time.Time, r Rotation) ([]byte, error) {
	return r.notice(TypeRotationCompleted, at, true, r.utc())
}

// RotationCancelled gives the body of key.rotation.cancelled. state is how the rotation ended: cancelled, superseded,
// aborted or rolled_back.
func RotationCancelled(at time.Time, r Rotation, state string) ([]byte, error) {
	return r.notice(TypeRotationCancelled, at, state != "", struct {
		Rotation
		State string `json:"state"`
	}{r.utc(), state})
}

func (r Rotation) notice(kind string, at time.Time, complete bool, data any) ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	return encodeComplete(kind, at, complete, data)
}

// Key is the key that a message is about.
type Key struct {
	OrganizationID string `json:"organization_id"`
	ProjectID      string `json:"project_id"`
	KeyID          string `json:"key_id"`
	LineageID      string `json:"lineage_id"`
	Generation     int64  `json:"generation"`
	Name           string `json:"name"`
}

func (k Key) complete() bool {
	return k.OrganizationID != "" && k.ProjectID != "" && k.KeyID != "" && k.LineageID != "" && k.Generation > 0
}

// RotationBlocked gives the body of key.rotation.blocked: a rotation was due at dueAt and could not begin, for a reason
// given as a stable code. The key keeps working.
func RotationBlocked(at time.Time, k Key, reason string, dueAt time.Time) ([]byte, error) {
	return encodeComplete(TypeRotationBlocked, at, k.complete() && reason != "" && !dueAt.IsZero(), struct {
		Key
		Reason string    `json:"reason"`
		DueAt  time.Time `json:"due_at"`
	}{k, reason, dueAt.UTC()})
}

// RotationDeferred gives the body of key.rotation.deferred: a rotation was due at dueAt and begins at until, for a reason
// given as a stable code.
func RotationDeferred(at time.Time, k Key, reason string, dueAt, until time.Time) ([]byte, error) {
	complete := k.complete() && reason != "" && !dueAt.IsZero() && !until.IsZero()
	return encodeComplete(TypeRotationDeferred, at, complete, struct {
		Key
		Reason string    `json:"reason"`
		DueAt  time.Time `json:"due_at"`
		Until  time.Time `json:"deferred_until"`
	}{k, reason, dueAt.UTC(), until.UTC()})
}

// VersionRetired gives the body of key.version.retired: the secrets of these keys have ended by themselves, for a reason
// given as a stable code.
func VersionRetired(at time.Time, k Key, keyIDs []string, reason string) ([]byte, error) {
	return encodeComplete(TypeVersionRetired, at, k.complete() && len(keyIDs) > 0 && reason != "", ended{k, keyIDs, &reason})
}

// KeyRevoked gives the body of key.revoked: somebody ended the secrets of these keys at once. reason is what they gave;
// empty: none.
func KeyRevoked(at time.Time, k Key, keyIDs []string, reason string) ([]byte, error) {
	data := ended{k, keyIDs, nil}
	if reason != "" {
		data.Reason = &reason
	}
	return encodeComplete(TypeKeyRevoked, at, k.complete() && len(keyIDs) > 0, data)
}

// ended is a key of which secrets have ended.
type ended struct {
	Key
	KeyIDs []string `json:"key_ids"`
	Reason *string  `json:"reason"`
}

// KeyExpiring gives the body of key.expiring.
func KeyExpiring(at time.Time, k Key, expiresAt time.Time) ([]byte, error) {
	return encodeComplete(TypeKeyExpiring, at, k.complete() && !expiresAt.IsZero(), struct {
		Key
		ExpiresAt time.Time `json:"expires_at"`
	}{k, expiresAt.UTC()})
}

// GraceUse is who still uses a key whose successor has arrived.
type GraceUse struct {
	RotationID      string
	ReplacedByKeyID string
	GraceExpiresAt  time.Time
	// Address and UserAgent are the client's, as far as they are known.
	Address   string
	UserAgent string
	// Count is how often this client was seen between FirstSeen and LastSeen.
	Count     int64
	FirstSeen time.Time
	LastSeen  time.Time
}

// UsedInGrace gives the body of key.version.used_in_grace.
func UsedInGrace(at time.Time, k Key, use GraceUse) ([]byte, error) {
	complete := k.complete() && use.RotationID != "" && use.ReplacedByKeyID != "" && use.Count > 0 && !use.LastSeen.IsZero()
	type client struct {
		Address   string    `json:"address"`
		UserAgent string    `json:"user_agent"`
		Count     int64     `json:"count"`
		FirstSeen time.Time `json:"first_seen_at"`
		LastSeen  time.Time `json:"last_seen_at"`
	}
	return encodeComplete(TypeUsedInGrace, at, complete, struct {
		Key
		RotationID      string     `json:"rotation_id"`
		ReplacedByKeyID string     `json:"replaced_by_key_id"`
		GraceExpiresAt  *time.Time `json:"grace_expires_at"`
		Client          client     `json:"client"`
	}{k, use.RotationID, use.ReplacedByKeyID, orNull(use.GraceExpiresAt),
		client{use.Address, use.UserAgent, use.Count, use.FirstSeen.UTC(), use.LastSeen.UTC()}})
}

// Endpoint is the receiver that a message is about.
type Endpoint struct {
	OrganizationID string `json:"organization_id"`
	ProjectID      string `json:"project_id"`
	EndpointID     string `json:"endpoint_id"`
}

func (e Endpoint) complete() bool {
	return e.OrganizationID != "" && e.ProjectID != "" && e.EndpointID != ""
}

// EndpointDisabled gives the body of endpoint.disabled. reason is gone if the receiver answered 410, else what its owner
// gave; empty: none.
func EndpointDisabled(at time.Time, e Endpoint, reason string) ([]byte, error) {
	data := struct {
		Endpoint
		Reason *string `json:"reason"`
	}{e, nil}
	if reason != "" {
		data.Reason = &reason
	}
	return encodeComplete(TypeEndpointDisabled, at, e.complete(), data)
}

// EndpointFailing gives the body of endpoint.failing: the receiver gave the same answer to so many messages in a row.
func EndpointFailing(at time.Time, e Endpoint, status, failures int) ([]byte, error) {
	return encodeComplete(TypeEndpointFailing, at, e.complete() && status > 0 && failures > 0, struct {
		Endpoint
		Status   int `json:"http_status"`
		Failures int `json:"failures"`
	}{e, status, failures})
}

// EndpointTest gives the body of endpoint.test.
func EndpointTest(at time.Time, endpointID string) ([]byte, error) {
	return encodeComplete(TypeEndpointTest, at, endpointID != "", struct {
		EndpointID string `json:"endpoint_id"`
	}{endpointID})
}

func encodeComplete(kind string, at time.Time, complete bool, data any) ([]byte, error) {
	if !complete {
		return nil, fmt.Errorf("encode %s: %w", kind, ErrIncompleteMessage)
	}
	return Message{Type: kind, At: at, Data: data}.Encode()
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
