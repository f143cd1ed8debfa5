package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// flush is what was counted up to a moment, as the events that are written next, in one transaction. Where its answer was
// lost it is sent again as it is, until it is answered: by its number it is written once all the same.
type flush struct {
	number int64
	taken  time.Time // all that was counted before is in it, or was in an earlier one
	ends   bool      // the replica stops: nothing comes after it
	uses   int64
	events usedEvents
}

// usedEvents are the events of a flush, column by column, as write_usage takes them.
type usedEvents struct {
	ids, organizations, projects, data []string
	versions                           []int64
	revision                           int
}

// usageGroup is what all keys of an event have in common.
type usageGroup struct {
	organization domain.OrganizationID
	project      domain.ProjectID
	hour         int64
}

const (
	// eventKeys bounds an event, to some 100 KB.
	eventKeys    = 1000
	flushTimeout = 10 * time.Second // what is not written by then is left to the next flush
	stopTimeout  = 5 * time.Second
)

const (
	sqlWriteUsage    = `SELECT write_usage($1, $2, $3, $4, $5, $6::text[], $7::int8[], $8::text[], $9::text[], $10, $11::int2, $12, $13::text[])`
	sqlRegisterUsage = `INSERT INTO usage_flushes AS f (boot_id, number, flushed_at, complete_until, applied_until, ended)
		VALUES ($1, 0, clock_timestamp(), $2, $2, false)
		ON CONFLICT (boot_id) DO UPDATE SET flushed_at = excluded.flushed_at`
	// sqlForgetFlushes removes replicas that ended. One that did not say so has crashed: its row is the gap that it left, and
	// stays for as long as the series that have it.
	sqlForgetFlushes = `DELETE FROM usage_flushes
		WHERE ended AND flushed_at < now() - interval '7 days' AND applied_until IS NOT DISTINCT FROM complete_until OR flushed_at < now() - interval '800 days'`
)

// Run writes uses until ctx ends, and then, within a bounded time, what is left. What counts uses should end before it.
func (u *Usage) Run(ctx context.Context) {
	u.forget(context.WithoutCancel(ctx))
	ticker := time.NewTicker(u.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			u.stop(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
			// It goes on when ctx ends: to break it off would only mean to send it again.
			if err := u.Flush(context.WithoutCancel(ctx)); err != nil { // which has logged it, and the next one tries again
				_ = u.Register(context.WithoutCancel(ctx)) // without a word from this replica others would take it for dead
			}
		}
	}
}

// stop writes what is left, or says what is lost.
func (u *Usage) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := u.flush(ctx, true); err != nil {
		u.cfg.Logger.Error("uses are lost: they cannot be written, and this process ends", "uses", u.unwritten(), "error", err)
	}
}

// Flush writes all that was counted before, also what an earlier flush could not. It takes a bounded time.
func (u *Usage) Flush(ctx context.Context) error { return u.flush(ctx, false) }

func (u *Usage) flush(ctx context.Context, ends bool) error {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := u.ensureRegistered(ctx)
	if err == nil {
		err = u.settle(ctx)
	}
	if err == nil {
		u.take(ends)
		err = u.settle(ctx)
	}
	u.tell(err)
	return err
}

// take makes a flush of what waits. It may have no events: then it says up to when there were no uses.
func (u *Usage) take(ends bool) {
	u.number++
	f := &flush{number: u.number, taken: time.Now(), ends: ends}
	for i := range u.shards {
		taken := u.shards[i].take()
		for id, use := range taken {
			f.uses += use.all()
			u.lay(f, id, &use, &use.hourUse)
			if use.others != nil {
				for _, h := range *use.others {
					u.lay(f, id, &use, &h)
				}
			}
		}
		u.shards[i].giveBack(taken)
	}
	for group, text := range u.text {
		if text.Len() == 0 { // had nothing for a whole flush
			delete(u.text, group)
			continue
		}
		u.close(f, group, text)
	}
	u.waiting = f
}

// lay adds an hour of a key to the event of its group.
func (u *Usage) lay(f *flush, id domain.UUID, of *use, h *hourUse) {
	group := usageGroup{of.organization, of.project, h.hour}
	text := u.text[group]
	if text == nil {
		text = &domain.UsedText{}
		u.text[group] = text
	}
	k := domain.UsedKey{
		Key: id, Lineage: of.lineage, Generation: of.generation, UseCount: h.count, DeniedCount: h.denied, InGrace: of.grace,
	}
	if h.count > 0 {
		k.LastUsed, k.LastUsedIP = h.at-h.hour*microsPerHour, h.ip
	}
	text.Add(&k)
	if text.Len() == eventKeys {
		u.close(f, group, text)
	}
}

// close makes an event of what was laid.
func (u *Usage) close(f *flush, of usageGroup, text *domain.UsedText) {
	u.version++
	e := &f.events
	var data string
	data, e.revision = text.Close(f.number, hourStart(of.hour))
	e.data = append(e.data, data)
	e.ids = append(e.ids, u.cfg.IDs.New(domain.PrefixEvent, f.taken))
	e.versions = append(e.versions, u.version)
	e.organizations = append(e.organizations, string(of.organization))
	e.projects = append(e.projects, string(of.project))
}

// settle writes the flush that waits, if there is one.
func (u *Usage) settle(ctx context.Context) error {
	f := u.waiting
	if f == nil {
		return nil
	}
	until, e := u.clock.at(f.taken), &f.events
	var said time.Time
	err := u.cfg.Pool.QueryRow(ctx, sqlWriteUsage, u.boot, f.number, u.until, until, f.ends, nonNil(e.ids), nonNil(e.versions),
		nonNil(e.organizations), nonNil(e.projects), domain.TypeUsed, e.revision, domain.ActorUsage, nonNil(e.data)).Scan(&said)
	if err != nil {
		return fmt.Errorf("write usage: %w", err)
	}
	u.clock, u.until, u.waiting = databaseClock{said, time.Now()}, until, nil
	return nil
}

// nonNil is for arrays: an empty one is not NULL.
func nonNil[E any](s []E) []E {
	if s == nil {
		return []E{}
	}
	return s
}

// tell logs what has changed: an outage when it begins and when it is over, and so with what it cost.
func (u *Usage) tell(err error) {
	switch {
	case err != nil && !u.failing:
		u.cfg.Logger.Warn("uses cannot be written; they wait in memory", "error", err)
	case err == nil && u.failing:
		u.cfg.Logger.Info("uses are written again")
	}
	u.failing = err != nil
	if u.failing && u.losing {
		return // how many it will be is known at its end
	}
	lost := u.dropped.Swap(0)
	u.losing = u.failing && lost > 0
	if lost > 0 {
		u.cfg.Logger.Warn("uses are lost: too many keys have uses that wait", "uses", lost, "outage", u.failing)
	}
}

// unwritten counts the uses that are in memory only.
func (u *Usage) unwritten() (uses int64) {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	if u.waiting != nil {
		uses = u.waiting.uses
	}
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		for _, use := range s.uses {
			uses += use.all()
		}
		s.mu.Unlock()
	}
	return uses + u.dropped.Load()
}

// databaseClock is what is known of the database's clock: it had said so much by a moment of this machine's.
type databaseClock struct{ said, heard time.Time }

// at is what the database's clock said at a moment, at least: it is behind by what the answer took to get here. A machine's
// times carry its monotonic clock, so its wall clock may be set meanwhile.
func (c databaseClock) at(moment time.Time) time.Time { return c.said.Add(moment.Sub(c.heard)) }

// Register makes this replica known, so that others do not say that counts are complete which this one may still add to. It
// is called before any use is counted, and may be repeated: after a pause in which nothing was heard of the replica for
// long, before it counts again.
func (u *Usage) Register(ctx context.Context) error {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return u.register(ctx)
}

func (u *Usage) ensureRegistered(ctx context.Context) error {
	if u.registered {
		return nil
	}
	return u.register(ctx)
}

func (u *Usage) register(ctx context.Context) error {
	if !u.registered {
		var said time.Time
		if err := u.cfg.Pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&said); err != nil {
			return fmt.Errorf("ask for the database's time: %w", err)
		}
		u.clock = databaseClock{said, time.Now()}
		u.until = u.clock.at(u.began)
	}
	if _, err := u.cfg.Pool.Exec(ctx, sqlRegisterUsage, u.boot, u.until); err != nil {
		return fmt.Errorf("register what counts uses: %w", err)
	}
	u.registered = true
	return nil
}

// forget is done once in a life, because each life adds one row.
func (u *Usage) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if _, err := u.cfg.Pool.Exec(ctx, sqlForgetFlushes); err != nil {
		u.cfg.Logger.Info("old numbers of usage flushes are not removed; the next start does it", "error", err)
	}
}
