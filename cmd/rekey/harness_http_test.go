package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// answer is what came back of a request.
type answer struct {
	request *http.Request
	status  int
	header  http.Header
	body    []byte
}

// send sends a request; a body that is no string is encoded as JSON.
func (a rest) send(ctx context.Context, method, path string, body any) (answer, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, reader)
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+a.key)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return a.do(request)
}

func (a rest) do(request *http.Request) (answer, error) {
	response, err := a.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	return answer{request, response.StatusCode, response.Header, raw}, err
}

// call requires a status and what the documents promise, and reads the body into a value, unless that is nil.
func (a rest) call(t testing.TB, method, path string, body any, want int, into any) answer {
	t.Helper()
	got, err := a.send(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	if got.status != want {
		t.Fatalf("%s %s answered %d, not %d: %s", method, path, got.status, want, got.body)
	}
	if err := documented(got); err != nil {
		t.Errorf("%s %s answered otherwise than documented: %v: %s", method, path, err, got.body)
	}
	if into != nil {
		if err := json.Unmarshal(got.body, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, got.body)
		}
	}
	return got
}

// keyInfo is what the tests look at of a key.
type keyInfo struct {
	ID             string     `json:"id"`
	LineageID      string     `json:"lineage_id"`
	OrganizationID string     `json:"organization_id"`
	ProjectID      string     `json:"project_id"`
	Generation     int        `json:"generation"`
	Name           string     `json:"name"`
	Status         string     `json:"status"`
	GraceExpiresAt *time.Time `json:"grace_expires_at"`
	Key            string     `json:"key"`
	WebhookSecret  string     `json:"rotation_webhook_secret"`
}

// rotatedInfo is the answer to a rotation that was asked for.
type rotatedInfo struct {
	OldKeyID string `json:"old_key_id"`
	NewKeyID string `json:"new_key_id"`
	Key      string `json:"key"`
}

// verdictInfo is the answer to a verify.
type verdictInfo struct {
	Valid          bool       `json:"valid"`
	Code           string     `json:"code"`
	Status         string     `json:"status"`
	KeyID          string     `json:"key_id"`
	LineageID      string     `json:"lineage_id"`
	Generation     int        `json:"generation"`
	GraceExpiresAt *time.Time `json:"grace_expires_at"`
	ReplacedBy     string     `json:"replaced_by_key_id"`
}

func (v verdictInfo) String() string { return v.Code + " " + v.Status }

// eventInfo is one event of the log.
type eventInfo struct {
	Position       int64           `json:"position"`
	ID             string          `json:"id"`
	Type           string          `json:"type"`
	StreamID       string          `json:"stream_id"`
	Version        int64           `json:"version"`
	OrganizationID string          `json:"organization_id"`
	ProjectID      string          `json:"project_id"`
	Actor          string          `json:"actor"`
	RequestID      string          `json:"request_id"`
	OccurredAt     string          `json:"occurred_at"`
	Data           json.RawMessage `json:"data"`
}

// project is the id of the project that the first start made.
func (a rest) project(t testing.TB) string {
	t.Helper()
	var projects []struct{ ID string }
	a.call(t, "GET", "/v1/projects", nil, http.StatusOK, &projects)
	if len(projects) != 1 {
		t.Fatalf("there are %d projects", len(projects))
	}
	return projects[0].ID
}

// create makes a key in the default project.
func (a rest) create(t testing.TB, name string, fields map[string]any) keyInfo {
	t.Helper()
	body := map[string]any{"project_id": a.project(t), "name": name}
	for field, value := range fields {
		body[field] = value
	}
	var key keyInfo
	a.call(t, "POST", "/v1/api-keys", body, http.StatusCreated, &key)
	return key
}

func (a rest) rotate(t testing.TB, id string, graceSeconds int) rotatedInfo {
	t.Helper()
	var rotated rotatedInfo
	a.call(t, "POST", "/v1/api-keys/"+id+"/rotate", map[string]any{"grace_period_seconds": graceSeconds}, http.StatusOK, &rotated)
	return rotated
}

func (a rest) revoke(t testing.TB, id string) {
	t.Helper()
	a.call(t, "DELETE", "/v1/api-keys/"+id, nil, http.StatusNoContent, nil)
}

func (a rest) verify(t testing.TB, secret string) verdictInfo {
	t.Helper()
	var v verdictInfo
	a.call(t, "POST", "/v1/api-keys/verify", map[string]any{"key": secret}, http.StatusOK, &v)
	return v
}

// allKeys reads every page of the project's keys, ended ones too.
func (a rest) allKeys(t testing.TB) []keyInfo {
	t.Helper()
	query := url.Values{"project_id": {a.project(t)}, "include_revoked": {"true"}, "limit": {"500"}}
	return pages[keyInfo](t, a, "/v1/api-keys?"+query.Encode())
}

// lineage lists all generations, newest first.
func (a rest) lineage(t testing.TB, id string) []keyInfo {
	t.Helper()
	query := url.Values{"project_id": {a.project(t)}, "lineage_id": {id}, "limit": {"500"}}
	return pages[keyInfo](t, a, "/v1/api-keys?"+query.Encode())
}

// allEvents reads the whole audit feed.
func (a rest) allEvents(t testing.TB) []eventInfo {
	t.Helper()
	return pages[eventInfo](t, a, "/v1/events?limit=1000")
}

// history reads the events of a key's lineage.
func (a rest) history(t testing.TB, id string) []eventInfo {
	t.Helper()
	return pages[eventInfo](t, a, "/v1/api-keys/"+id+"/events?limit=1000")
}

// pages follows the Link headers to the end of a list.
func pages[T any](t testing.TB, a rest, path string) []T {
	t.Helper()
	var all []T
	for path != "" {
		var page []T
		link := a.call(t, "GET", path, nil, http.StatusOK, &page).header.Get("Link")
		all = append(all, page...)
		path = ""
		if link != "" {
			if _, err := fmt.Sscanf(strings.Replace(link, ">", " ", 1), "<%s", &path); err != nil {
				t.Fatalf("Link: %s", link)
			}
		}
	}
	return all
}

// head is the last position of the log, as far as the caller's organization has it.
func (a rest) head(t testing.TB) int64 {
	t.Helper()
	events := a.allEvents(t)
	return events[len(events)-1].Position
}
