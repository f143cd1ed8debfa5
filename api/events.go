package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// eventBody is one event of the log. Data is the payload as it was stored.
type eventBody struct {
	Position       int64                 `json:"position" doc:"In the whole log; an organization's positions have holes"`
	ID             domain.EventID        `json:"id"`
	Type           domain.Type           `json:"type" example:"Rotated"`
	Revision       int                   `json:"revision"`
	StreamID       string                `json:"stream_id"`
	Version        int64                 `json:"version" doc:"In its stream, from 1"`
	OrganizationID domain.OrganizationID `json:"organization_id"`
	ProjectID      *domain.ProjectID     `json:"project_id"`
	Actor          domain.Actor          `json:"actor" doc:"The key that caused it, or system: and the part that acted by itself"`
	RequestID      *string               `json:"request_id"`
	OccurredAt     time.Time             `json:"occurred_at"`
	Data           json.RawMessage       `json:"data"`
}

func bodyOfEvent(r eventstore.Record) eventBody {
	b := eventBody{
		Position: r.Position, ID: r.ID, Type: r.Data.Type(), Revision: r.Revision, StreamID: r.StreamID, Version: r.Version,
		OrganizationID: r.OrganizationID, Actor: r.Actor, OccurredAt: r.OccurredAt, Data: r.Raw,
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
	Link string      `header:"Link"`
	Body []eventBody `nullable:"false"`
}

type keyEventsInput struct {
	KeyPath
	After int64 `query:"after" minimum:"0" doc:"Continue after this version"`
	Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000"`
}

// keyEvents is the history of a key's whole lineage, oldest first.
func (s *server) keyEvents(ctx context.Context, in *keyEventsInput) (*eventsOutput, error) {
	key, err := s.cfg.Reader.Key(ctx, caller(ctx).OrganizationID, in.ID)
	if err != nil {
		return nil, err
	}
	records, err := s.cfg.Reader.History(ctx, key.LineageID, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageOfEvents(records, in.Limit, "/v1/api-keys/"+string(in.ID)+"/events", func(r eventstore.Record) int64 { return r.Version }), nil
}

type listEventsInput struct {
	After int64 `query:"after" minimum:"0" doc:"Continue after this position"`
	Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000"`
}

// listEvents is the audit feed of the caller's organization, oldest first.
func (s *server) listEvents(ctx context.Context, in *listEventsInput) (*eventsOutput, error) {
	records, err := s.cfg.Reader.Events(ctx, caller(ctx).OrganizationID, in.After, in.Limit+1)
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

// streamIfAsked answers a caller who accepts server-sent events with a stream instead of a list.
func (s *server) streamIfAsked(ctx huma.Context, next func(huma.Context)) {
	if !strings.Contains(ctx.Header("Accept"), "text/event-stream") {
		next(ctx)
		return
	}
	r, w := humachi.Unwrap(ctx)
	after, err := streamStart(r)
	if err != nil {
		writeProblem(w, r, err)
		return
	}
	s.streamEvents(w, r, after)
}

// streamStart is where a stream begins: after the last event a reconnecting client has seen, else after the parameter.
func streamStart(r *http.Request) (int64, error) {
	raw := r.Header.Get("Last-Event-ID")
	if raw == "" {
		raw = r.URL.Query().Get("after")
	}
	if raw == "" {
		return 0, nil
	}
	after, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || after < 0 {
		return 0, domain.InvalidField("after", "is not a position", "use the position of the last event you have, or 0")
	}
	return after, nil
}

const (
	streamPage = 500
	// heartbeat keeps proxies from closing a quiet stream, and is how often the caller's key is looked at again.
	heartbeat = 10 * time.Second
)

// streamEvents sends the organization's events as they are committed, until the caller leaves or its key ends.
func (s *server) streamEvents(w http.ResponseWriter, r *http.Request, after int64) {
	ctx := r.Context()
	organization := caller(ctx).OrganizationID
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	for checked := time.Now(); ; {
		if time.Since(checked) > heartbeat {
			key, err := s.authenticate(r)
			if err != nil || key.Caller().Require(domain.ScopeEventsRead) != nil {
				return
			}
			checked = time.Now()
			_, _ = fmt.Fprint(w, ": still here\n\n")
		}
		_ = control.SetWriteDeadline(time.Now().Add(2 * heartbeat)) // a caller that does not read is let go
		if control.Flush() != nil {
			return
		}
		waitCtx, cancel := context.WithTimeout(ctx, heartbeat)
		head, err := s.cfg.Tail(waitCtx, after)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil || head <= after {
			continue
		}
		if after, err = s.sendEvents(ctx, w, organization, after, head); err != nil {
			return
		}
	}
}

// sendEvents sends what the organization has between two positions and returns where the stream stands then.
func (s *server) sendEvents(ctx context.Context, w http.ResponseWriter, organization domain.OrganizationID, after, head int64) (int64, error) {
	records, err := s.cfg.Reader.Events(ctx, organization, after, streamPage)
	if err != nil {
		return after, err
	}
	for _, rec := range records {
		raw, err := json.Marshal(bodyOfEvent(rec))
		if err != nil {
			return after, err
		}
		if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", rec.Position, rec.Data.Type(), raw); err != nil {
			return after, err
		}
		after = rec.Position
	}
	if len(records) < streamPage {
		after = max(after, head)
	}
	return after, nil
}
