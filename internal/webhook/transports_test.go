package webhook_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
)

// records is a receiver that notes who came, by the names in their certificates, with which message, over which connection.
type records struct {
	mu    sync.Mutex
	by    map[string]string          // name by webhook-id
	conns map[string]map[string]bool // connections by name
	open  map[string]bool            // connections that are open
	http1 int
}

func newRecords() *records {
	return &records{by: map[string]string{}, conns: map[string]map[string]bool{}, open: map[string]bool{}}
}

func (r *records) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	name := "nobody"
	if peers := request.TLS.PeerCertificates; len(peers) > 0 {
		name = peers[0].Subject.CommonName
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by[request.Header.Get(webhook.HeaderID)] = name
	if r.conns[name] == nil {
		r.conns[name] = map[string]bool{}
	}
	r.conns[name][request.RemoteAddr] = true
	if request.ProtoMajor == 1 {
		r.http1++
	}
	if request.URL.Path == "/away" {
		http.Redirect(w, request, "/elsewhere", http.StatusTemporaryRedirect)
	}
}

// watch notes which connections are open.
func (r *records) watch(server *httptest.Server) {
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if state == http.StateClosed {
			delete(r.open, c.RemoteAddr().String())
		} else {
			r.open[c.RemoteAddr().String()] = true
		}
	}
}

// openOf counts the open connections that brought messages under a name.
func (r *records) openOf(name string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for address := range r.conns[name] {
		if r.open[address] {
			n++
		}
	}
	return n
}

func (r *records) of(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[id]
}

func (r *records) awaitClosed(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); r.openOf(name) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("connections of %s stay open", name)
		}
	}
}

func certificate(t *testing.T, authority *webhooktest.Authority, name string) webhook.ClientCertificate {
	t.Helper()
	chain, key := authority.New(t, name)
	parsed, err := webhook.ParseClientCertificate(chain, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func loopbackSender(t *testing.T, pool *x509.CertPool) *webhook.Sender {
	t.Helper()
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	sender := webhook.NewSender(webhook.SenderConfig{Guard: guard, RootCAs: pool, Timeout: 10 * time.Second})
	t.Cleanup(sender.Close)
	return sender
}

func signed(t *testing.T, url, id, endpoint string, c webhook.ClientCertificate) webhook.Request {
	t.Helper()
	secret, err := webhook.NewSecret(nil)
	if err != nil {
		t.Fatal(err)
	}
	return webhook.Request{URL: url, ID: id, Endpoint: endpoint, Certificate: c, Body: []byte("{}"), Secrets: []webhook.Secret{secret}}
}

// two endpoints on one host with different client certificates never share a connection. Each message arrives over
// one that was opened with the certificate of its endpoint, and connections are used again all the same.
func TestR47EndpointsDoNotShareConnections(t *testing.T) {
	t.Parallel()
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
			server, pool := authority.Serve(t, got, func(s *httptest.Server) { s.EnableHTTP2 = http2 })
			sender := loopbackSender(t, pool)
			certificates := map[string]webhook.ClientCertificate{"one": certificate(t, authority, "one"), "two": certificate(t, authority, "two")}
			const each, atOnce = 100, 8
			var done sync.WaitGroup
			for part := range atOnce {
				done.Go(func() {
					for i := part; i < each; i += atOnce {
						for endpoint, c := range certificates {
							result := sender.Send(t.Context(), signed(t, server.URL, fmt.Sprintf("msg_%s_%d", endpoint, i), "ep_"+endpoint, c))
							if result.Outcome != webhook.Delivered {
								t.Errorf("%s %d: %+v", endpoint, i, result)
							}
						}
					}
				})
			}
			done.Wait()
			for i := range each {
				for endpoint := range certificates {
					if by := got.of(fmt.Sprintf("msg_%s_%d", endpoint, i)); by != endpoint {
						t.Errorf("message %d of %s came from %q", i, endpoint, by)
					}
				}
			}
			for endpoint := range certificates {
				if n := len(got.conns[endpoint]); n == 0 || n > each/2 {
					t.Errorf("%d connections for %d messages of %s", n, each, endpoint)
				}
			}
			if (got.http1 == 0) != http2 {
				t.Errorf("%d messages came over HTTP/1.1", got.http1)
			}
		})
	}
}

// Another certificate is used from the next message on, and the connections of the one before are closed, also when there
// is none any more. Whoever shows none is not let in.
func TestSender_CertificateChanges(t *testing.T) {
	t.Parallel()
	authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
	server, pool := authority.Serve(t, got, got.watch)
	sender := loopbackSender(t, pool)
	for _, name := range []string{"first", "second"} {
		if result := sender.Send(t.Context(), signed(t, server.URL, "msg_"+name, "ep_1", certificate(t, authority, name))); result.Outcome != webhook.Delivered {
			t.Fatalf("%s: %+v", name, result)
		}
		if by := got.of("msg_" + name); by != name {
			t.Errorf("the %s came from %q", name, by)
		}
	}
	got.awaitClosed(t, "first")
	if got.openOf("second") != 1 {
		t.Error("the connection in use was closed")
	}
	// With TLS 1.3 the refusal races with our message.
	result := sender.Send(t.Context(), signed(t, server.URL, "msg_none", "ep_1", webhook.ClientCertificate{}))
	if result.Outcome != webhook.TLSError && result.Outcome != webhook.ConnectError || got.of("msg_none") != "" {
		t.Errorf("without a certificate: %+v", result)
	}
	got.awaitClosed(t, "second")
}

// F-33: what cannot go with the certificate does not go without it, even where the receiver would take it so.
func TestF33NothingGoesWithoutItsCertificate(t *testing.T) {
	t.Parallel()
	authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
	// This receiver is content with none, and names issuers that are not ours: crypto/tls by itself would show none.
	server, pool := authority.Serve(t, got, func(s *httptest.Server) {
		s.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: webhooktest.NewAuthority(t, "Others").Pool()}
	})
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	if err != nil {
		t.Fatal(err)
	}
	good := certificate(t, authority, "good")
	for what, c := range map[string]struct {
		url, endpoint string
		now           time.Time
		want          []webhook.Outcome
	}{
		"not one that the receiver trusts": {server.URL, "ep_1", time.Now(), []webhook.Outcome{webhook.TLSError, webhook.ConnectError}},
		"expired":                          {server.URL, "ep_1", time.Now().AddDate(200, 0, 0), []webhook.Outcome{webhook.BadCertificate}},
		"not valid yet":                    {server.URL, "ep_1", time.Now().AddDate(-200, 0, 0), []webhook.Outcome{webhook.BadCertificate}},
		"no TLS":                           {strings.Replace(server.URL, "https", "http", 1), "ep_1", time.Now(), []webhook.Outcome{webhook.BadCertificate}},
		"nobody's":                         {server.URL, "", time.Now(), []webhook.Outcome{webhook.InvalidRequest}},
	} {
		sender := webhook.NewSender(webhook.SenderConfig{
			Guard: guard, RootCAs: pool, Timeout: 10 * time.Second, Now: func() time.Time { return c.now },
		})
		result := sender.Send(t.Context(), signed(t, c.url, "msg_1", c.endpoint, good))
		if result.Outcome != c.want[0] && result.Outcome != c.want[len(c.want)-1] || result.Err == nil || result.Outcome.Permanent() && c.endpoint != "" {
			t.Errorf("%s: %+v", what, result)
		}
		sender.Close()
	}
	if len(got.by) > 0 {
		t.Errorf("it took %v", got.by)
	}
}

// A certificate opens no way around the guard, and to no other place.
func TestSender_CertificateStaysGuarded(t *testing.T) {
	t.Parallel()
	authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
	server, pool := authority.Serve(t, got)
	one := certificate(t, authority, "one")
	if result := loopbackSender(t, pool).Send(t.Context(), signed(t, server.URL+"/away", "msg_1", "ep_1", one)); result.Outcome != webhook.RedirectRefused {
		t.Errorf("a redirect: %+v", result)
	}
	public := webhook.NewSender(webhook.SenderConfig{RootCAs: pool, Resolver: webhook.FixedResolver(t, "127.0.0.1")})
	t.Cleanup(public.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	result := public.Send(t.Context(), signed(t, "https://example.com:"+port+"/", "msg_2", "ep_1", one))
	if result.Outcome != webhook.AddressRefused || got.of("msg_2") != "" {
		t.Errorf("a private address behind a public name: %+v", result)
	}
}

// With a proxy, what has a certificate goes through it too, and the receiver behind it sees the certificate.
func TestSender_CertificateThroughProxy(t *testing.T) {
	t.Parallel()
	authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
	server, pool := authority.Serve(t, got)
	proxy, asked := webhook.TunnelTo(t, server.Listener.Addr().String())
	sender := webhook.NewSender(webhook.SenderConfig{Proxy: proxy, RootCAs: pool, Timeout: 5 * time.Second})
	t.Cleanup(sender.Close)
	result := sender.Send(t.Context(), signed(t, "https://example.com/hook", "msg_1", "ep_1", certificate(t, authority, "one")))
	if result.Outcome != webhook.Delivered || got.of("msg_1") != "one" || asked() != 1 {
		t.Errorf("%+v, from %q, %d tunnels", result, got.of("msg_1"), asked())
	}
}

// What is kept is bounded: who was not heard of for the longest time makes room.
func TestSender_CertificatesMakeRoom(t *testing.T) {
	t.Parallel()
	authority, got := webhooktest.NewAuthority(t, "Acme"), newRecords()
	server, pool := authority.Serve(t, got, got.watch)
	sender := loopbackSender(t, pool)
	webhook.KeepTransports(sender, 2)
	names := []string{"one", "two", "one", "three"}
	certificates := map[string]webhook.ClientCertificate{}
	for i, name := range names {
		if certificates[name].IsZero() {
			certificates[name] = certificate(t, authority, name)
		}
		if result := sender.Send(t.Context(), signed(t, server.URL, fmt.Sprintf("msg_%d", i), "ep_"+name, certificates[name])); result.Outcome != webhook.Delivered {
			t.Fatalf("%s: %+v", name, result)
		}
	}
	got.awaitClosed(t, "two")
	if got.openOf("one") != 1 || got.openOf("three") != 1 {
		t.Error("another than the oldest made room")
	}
}
