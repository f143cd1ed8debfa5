package surface

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// IfMatch is the precondition of an edit (RFC 9110, section 13.1.1): the entity tag of what the caller has seen. It is
// exported because huma fills embedded fields only then.
type IfMatch struct {
	IfMatch string `header:"If-Match" example:"\"7\"" doc:"The ETag of what you have seen: if it was changed since, nothing is done and the answer is 412"`
}

// Conditional documents the answer to a precondition that fails, on routes whose input embeds IfMatch.
func Conditional(operation *huma.Operation) {
	operation.Errors = append(operation.Errors, http.StatusPreconditionFailed)
}

// ETag is the entity tag of a version. Each event of a lineage makes another one.
func ETag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }

// Expecting makes a command depend on the version that the caller has seen, if it said one.
func (m IfMatch) Expecting(ctx context.Context, by commands.By) (commands.By, error) {
	text := strings.TrimSpace(m.IfMatch)
	if text == "" || text == "*" { // whether there is one at all is found out anyway
		return by, nil
	}
	info(ctx).conditional = true
	inner, opened := strings.CutPrefix(text, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	if !opened || !closed || strings.ContainsAny(inner, `",`) {
		refusal := domain.InvalidField("If-Match", "is not one entity tag", `send the ETag of the last answer as it was, in quotes, such as "7"`)
		refusal.Code = domain.CodeInvalidRequest
		return by, refusal
	}
	version, err := strconv.ParseInt(inner, 10, 64)
	if err != nil || ETag(version) != text { // a tag of somebody else's making matches nothing
		version = -1
	}
	by.Expected = &version
	return by, nil
}
