package verifier

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// ErrCaller says that the key on whose behalf was to be verified is not a valid one that may.
var ErrCaller = errors.New("the caller's key is not valid or lacks " + domain.ScopeKeysVerify)

// VerifyFor judges a secret on behalf of another key, of which it needs the digest only. It looks at that key beside the
// secret, in the same memory and at the same moment: once it is revoked nothing is judged for it. The request's Reach is
// that key's, whatever it says. From memory it costs no allocation.
func (v *Verifier) VerifyFor(ctx context.Context, by *domain.Digest, request *projections.VerifyRequest) (Answer, *Record, error) {
	if len(request.Secret) > domain.MaxSecretLength {
		return v.garbageFor(ctx, by)
	}
	digest := domain.DigestOf(request.Secret)
	t := v.trust.Load()
	caller, known := v.recall(t, by)
	record, also := v.recall(t, &digest)
	// To look for the secret first is faster than to look at its form first, and memory costs nobody else anything.
	if record == nil || !record.genuine.Load() {
		if _, ok := domain.ParseSecret(request.Secret); !ok {
			return v.garbageFor(ctx, by)
		}
		if record != nil {
			record.genuine.Store(true)
		}
	}
	now := v.cfg.Now() // after both lookups, as in find
	if !known || !also || !t.at(now) {
		return v.askFor(ctx, by, request)
	}
	if !caller.mayVerify(now) {
		return Answer{}, nil, ErrCaller
	}
	found := Answer{Status: record.statusAt(now.UnixMicro()), Key: record, At: now, Memory: true}
	answer, err := v.spend(ctx, found.judged(caller.reaches(record), request))
	return answer, caller, err
}

// garbageFor is the answer to what cannot be a secret.
func (v *Verifier) garbageFor(ctx context.Context, by *domain.Digest) (Answer, *Record, error) {
	caller, now, err := v.callerOf(ctx, by)
	return Answer{Code: projections.CodeNotFound, At: now, Memory: true}, caller, err
}

// askFor is VerifyFor where memory has no answer to all of it.
func (v *Verifier) askFor(ctx context.Context, by *domain.Digest, request *projections.VerifyRequest) (Answer, *Record, error) {
	caller, _, err := v.callerOf(ctx, by)
	if err != nil {
		return Answer{}, nil, err
	}
	found, err := v.find(ctx, request.Secret)
	if err != nil {
		return Answer{}, nil, err
	}
	answer, err := v.spend(ctx, found.judged(caller.reaches(found.Key), request))
	return answer, caller, err
}

// callerOf returns the key of a digest, and when it was looked at; it is one that may verify.
func (v *Verifier) callerOf(ctx context.Context, by *domain.Digest) (*Record, time.Time, error) {
	t := v.trust.Load()
	caller, known := v.recall(t, by)
	now := v.cfg.Now()
	if !known || !t.at(now) {
		found, err := v.ask(ctx, *by)
		if err != nil {
			return nil, now, err
		}
		caller, now = found.Key, found.At
	}
	if !caller.mayVerify(now) {
		return nil, now, ErrCaller
	}
	return caller, now, nil
}

// mayVerify reports whether this is a key, and one that may verify others. Where its holder is, is not known here.
func (r *Record) mayVerify(now time.Time) bool {
	return r != nil && !r.disabled && r.MayUseFrom(netip.Addr{}) && r.statusAt(now.UnixMicro()).Valid() && r.grant.scopes.Allow(domain.ScopeKeysVerify)
}

// reaches reports what Reach.Covers does, without making a Reach.
func (r *Record) reaches(other *Record) bool {
	if other == nil || r.place.organization != other.place.organization {
		return false
	}
	projects, limited := r.grant.resources[domain.ResourceProject]
	return !limited || slices.Contains(projects, string(other.place.project))
}
