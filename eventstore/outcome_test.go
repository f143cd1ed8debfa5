package eventstore_test

import (
	"fmt"
	"testing"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// behindProxy is a store of one connection that has prepared its statements, behind a proxy.
func behindProxy(t *testing.T) (*bundle, *proxy) {
	t.Helper()
	b := setupIdle(t)
	pool, p := b.through(t)
	b.store = b.another(t, func(c *eventstore.Config) { c.Pool, c.Readers, c.Writers = pool, b.pool, 1 })
	org := newID(domain.PrefixOrganization)
	b.mustExecute(t, begin("prepare", org), touch("prepare", org))
	return b, p
}

// copies counts how often a label is in the log.
func (b *bundle) copies(t *testing.T, label string) int {
	t.Helper()
	return one[int](t, b, "SELECT count(*) FROM events WHERE request_id = $1", label)
}

// The batch with the append and the commit has reached the server, but no answer comes back. The command is neither a
// success nor "nothing was done". That the server commits, though it could not send a single answer since the append
// arrived, also proves that no round trip lies between taking the lane and the commit.
func TestOutcomeIsUnknownWhenTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	cut := p.breakAt("afterCommit", "lost answer")
	answer := make(chan error, 1)
	go func() {
		_, err := b.store.Execute(t.Context(), begin("lost answer", newID(domain.PrefixOrganization)))
		answer <- err
	}()
	<-cut.sent
	until(t, "the server has committed", func() bool { return b.copies(t, "lost answer") == 1 })
	select {
	case err := <-answer:
		t.Errorf("answered before the connection broke: %v", err)
	default:
	}
	close(cut.proceed)
	wantCode(t, <-answer, domain.CodeOutcomeUnknown)
	b.mustExecute(t, begin("after", newID(domain.PrefixOrganization)))
	if n := b.copies(t, "lost answer"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
	b.checkLog(t)
}

// All commands of a joined transaction share its fate.
func TestOutcomeIsUnknownForAllThatWereJoined(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	pool, p := b.through(t)
	b.pool = pool
	cut := p.breakAt("afterCommit", "joined 2")
	close(cut.proceed)
	var commands []eventstore.Command
	for i := range 4 {
		commands = append(commands, begin(fmt.Sprint("joined ", i), newID(domain.PrefixOrganization)))
	}
	outcomes, sizes := b.joined(t, nil, commands...)
	for _, o := range outcomes {
		wantCode(t, o.Err, domain.CodeOutcomeUnknown)
	}
	if len(sizes) != 1 {
		t.Errorf("it was tried again: transactions of %v", sizes)
	}
	if n := b.copies(t, "joined 2"); n > 1 {
		t.Errorf("the log has it %d times", n)
	}
}

// The connection breaks before the commit has left: whatever the command says, nothing was done.
func TestOutcomeWhenTheCommitIsNotSent(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	p.breakAt("beforeCommit", "never sent")
	_, err := b.store.Execute(t.Context(), begin("never sent", newID(domain.PrefixOrganization)))
	if c := code(err); c != domain.CodeOutcomeUnknown && c != domain.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	// Before anything was decided, the command is simply carried out on another connection.
	stream := newID(domain.PrefixOrganization)
	p.breakAt("beforeCommit", stream)
	b.mustExecute(t, touch("not even read", stream))

	b.mustExecute(t, begin("after", newID(domain.PrefixOrganization)))
	if n := b.copies(t, "never sent"); n != 0 {
		t.Errorf("the log has %d copies", n)
	}
	if n := b.copies(t, "not even read"); n != 1 {
		t.Errorf("the log has the second %d times", n)
	}
	b.checkLog(t)
}

// The connection breaks while the first append of a session is being prepared: the commit was not sent yet, so the commands
// are simply carried out on another connection.
func TestOutcomeWhenPreparingFails(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	pool, p := b.through(t)
	b.pool = pool
	p.breakAt("beforeCommit", "append_events")
	outcomes, sizes := b.joined(t, nil, begin("a", newID(domain.PrefixOrganization)), begin("b", newID(domain.PrefixOrganization)))
	for _, o := range outcomes {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
	if len(sizes) != 2 || one[int](t, b, "SELECT count(*) FROM events") != 2 {
		t.Errorf("transactions of %v", sizes)
	}
}

// The server has done everything and ends the session instead of saying so, as at a shutdown. Nobody can know whether it
// committed; to call it undone would make the caller do it twice.
func TestOutcomeIsUnknownWhenTheSessionEndsAtTheCommit(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	cut := p.breakAt("atCommit", "all but confirmed")
	_, err := b.store.Execute(t.Context(), begin("all but confirmed", newID(domain.PrefixLineage)))
	<-cut.sent
	wantCode(t, err, domain.CodeOutcomeUnknown)
	if n := b.copies(t, "all but confirmed"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
}

// The server confirms an explicit commit and then ends the session. The command has succeeded.
func TestOutcomeIsSuccessWhenTheSessionEndsAfterTheCommit(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	cut := p.breakAt("confirmed", "was confirmed")
	org := one[string](t, b, "SELECT stream_id FROM streams")
	records, err := b.store.Execute(t.Context(), touch("was confirmed", org)) // one that takes locks first
	if err != nil || len(records) != 1 || records[0].Position != 3 {
		t.Errorf("got %v, %v, want success at position 3", positions(records), err)
	}
	<-cut.sent
	if n := b.copies(t, "was confirmed"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
	b.checkLog(t)
}

// The server ends the session while the append waits for the lane: nothing was done, and the command says so.
func TestOutcomeWhenTheServerEndsTheSession(t *testing.T) {
	t.Parallel()
	b := setupIdle(t)
	pool := b.poolNamed(t, "victim")
	b.store = b.another(t, func(c *eventstore.Config) { c.Pool = pool })
	b.mustExecute(t, begin("first", newID(domain.PrefixOrganization)))
	tx := mustBegin(t, b.connect(t))
	if _, err := rawAppend(t.Context(), tx, newID(domain.PrefixOrganization), 0); err != nil { // holds the lane
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := b.store.Execute(t.Context(), begin("waits for the lane", newID(domain.PrefixOrganization)))
		answer <- err
	}()
	var pid int
	until(t, "the command waits for the lane", func() bool {
		return b.owner.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event = 'advisory'").Scan(&pid) == nil
	})
	b.exec(t, "SELECT pg_terminate_backend($1)", pid)
	wantCode(t, <-answer, domain.CodeUnavailable)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.mustExecute(t, begin("after", newID(domain.PrefixOrganization)))
	if n := b.copies(t, "waits for the lane"); n != 0 {
		t.Errorf("the log has it %d times", n)
	}
	b.checkLog(t)
}
