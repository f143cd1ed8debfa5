package commands

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// ActorClaim is whoever holds the address at which a secret is fetched.
const ActorClaim domain.Actor = "system:claim"

// claimLength is that of a token: 32 bytes in base64.
const claimLength = 43

// claimKept is how long a second use is noticed after an address has ended.
const claimKept = 30 * 24 * time.Hour

// ClaimSecret hands a new secret to whoever holds the address that its receiver was sent: once. The claim acknowledges
// the rotation in the transaction that shreds what was stored, so of two at once one gets it. A second use is the sign
// that two parties hold the address, and is recorded as an alarm; to whoever comes second it looks like an address that
// never was. The answer cannot be repeated: a receiver that lost it uses the old key's grace to ask for another rotation.
func (s *Service) ClaimSecret(ctx context.Context, requestID, token string) (ClaimedKey, error) {
	none := domain.NotFound("claim")
	if len(token) != claimLength {
		return ClaimedKey{}, none
	}
	claim, err := s.cfg.Reader.Claim(ctx, claimHash(token))
	if err != nil || claim == nil {
		return ClaimedKey{}, cmp.Or[error](err, none)
	}
	by := System(ActorClaim)
	by.RequestID = requestID
	if claim.ClaimedAt != nil {
		return ClaimedKey{}, cmp.Or[error](s.claimedAgain(ctx, by, claim), none)
	}
	secret, err := s.OpenPending(ctx, claim.RotationID)
	if err != nil || secret.IsZero() || !s.cfg.Now().Before(claim.ExpiresAt) {
		return ClaimedKey{}, cmp.Or[error](err, none)
	}
	records, err := s.onLineage(ctx, by, claim.LineageID, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Acknowledge(claim.RotationID, domain.AckClaim, now)
	}, func(batch *pgx.Batch, events []domain.Event) error {
		projections.QueueClaimed(batch, claim.TokenHash, events[0].OccurredAt, false)
		return nil
	})
	if err != nil && domain.CodeOf(err) != domain.CodeNoRotation {
		return ClaimedKey{}, err
	}
	if len(records) == 0 { // somebody else was first, or the rotation ended meanwhile
		return ClaimedKey{}, none
	}
	acknowledged, _, err := find[domain.RotationAcknowledged](eventstore.EventsOf(records))
	return ClaimedKey{Acknowledged: acknowledged, Secret: secret}, err
}

// claimedAgain records the first of all later uses.
func (s *Service) claimedAgain(ctx context.Context, by By, claim *projections.Claim) error {
	if claim.ReusedAt != nil {
		return nil
	}
	_, err := s.onLineage(ctx, by, claim.LineageID, func(l *domain.Lineage, _ time.Time) ([]domain.Decided, error) {
		return l.ClaimedAgain(claim.RotationID), nil
	}, func(batch *pgx.Batch, events []domain.Event) error {
		projections.QueueClaimed(batch, claim.TokenHash, events[0].OccurredAt, true)
		return nil
	})
	return err
}

// ForgetClaims removes addresses that ended long ago.
func (s *Service) ForgetClaims(ctx context.Context) error {
	const page = 1000
	for {
		removed, err := s.cfg.Reader.ForgetClaims(ctx, s.cfg.Now().Add(-claimKept), page)
		if err != nil || removed < page {
			return err
		}
	}
}
