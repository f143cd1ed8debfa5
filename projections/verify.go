package projections

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// Code is the outcome of a verify. Outcomes are values, not errors: an error means that there is none.
type Code string

// Outcomes of a verify.
const (
	CodeValid             Code = "VALID"
	CodeNotFound          Code = "NOT_FOUND"
	CodeRevoked           Code = "REVOKED"
	CodeExpired           Code = "EXPIRED"
	CodeGraceExpired      Code = "GRACE_EXPIRED"
	CodeInsufficientScope Code = "INSUFFICIENT_SCOPE"
	CodeResourceDenied    Code = "RESOURCE_DENIED"
	CodeDisabled          Code = "DISABLED"
)

// VerifyRequest asks whether a secret may be used for something.
type VerifyRequest struct {
	// Reach is the caller's; keys beyond it are not found.
	Reach     Reach
	Secret    string
	Scopes    []string
	Resources map[string]string
}

// Verdict is the answer. Key is set whenever the secret is one in the caller's reach.
type Verdict struct {
	Code   Code
	Status domain.Status
	Key    *Key
}

// Valid reports whether the key may be used as asked.
func (v Verdict) Valid() bool { return v.Code == CodeValid }

// Verifier answers verifies. This one reads Postgres each time, by index, so a revoke that was acknowledged is seen by
// every verify that starts later, on any replica (guarantee G1).
type Verifier struct {
	reader *Reader
	now    func() time.Time
}

// NewVerifier returns a Verifier on the read model.
func NewVerifier(reader *Reader, now func() time.Time) *Verifier {
	return &Verifier{reader: reader, now: now}
}

// Verify judges a secret.
func (v *Verifier) Verify(ctx context.Context, request VerifyRequest) (Verdict, error) {
	key, status, err := v.find(ctx, request.Secret)
	if err != nil {
		return Verdict{}, err
	}
	if key == nil || !request.Reach.covers(key.OrganizationID, key.ProjectID) {
		return Verdict{Code: CodeNotFound}, nil
	}
	return Verdict{Code: judge(key, status, request), Status: status, Key: key}, nil
}

// Authenticate returns the key of a caller of rekey's own API, or nil if the secret is not that of a valid key.
func (v *Verifier) Authenticate(ctx context.Context, secret string) (*Key, error) {
	key, status, err := v.find(ctx, secret)
	if err != nil || key == nil || !status.Valid() {
		return nil, err
	}
	return key, nil
}

// find looks a secret up; garbage is refused without a lookup.
func (v *Verifier) find(ctx context.Context, presented string) (*Key, domain.Status, error) {
	secret, ok := domain.ParseSecret(presented)
	if !ok {
		return nil, "", nil
	}
	key, ok, err := v.reader.byDigest.get(ctx, secret.Digest())
	if err != nil {
		return nil, "", asRefusal(err)
	}
	if !ok {
		return nil, "", nil
	}
	// The clock is read after the lookup, so that time spent waiting cannot keep a key alive past its deadline.
	return key, key.StatusAt(v.now()), nil
}

// judge decides the outcome for a key that was found.
func judge(key *Key, status domain.Status, request VerifyRequest) Code {
	switch status {
	case domain.StatusRevoked:
		return CodeRevoked
	case domain.StatusExpired:
		return CodeExpired
	case domain.StatusRetired:
		return CodeGraceExpired
	}
	if _, missing := key.Scopes.Missing(request.Scopes); missing {
		return CodeInsufficientScope
	}
	for kind, name := range request.Resources {
		if !key.Resources.Allow(kind, name) {
			return CodeResourceDenied
		}
	}
	return CodeValid
}
