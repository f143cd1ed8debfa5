package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

const (
	// followBatch is how many events are applied at a time: fewer than what a report waits for.
	followBatch = 500
	// loadPatience bounds the reading of all keys.
	loadPatience = 5 * time.Minute
	// readPatience bounds one read of the log.
	readPatience = 2 * time.Second
)

// errReload says that a memory is of no use any more.
var errReload = errors.New("the memory is loaded again")

// follow loads a memory and applies the log to it, until ctx ends. Faults are retried for ever; meanwhile the lease runs
// out by itself.
func (v *Verifier) follow(ctx context.Context) {
	retry := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		err := v.loadAndApply(ctx, retry)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errReload) {
			v.failed("load the live keys", err)
			pause(ctx, retry.NextBackOff())
		}
	}
}

// loadAndApply ends with ctx, or when what is in memory is of no use.
func (v *Verifier) loadAndApply(ctx context.Context, retry *backoff.ExponentialBackOff) error {
	m, err := v.load(ctx)
	if err != nil {
		return err
	}
	v.memory.Store(m)
	v.wake() // a lease may be taken now
	for ctx.Err() == nil {
		err := v.advance(ctx, m)
		switch _, gap := errors.AsType[*eventstore.GapError](err); {
		case err == nil:
			retry.Reset()
		case gap:
			v.cfg.Logger.Error("the log is broken; memory is loaded again", "error", err)
			v.reload(m)
		case ctx.Err() == nil:
			v.failed("follow the log", err)
			pause(ctx, retry.NextBackOff())
		}
		if v.memory.Load() != m {
			return errReload
		}
	}
	return nil
}

// load reads all live keys. What is committed meanwhile may be among them or not: applying the log from the head that was
// there before makes up for it.
func (v *Verifier) load(ctx context.Context) (*memory, error) {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	at, err := v.head(ctx)
	if err != nil {
		return nil, err
	}
	began := v.cfg.Now()
	m := newMemory(at)
	if err := projections.EachLiveKey(ctx, v.cfg.Pool, m.put); err != nil {
		return nil, err
	}
	v.cfg.Logger.Info("live keys are in memory", "keys", m.table.live, "position", at.position, "took", v.cfg.Now().Sub(began))
	return m, nil
}

// head is the last event of the log.
func (v *Verifier) head(ctx context.Context) (applied, error) {
	var at applied
	err := v.cfg.Pool.QueryRow(ctx, `SELECT coalesce(max(position), 0), coalesce(max(event_id), '')
		FROM (SELECT position, event_id FROM events WHERE lane = 1 ORDER BY position DESC LIMIT 1) AS last`).Scan(&at.position, &at.event)
	if err != nil {
		return at, fmt.Errorf("read the log's head: %w", err)
	}
	return at, nil
}

// advance applies what the log holds next, or waits for it.
func (v *Verifier) advance(ctx context.Context, m *memory) error {
	at := m.applied.Load()
	records, err := v.read(ctx, at)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		_ = v.cfg.Log.Wait(ctx, eventstore.Lifecycle, at) // ends early only with ctx, which the loop looks at
		return nil
	}
	if err := v.apply(ctx, m, records); err != nil {
		return err
	}
	last := records[len(records)-1]
	m.reached(applied{last.Position, last.ID})
	for _, r := range records {
		if Narrows(r.Event) {
			v.report(ctx, last.Position)
			break
		}
	}
	return nil
}

func (v *Verifier) read(ctx context.Context, after int64) ([]eventstore.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	return v.cfg.Log.Read(ctx, eventstore.Lifecycle, after, followBatch)
}

// apply brings the records' lineages up to date. New keys and ended ones are known from their events; of all other events
// the read model, which was written in the same transaction, has the outcome. It may be ahead of the events, and then it
// is only right earlier.
func (v *Verifier) apply(ctx context.Context, m *memory, records []eventstore.Record) error {
	var others []domain.LineageID
	listed := map[string]bool{}
	for _, r := range records {
		if domain.StreamKind(r.StreamID) != domain.PrefixLineage || listed[r.StreamID] {
			continue
		}
		switch d := r.Data.(type) {
		case domain.Created:
			k := projections.CreatedKey(r.Event)
			v.absent.forget(k.Secret.Digest)
			m.put(k)
		case domain.Revoked:
			m.endKeys(domain.LineageID(r.StreamID), d.KeyIDs)
		case domain.Expired:
			m.endKeys(domain.LineageID(r.StreamID), d.KeyIDs)
		default:
			if changesKeys(d) {
				listed[r.StreamID] = true
				others = append(others, domain.LineageID(r.StreamID))
			}
		}
	}
	if len(others) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	live, err := projections.LiveKeys(ctx, v.cfg.Pool, others)
	if err != nil {
		return err
	}
	for _, k := range live {
		v.absent.forget(k.Secret.Digest)
	}
	m.replace(others, live)
	return nil
}

// pause waits a while, or until ctx ends.
func pause(ctx context.Context, span time.Duration) {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
