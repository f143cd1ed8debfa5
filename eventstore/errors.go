package eventstore

import (
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rekeyhq/rekey/domain"
)

// errOutcomeUnknown marks a connection that broke after the commit was sent and before it was answered.
var errOutcomeUnknown = errors.New("the connection broke during the commit")

// SQLSTATE codes that decide what a failed transaction means.
const (
	stateSerialization = "40001" // also raised by append_events when a head has moved
	stateDeadlock      = "40P01"
	stateLockTimeout   = "55P03"
	stateCanceled      = "57014" // statement_timeout
	stateUnique        = "23505"
	classConnection    = "08"
	classResources     = "53" // disk full, out of memory, too many connections
	classOperator      = "57" // shutdown, crash recovery, still starting
	stateReadOnly      = "25006"
	stateIdleTimeout   = "25P03"
	stateNotEmpty      = "RK001" // assert_project_empty: a project with live keys was to be deleted
	stateInUse         = "RK003" // assert_endpoint_unused: an endpoint that live keys use was to be deleted
	stateAnswered      = "RK002" // keep_answer: another replica carried the same request out
)

// secretOnce is the index by which a digest is that of one key.
const secretOnce = "keys_secret_digest"

// isRetryable reports whether the same commands may simply be tried again: they lost a race and nothing was done.
func isRetryable(err error) bool {
	if errors.Is(err, errOutcomeUnknown) {
		return false
	}
	state := sqlState(err)
	return state == stateSerialization || state == stateDeadlock
}

// isCommandFault reports whether the failure may lie in what one command wanted to write, not in the store.
func isCommandFault(err error) bool {
	if errors.Is(err, errOutcomeUnknown) {
		return false
	}
	state := sqlState(err)
	return state != "" && !isUnavailable(state) || state == "" && isInternal(err)
}

// isSecretTaken reports whether a key was to be made whose secret another one has. It was looked for before, so somebody
// else made that one meanwhile.
func isSecretTaken(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == stateUnique && pg.ConstraintName == secretOnce
}

// isAway reports whether the server said that it cannot work now; to try again at once only adds to its trouble.
func isAway(err error) bool {
	state := sqlState(err)
	return state != "" && isUnavailable(state)
}

// internalError marks a fault of ours in a decision or a projection, or an event that this version cannot read.
type internalError struct{ error }

func (e internalError) Unwrap() error { return e.error }

func isInternal(err error) bool {
	_, ok := errors.AsType[internalError](err)
	return ok
}

func isUnavailable(state string) bool {
	switch state {
	case stateLockTimeout, stateCanceled, stateReadOnly, stateIdleTimeout:
		return true
	}
	class := state[:2]
	return class == classConnection || class == classResources || class == classOperator
}

// isBroken reports whether the connection failed, or the time was up.
func isBroken(err error) bool {
	_, network := errors.AsType[net.Error](err) // deadlines and context.DeadlineExceeded are such errors too
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// translate turns a failed transaction into the refusal that its commands get.
func translate(err error) *domain.Error {
	state := sqlState(err)
	switch {
	case errors.Is(err, errOutcomeUnknown):
		return domain.Refuse(domain.CodeOutcomeUnknown,
			"the connection to the store broke during the commit; look before you try again").WithCause(err)
	case isSecretTaken(err):
		return domain.Refuse(domain.CodeVersionConflict, "a key with this secret was made at the same time").WithCause(err)
	case state == stateNotEmpty:
		return domain.NotEmpty()
	case state == stateInUse:
		return domain.EndpointInUse()
	case isRetryable(err):
		return domain.Refuse(domain.CodeVersionConflict, "somebody else changed this at the same time; read it again").WithCause(err)
	case state == stateAnswered:
		return domain.Refuse(domain.CodeAnswerInUse, "a request with this Idempotency-Key was carried out meanwhile; send it again for its answer").WithCause(err)
	case state != "" && !isUnavailable(state), state == "" && isInternal(err):
		return domain.Refuse(domain.CodeInternal, "an internal error").WithCause(err)
	default:
		return Unavailable(err)
	}
}

// Unavailable is the refusal for a store that cannot be reached.
func Unavailable(cause error) *domain.Error {
	return domain.Refuse(domain.CodeUnavailable, "the store cannot be reached; nothing was done").WithCause(cause)
}
