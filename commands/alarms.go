package commands

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// NoteGraceUse records that a client still uses a key in grace; attach commits with it. It reports whether there was
// anything to tell: not once the grace is over.
func (s *Service) NoteGraceUse(ctx context.Context, lineage domain.LineageID, use domain.GraceUse, attach func(*pgx.Batch, []domain.Event) error) (bool, error) {
	records, err := s.onLineage(ctx, System(domain.ActorSweep), lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.NoteGraceUse(use, now), nil
	}, attach)
	return len(records) > 0, err
}

// NoteFailing records that a receiver refused several messages in a row with the same status; attach commits with it. It
// reports whether there was anything to tell: not twice within a day.
func (s *Service) NoteFailing(ctx context.Context, id domain.EndpointID, status, failures int, attach func(*pgx.Batch, []domain.Event) error) (bool, error) {
	records, err := s.onEndpoint(ctx, System(domain.ActorDeliver), id, func(p *domain.Endpoint, now time.Time) ([]domain.Decided, error) {
		return p.NoteFailing(status, failures, now)
	}, attach)
	return len(records) > 0, err
}
