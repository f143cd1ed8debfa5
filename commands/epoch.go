package commands

import (
	"context"
	"errors"
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
	id    string
	kept  *seal.Sealer
	fault error // why there is none
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

// ErrEpochKey says that the key of the day cannot be had, so that no new secret can be stored (edge E6).
var ErrEpochKey = errors.New("the key of the day cannot be had")

// epochOrFault leaves it to those who need the key to fail without it.
func (s *Service) epochOrFault(ctx context.Context) epoch {
	today, err := s.epoch(ctx)
	if err != nil {
		return epoch{fault: fmt.Errorf("%w: %w", ErrEpochKey, err)}
	}
	return today
}

// CheckSealed makes sure that what waits can be opened: with another master key, or after a restore without its epoch
// keys, every delivery would fail one by one. The error names what cannot be opened.
func (s *Service) CheckSealed(ctx context.Context) error {
	epochs, err := s.cfg.Reader.SealedEpochs(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	for _, e := range epochs {
		if e.Sealed == nil {
			// After its time it was destroyed as it should be, and its secrets are replaced when they are redelivered.
			day, err := time.Parse(time.DateOnly, e.ID)
			if err != nil || now.Before(day.Add(epochKept)) {
				return fmt.Errorf("the key of epoch %s is missing, and new secrets that wait are sealed with it: restore the table epoch_keys from the same backup", e.ID)
			}
			continue
		}
		if _, err := s.openEpoch(e.ID, e.Sealed); err != nil {
			return fmt.Errorf("the key of epoch %s cannot be opened with this REKEY_MASTER_KEY: start with the one that sealed it", e.ID)
		}
	}
	id, sealed, err := s.cfg.Reader.AnySigningSecret(ctx)
	if err != nil || sealed == nil {
		return err
	}
	if _, err := s.cfg.Sealer.Open(endpointContext(id), sealed); err != nil {
		return fmt.Errorf("the signing secret of webhook endpoint %s cannot be opened with this REKEY_MASTER_KEY: start with the one that sealed it", id)
	}
	return nil
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
