package projections

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// AnswerID names what one caller was answered for one Idempotency-Key.
type AnswerID [32]byte

// AnswersKept is how long an answer is given again.
const AnswersKept = 24 * time.Hour

const (
	sqlKeepAnswer    = `SELECT keep_answer($1, $2, $3, $4)`
	sqlAnswer        = `SELECT sealed, expires_at FROM answers WHERE id = $1 AND expires_at > $2`
	sqlDeleteAnswers = `DELETE FROM answers WHERE id = ANY(ARRAY(SELECT id FROM answers WHERE expires_at <= $1 LIMIT $2))`
)

// QueueAnswer keeps a sealed answer together with the events of a batch. If there is one already the batch fails.
func QueueAnswer(batch *pgx.Batch, id AnswerID, sealed []byte, now time.Time) {
	batch.Queue(sqlKeepAnswer, id[:], sealed, now, now.Add(AnswersKept))
}

// KeepAnswer keeps a sealed answer that belongs to no single transaction.
func (r *Reader) KeepAnswer(ctx context.Context, id AnswerID, sealed []byte, now time.Time) error {
	if _, err := r.pool.Exec(ctx, sqlKeepAnswer, id[:], sealed, now, now.Add(AnswersKept)); err != nil {
		return unavailable(err)
	}
	return nil
}

// Answer returns the sealed answer with this id, or nil, and when it was given.
func (r *Reader) Answer(ctx context.Context, id AnswerID, now time.Time) (sealed []byte, at time.Time, err error) {
	err = r.pool.QueryRow(ctx, sqlAnswer, id[:], now).Scan(&sealed, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, unavailable(err)
	}
	return sealed, at.Add(-AnswersKept), nil
}

// DeleteAnswers removes answers that have run out, up to a limit, and returns how many it removed.
func (r *Reader) DeleteAnswers(ctx context.Context, now time.Time, limit int) (int64, error) {
	done, err := r.pool.Exec(ctx, sqlDeleteAnswers, now, limit)
	if err != nil {
		return 0, unavailable(err)
	}
	return done.RowsAffected(), nil
}
