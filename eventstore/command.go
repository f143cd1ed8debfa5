package eventstore

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Command is one request to change streams. It is decided on their locked state and commits as a whole.
type Command struct {
	// Writes names existing streams whose state the decision may change; Reads, streams it only looks at. New streams are
	// not named: events for a stream that was not loaded begin it, and fail the command if it exists.
	Writes []string
	Reads  []string
	// Expected, if not nil, is the version that the first stream of Writes must be at.
	Expected *int64
	// Decide returns the events. It must be pure but for making secrets and ids, because it may be called again. No
	// events and no error means that there is nothing to do.
	Decide func(view View, now time.Time) ([]domain.Decided, error)
	// Attach, if not nil, queues rows that must commit together with the events. It is not called without events, and may be
	// called again when the command is decided again.
	Attach func(batch *pgx.Batch, events []domain.Event) error
	// Actor and RequestID go into each event.
	Actor     domain.Actor
	RequestID string
}

// View gives a decision the state of the streams that the command named.
type View map[string]domain.State

// Lineage returns the state of a lineage, or a not-found refusal.
func (v View) Lineage(id domain.LineageID) (*domain.Lineage, error) {
	return stateAs[*domain.Lineage](v, string(id), "key")
}

// Project returns the state of a project, or a not-found refusal.
func (v View) Project(id domain.ProjectID) (*domain.Project, error) {
	return stateAs[*domain.Project](v, string(id), "project")
}

// Organization returns the state of an organization, or a not-found refusal.
func (v View) Organization(id domain.OrganizationID) (*domain.Organization, error) {
	return stateAs[*domain.Organization](v, string(id), "organization")
}

// Endpoint returns the state of a webhook endpoint, or a not-found refusal.
func (v View) Endpoint(id domain.EndpointID) (*domain.Endpoint, error) {
	return stateAs[*domain.Endpoint](v, string(id), "webhook endpoint")
}

func stateAs[S domain.State](v View, id, what string) (S, error) {
	if state, ok := v[id].(S); ok {
		return state, nil
	}
	var none S
	return none, domain.NotFound(what)
}

// Projection writes the read model in the appending transaction. It is also what a rebuild folds the log with.
type Projection interface {
	// Collect begins to gather the rows of one transaction.
	Collect() Collector
}

// Collector gathers rows event by event and queues the statements that write them.
type Collector interface {
	// Event is called for each event, in order, with the state after it.
	Event(event domain.Event, state domain.State) error
	// Queue adds the statements. They must not need an answer: the batch ends with the append and the commit.
	Queue(batch *pgx.Batch) error
}
