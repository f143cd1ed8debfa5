package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// stream is an open stream of events.
type stream struct {
	t        testing.TB
	id       string // of the request
	body     *bufio.Scanner
	response *http.Response
}

// sent is one event of a stream.
type sent struct {
	id   int64
	kind string
	data string
}

func (c *client) stream(path string, headers ...string) *stream {
	c.b.t.Helper()
	ctx, cancel := context.WithCancel(c.b.t.Context())
	request := c.request("GET", path, nil, append([]string{"Accept", "text/event-stream"}, headers...)...).WithContext(ctx)
	open := &http.Client{Transport: c.http.Transport} // without the time limit of calls
	response, err := open.Do(request)
	must(c.b.t, err)
	c.b.t.Cleanup(func() {
		cancel()
		_ = response.Body.Close()
	})
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		c.b.t.Fatalf("got %d %v", response.StatusCode, response.Header)
	}
	time.AfterFunc(20*time.Second, cancel) // no test waits for ever
	body := bufio.NewScanner(response.Body)
	body.Buffer(nil, 1<<20)
	return &stream{t: c.b.t, id: response.Header.Get("X-Request-Id"), body: body, response: response}
}

// next reads the next event, past signs of life; it reports false at the end of the stream.
func (s *stream) next() (e sent, ok bool) {
	s.t.Helper()
	for s.body.Scan() {
		name, value, _ := strings.Cut(s.body.Text(), ": ")
		switch name {
		case "id":
			e.id, _ = strconv.ParseInt(value, 10, 64)
		case "event":
			e.kind = value
		case "data":
			e.data = value
		case "":
			if e.id != 0 {
				return e, true
			}
			if value != "" && value != "still here" {
				s.t.Errorf("unexpected comment %q", value)
			}
		default:
			s.t.Errorf("unexpected line %q", s.body.Text())
		}
	}
	return e, false
}

func (s *stream) wantNext(kind string) sent {
	s.t.Helper()
	e, ok := s.next()
	if !ok || e.kind != kind {
		s.t.Fatalf("got %+v (there: %v), want %s", e, ok, kind)
	}
	return e
}

// wantEnd waits for the server to end the stream, and returns how many events came before.
func (s *stream) wantEnd() int {
	s.t.Helper()
	count, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, ok := s.next(); !ok {
				return
			}
			count++
		}
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		s.t.Fatal("the stream goes on")
	}
	return count
}

// heartbeat makes streams look around often.
func heartbeat(every time.Duration) func(*api.Config) {
	return func(c *api.Config) { c.Heartbeat = every }
}

// fill appends a number of events of the first organization, and twice as many of another.
func (b *bench) fill(n int) {
	b.t.Helper()
	other := b.newOrganization("other")
	by := commands.By{Caller: domain.System(), Actor: domain.ActorSetup}
	errs := make(chan error)
	for i := range 3 * n {
		project := other.project
		if i%3 == 0 {
			project = b.tenant.Key.ProjectID
		}
		go func() {
			_, err := b.commands.CreateKey(b.t.Context(), by, commands.CreateKey{
				ProjectID: project, Name: fmt.Sprint(i), Metadata: json.RawMessage(fmt.Sprintf(`{"text":%q}`, strings.Repeat("<&>", 100))),
			})
			errs <- err
		}()
	}
	for range 3 * n {
		must(b.t, <-errs)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	t.Run("SendsAllInOrderAndGoesOn", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{})
		b.fill(600) // more than a page
		s := b.root.stream("/v1/events")
		listed := pages[json.RawMessage](t, b.root, "/v1/events?limit=1000")
		for _, want := range listed {
			e, ok := s.next()
			if !ok {
				t.Fatal("the stream ended")
			}
			if diff := cmp.Diff(string(want), e.data); diff != "" {
				t.Fatalf("differs from the list:\n%s", diff)
			}
			var inData struct {
				Position int64
				Type     string
			}
			must(t, json.Unmarshal([]byte(e.data), &inData))
			if e.id != inData.Position || e.kind != inData.Type {
				t.Fatalf("id %d, event %s, data %+v", e.id, e.kind, inData)
			}
		}
		for range 3 { // as they are committed
			made := b.newKey(nil)
			if e := s.wantNext("Created"); !strings.Contains(e.data, made.text("id")) {
				t.Errorf("got %s", e.data)
			}
		}
	})
	t.Run("ResumesWhereItWas", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{})
		b.newKey(nil)
		first := b.root.stream("/v1/events")
		var ids []int64
		for range 5 {
			e, _ := first.next()
			ids = append(ids, e.id)
		}
		for name, s := range map[string]*stream{
			"after":                    b.root.stream(fmt.Sprint("/v1/events?after=", ids[2])),
			"Last-Event-ID":            b.root.stream("/v1/events", "Last-Event-ID", fmt.Sprint(ids[2])),
			"Last-Event-ID over after": b.root.stream("/v1/events?after=1", "Last-Event-ID", fmt.Sprint(ids[2])),
		} {
			if e, _ := s.next(); e.id != ids[3] {
				t.Errorf("%s %d went on with %d, want %d", name, ids[2], e.id, ids[3])
			}
		}
		b.root.stream("/v1/events?after=999999") // waits; the next events are before that
	})
	t.Run("ShowsOnlyItsOrganization", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{})
		other := b.newOrganization("other")
		s := other.owner.stream("/v1/events?after=" + fmt.Sprint(b.head()))
		b.newKey(nil)
		made := other.owner.newKeyIn(other.project, nil)
		if e := s.wantNext("Created"); !strings.Contains(e.data, made.text("id")) {
			t.Errorf("got %s", e.data)
		}
	})
	t.Run("ShowsSignsOfLife", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{configure: heartbeat(20 * time.Millisecond)})
		s := b.root.stream(fmt.Sprint("/v1/events?after=", b.head()))
		for beats := 0; beats < 3; {
			if !s.body.Scan() {
				t.Fatal("the stream ended")
			}
			if s.body.Text() == ": still here" {
				beats++
			}
		}
	})
}

// TestStreamOfASlowReader: a caller that does not read is let go, and delays nobody.
func TestStreamOfASlowReader(t *testing.T) {
	t.Parallel()
	b := setup(t, options{configure: heartbeat(2 * time.Second), server: func(s *httptest.Server) {
		s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
			_ = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
			return ctx
		}
	}})
	b.fill(200)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.http.URL, "http://"))
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.(*net.TCPConn).SetReadBuffer(4<<10))
	_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nX-Request-Id: slow\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n", b.root.secret)
	must(t, err)
	quick := b.root.stream("/v1/events")
	for range 100 { // meanwhile
		if _, ok := quick.next(); !ok {
			t.Fatal("the quick reader's stream ended")
		}
	}
	b.newKey(nil)
	if line := b.logs.line(t, "slow"); line["level"] != "DEBUG" { // written when the stream has ended
		t.Errorf("logged %v", line)
	}
}

// TestStreamOutlivesTheTimes: the server bounds how long a request may take to arrive, and an answer to be taken; a stream
// is neither.
func TestStreamOutlivesTheTimes(t *testing.T) {
	t.Parallel()
	const limit = 400 * time.Millisecond
	b := setup(t, options{configure: heartbeat(limit / 4), server: func(s *httptest.Server) {
		s.Config.ReadTimeout, s.Config.WriteTimeout = limit, limit
	}})
	s := b.root.stream(fmt.Sprint("/v1/events?after=", b.head()))
	for beats := 0; beats < 8; { // twice the limit
		if !s.body.Scan() {
			t.Fatal("the stream ended")
		}
		if s.body.Text() == ": still here" {
			beats++
		}
	}
	by := commands.By{Caller: domain.System(), Actor: domain.ActorSetup}
	_, err := b.commands.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: b.tenant.Key.ProjectID, Name: "later"})
	must(t, err)
	s.wantNext("Created")
}

// TestShutdownEndsStreams: a server that stops does not wait for callers that would stay for ever.
func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var streams []*stream
	for range 10 {
		streams = append(streams, b.root.stream(fmt.Sprint("/v1/events?after=", b.head())))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	must(t, b.http.Config.Shutdown(ctx))
	for _, s := range streams {
		s.wantEnd()
	}
}
