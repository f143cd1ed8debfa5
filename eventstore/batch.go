package eventstore

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/domain"
)

const (
	sqlMoveHeads = `SELECT move_heads($1, $2, $3, $4, $5, $6, $7)`
	sqlAppend    = `SELECT append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`
)

// transactTimeout bounds one joined transaction; the role's statement and lock timeouts are shorter.
const transactTimeout = 15 * time.Second

// transaction is one joined transaction on its way: heads loaded, commands decided, rows gathered.
type transaction struct {
	now       time.Time // of the commands that are being decided
	heads     map[string]*head
	collector Collector
	records   []Record // of all commands, in order
}

// decision is what one command decided.
type decision struct {
	pending     *pending
	first, last int // its records: records[first:last]
}

// transact decides and commits the batch in one transaction and sets the outcomes, or returns why nothing was done.
func (s *Store) transact(batch []*pending) (events int, err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(context.Background(), transactTimeout)
	defer cancel()
	pooled, err := s.cfg.Pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("acquire a connection: %w", err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	defer rollback(conn)

	heads, err := loadHeads(ctx, conn, batch)
	if err != nil {
		return 0, err
	}
	tx := s.newTransaction(heads)
	decisions := make([]decision, len(batch))
	refusals := make([]error, len(batch))
	for i, p := range batch {
		decisions[i] = decision{pending: p, first: len(tx.records)}
		if refusals[i] = s.decide(tx, p); isInternal(refusals[i]) && len(batch) > 1 {
			return 0, refusals[i] // states may be half changed: start again with this one alone
		}
		decisions[i].last = len(tx.records)
	}
	if len(tx.records) > 0 {
		if err := s.commitDecided(ctx, conn, tx, decisions); err != nil {
			return 0, err
		}
	}
	for i, d := range decisions {
		d.pending.outcome = Outcome{Records: tx.records[d.first:d.last:d.last]}
		if refusals[i] != nil {
			d.pending.outcome = Outcome{Err: s.refusal(refusals[i])}
		}
	}
	return len(tx.records), nil
}

// newTransaction begins to gather what commands decide on some heads.
func (s *Store) newTransaction(heads map[string]*head) *transaction {
	tx := &transaction{now: microseconds(s.cfg.Now()), heads: heads}
	if s.cfg.Projection != nil {
		tx.collector = s.cfg.Projection.Collect()
	}
	return tx
}

// committed tells readers of records that were committed from a position on.
func (s *Store) committed(tx *transaction, position int64) {
	for i := range tx.records {
		tx.records[i].Position = position + int64(i)
	}
	s.recent.add(tx.records)
	s.commit.Fire()
}

// recovered, deferred, turns a panic of a decision, a projection or an attachment into an error, so that one command cannot
// take the process down. The commit comes after all of them: nothing was done.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = internalError{fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
	}
}

// refusal keeps a command's own refusal as it is, and hides a fault of ours.
func (s *Store) refusal(err error) error {
	if isInternal(err) {
		s.cfg.Logger.Error("a command could not be decided", "error", err)
		return translate(err)
	}
	return err
}

// rollback ends a transaction that was left open. A connection that cannot do so is closed by its pool.
func rollback(conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, "rollback")
}

// decide runs one command on the states and adds its events. An error leaves the states as they were, unless it is an
// internalError.
func (s *Store) decide(tx *transaction, p *pending) error {
	if p.ctx.Err() != nil {
		return domain.Refuse(domain.CodeUnavailable, "the caller went away; nothing was done").WithCause(p.ctx.Err())
	}
	c := &p.command
	if err := checkExpected(tx.heads, c); err != nil {
		return err
	}
	decided, err := c.Decide(tx.view(c), tx.now)
	if err != nil && domain.CodeOf(err) == domain.CodeInternal {
		return internalError{err}
	}
	if err != nil || len(decided) == 0 {
		return err
	}
	records, err := s.envelopes(tx, c, decided)
	if err != nil {
		return err
	}
	for i := range records {
		if err := tx.apply(&records[i]); err != nil {
			return internalError{err}
		}
	}
	tx.records = append(tx.records, records...)
	return nil
}

// checkExpected compares the first written stream with the version the command expects.
func checkExpected(heads map[string]*head, c *Command) error {
	if c.Expected == nil || len(c.Writes) == 0 {
		return nil
	}
	var version int64
	if h := heads[c.Writes[0]]; h != nil {
		version = h.state.StreamVersion()
	}
	if version != *c.Expected {
		return domain.Refuse(domain.CodeVersionConflict, "this was changed meanwhile; read it again").With("version", version)
	}
	return nil
}

// view shows a command the streams that it named and that exist.
func (tx *transaction) view(c *Command) View {
	view := make(View, len(c.Writes)+len(c.Reads))
	for _, ids := range [][]string{c.Writes, c.Reads} {
		for _, id := range ids {
			if h := tx.heads[id]; h != nil {
				view[id] = h.state
			}
		}
	}
	return view
}

// envelopes gives each decided event what all events carry, and its wire form. Nothing is changed yet.
func (s *Store) envelopes(tx *transaction, c *Command, decided []domain.Decided) ([]Record, error) {
	records := make([]Record, len(decided))
	versions := make(map[string]int64, 2)
	for i, d := range decided {
		version, ok := versions[d.StreamID]
		if !ok {
			h := tx.heads[d.StreamID]
			if h != nil && !slices.Contains(c.Writes, d.StreamID) {
				return nil, internalError{fmt.Errorf("a command wrote stream %s, which it did not name", d.StreamID)}
			}
			if h != nil {
				version = h.state.StreamVersion()
			}
		}
		versions[d.StreamID] = version + 1
		raw, revision, err := domain.Encode(d.Data)
		if err != nil {
			return nil, internalError{err}
		}
		records[i] = Record{
			Event: domain.Event{
				ID: domain.EventID(s.cfg.IDs.New(domain.PrefixEvent, tx.now)), StreamID: d.StreamID, Version: version + 1,
				OrganizationID: d.OrganizationID, ProjectID: d.ProjectID, Actor: c.Actor, RequestID: c.RequestID,
				OccurredAt: tx.now, Data: d.Data,
			},
			Lane: Lifecycle, Revision: revision, Raw: raw,
		}
	}
	return records, nil
}

// apply folds a new event into its stream's state and shows it to the projection.
func (tx *transaction) apply(r *Record) error {
	h := tx.heads[r.StreamID]
	if h == nil {
		state, err := domain.NewState(r.StreamID)
		if err != nil {
			return err
		}
		h = &head{streamID: r.StreamID, state: state}
		tx.heads[r.StreamID] = h
	}
	h.state.Apply(r.Event)
	if tx.collector == nil {
		return nil
	}
	return tx.collector.Event(r.Event, h.state)
}

// commitDecided sends everything that is left of a transaction on locked heads in one round trip.
func (s *Store) commitDecided(ctx context.Context, conn *pgx.Conn, tx *transaction, decisions []decision) error {
	var b pgx.Batch
	var position int64 // not 0 once the append was answered
	var committed bool
	if err := tx.queue(&b, decisions, &position); err != nil {
		return err
	}
	b.Queue("commit").Exec(func(tag pgconn.CommandTag) error { committed = tag.String() == "COMMIT"; return nil })
	if err := conn.SendBatch(ctx, &b).Close(); !committed {
		return commitError(err, position != 0 && conn.IsClosed())
	}
	s.committed(tx, position)
	return nil
}

// queue adds all statements of a transaction, in the order in which locks are taken: heads, read-model rows and attached
// rows, and last the append under the lane lock, so that nothing but the commit comes after it.
func (tx *transaction) queue(b *pgx.Batch, decisions []decision, position *int64) error {
	args, err := tx.headArgs(decisions)
	if err != nil {
		return internalError{err}
	}
	b.Queue(sqlMoveHeads, args...)
	if tx.collector != nil {
		if err := tx.collector.Queue(b); err != nil {
			return internalError{err}
		}
	}
	for _, d := range decisions {
		if d.pending.command.Attach == nil || d.first == d.last {
			continue
		}
		if err := d.pending.command.Attach(b, EventsOf(tx.records[d.first:d.last])); err != nil {
			return internalError{err}
		}
	}
	b.Queue(sqlAppend, tx.eventArgs()...).QueryRow(func(row pgx.Row) error { return row.Scan(position) })
	return nil
}

// commitError says what a commit that was not confirmed means. Answers come in the order of the statements, so an error of
// the server is the end of the transaction, unless it also ended the session when only the commit was left.
func commitError(err error, cutAtCommit bool) error {
	_, unsent := errors.AsType[pgx.ErrPreprocessingBatch](err)
	switch {
	case sqlState(err) != "" && !cutAtCommit:
		return fmt.Errorf("append: %w", err)
	case unsent && isBroken(err): // the connection, before the commit was sent
		return fmt.Errorf("prepare the append: %w", err)
	case unsent: // an argument that cannot be encoded
		return internalError{err}
	default:
		return fmt.Errorf("%w: %w", errOutcomeUnknown, err)
	}
}
