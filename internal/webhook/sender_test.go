package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const loopbackCIDRs = "127.0.0.0/8,::1/128"

// capture is a receiver that keeps what it got.
type capture struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
}

func (c *capture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.requests, c.bodies = append(c.requests, r), append(c.bodies, body)
	c.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func devSender(t testing.TB) *Sender {
	t.Helper()
	return newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Timeout: 10 * time.Second})
}

func requestTo(t testing.TB, url string) Request {
	t.Helper()
	return Request{URL: url, ID: testID, Body: testBody, Secrets: []Secret{newSecret(t)}}
}

// What arrives is what was signed, under the headers of the contract and no others.
func TestSender_Wire(t *testing.T) {
	t.Parallel()
	receiver := &capture{}
	server := serve(t, receiver.ServeHTTP)
	now := time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)
	sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Version: "1.2.3", Now: func() time.Time { return now }})
	current, previous := newSecret(t), newSecret(t)
	result := sender.Send(t.Context(), Request{URL: server.URL + "/hook?a=b", ID: testID, Body: testBody, Secrets: []Secret{current, previous}, Attempt: 3, DeliveryID: "dlv_1"})

	if want := (Result{Outcome: Delivered, Status: 204, Started: now, Timing: result.Timing}); result != want {
		t.Fatalf("got %+v, want %+v", result, want)
	}
	got := receiver.requests[0]
	if got.Method != "POST" || got.RequestURI != "/hook?a=b" || !bytes.Equal(receiver.bodies[0], testBody) {
		t.Errorf("%s %s %q", got.Method, got.RequestURI, receiver.bodies[0])
	}
	want := http.Header{
		"Webhook-Id": {testID}, "Webhook-Timestamp": {"1795291200"}, "Webhook-Signature": {Sign(testID, now, testBody, current, previous)},
		"Content-Type": {"application/json"}, "User-Agent": {"rekey/1.2.3"}, "Rekey-Attempt": {"3"}, "Rekey-Delivery": {"dlv_1"},
		"Content-Length": {strconv.Itoa(len(testBody))},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	for _, secret := range []Secret{current, previous} {
		if err := Verify(got.Header, receiver.bodies[0], now, secret); err != nil {
			t.Error(err)
		}
	}
}

// over all attempts the id and the body stay, the time and the signature are the attempt's own.
func TestSender_EachAttemptIsSignedAnew(t *testing.T) {
	t.Parallel()
	receiver := &capture{}
	server := serve(t, receiver.ServeHTTP)
	clock := time.Now()
	sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Now: func() time.Time { return clock }})
	request := requestTo(t, server.URL)
	for i := range 3 {
		clock = clock.Add(time.Duration(i) * 2 * time.Hour)
		if result := sender.Send(t.Context(), request); !result.Outcome.Delivered() {
			t.Fatalf("%+v", result)
		}
		if err := Verify(receiver.requests[i].Header, receiver.bodies[i], clock, request.Secrets...); err != nil {
			t.Errorf("attempt %d: %v", i+1, err)
		}
	}
	seen := map[string]bool{}
	for i, r := range receiver.requests {
		if r.Header.Get(HeaderID) != testID || !bytes.Equal(receiver.bodies[i], testBody) {
			t.Errorf("attempt %d has another id or body", i+1)
		}
		seen[r.Header.Get(HeaderTimestamp)], seen[r.Header.Get(HeaderSignature)] = true, true
		if r.Header.Get("Rekey-Attempt") != "" || r.Header.Get("Rekey-Delivery") != "" {
			t.Errorf("attempt %d sends headers without a value", i+1)
		}
	}
	if len(seen) != 6 {
		t.Errorf("timestamps and signatures repeat: %v", seen)
	}
}

func TestSender_StatusDecides(t *testing.T) {
	t.Parallel()
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.Header().Set("Retry-After", "90")
		w.Header().Set("Set-Cookie", "a=b")
		if r.Header.Get("Cookie") != "" {
			status = 599
		}
		w.WriteHeader(status)
	})
	sender := devSender(t)
	tests := map[int]Result{
		200: {Outcome: Delivered}, 201: {Outcome: Delivered}, 202: {Outcome: Delivered}, 204: {Outcome: Delivered}, 299: {Outcome: Delivered},
		300: {Outcome: RedirectRefused}, 304: {Outcome: RedirectRefused}, 399: {Outcome: RedirectRefused},
		400: {Outcome: ClientError}, 401: {Outcome: ClientError}, 404: {Outcome: ClientError}, 408: {Outcome: ClientError}, 499: {Outcome: ClientError},
		410: {Outcome: Gone}, 429: {Outcome: Throttled, RetryAfter: 90 * time.Second},
		500: {Outcome: ServerError}, 502: {Outcome: ServerError}, 503: {Outcome: ServerError, RetryAfter: 90 * time.Second}, 599: {Outcome: ServerError},
		600: {Outcome: InvalidResponse}, 999: {Outcome: InvalidResponse},
	}
	for status, want := range tests {
		got := sender.Send(t.Context(), requestTo(t, fmt.Sprintf("%s/?status=%d", server.URL, status)))
		want.Status, want.Started, want.Duration, want.Timing = status, got.Started, got.Duration, got.Timing
		if got != want {
			t.Errorf("%d: got %+v, want %+v", status, got, want)
		}
		if got.Outcome.Permanent() != (status == 410) || got.Outcome.Delivered() != (status < 300) {
			t.Errorf("%d: permanent %v, delivered %v", status, got.Outcome.Permanent(), got.Outcome.Delivered())
		}
	}
}

// a redirect is a failure, and nothing reaches its target: neither the secret nor a signature.
func TestSender_RefusesRedirect(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	target := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	redirector := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(status)
	})
	sender := devSender(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{target.URL + "/", "/same", "", "%zz://bad"} {
			result := sender.Send(t.Context(), requestTo(t, fmt.Sprintf("%s/?status=%d&to=%s", redirector.URL, status, strings.ReplaceAll(to, "%", "%25"))))
			if result.Outcome != RedirectRefused || result.Status != status {
				t.Errorf("%d to %q: %+v", status, to, result)
			}
		}
	}
	if hits.Load() != 0 {
		t.Errorf("the target got %d requests", hits.Load())
	}
}

const proxyChild = "REKEY_TEST_WEBHOOK_PROXY_CHILD"

// net/http reads these variables once per process and never uses them for loopback addresses, so the attempt is
// made by a child process, to a name.
func TestSender_IgnoresProxyEnvironment(t *testing.T) {
	t.Parallel()
	proxy := newCanary(t)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSender_ProxyChild$", "-test.v")
	child.Env = append(os.Environ(), proxyChild+"=1", "NO_PROXY=", "no_proxy=")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		child.Env = append(child.Env, name+"=http://"+proxy.listener.Addr().String())
	}
	output, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(output, []byte("--- PASS: TestSender_ProxyChild")) {
		t.Errorf("child: %v\n%s", err, output)
	}
	proxy.mustBeUntouched(t)
}

func TestSender_ProxyChild(t *testing.T) {
	if os.Getenv(proxyChild) != "1" {
		t.Skip("runs as the child of TestSender_IgnoresProxyEnvironment")
	}
	server, pool := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, nil)
	sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), RootCAs: pool, Resolver: fixedResolver(t, "127.0.0.1"), Timeout: 5 * time.Second})
	if result := sender.Send(t.Context(), requestTo(t, "https://example.com:"+port(server))); result.Outcome != Delivered {
		t.Errorf("%+v", result)
	}
	parsed, err := http.ProxyFromEnvironment(httptest.NewRequest(http.MethodPost, "https://example.com/", nil))
	if err != nil || parsed == nil {
		t.Errorf("the environment names no proxy, so this test shows nothing: %v, %v", parsed, err)
	}
}

// tlsServer speaks HTTP/2 where the client does. Its certificate is for example.com and 127.0.0.1.
func tlsServer(t testing.TB, handler http.HandlerFunc, change func(*httptest.Server)) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = quietLog
	if change != nil {
		change(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server, pool
}

func port(server *httptest.Server) string {
	return server.URL[strings.LastIndex(server.URL, ":")+1:]
}

func TestSender_TLS(t *testing.T) {
	t.Parallel()
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	var proto atomic.Int64
	good, trusted := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		proto.Store(int64(r.ProtoMajor))
		ok(w, r)
	}, nil)
	old, oldPool := tlsServer(t, ok, func(s *httptest.Server) {
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	})
	mutual, mutualPool := tlsServer(t, ok, func(s *httptest.Server) { s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert} })
	plain := serve(t, ok)
	resolver := fixedResolver(t, "127.0.0.1")

	tests := map[string]struct {
		url  string
		pool *x509.CertPool
		want Outcome
	}{
		"trusted":            {"https://example.com:" + port(good), trusted, Delivered},
		"trusted by address": {"https://127.0.0.1:" + port(good), trusted, Delivered},
		"unknown authority":  {"https://example.com:" + port(good), x509.NewCertPool(), TLSError},
		"another name":       {"https://other.org:" + port(good), trusted, TLSError},
		"TLS 1.1":            {"https://example.com:" + port(old), oldPool, TLSError},
		"speaks no TLS":      {"https://example.com:" + port(plain), trusted, TLSError},
	}
	for name, test := range tests {
		sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), RootCAs: test.pool, Resolver: resolver, Timeout: 10 * time.Second})
		result := sender.Send(t.Context(), requestTo(t, test.url))
		if result.Outcome != test.want || (result.Err == nil) != (test.want == Delivered) {
			t.Errorf("%s: %+v", name, result)
		}
	}
	// With TLS 1.3 the receiver refuses us after our side of the handshake is done, so its alert races with our request.
	sender := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), RootCAs: mutualPool, Timeout: 10 * time.Second})
	if result := sender.Send(t.Context(), requestTo(t, mutual.URL)); result.Outcome != TLSError && result.Outcome != ConnectError {
		t.Errorf("demands a certificate: %+v", result)
	}
	if proto.Load() != 2 {
		t.Errorf("HTTP/%d was spoken, want HTTP/2", proto.Load())
	}
}

func TestSender_Names(t *testing.T) {
	t.Parallel()
	none := newSender(t, SenderConfig{Resolver: fixedResolver(t)})
	if result := none.Send(t.Context(), requestTo(t, "https://missing.example.com/")); result.Outcome != DNSError {
		t.Errorf("a name that does not exist: %+v", result)
	}
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	slow := newSender(t, SenderConfig{Resolver: silent, Timeout: 200 * time.Millisecond})
	started := time.Now()
	if result := slow.Send(t.Context(), requestTo(t, "https://slow.example.com/")); result.Outcome != DNSError && result.Outcome != TimedOut {
		t.Errorf("a name server that does not answer: %+v", result)
	}
	if took := time.Since(started); took > 1200*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// an attempt that we end ourselves is nobody's failure.
func TestSender_Canceled(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-release
	})
	defer close(release)
	sender := devSender(t)
	for _, path := range []string{"/header", "/body"} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		result := sender.Send(ctx, requestTo(t, server.URL+path))
		if result.Outcome != Canceled || !errors.Is(result.Err, context.Canceled) {
			t.Errorf("%s: %+v", path, result)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result := sender.Send(ctx, requestTo(t, server.URL)); result.Outcome != Canceled {
		t.Errorf("before the start: %+v", result)
	}
}

func TestSender_RefusesWhatItCannotSign(t *testing.T) {
	t.Parallel()
	server := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") })
	sender := devSender(t)
	for name, change := range map[string]func(*Request){
		"no id": func(r *Request) { r.ID = "" }, "full stop in the id": func(r *Request) { r.ID = "msg_1.2" },
		"line break in the id": func(r *Request) { r.ID = "msg\r\nHost: a" }, "no secrets": func(r *Request) { r.Secrets = nil },
		"zero secret": func(r *Request) { r.Secrets = []Secret{{}} },
	} {
		request := requestTo(t, server.URL)
		change(&request)
		if result := sender.Send(t.Context(), request); result.Outcome != InvalidRequest || !result.Outcome.Permanent() || result.Err == nil {
			t.Errorf("%s: %+v", name, result)
		}
	}
	request := requestTo(t, server.URL)
	request.DeliveryID = "dlv\r\nHost: a"
	if result := sender.Send(t.Context(), request); result.Outcome == Delivered {
		t.Errorf("line break in a header: %+v", result)
	}
	if result := sender.Send(t.Context(), requestTo(t, "ftp://example.com")); result.Outcome != AddressRefused {
		t.Errorf("ftp: %+v", result)
	}
}

// the owner learns what happened without an address, the operator with it.
func TestSender_TextsForTheOwner(t *testing.T) {
	t.Parallel()
	declared := declaredOutcomes(t)
	if len(declared) != len(messages) {
		t.Errorf("%d outcomes, %d messages", len(declared), len(messages))
	}
	address := regexp.MustCompile(`\d+\.\d+|:\d|\[|localhost`)
	for _, outcome := range declared {
		if text := outcome.Message(); messages[outcome] == "" || address.MatchString(text) || !strings.HasSuffix(text, ".") {
			t.Errorf("%s: %q", outcome, text)
		}
	}
	if Outcome("new").Message() == "" {
		t.Error("an unknown outcome has no text")
	}
	for _, raw := range []string{"https://10.9.8.7/", "https://metadata.example.com/"} {
		sender := newSender(t, SenderConfig{Resolver: fixedResolver(t, "10.9.8.7")})
		result := sender.Send(t.Context(), requestTo(t, raw))
		if result.Outcome != AddressRefused || strings.Contains(result.Outcome.Message(), "10.9") {
			t.Errorf("%s: %+v, %q", raw, result, result.Outcome.Message())
		}
		if raw == "https://metadata.example.com/" && !strings.Contains(result.Err.Error(), "10.9.8.7") {
			t.Errorf("the operator is not told the address: %v", result.Err)
		}
	}
}

// declaredOutcomes reads the constants from the source, so that a new one cannot be forgotten.
func declaredOutcomes(t *testing.T) []Outcome {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "outcome.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []Outcome
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Outcome" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, Outcome(text))
		}
		return true
	})
	if slices.Contains(found, "") || len(found) < 14 {
		t.Fatalf("found %v", found)
	}
	return found
}
