package commands

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/projections"
)

// What waits is sealed in three layers: a secret with a key of its own, that one with the key of its day, and that one
// with the master key. Deleting the row shreds the secret at once. Destroying the key of the day, once nothing of it may
// wait any more, shreds what copies of the row are left in backups and in the write-ahead log.

// epochKept is how long the key of a day is kept: longer than any rotation may wait for its receiver.
const epochKept = domain.MaxMaxOverlap + 2*24*time.Hour

// epoch is the key of one day. Only the current one is kept in memory, so that a destroyed one is gone.
type epoch struct {
	id   string
	kept *seal.Sealer
}

// epochs remembers the current epoch of a process.
type epochs struct {
	mu      sync.Mutex
	current epoch
}

// Contexts that keys are bound to.
func epochContext(id string) string              { return "epoch " + id }
func dataKeyContext(id domain.RotationID) string { return "data key " + string(id) }

// openEpoch opens the key of a day.
func (s *Service) openEpoch(id string, sealed []byte) (*seal.Sealer, error) {
	key, err := s.cfg.Sealer.Open(epochContext(id), sealed)
	if err != nil {
		return nil, fmt.Errorf("open the key of epoch %s: %w", id, err)
	}
	return seal.New(key)
}

// epoch returns the key of the day, which the first process to need one makes.
func (s *Service) epoch(ctx context.Context) (epoch, error) {
	now := s.cfg.Now()
	id := now.UTC().Format(time.DateOnly)
	s.epochs.mu.Lock()
	defer s.epochs.mu.Unlock()
	if s.epochs.current.id == id {
		return s.epochs.current, nil
	}
	offered := s.cfg.Sealer.Seal(epochContext(id), seal.NewKey())
	sealed, err := s.cfg.Reader.EpochKey(ctx, id, offered, now, now.Add(epochKept))
	if err != nil {
		return epoch{}, err
	}
	key, err := s.openEpoch(id, sealed)
	if err != nil {
		return epoch{}, err
	}
	s.epochs.current = epoch{id: id, kept: key}
	return s.epochs.current, nil
}

// EndEpochs destroys the keys of days of which nothing may wait any more, and returns how many there were.
func (s *Service) EndEpochs(ctx context.Context) (int64, error) {
	return s.cfg.Reader.EndEpochs(ctx, s.cfg.Now())
}

// sealInto seals a waiting secret with a key of its own.
func (e epoch) sealInto(p *projections.PendingSecret, secret domain.Secret) error {
	key := seal.NewKey()
	own, err := seal.New(key)
	if err != nil {
		return err
	}
	p.Sealed = own.Seal(rotationContext(p.RotationID), []byte(secret.Reveal()))
	p.EpochID, p.DataKey = e.id, e.kept.Seal(dataKeyContext(p.RotationID), key)
	return nil
}
