package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// client calls the surface with one key; every answer is held against the OpenAPI document.
type client struct {
	b      *bench
	secret string
	http   *http.Client
}

func (b *bench) as(secret string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	b.t.Cleanup(transport.CloseIdleConnections)
	return &client{b: b, secret: secret, http: &http.Client{
		Transport: documented{b.t, transport}, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is what came back, read to its end.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

// call sends a request. A body that is a string is sent as it is, any other as JSON; headers come in pairs, and an empty
// value removes the header.
func (c *client) call(method, path string, body any, headers ...string) *answer {
	c.b.t.Helper()
	a, err := c.try(method, path, body, headers...)
	must(c.b.t, err)
	return a
}

// try is call for goroutines beside the test's own: it returns what fails.
func (c *client) try(method, path string, body any, headers ...string) (*answer, error) {
	response, err := c.http.Do(c.request(method, path, body, headers...))
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	return &answer{t: c.b.t, status: response.StatusCode, header: response.Header, body: raw}, err
}

func (c *client) request(method, path string, body any, headers ...string) *http.Request {
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, c.b.http.URL+path, reader)
	if err != nil {
		panic(err)
	}
	if c.secret != "" {
		request.Header.Set("Authorization", "Bearer "+c.secret)
		if about := strings.SplitN(path, "?", 2)[0]; about == "/v1/auth" || strings.HasPrefix(about, "/v1/auth/") { // a gateway that asks about itself
			request.Header.Set("Rekey-Authorization", "Bearer "+c.secret)
		}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Del(headers[i])
		if headers[i+1] != "" {
			request.Header.Add(headers[i], headers[i+1])
		}
	}
	return request
}

// wants fails the test unless the status is the one wanted.
func (a *answer) wants(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("got %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("read %s: %v", a.body, err)
	}
}

// fields are those of an object.
func (a *answer) fields() map[string]any {
	a.t.Helper()
	var fields map[string]any
	a.into(&fields)
	return fields
}

// text is one of its fields that is a string.
func (a *answer) text(field string) string {
	a.t.Helper()
	text, ok := a.fields()[field].(string)
	if !ok {
		a.t.Fatalf("%s is no string in %s", field, a.body)
	}
	return text
}

// problem is an error as a client reads it.
type problem struct {
	Type      string
	Title     string
	Status    int
	Code      string
	Detail    string
	RequestID string `json:"request_id"`
	Errors    []struct{ Field, Message, Remedy string }
	Details   map[string]any
}

// refused reads the problem document of an error and checks what all of them have.
func (a *answer) refused(status int, code domain.Code) problem {
	a.t.Helper()
	var p problem
	a.wants(status).into(&p)
	switch {
	case a.header.Get("Content-Type") != "application/problem+json":
		a.t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
	case p.Code != string(code):
		a.t.Errorf("code %q, want %q: %s", p.Code, code, a.body)
	case p.Status != status || p.Type != "urn:rekey:problem:"+p.Code || p.Title == "" || p.Detail == "":
		a.t.Errorf("not a whole problem document: %s", a.body)
	case p.RequestID == "" || p.RequestID != a.header.Get("X-Request-Id"):
		a.t.Errorf("request id %q, header %q", p.RequestID, a.header.Get("X-Request-Id"))
	}
	return p
}
