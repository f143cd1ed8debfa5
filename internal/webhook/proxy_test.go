package webhook

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// connectProxy answers CONNECT with a status; 200 tunnels to wherever it is told to, whatever was asked for.
type connectProxy struct {
	server *httptest.Server
	status atomic.Int64
	asked  atomic.Value // what the last one asked for
	login  atomic.Value
	count  atomic.Int64
}

func newConnectProxy(t *testing.T, target string) *connectProxy {
	t.Helper()
	p := &connectProxy{}
	p.status.Store(http.StatusOK)
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.count.Add(1)
		p.asked.Store(r.Method + " " + r.Host)
		p.login.Store(r.Header.Get("Proxy-Authorization"))
		if status := int(p.status.Load()); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		upstream, err := net.Dial("tcp", target)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer upstream.Close()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(upstream, client); _ = upstream.Close() }()
		_, _ = io.Copy(client, upstream)
	}))
	t.Cleanup(p.server.Close)
	return p
}

// R-39, 7.6 rule 5: with a proxy of the configuration, HTTPS leaves through it and nothing else does. What the proxy says
// of a receiver counts; that the proxy itself fails does not.
func TestSender_Proxy(t *testing.T) {
	t.Parallel()
	var got capture
	receiver, pool := tlsServer(t, got.ServeHTTP, nil)
	proxy := newConnectProxy(t, receiver.Listener.Addr().String())
	address, err := ParseProxy(strings.Replace(proxy.server.URL, "http://", "http://rekey:hidden-password@", 1))
	if err != nil {
		t.Fatal(err)
	}
	// The guard lets nothing private through: the hop to the proxy is not its business, the URL still is.
	sender := newSender(t, SenderConfig{Proxy: address, RootCAs: pool, Timeout: 5 * time.Second})
	send := func(address string) Result {
		t.Helper()
		result := sender.Send(t.Context(), requestTo(t, address))
		if result.Err != nil && strings.Contains(result.Err.Error(), "hidden-password") {
			t.Errorf("an error holds the proxy's password: %v", result.Err)
		}
		return result
	}
	const target = "https://example.com/hook"
	if result := send(target); result.Outcome != Delivered {
		t.Fatalf("through the proxy: %+v", result)
	}
	if asked := proxy.asked.Load(); asked != "CONNECT example.com:443" || proxy.login.Load() == "" {
		t.Errorf("the proxy was asked %q with login %q", asked, proxy.login.Load())
	}
	sender = newSender(t, SenderConfig{Proxy: address, RootCAs: pool, Timeout: 5 * time.Second}) // a tunnel that is there would be used again
	for status, want := range map[int64]Outcome{
		http.StatusForbidden: AddressRefused, http.StatusBadGateway: ConnectError, http.StatusServiceUnavailable: ConnectError,
		http.StatusGatewayTimeout: ConnectError, http.StatusProxyAuthRequired: ProxyFailed, http.StatusInternalServerError: ProxyFailed,
		http.StatusTeapot: ProxyFailed,
	} {
		proxy.status.Store(status)
		if result := send(target); result.Outcome != want || result.Status != 0 {
			t.Errorf("the proxy answers %d: %+v, want %s", status, result, want)
		}
	}
	asked := proxy.count.Load()
	for _, refused := range []string{"https://127.0.0.1/hook", "https://localhost/hook", "http://example.com/hook", "https://user@example.com/hook"} {
		if result := send(refused); result.Outcome != AddressRefused {
			t.Errorf("%s: %+v", refused, result)
		}
	}
	// Plain HTTP, which is for this machine alone, does not go through it.
	local := serve(t, got.ServeHTTP)
	dev := newSender(t, SenderConfig{Guard: newGuard(t, loopbackCIDRs), Proxy: address})
	if result := dev.Send(t.Context(), requestTo(t, local.URL)); result.Outcome != Delivered {
		t.Errorf("to this machine: %+v", result)
	}
	if n := proxy.count.Load(); n != asked {
		t.Errorf("the proxy was asked %d times for what must not go through it", n-asked)
	}
	proxy.server.Close()
	if result := send(target); result.Outcome != ProxyFailed {
		t.Errorf("without a proxy: %+v", result)
	}
}

func TestParseProxy(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"http://proxy.example.com:3128", "http://10.0.0.1", "http://a:b@[::1]:3128/"} {
		if _, err := ParseProxy(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "proxy:3128", "https://proxy", "socks5://hidden", "http://", "http://:3128", "http://p/path", "http://p?hidden", "http://p#hidden", "http://hidden%zz"} {
		got, err := ParseProxy(bad)
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, %v", bad, (*url.URL)(got), err)
		}
	}
}
