package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// inbox is a handler that keeps messages, and fails while it is told to.
type inbox struct {
	mu       sync.Mutex
	received []Received
	err      error
}

func (i *inbox) handle(_ context.Context, message Received) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.received = append(i.received, message)
	}
	return i.err
}

func post(receiver http.Handler, headers http.Header, body []byte) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodPost, "/any/path", bytes.NewReader(body))
	request.Header = headers
	response := httptest.NewRecorder()
	receiver.ServeHTTP(response, request)
	return response
}

// The sender and the receiver of this package understand each other over real HTTP.
func TestReceiver_TakesWhatSenderSends(t *testing.T) {
	t.Parallel()
	var box inbox
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle})
	server := serve(t, receiver.ServeHTTP)
	sender := devSender(t)
	request := requestTo(t, server.URL)

	if result := sender.Send(t.Context(), request); result.Outcome != ClientError || result.Status != 401 {
		t.Errorf("before the secret is known: %+v", result)
	}
	receiver.AddSecret(newSecret(t))
	receiver.AddSecret(request.Secrets[0])
	for range 3 {
		if result := sender.Send(t.Context(), request); result.Outcome != Delivered || result.Status != 204 {
			t.Errorf("%+v", result)
		}
	}
	if len(box.received) != 1 {
		t.Fatalf("handled %d times", len(box.received))
	}
	got := box.received[0]
	if age := time.Since(got.SentAt); age < 0 || age > time.Minute {
		t.Errorf("sent at %v", got.SentAt)
	}
	if got.SignedBy.Reveal() != request.Secrets[0].Reveal() {
		t.Error("it does not know which secret signed")
	}
	got.SentAt, got.SignedBy = time.Time{}, Secret{}
	if diff := cmp.Diff(Received{ID: testID, Body: testBody}, got, cmpopts.IgnoreFields(Received{}, "SignedBy")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReceiver_Refuses(t *testing.T) {
	t.Parallel()
	now, secret := time.Now(), newSecret(t)
	big := make([]byte, 1<<20+1)
	good := Headers(testID, now, testBody, secret)
	tests := map[string]struct {
		method  string
		headers http.Header
		body    io.Reader
		want    int
	}{
		"GET":             {http.MethodGet, good, nil, 405},
		"PUT":             {http.MethodPut, good, bytes.NewReader(testBody), 405},
		"OPTIONS":         {http.MethodOptions, good, nil, 405},
		"no signature":    {http.MethodPost, http.Header{}, bytes.NewReader(testBody), 401},
		"another secret":  {http.MethodPost, Headers(testID, now, testBody, newSecret(t)), bytes.NewReader(testBody), 401},
		"changed body":    {http.MethodPost, good, strings.NewReader("{}"), 401},
		"empty body":      {http.MethodPost, good, nil, 401},
		"old":             {http.MethodPost, Headers(testID, now.Add(-time.Hour), testBody, secret), bytes.NewReader(testBody), 401},
		"above a MiB":     {http.MethodPost, Headers(testID, now, big, secret), bytes.NewReader(big), 413},
		"body breaks off": {http.MethodPost, good, io.MultiReader(bytes.NewReader(testBody), brokenReader{}), 400},
	}
	for name, test := range tests {
		receiver := NewReceiver(ReceiverConfig{Now: func() time.Time { return now }, Handle: func(context.Context, Received) error {
			t.Errorf("%s: handled", name)
			return nil
		}})
		receiver.AddSecret(secret)
		request := httptest.NewRequest(test.method, "/", test.body)
		request.Header = test.headers
		response := httptest.NewRecorder()
		receiver.ServeHTTP(response, request)
		if response.Code != test.want {
			t.Errorf("%s: %d, want %d", name, response.Code, test.want)
		}
		if allow := response.Header().Get("Allow"); (allow == "POST") != (test.want == 405) {
			t.Errorf("%s: Allow is %q", name, allow)
		}
	}
	var box inbox
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle})
	receiver.AddSecret(secret)
	limit := big[:1<<20]
	if response := post(receiver, Headers(testID, time.Now(), limit, secret), limit); response.Code != 204 || len(box.received) != 1 {
		t.Errorf("a body of one MiB: %d", response.Code)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

// R-36: a message counts as seen when it was handled, not before.
func TestReceiver_HandlesOnce(t *testing.T) {
	t.Parallel()
	secret := newSecret(t)
	box := inbox{err: errors.New("disk full: canary")}
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle, Remembers: 2})
	receiver.AddSecret(secret)
	send := func(id string) *httptest.ResponseRecorder {
		return post(receiver, Headers(id, time.Now(), testBody, secret), testBody)
	}
	if response := send("a"); response.Code != 500 || strings.Contains(response.Body.String(), "canary") {
		t.Errorf("handling failed: %d %q", response.Code, response.Body)
	}
	box.err = nil
	for _, id := range []string{"a", "a", "b", "a", "c", "b", "c"} { // c pushes a out of the memory
		if response := send(id); response.Code != 204 {
			t.Errorf("%s: %d", id, response.Code)
		}
	}
	var ids []string
	for _, message := range box.received {
		ids = append(ids, message.ID)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, ids); diff != "" {
		t.Errorf("handled (-want +got):\n%s", diff)
	}
	if len(receiver.handled) != 2 || len(receiver.order) != 2 {
		t.Errorf("remembers %d ids", len(receiver.handled))
	}
}

func TestReceiver_SameMessageAtOnce(t *testing.T) {
	t.Parallel()
	secret, working, release := newSecret(t), make(chan struct{}), make(chan struct{})
	calls := 0
	receiver := NewReceiver(ReceiverConfig{Handle: func(context.Context, Received) error {
		calls++
		close(working)
		<-release
		return nil
	}})
	receiver.AddSecret(secret)
	headers := Headers(testID, time.Now(), testBody, secret)
	first := make(chan int)
	go func() { first <- post(receiver, headers, testBody).Code }()
	<-working
	if response := post(receiver, headers, testBody); response.Code != 503 || response.Header().Get("Retry-After") != "1" {
		t.Errorf("while it is handled: %d", response.Code)
	}
	close(release)
	if code := <-first; code != 204 {
		t.Errorf("first: %d", code)
	}
	if response := post(receiver, headers, testBody); response.Code != 204 || calls != 1 {
		t.Errorf("afterwards: %d, handled %d times", response.Code, calls)
	}
}

func TestReceiver_PanicForgets(t *testing.T) {
	t.Parallel()
	secret, calls := newSecret(t), 0
	receiver := NewReceiver(ReceiverConfig{Handle: func(context.Context, Received) error {
		if calls++; calls == 1 {
			panic("boom")
		}
		return nil
	}})
	receiver.AddSecret(secret)
	headers := Headers(testID, time.Now(), testBody, secret)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		post(receiver, headers, testBody)
	}()
	if response := post(receiver, headers, testBody); response.Code != 204 || calls != 2 {
		t.Errorf("after a panic: %d, %d calls", response.Code, calls)
	}
}

// Secrets come while messages do.
func TestReceiver_SecretsWhileRunning(t *testing.T) {
	t.Parallel()
	var box inbox
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			secret, id := newSecret(t), fmt.Sprint("msg_", i)
			receiver.AddSecret(secret)
			if response := post(receiver, Headers(id, time.Now(), testBody, secret), testBody); response.Code != 204 {
				t.Errorf("%s: %d", id, response.Code)
			}
		})
	}
	wg.Wait()
	if len(box.received) != 8 {
		t.Errorf("handled %d", len(box.received))
	}
}

// A sender that stops in the middle of its body is cut off, also by a server that has no timeouts of its own.
func TestReceiver_CutsOffSlowBodies(t *testing.T) {
	t.Parallel()
	receiver := NewReceiver(ReceiverConfig{})
	receiver.timeout = 100 * time.Millisecond
	server := serve(t, receiver.ServeHTTP)
	conn, err := net.Dial("tcp4", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nhalf")
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
		t.Errorf("%q, %v", answer, err)
	}
}

// The whole of a receiver: a handler and the secret that rekey gave out when the webhook was registered.
func ExampleReceiver() {
	receiver := NewReceiver(ReceiverConfig{Handle: func(_ context.Context, message Received) error {
		fmt.Printf("%s: %s\n", message.ID, message.Body)
		return nil
	}})
	secret, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	receiver.AddSecret(secret)

	body := []byte(`{"type":"endpoint.test"}`)
	for range 2 { // a repetition is answered and not handled again
		request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		request.Header = Headers("msg_1", time.Now(), body, secret)
		response := httptest.NewRecorder()
		receiver.ServeHTTP(response, request)
		fmt.Println(response.Code)
	}
	// Output:
	// msg_1: {"type":"endpoint.test"}
	// 204
	// 204
}
