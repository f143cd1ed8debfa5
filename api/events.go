package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// eventBody is one event of the log. Data is the payload as it was stored.
type eventBody struct {
	Position       int64                 `json:"position" example:"1042" doc:"In the whole log; an organization's positions have holes"`
	ID             domain.EventID        `json:"id" example:"evt_01jz8q0v6me5et8b3k2c9d4x7a"`
	Type           domain.Type           `json:"type" example:"Rotated"`
	Revision       int                   `json:"revision" example:"1" doc:"Of the form of data"`
	StreamID       string                `json:"stream_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"What it happened to: a lineage, an organization, a project or an endpoint"`
	Version        int64                 `json:"version" example:"2" doc:"In its stream, from 1"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      *domain.ProjectID     `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"null for events of an organization"`
	Actor          domain.Actor          `json:"actor" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The key that caused it, or system: and the part that acted by itself"`
	RequestID      *string               `json:"request_id" example:"req_01jz8q0v6me5et8b3k2c9d4x7a" doc:"null for what nobody asked for over HTTP"`
	OccurredAt     time.Time             `json:"occurred_at"`
	Data           surface.Object        `json:"data" nullable:"false" doc:"What the type says; a key's event never holds its secret"`
}

func bodyOfEvent(r eventstore.Record) eventBody {
	b := eventBody{
		Position: r.Position, ID: r.ID, Type: r.Data.Type(), Revision: r.Revision, StreamID: r.StreamID, Version: r.Version,
		OrganizationID: r.OrganizationID, Actor: r.Actor, OccurredAt: r.OccurredAt, Data: surface.Object{RawMessage: r.Raw},
	}
	if r.ProjectID != "" {
		b.ProjectID = &r.ProjectID
	}
	if r.RequestID != "" {
		b.RequestID = &r.RequestID
	}
	return b
}

type eventsOutput struct {
	Link string      `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body []eventBody `nullable:"false"`
}

type keyEventsInput struct {
	KeyPath
	After int64 `query:"after" minimum:"0" doc:"Continue after this version"`
	Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many at most"`
}

// keyEvents is the history of a key's whole lineage, oldest first.
func (s *server) keyEvents(ctx context.Context, in *keyEventsInput) (*eventsOutput, error) {
	key, err := s.Reader.Key(ctx, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	records, err := s.Reader.History(ctx, surface.Reach(ctx), key.LineageID, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageOfEvents(records, in.Limit, "/v1/api-keys/"+string(in.ID)+"/events", func(r eventstore.Record) int64 { return r.Version }), nil
}

type listEventsInput struct {
	After int64 `query:"after" minimum:"0" doc:"Continue after this position"`
	Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many at most"`
}

// listEvents is the audit feed of the caller's organization, or of the projects that its key is limited to, oldest first.
func (s *server) listEvents(ctx context.Context, in *listEventsInput) (*eventsOutput, error) {
	records, err := s.Reader.Events(ctx, surface.Reach(ctx), in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageOfEvents(records, in.Limit, "/v1/events", func(r eventstore.Record) int64 { return r.Position }), nil
}

func pageOfEvents(records []eventstore.Record, limit int, path string, at func(eventstore.Record) int64) *eventsOutput {
	out := &eventsOutput{Body: []eventBody{}}
	if len(records) > limit {
		records = records[:limit]
		query := url.Values{"limit": {strconv.Itoa(limit)}, "after": {strconv.FormatInt(at(records[limit-1]), 10)}}
		out.Link = fmt.Sprintf(`<%s?%s>; rel="next"`, path, query.Encode())
	}
	for _, r := range records {
		out.Body = append(out.Body, bodyOfEvent(r))
	}
	return out
}

// streams lets the route answer a caller who accepts server-sent events with a stream instead of a list.
func (s *server) streams(operation *huma.Operation) {
	operation.Middlewares = append(operation.Middlewares, s.streamIfAsked)
	operation.Description += " With `Accept: text/event-stream` it answers with a stream: each event has its position as id, " +
		"its type as event, and the same fields as in the list as data. The stream goes on after `Last-Event-ID`, else after " +
		"`after`. It ends when the key does."
	operation.Parameters = append(operation.Parameters, &huma.Param{
		Name: "Last-Event-ID", In: "header", Description: "Of a stream: the position of the last event that was seen",
		Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"},
	})
	operation.Responses = map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{
		"application/json":  {},
		"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}},
	}}}
}

func (s *server) streamIfAsked(ctx huma.Context, next func(huma.Context)) {
	if ctx.Method() != http.MethodGet || !strings.Contains(ctx.Header("Accept"), "text/event-stream") {
		next(ctx)
		return
	}
	r, w := humachi.Unwrap(ctx)
	after, err := streamStart(r)
	if err != nil {
		surface.WriteError(w, r, err)
		return
	}
	stream := &eventStream{server: s, w: w, r: r, caller: surface.Caller(r.Context()), control: http.NewResponseController(w), after: after}
	stream.run()
}

// streamStart is where a stream begins: after the last event a reconnecting client has seen, else after the parameter.
func streamStart(r *http.Request) (int64, error) {
	field, raw := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if raw == "" {
		field, raw = "after", r.URL.Query().Get("after")
	}
	if raw == "" {
		return 0, nil
	}
	after, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || after < 0 {
		return 0, domain.InvalidField(field, "is not a position", "use the position of the last event you have, or 0")
	}
	return after, nil
}

const streamPage = 500

// eventStream sends an organization's events as they are committed. It ends when the caller leaves, when its key ends or
// when the store cannot be read: the caller then comes back with the last id it has seen.
type eventStream struct {
	server  *server
	w       http.ResponseWriter
	r       *http.Request
	caller  *projections.Key
	control *http.ResponseController
	after   int64     // the position up to which everything was sent
	checked time.Time // when the caller's key was last looked at
}

func (e *eventStream) run() {
	e.w.Header().Set("Content-Type", "text/event-stream")
	e.w.Header().Set("X-Accel-Buffering", "no") // nginx would keep events back
	e.w.WriteHeader(http.StatusOK)
	e.checked = time.Now()
	for e.flush() && e.waitAndSend() {
	}
}

// flush lets a caller go that does not read.
func (e *eventStream) flush() bool {
	_ = e.control.SetWriteDeadline(time.Now().Add(2 * e.server.Heartbeat))
	return e.control.Flush() == nil
}

// waitAndSend sends what comes next, or a sign of life if nothing comes, and reports whether to go on.
func (e *eventStream) waitAndSend() bool {
	ctx := e.r.Context()
	left := e.server.Heartbeat - time.Since(e.checked)
	waitCtx, cancel := context.WithTimeout(ctx, left)
	head, err := e.server.Tail(waitCtx, e.after)
	quiet := waitCtx.Err() != nil
	cancel()
	if ctx.Err() != nil || err != nil && !quiet {
		return false
	}
	if quiet {
		_, err := fmt.Fprint(e.w, ": still here\n\n")
		return err == nil && e.stillAllowed()
	}
	return head <= e.after || e.send(ctx, head) == nil
}

// stillAllowed looks at the caller's key again. One that now reaches less, or more, has to begin again.
func (e *eventStream) stillAllowed() bool {
	key, err := e.server.native.Authenticate(e.r)
	e.checked = time.Now()
	return err == nil && key.Caller().Require(domain.ScopeEventsRead) == nil &&
		reflect.DeepEqual(projections.ReachOf(key.Caller()), projections.ReachOf(e.caller.Caller()))
}

var errStreamEnded = errors.New("the caller's key may not read on")

// send sends what the organization has up to a head of the log, or one page of it.
func (e *eventStream) send(ctx context.Context, head int64) error {
	records, err := e.server.Reader.Events(ctx, projections.ReachOf(e.caller.Caller()), e.after, streamPage)
	if err != nil {
		return err
	}
	for _, rec := range records {
		// What happens to the caller's own key may end its right to see it.
		if rec.StreamID == string(e.caller.LineageID) && !e.stillAllowed() {
			return errStreamEnded
		}
		if err := e.write(rec); err != nil {
			return err
		}
		e.after = rec.Position
	}
	if len(records) < streamPage {
		e.after = max(e.after, head)
	}
	return nil
}

func (e *eventStream) write(rec eventstore.Record) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "id: %d\nevent: %s\ndata: ", rec.Position, rec.Data.Type())
	if err := surface.EncodeJSON(&text, bodyOfEvent(rec)); err != nil { // on one line, with its end
		return err
	}
	text.WriteByte('\n')
	_, err := e.w.Write(text.Bytes())
	return err
}
