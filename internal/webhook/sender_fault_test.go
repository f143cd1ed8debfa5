package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// quietLog swallows what servers log about the faults that tests make on purpose.
var quietLog = log.New(io.Discard, "", 0)

// rawServer hands each connection to serve, with its number from 1, and closes it afterwards.
func rawServer(t testing.TB, serve func(conn net.Conn, request *bufio.Reader, n int)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				serve(conn, bufio.NewReader(conn), n)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + listener.Addr().String()
}

// readRequest takes one request off the connection and gives its body.
func readRequest(r *bufio.Reader) string {
	request, err := http.ReadRequest(r)
	if err != nil {
		return ""
	}
	body, _ := io.ReadAll(request.Body)
	return string(body)
}

// untilClosed waits for the other side to go.
func untilClosed(r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) }

func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// whatever the receiver does, the attempt ends in its time and says what happened.
func TestSender_Faults(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond
	write := func(s string) func(net.Conn, *bufio.Reader, int) {
		return func(conn net.Conn, r *bufio.Reader, _ int) {
			readRequest(r)
			_, _ = io.WriteString(conn, s)
		}
	}
	hold := func(s string) func(net.Conn, *bufio.Reader, int) {
		return func(conn net.Conn, r *bufio.Reader, _ int) {
			readRequest(r)
			_, _ = io.WriteString(conn, s)
			untilClosed(r)
		}
	}
	drip := func(head, drop string) func(net.Conn, *bufio.Reader, int) {
		return func(conn net.Conn, r *bufio.Reader, _ int) {
			readRequest(r)
			_, err := io.WriteString(conn, head)
			for err == nil {
				time.Sleep(20 * time.Millisecond)
				_, err = io.WriteString(conn, drop)
			}
		}
	}
	tests := map[string]struct {
		serve  func(net.Conn, *bufio.Reader, int)
		want   Outcome
		status int
	}{
		"never answers":            {hold(""), TimedOut, 0},
		"stops in the header":      {hold("HTTP/1.1 200 OK\r\nA: "), TimedOut, 0},
		"drips its header":         {drip("HTTP/1.1 200 OK\r\n", "A: b\r\n"), TimedOut, 0},
		"drips 1xx answers":        {drip("", "HTTP/1.1 103 Early Hints\r\n\r\n"), TimedOut, 0},
		"stops after 100-continue": {hold("HTTP/1.1 100 Continue\r\n\r\n"), TimedOut, 0},
		"stops in the body":        {hold("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), TimedOut, 200},
		"drips its body":           {drip("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", "x"), TimedOut, 200},
		"drips chunks":             {drip("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"), TimedOut, 200},
		"fails and drips":          {drip("HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n", "x"), ServerError, 500},
		"is gone and drips":        {drip("HTTP/1.1 410 Gone\r\nContent-Length: 9999\r\n\r\n", "x"), Gone, 410},
		"resets":                   {func(c net.Conn, r *bufio.Reader, _ int) { readRequest(r); reset(c) }, ConnectError, 0},
		"resets at once":           {func(c net.Conn, _ *bufio.Reader, _ int) { reset(c) }, ConnectError, 0},
		"closes":                   {write(""), ConnectError, 0},
		"closes in the header":     {write("HTTP/1.1 200 OK\r\nA: b\r\n"), ConnectError, 0},
		"closes in the body":       {write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), ConnectError, 200},
		"closes its half only": {func(c net.Conn, r *bufio.Reader, _ int) {
			readRequest(r)
			_ = c.(*net.TCPConn).CloseWrite()
			untilClosed(r)
		}, ConnectError, 0},
		"body ends with connection": {write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"), Delivered, 200},
		"HTTP/1.0":                  {write("HTTP/1.0 200 OK\r\n\r\nok"), Delivered, 200},
		"answers before it has read": {func(c net.Conn, r *bufio.Reader, _ int) {
			_, _ = r.ReadByte()
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			untilClosed(r)
		}, Delivered, 204},
		"is no HTTP server":          {hold("220 mail.example.com ESMTP\r\n"), InvalidResponse, 0},
		"answers with binary":        {write("\x00\xff\x16\x03\x01\r\n\r\n"), InvalidResponse, 0},
		"has a bad status":           {write("HTTP/1.1 2xx OK\r\n\r\n"), InvalidResponse, 0},
		"has a bad header":           {write("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), InvalidResponse, 0},
		"has two lengths":            {write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"), InvalidResponse, 0},
		"has a bad chunk":            {write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), InvalidResponse, 200},
		"switches protocols":         {hold("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), InvalidResponse, 101},
		"has a header without bound": {drip("HTTP/1.1 200 OK\r\n", "A: "+strings.Repeat("x", 16<<10)+"\r\n"), InvalidResponse, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := timeout
			if test.want != TimedOut && test.status < 400 {
				limit = 10 * time.Second // not the clock ends these, and the machine may be busy
			}
			sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Timeout: limit})
			started := time.Now()
			result := sender.Send(t.Context(), requestTo(t, rawServer(t, test.serve)))
			if took := time.Since(started); took > limit+time.Second {
				t.Errorf("took %v", took)
			}
			if result.Outcome != test.want || result.Status != test.status {
				t.Errorf("got %+v, want %s with status %d", result, test.want, test.status)
			}
			if result.Duration <= 0 || result.Started.IsZero() {
				t.Errorf("started %v, took %v", result.Started, result.Duration)
			}
		})
	}
}

// A message that fits into no buffer of the network, and a receiver that takes none of it.
func TestSender_ReceiverNeverReads(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	request := requestTo(t, rawServer(t, func(net.Conn, *bufio.Reader, int) { <-t.Context().Done() }))
	request.Body = make([]byte, 32<<20)
	sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Timeout: timeout})
	started := time.Now()
	if result := sender.Send(context.Background(), request); result.Outcome != TimedOut || time.Since(started) > timeout+time.Second {
		t.Errorf("%+v", result)
	}
}

func TestSender_NobodyListens(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	result := devSender(t).Send(t.Context(), requestTo(t, "http://"+address))
	if result.Outcome != ConnectError || !errors.Is(result.Err, syscall.ECONNREFUSED) || !strings.Contains(result.Err.Error(), address) {
		t.Errorf("%+v", result)
	}
}

func TestSender_HandshakeFaults(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	for name, test := range map[string]struct {
		serve func(net.Conn, *bufio.Reader, int)
		want  Outcome
	}{
		"stalls": {func(_ net.Conn, r *bufio.Reader, _ int) { untilClosed(r) }, TimedOut},
		"resets": {func(c net.Conn, r *bufio.Reader, _ int) { _, _ = r.ReadByte(); reset(c) }, ConnectError},
		"closes": {func(_ net.Conn, r *bufio.Reader, _ int) { _, _ = r.ReadByte(); r.Discard(r.Buffered()) }, TLSError},
		"junk":   {func(c net.Conn, r *bufio.Reader, _ int) { _, _ = io.WriteString(c, "junk junk junk\n"); untilClosed(r) }, TLSError},
	} {
		limit := 10 * time.Second
		if test.want == TimedOut {
			limit = timeout
		}
		for stage, cfg := range map[string]SenderConfig{
			"attempt": {Timeout: limit}, "connecting": {Timeout: time.Minute, ConnectTimeout: limit},
		} {
			cfg.Guard = newGuard(t, loopbackCIDRs)
			started := time.Now()
			result := newSender(t, cfg).Send(t.Context(), requestTo(t, strings.Replace(rawServer(t, test.serve), "http:", "https:", 1)))
			if took := time.Since(started); result.Outcome != test.want || took > limit+time.Second {
				t.Errorf("%s, limited by the time for the %s: %+v after %v", name, stage, result, took)
			}
		}
	}
}

// replies without an end and replies that unpack to gigabytes cost neither time nor memory. This test counts what
// the process allocates, so nothing runs beside it.
func TestSender_BoundedMemory(t *testing.T) {
	var bomb bytes.Buffer
	packer := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 16 {
		_, _ = packer.Write(zeros)
	}
	packer.Close()
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	}
	gzipped := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	}
	gigabyte := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1073741824")
		for range 1024 {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	}
	for name, handler := range map[string]http.HandlerFunc{"endless": endless, "gzip bomb": gzipped, "gigabyte": gigabyte} {
		plain := httptest.NewServer(handler)
		secure, pool := tlsServer(t, handler, nil)
		sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), RootCAs: pool, Timeout: 10 * time.Second})
		for _, url := range []string{plain.URL, secure.URL} {
			request := requestTo(t, url)
			sender.Send(t.Context(), request) // the first one pays for buffers that are kept
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			result := sender.Send(t.Context(), request)
			runtime.ReadMemStats(&after)
			if result.Outcome != Delivered { // and not timeout
				t.Errorf("%s from %s: %+v", name, url, result)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%s from %s: %d KiB were allocated", name, url, grown>>10)
			}
		}
		sender.Close()
		plain.Close()
	}
}

// a receiver that sends back what it got cannot bring the secret into what we log, on any road an answer has.
func TestSender_KeepsNothingOfTheAnswer(t *testing.T) {
	t.Parallel()
	for name, format := range map[string]string{
		"status line":    "%s\r\n\r\n",
		"reason":         "HTTP/1.1 500 %s\r\nContent-Length: 0\r\n\r\n",
		"version":        "HTTP/%s 200 OK\r\n\r\n",
		"status":         "HTTP/1.1 %s OK\r\n\r\n",
		"header":         "HTTP/1.1 500 No\r\nX: %s\r\nContent-Length: 0\r\n\r\n",
		"bad header":     "HTTP/1.1 200 OK\r\n%s\r\n\r\n",
		"length":         "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
		"encoding":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
		"trailer":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\n\r\n0\r\n\r\n",
		"chunk":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
		"body of a 200":  "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s",
		"body of a 500":  "HTTP/1.1 500 No\r\nConnection: close\r\n\r\n%s",
		"location":       "HTTP/1.1 307 Go\r\nLocation: http://%s/\r\nContent-Length: 0\r\n\r\n",
		"retry-after":    "HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n",
		"cut-off answer": "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n%s",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := rawServer(t, func(conn net.Conn, r *bufio.Reader, _ int) { fmt.Fprintf(conn, format, readRequest(r)) })
			request := requestTo(t, url+"/?token=canary")
			request.Body = []byte(`{"secret":"canary"}`)
			result := devSender(t).Send(t.Context(), request)
			if text := fmt.Sprintf("%+v %#v %v %s", result, result, result.Err, result.Outcome.Message()); strings.Contains(text, "canary") {
				t.Errorf("the result holds the secret: %s", text)
			}
		})
	}
}

// A server may close an idle connection at the instant that we use it. The attempt is then repeated on a new one, since
// the message cannot have been handled, and if it was, its id makes the repetition harmless.
func TestSender_RepeatsOnStaleConnection(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	url := rawServer(t, func(conn net.Conn, r *bufio.Reader, n int) {
		readRequest(r)
		requests.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		if n == 1 {
			readRequest(r)
			requests.Add(1)
			return
		}
		untilClosed(r)
	})
	sender := devSender(t)
	for i := range 2 {
		if result := sender.Send(t.Context(), requestTo(t, url)); result.Outcome != Delivered {
			t.Errorf("attempt %d: %+v", i+1, result)
		}
	}
	if requests.Load() != 3 {
		t.Errorf("%d requests, want one on each connection and the one that was lost", requests.Load())
	}
}

func TestSender_ReusesConnections(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		if r.URL.Path == "/fail" {
			status = http.StatusInternalServerError
		}
		w.WriteHeader(status)
		_, _ = w.Write(make([]byte, maxResponseBody))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	sender := devSender(t)
	for i := range 10 {
		sender.Send(t.Context(), requestTo(t, server.URL+[]string{"/", "/fail"}[i%2]))
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 10 messages", n)
	}
	sender.Close()
	if result := sender.Send(context.Background(), requestTo(t, server.URL)); result.Outcome != Delivered || connections.Load() != 2 {
		t.Errorf("after Close: %+v, %d connections", result, connections.Load())
	}
	sender.Close()
}
