package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// exchange sends a request byte for byte as it stands, and reads the answer. Lines end as Go writes them, and become CRLF
// in the head; {host} is the server's name.
func (b *bench) exchange(t *testing.T, raw string) *answer {
	t.Helper()
	head, body, _ := strings.Cut(raw, "\n\n")
	head = strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n"
	address := strings.TrimPrefix(b.http.URL, "http://")
	text := strings.ReplaceAll(head, "{host}", address) + body
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, text)
	must(t, err)
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	must(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	answered, err := io.ReadAll(response.Body)
	must(t, err)
	if err := about(request.URL.Path).judge(request, response, answered); err != nil {
		t.Errorf("%s %s answered %d: %v\n%s", request.Method, request.URL.Path, response.StatusCode, err, answered)
	}
	return &answer{t: t, status: response.StatusCode, header: response.Header, body: answered}
}

// curl is what curl sends: its own three headers, those of -H, and the length of what -d gave.
func curl(method, path string, headers []string, data string) string {
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: {host}", "User-Agent: curl/8.5.0", "Accept: */*"}, headers...)
	if data != "" {
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(data)))
	}
	return strings.Join(lines, "\n") + "\n\n" + data
}

// asOnPage holds an answer against the example of a page, field by field: the same names, no less and no more, with
// values of the same JSON types, times where it has times. nullable are fields that may be null although the example has
// none that is; with more, further fields may be there.
func asOnPage(t *testing.T, page string, a *answer, more bool, nullable ...string) {
	t.Helper()
	want, got := kindsOf(t, []byte(page)), kindsOf(t, a.body)
	for path, kinds := range want {
		if got[path] == nil {
			t.Errorf("%s is missing: %s", path, a.body)
		}
		for kind := range got[path] {
			if !kinds[kind] && (kind != "null" || !slices.Contains(nullable, path[strings.LastIndex(path, ".")+1:])) {
				t.Errorf("%s is %s, the page has %v: %s", path, kind, slices.Sorted(maps.Keys(kinds)), a.body)
			}
		}
	}
	for path := range got {
		if want[path] == nil && !more {
			t.Errorf("%s is not on the page: %s", path, a.body)
		}
	}
}

// kindsOf lists the kinds of values per field of a document; all items of a list count for one field.
func kindsOf(t *testing.T, raw []byte) map[string]map[string]bool {
	t.Helper()
	var whole any
	if err := json.Unmarshal(raw, &whole); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	kinds := map[string]map[string]bool{}
	var visit func(path string, value any)
	visit = func(path string, value any) {
		if kinds[path] == nil {
			kinds[path] = map[string]bool{}
		}
		kinds[path][kindOf(value)] = true
		switch value := value.(type) {
		case map[string]any:
			for name, field := range value {
				visit(path+"."+name, field)
			}
		case []any:
			for _, item := range value {
				visit(path+"[]", item)
			}
		}
	}
	visit("", whole)
	return kinds
}

func kindOf(value any) string {
	switch value := value.(type) {
	case nil:
		return "null"
	case string:
		if _, err := time.Parse(time.RFC3339, value); err == nil {
			return "a time"
		}
		return "a string"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	default:
		return fmt.Sprintf("a %T", value)
	}
}

// envelope is an error of the surfaces that wrap their answers, as a client reads it.
type envelope struct {
	Success *bool
	Error   struct {
		Code, Message string
		Details       *struct {
			RequestID     string `json:"request_id"`
			RequiredScope string `json:"required_scope"`
			Fields        []struct{ Field, Message, Remedy string }
		}
	}
}

// enveloped reads such an error and checks what all of them have.
func (a *answer) enveloped(status int, code string) envelope {
	a.t.Helper()
	var e envelope
	a.wants(status).into(&e)
	switch {
	case a.header.Get("Content-Type") != "application/json":
		a.t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
	case e.Success == nil || *e.Success || e.Error.Message == "" || e.Error.Details == nil:
		a.t.Errorf("not a whole envelope: %s", a.body)
	case e.Error.Code != code:
		a.t.Errorf("code %q, want %q: %s", e.Error.Code, code, a.body)
	case e.Error.Details.RequestID != a.header.Get("X-Request-Id"):
		a.t.Errorf("request id %q, header %q", e.Error.Details.RequestID, a.header.Get("X-Request-Id"))
	}
	return e
}

// fault is enveloped for one that names a field first.
func (a *answer) fault(status int, code, field string) {
	a.t.Helper()
	e := a.enveloped(status, code)
	if f := e.Error.Details.Fields; len(f) == 0 || f[0].Field != field || f[0].Message == "" || f[0].Remedy == "" {
		a.t.Errorf("the field %s is not named with a message and a remedy: %s", field, a.body)
	}
	if !strings.HasPrefix(e.Error.Message, field+" ") {
		a.t.Errorf("the message does not begin with %s: %s", field, a.body)
	}
}

// at runs a part of a test on its own, with a client that reports to it.
func (c *client) at(t *testing.T) *client {
	return &client{b: &bench{t: t, http: c.b.http}, secret: c.secret, http: c.http}
}
