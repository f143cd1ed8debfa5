package commands

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/projections"
)

// Answer keeps what a request is answered, in the transaction that makes it true: a retry then gets the same answer with
// the same secret, and never a second key, wherever a crash fell between (guarantee G10).
type Answer struct {
	ID projections.AnswerID
	// Show makes the answer from the outcome of the command. It may be called again when the command is decided again.
	Show func(outcome any) ([]byte, error)
}

// keeping adds to a command's attachment that its answer is kept, if it is to be. outcome makes from the events what the
// command returns.
func keeping[R any](s *Service, by By, attach func(*pgx.Batch, []domain.Event) error, outcome func([]domain.Event) (R, error)) func(*pgx.Batch, []domain.Event) error {
	if by.Answer == nil {
		return attach
	}
	return func(batch *pgx.Batch, events []domain.Event) error {
		if attach != nil {
			if err := attach(batch, events); err != nil {
				return err
			}
		}
		result, err := outcome(events)
		if err != nil {
			return err
		}
		shown, err := by.Answer.Show(result)
		if err != nil {
			return err
		}
		projections.QueueAnswer(batch, by.Answer.ID, s.sealAnswer(by.Answer.ID, shown), events[0].OccurredAt)
		return nil
	}
}

func (s *Service) sealAnswer(id projections.AnswerID, shown []byte) []byte {
	return s.cfg.Sealer.Seal(answerContext(id), shown)
}

func answerContext(id projections.AnswerID) string { return "answer " + hex.EncodeToString(id[:]) }

// KeepAnswer keeps the answer of a request that is no single command. A crash before it means that a retry is carried out
// again, so it is only for what may be.
func (s *Service) KeepAnswer(ctx context.Context, id projections.AnswerID, shown []byte) error {
	return s.cfg.Reader.KeepAnswer(ctx, id, s.sealAnswer(id, shown), s.cfg.Now())
}

// KeptAnswer returns what was answered, or nil. One that was sealed with another master key cannot be opened any more.
func (s *Service) KeptAnswer(ctx context.Context, id projections.AnswerID) ([]byte, error) {
	sealed, at, err := s.cfg.Reader.Answer(ctx, id, s.cfg.Now())
	if err != nil || sealed == nil {
		return nil, err
	}
	if err := s.holds(ctx, at); err != nil {
		return nil, err
	}
	shown, err := s.cfg.Sealer.Open(answerContext(id), sealed)
	if errors.Is(err, seal.ErrWrongKey) {
		return nil, domain.Refuse(domain.CodeAnswerInUse, "the answer to this Idempotency-Key was sealed with a former master key; look before you try with a new one").WithCause(err)
	}
	return shown, err
}

// ForgetAnswers removes answers that have run out.
func (s *Service) ForgetAnswers(ctx context.Context, now time.Time) error {
	const page = 1000
	for {
		removed, err := s.cfg.Reader.DeleteAnswers(ctx, now, page)
		if err != nil || removed < page {
			return err
		}
	}
}
