package commands

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// queueNewSecret stores the secret of a rotation that waits, in the transaction that makes it. endpoint is who is sent it;
// nil: the old key fetches it. For a receiver with a key of its own the finished message is stored, sealed to that key:
// then nothing that could be read is stored at all.
func (s *Service) queueNewSecret(batch *pgx.Batch, today epoch, secret domain.Secret, endpoint *domain.Endpoint, event domain.Event) error {
	rotated, ok := event.Data.(domain.Rotated)
	if !ok {
		return fmt.Errorf("store a secret: event %s is no rotation", event.ID)
	}
	p := projections.PendingSecret{RotationID: rotated.RotationID, KeyID: rotated.KeyID, Mode: domain.SecretPlain, CreatedAt: event.OccurredAt}
	message := domain.MessageID(event.ID)
	if endpoint != nil {
		p.Mode = endpoint.SecretMode
		p.ProofHash = webhook.ProofHash(webhook.Proof(secret.Reveal(), string(rotated.RotationID), message))
	}
	var err error
	if p.Mode == domain.SecretSealed {
		err = sealMessage(&p, secret, endpoint.ReceiverKey, event, rotated)
	} else {
		err = today.sealInto(&p, secret)
	}
	if err != nil {
		return fmt.Errorf("seal the secret of %s: %w", rotated.RotationID, err)
	}
	projections.QueuePendingSecret(batch, p)
	if p.Mode == domain.SecretClaim {
		projections.QueueClaim(batch, projections.Claim{
			TokenHash: claimHash(claimToken(secret, rotated.RotationID)), RotationID: rotated.RotationID,
			LineageID: domain.LineageID(event.StreamID), ExpiresAt: claimEnd(event.OccurredAt, rotated),
		})
	}
	return nil
}

// sealMessage seals the secret to the receiver's key, in the message that will be sent.
func sealMessage(p *projections.PendingSecret, secret domain.Secret, to *domain.ReceiverKey, event domain.Event, rotated domain.Rotated) error {
	if to == nil {
		return errors.New("the receiver has registered no key")
	}
	key, err := webhook.ParseReceiverKey(to.PublicKey)
	if err != nil {
		return err
	}
	facts := RotationFacts(event, rotated)
	sealed, err := webhook.SealSecret(key, facts, domain.MessageID(event.ID), secret.Reveal())
	if err != nil {
		return err
	}
	p.Recipient = to.ID
	p.Sealed, err = webhook.RotationCreated(event.OccurredAt, facts, sealed)
	return err
}

// RotationFacts is what receivers are told of a rotation, the secret aside.
func RotationFacts(event domain.Event, d domain.Rotated) webhook.Rotation {
	level := d.Demand
	if level == "" {
		level = domain.AckAccepted
	}
	return webhook.Rotation{
		OrganizationID: string(event.OrganizationID), KeyID: string(d.KeyID), PreviousKeyID: string(d.PreviousKeyID), LineageID: event.StreamID,
		Generation: int64(d.Generation), RotationID: string(d.RotationID), GraceSeconds: d.GraceSeconds,
		Trigger: string(d.Trigger), AckLevel: string(level),
	}
}

// ErrEpochEnded says that a secret waited so long that the key it was sealed with was destroyed. Only another one helps.
var ErrEpochEnded = errors.New("the key of the day on which the secret was made has been destroyed")

// openPending opens a secret that waits; one that was sealed to its receiver cannot be.
func (s *Service) openPending(p *projections.PendingSecret) (domain.Secret, error) {
	kept := s.cfg.Sealer // as before there were epochs
	if p.EpochID != "" {
		if p.EpochKey == nil {
			return domain.Secret{}, fmt.Errorf("open the secret of %s: %w", p.RotationID, ErrEpochEnded)
		}
		day, err := s.openEpoch(p.EpochID, p.EpochKey)
		if err != nil {
			return domain.Secret{}, err
		}
		key, err := day.Open(dataKeyContext(p.RotationID), p.DataKey)
		if err != nil {
			return domain.Secret{}, err
		}
		if kept, err = seal.New(key); err != nil {
			return domain.Secret{}, err
		}
	}
	plaintext, err := kept.Open(rotationContext(p.RotationID), p.Sealed)
	if err != nil {
		return domain.Secret{}, err
	}
	secret, ok := domain.ParseSecret(string(plaintext))
	if !ok {
		return domain.Secret{}, domain.Refuse(domain.CodeInternal, "a sealed secret is not a key")
	}
	return secret, nil
}

// OpenPending returns the secret that waits for a rotation; a zero one once nothing waits any more, or if it was sealed
// to its receiver.
func (s *Service) OpenPending(ctx context.Context, rotation domain.RotationID) (domain.Secret, error) {
	p, err := s.cfg.Reader.PendingSecret(ctx, rotation)
	if err != nil || p == nil || p.Mode == domain.SecretSealed {
		return domain.Secret{}, err
	}
	return s.openPending(p)
}

// NewSecretMessage is a message that brings a new secret.
type NewSecretMessage struct {
	Body []byte `json:"-"` // holds the secret, or the address where it is fetched
	// ProofHash is that of the proof which the receiver can give; nil: none can be asked for.
	ProofHash []byte
	Mode      domain.SecretMode
	Recipient string // id of the receiver's key that it is sealed to
}

// NewSecretMessage builds the message that a rotation's receiver waits for, or returns nil once nothing waits any more.
// event is the one that began the rotation.
func (s *Service) NewSecretMessage(ctx context.Context, event domain.Event) (*NewSecretMessage, error) {
	rotated, ok := event.Data.(domain.Rotated)
	if !ok {
		return nil, fmt.Errorf("event %s tells of no rotation", event.ID)
	}
	p, err := s.cfg.Reader.PendingSecret(ctx, rotated.RotationID)
	if err != nil || p == nil {
		return nil, err
	}
	message := &NewSecretMessage{Body: p.Sealed, ProofHash: p.ProofHash, Mode: p.Mode, Recipient: p.Recipient}
	if p.Mode == domain.SecretSealed {
		return message, nil
	}
	secret, err := s.openPending(p)
	if err != nil {
		return nil, err
	}
	carried := webhook.PlainSecret(secret.Reveal())
	if p.Mode == domain.SecretClaim {
		carried = webhook.ClaimSecret(s.claimURL(claimToken(secret, rotated.RotationID)), claimEnd(event.OccurredAt, rotated))
	}
	message.Body, err = webhook.RotationCreated(event.OccurredAt, RotationFacts(event, rotated), carried)
	return message, err
}

// SealedMessage returns the stored message of a rotation whose secret was sealed to its receiver, or nil: there is none,
// or it is not needed any more.
func (s *Service) SealedMessage(ctx context.Context, rotation domain.RotationID) ([]byte, error) {
	p, err := s.cfg.Reader.PendingSecret(ctx, rotation)
	if err != nil || p == nil || p.Mode != domain.SecretSealed {
		return nil, err
	}
	return p.Sealed, nil
}

// claimToken is the right to fetch a secret. It follows from the secret, so that every attempt has the same one and no
// other thing that opens doors has to be stored; nothing of the secret follows from it.
func claimToken(secret domain.Secret, rotation domain.RotationID) string {
	hash := hmac.New(sha256.New, []byte(secret.Reveal()))
	hash.Write([]byte("rekey-claim-v1." + string(rotation)))
	return base64.RawURLEncoding.EncodeToString(hash.Sum(nil))
}

func claimHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// claimEnd is when an address for fetching ends: with the longest wait for the receiver.
func claimEnd(began time.Time, d domain.Rotated) time.Time {
	if d.Deadline != nil {
		return *d.Deadline
	}
	return began.Add(domain.DefaultMaxOverlap)
}

func (s *Service) claimURL(token string) string { return s.cfg.PublicURL + "/v1/claims/" + token }
