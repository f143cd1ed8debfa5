package projections

import (
	"context"
	"fmt"
	"net/netip"
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
	CodeIPDenied          Code = "IP_DENIED"
	CodeRateLimited       Code = "RATE_LIMITED"
	CodeUsageExceeded     Code = "USAGE_EXCEEDED"
)

// VerifyRequest asks whether a secret may be used for something.
type VerifyRequest struct {
	// Reach is the caller's; keys beyond it are not found.
	Reach     Reach
	Secret    string
	Scopes    []string
	Resources map[string]string
	// IP is where the secret was presented from; zero: not known.
	IP netip.Addr
}

// Verdict is the answer. Key is set whenever the secret is one in the caller's reach.
type Verdict struct {
	Code   Code
	Status domain.Status
	Key    *Key
	// Spending is what came of the key's limits, if nothing else refused it.
	Spending Spending
}

// Valid reports whether the key may be used as asked.
func (v Verdict) Valid() bool { return v.Code == CodeValid }

// Verifier answers verifies for tests that hold what verifier.Verifier says, which requests are answered by, against the
// tables. This one reads Postgres each time.
type Verifier struct {
	reader  *Reader
	limiter *Limiter // nil: limits are not kept
	now     func() time.Time
}

// NewVerifier returns a Verifier on the read model.
func NewVerifier(reader *Reader, now func() time.Time) *Verifier {
	return &Verifier{reader: reader, now: now}
}

// Limit makes verifies spend the allowances of the keys. It is called before the Verifier is in use.
func (v *Verifier) Limit(l *Limiter) { v.limiter = l }

// Verify judges a secret.
func (v *Verifier) Verify(ctx context.Context, request VerifyRequest) (Verdict, error) {
	key, status, err := v.find(ctx, request.Secret)
	if err != nil {
		return Verdict{}, err
	}
	if key == nil || !request.Reach.Covers(key.OrganizationID, key.ProjectID) {
		return Verdict{Code: CodeNotFound}, nil
	}
	verdict := Verdict{Code: Judge(key.facts(status), &request), Status: status, Key: key, Spending: Unspent}
	if verdict.Valid() && key.Limits != nil && v.limiter != nil {
		verdict.Spending, err = v.spend(ctx, key)
		verdict.Code = verdict.Spending.Code
	}
	return verdict, err
}

func (v *Verifier) spend(ctx context.Context, key *Key) (Spending, error) {
	lineage, ok := domain.UUIDOf(domain.PrefixLineage, string(key.LineageID))
	if !ok {
		return Unspent, fmt.Errorf("key %s is of a lineage without an id", key.ID)
	}
	return v.limiter.Spend(ctx, lineage, key.Limits)
}

// Authenticate returns the key of a caller of rekey's own API, or nil if the secret is not that of a valid key.
func (v *Verifier) Authenticate(ctx context.Context, secret string) (*Key, error) {
	key, status, err := v.find(ctx, secret)
	if err != nil || key == nil || !status.Valid() || key.Disabled {
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
	key, err := v.reader.KeyOf(ctx, secret.Digest())
	if key == nil {
		return nil, "", err
	}
	// The clock is read after the lookup, so that time spent waiting cannot keep a key alive past its deadline.
	return key, key.StatusAt(v.now()), nil
}

// KeyOf returns the key of a secret's digest, whoever's it is, or nil.
func (r *Reader) KeyOf(ctx context.Context, digest domain.Digest) (*Key, error) {
	k, _, err := r.byDigest.get(ctx, digest)
	if err != nil {
		return nil, asRefusal(err)
	}
	return k, nil
}

// Facts are what a verify judges of a key.
type Facts struct {
	Status     domain.Status
	Disabled   bool
	AllowedIPs domain.Networks
	Scopes     domain.Scopes
	Resources  domain.Resources
}

func (k *Key) facts(status domain.Status) Facts {
	return Facts{status, k.Disabled, k.AllowedIPs, k.Scopes, k.Resources}
}

// Judge decides the outcome for a key that was found, but for what its limits say. What a key is comes before what it was
// asked for, and limits come last, so that a refusal for another reason costs nothing of them.
func Judge(key Facts, request *VerifyRequest) Code {
	switch key.Status {
	case domain.StatusRevoked:
		return CodeRevoked
	case domain.StatusExpired:
		return CodeExpired
	case domain.StatusRetired:
		return CodeGraceExpired
	}
	switch {
	case key.Disabled:
		return CodeDisabled
	case !key.AllowedIPs.Allow(request.IP):
		return CodeIPDenied
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
