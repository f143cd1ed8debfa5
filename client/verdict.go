package client

import (
	"context"
	"net/netip"
	"time"
)

// Verifier judges keys. Client does so over HTTP, and embedded.Verifier in this process.
type Verifier interface {
	// Verify judges the key of a request. An outcome such as "revoked" is a Verdict; an error means that there is none, and
	// then nobody may be let in.
	Verify(ctx context.Context, request Request) (Verdict, error)
}

// Request asks whether a key may be used for something.
type Request struct {
	// Secret is the key as it was presented.
	Secret Secret
	// Scopes are what the key must hold, all of them; none: any key will do.
	Scopes []string
	// Resources is what the key is used for, a name per kind, such as app: com.demo.app.
	Resources map[string]string
	// IP is where the key was presented from, if that is known. It is shown as the key's last_used_ip.
	IP netip.Addr
}

// Code is the outcome of a verify. There may be more of them in time; every one but CodeValid means no.
type Code string

// Outcomes of a verify.
const (
	CodeValid             Code = "VALID"
	CodeNotFound          Code = "NOT_FOUND" // also a key of another organization
	CodeRevoked           Code = "REVOKED"
	CodeExpired           Code = "EXPIRED"
	CodeGraceExpired      Code = "GRACE_EXPIRED" // it was rotated, and its time is over
	CodeInsufficientScope Code = "INSUFFICIENT_SCOPE"
	CodeResourceDenied    Code = "RESOURCE_DENIED"
	CodeDisabled          Code = "DISABLED"
	CodeIPDenied          Code = "IP_DENIED"
	CodeRateLimited       Code = "RATE_LIMITED"
	CodeUsageExceeded     Code = "USAGE_EXCEEDED"
)

// Status is the state that a key is in.
type Status string

// States of a key. The first three are those of valid keys.
const (
	StatusActive  Status = "active"
	StatusPending Status = "pending" // a new secret that is not known to have arrived yet
	StatusGrace   Status = "grace"   // its successor has arrived
	StatusRevoked Status = "revoked"
	StatusExpired Status = "expired"
	StatusRetired Status = "retired"
)

// Verdict is the answer to a verify. The key's facts are those of a key of your own organization; of any other secret there
// is only the code NOT_FOUND.
type Verdict struct {
	// Valid says whether the key may be used as asked; in grace too. The zero Verdict is not valid.
	Valid  bool   `json:"valid"`
	Code   Code   `json:"code"`
	Status Status `json:"status"`

	KeyID          KeyID     `json:"key_id"`
	LineageID      LineageID `json:"lineage_id"` // the same after each rotation
	Generation     int       `json:"generation"` // 1, 2, 3 ... in the lineage
	OrganizationID string    `json:"organization_id"`
	ProjectID      string    `json:"project_id"`
	EnvironmentID  string    `json:"environment_id"`
	Name           string    `json:"name"`
	Scopes         Scopes    `json:"scopes"`
	Metadata       Metadata  `json:"metadata"`
	// ExpiresAt is zero for a key that does not expire.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// GraceExpiresAt and ReplacedBy tell in grace when it ends, and which key has taken over.
	GraceExpiresAt time.Time `json:"grace_expires_at,omitzero"`
	ReplacedBy     KeyID     `json:"replaced_by_key_id,omitzero"`
	// RetryAfterSeconds says when a key that was used too much may be used again; 0: that is not known, or not the matter.
	RetryAfterSeconds int `json:"retry_after_seconds,omitzero"`
}

// InGrace reports whether the key is valid for a while only, because its successor has arrived.
func (v Verdict) InGrace() bool { return v.Valid && v.Status == StatusGrace }
