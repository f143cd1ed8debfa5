package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// hostileAddresses must not be reachable by a webhook. Each stands for a range and a reason.
var hostileAddresses = []string{
	// this machine
	"127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.255", "0.0.0.0", "0.0.0.1", "0.255.255.255",
	// private, carrier-grade NAT, link-local with the metadata services of clouds
	"10.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255",
	"100.64.0.1", "100.100.100.200", "100.127.255.255", "169.254.0.1", "169.254.169.254", "169.254.170.2",
	// protocol assignments, relays, documentation, benchmarks
	"192.0.0.1", "192.0.0.170", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1",
	"198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
	// multicast, reserved, broadcast
	"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255",
	// IPv6: unspecified, loopback, IPv4 in its many disguises (compatible, mapped, translated, ISATAP)
	"::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
	"::ffff:0:127.0.0.1", "::5efe:127.0.0.1", "fe80::5efe:7f00:1",
	// NAT64, 6to4, Teredo and the other protocol assignments
	"64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:808:808::1",
	"2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff:ffff::1", "2001:db8::1",
	// unique local, link-local with and without a zone, site-local, documentation, SRv6, discard, multicast, unassigned
	"fc00::1", "fd00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1", "fe80::1%lo", "fe80::1%1", "fe80::a9fe:a9fe%eth0", "febf::1", "fec0::1", "feff::1",
	"2620:4f:8000::1", "3fff::1", "3fff:fff::1", "5f00::1", "100::1", "100:0:0:1::1", "ff02::1", "ff0e::1", "4000::1", "a000::1", "1fff::1",
}

var publicAddresses = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.215.14", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1",
	"169.253.255.255", "169.255.0.1", "172.15.255.255", "172.32.0.1", "192.167.255.255", "192.169.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.255",
	"2001:200::1", "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450:4001::1", "2003::1", "3ffe:ffff::1",
}

func newGuard(t testing.TB, allow string, options ...GuardOption) *Guard {
	t.Helper()
	prefixes, err := ParsePrefixes(allow)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := NewGuard(prefixes, options...)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

func network(addr string) string {
	if strings.Contains(addr, ":") {
		return "tcp6"
	}
	return "tcp4"
}

func TestGuard_Control(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "")
	if len(hostileAddresses) < 60 {
		t.Errorf("only %d hostile addresses", len(hostileAddresses))
	}
	for _, addr := range hostileAddresses {
		for _, port := range []string{"443", "8443", "80"} {
			if err := guard.Control(network(addr), net.JoinHostPort(addr, port), nil); !errors.Is(err, ErrAddressRefused) {
				t.Errorf("%s port %s: %v", addr, port, err)
			}
		}
		if err := guard.CheckURL("https://" + literal(addr) + "/"); err == nil {
			t.Errorf("a webhook may be registered at %s", addr)
		}
	}
	for _, addr := range publicAddresses {
		if err := guard.Control(network(addr), net.JoinHostPort(addr, "443"), nil); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if err := guard.CheckURL("https://" + literal(addr) + "/"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestGuard_RefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "0.0.0.0/0,::/0")
	for _, address := range []string{"", ":", ":443", "1.1.1.1", "1.1.1.1:", "1.1.1.1:http", "1.1.1.1:0", "1.1.1.1:65536", "1.1.1.1:-1",
		"example.com:443", "01.1.1.1:443", "1.1.1:443", "0x1.1.1.1:443", "16843009:443", "[1.1.1.1]:443", "2606:4700::1:443", "[::1", "[::1%]:443",
		"[fe80::1%lo]:443", "[::ffff:1.1.1.1]:443", "1.1.1.1\x00:443", "/run/postgresql/.s.PGSQL.5432", strings.Repeat("1", 1<<16)} {
		if err := guard.Control("tcp4", address, nil); !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, network := range []string{"", "tcp", "udp4", "udp6", "unix", "ip4"} {
		if err := guard.Control(network, "1.1.1.1:443", nil); !errors.Is(err, ErrAddressRefused) {
			t.Errorf("network %q: %v", network, err)
		}
	}
}

func TestGuard_Ports(t *testing.T) {
	t.Parallel()
	check := func(guard *Guard, port string, want bool) {
		t.Helper()
		if err := guard.Control("tcp4", "1.1.1.1:"+port, nil); (err == nil) != want {
			t.Errorf("port %s: %v", port, err)
		}
		if err := guard.CheckURL("https://hooks.example.com:" + port + "/"); (err == nil) != want {
			t.Errorf("URL with port %s: %v", port, err)
		}
	}
	standard := newGuard(t, "")
	for _, port := range []string{"443", "1024", "8443", "65535"} {
		check(standard, port, true)
	}
	for _, port := range []string{"1", "22", "25", "80", "110", "442", "1023"} {
		check(standard, port, false)
	}
	narrow := newGuard(t, "", WithPorts(443, 444))
	check(narrow, "444", true)
	check(narrow, "8443", false)
	if err := newGuard(t, "10.0.0.0/8").Control("tcp4", "10.1.2.3:80", nil); err != nil {
		t.Errorf("an allowed address has every port: %v", err)
	}
}

func TestGuard_Allow(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "10.1.0.0/16, fd00:1::/32,127.0.0.1/8")
	for addr, want := range map[string]bool{
		"10.1.0.1": true, "10.1.255.255": true, "10.0.255.255": false, "10.2.0.0": false, "127.9.9.9": true, "fd00:1::5": true,
		"fd00:2::5": false, "::1": false, "::ffff:10.1.0.1": false, "::ffff:127.0.0.1": false, "1.1.1.1": true, "fd00:1::5%eth0": false,
	} {
		if err := guard.Control(network(addr), net.JoinHostPort(addr, "443"), nil); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	everything := newGuard(t, "0.0.0.0/0,::/0")
	for _, addr := range []string{"0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "fe80::1%lo", "::ffff:8.8.8.8"} {
		if err := everything.Control(network(addr), net.JoinHostPort(addr, "443"), nil); err == nil {
			t.Errorf("%s can be allowed", addr)
		}
	}
	if _, err := NewGuard([]netip.Prefix{{}}); err == nil {
		t.Error("the zero prefix was taken")
	}
	if _, err := NewGuard([]netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}); err == nil {
		t.Error("a mapped prefix was taken, which no address would match")
	}
	for _, bad := range []string{"10.0.0.1", "10.0.0.0/33", "loopback", "10.0.0.0/8;127.0.0.0/8", "fe80::%lo/64"} {
		if _, err := ParsePrefixes(bad); err == nil {
			t.Errorf("%q was taken as a list of CIDRs", bad)
		}
	}
	if got, err := ParsePrefixes(" , ,"); err != nil || len(got) != 0 {
		t.Errorf("empty list: %v, %v", got, err)
	}
}

// Who allows NAT64 allows the internet behind it, not what is private there.
func TestGuard_NAT64(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "64:ff9b::/96,10.0.0.0/8")
	for addr, want := range map[string]bool{
		"64:ff9b::8.8.8.8": true, "64:ff9b::10.0.0.1": true,
		"64:ff9b::127.0.0.1": false, "64:ff9b::169.254.169.254": false, "64:ff9b::192.168.0.1": false, "64:ff9b:1::8.8.8.8": false,
	} {
		if err := guard.Control("tcp6", net.JoinHostPort(addr, "443"), nil); (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// rekey's own listeners stay out of reach where private ranges are allowed.
func TestGuard_Deny(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "127.0.0.0/8,::1/128,10.0.0.0/8", WithDeny(
		netip.MustParseAddrPort("127.0.0.1:5432"), netip.MustParseAddrPort("10.0.0.5:4222"), netip.MustParseAddrPort("0.0.0.0:8080"),
		netip.MustParseAddrPort("[::ffff:10.0.0.6]:9464")))
	for address, want := range map[string]bool{
		"127.0.0.1:5432": false, "127.0.0.1:5433": true, "127.0.0.2:5432": true, "10.0.0.5:4222": false, "10.0.0.6:4222": true, "10.0.0.6:9464": false,
		"127.0.0.1:8080": false, "127.7.7.7:8080": false, "[::1]:8080": false, "10.255.0.1:8080": true,
	} {
		if err := guard.Control("tcp4", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
		if err := guard.CheckURL("http://" + address + "/"); (err == nil) != want {
			t.Errorf("URL with %s: %v", address, err)
		}
	}
	if err := guard.CheckURL("http://localhost:8080/"); err != errURLOwn {
		t.Errorf("localhost:8080: %v", err)
	}
	if _, err := NewGuard(nil, WithDeny(netip.AddrPort{})); err == nil {
		t.Error("the zero address was taken")
	}
}

// literal writes an address as the host of a URL.
func literal(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + strings.ReplaceAll(addr, "%", "%25") + "]"
	}
	return addr
}

// through the client: the dialer refuses, without the check of the URL before it.
func TestSender_DialRefusesHostileAddresses(t *testing.T) {
	t.Parallel()
	sender := newSender(t, SenderConfig{})
	secret := newSecret(t)
	for _, addr := range hostileAddresses {
		for _, scheme := range []string{"https", "http"} {
			target := fmt.Sprintf("%s://%s:8443/", scheme, literal(addr))
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, nil)
			if err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			response, err := sender.transport.RoundTrip(request)
			if err == nil {
				response.Body.Close()
			}
			if !errors.Is(err, ErrAddressRefused) {
				t.Errorf("%s: %v", target, err)
			}
			result := sender.Send(t.Context(), Request{URL: target, ID: testID, Body: testBody, Secrets: []Secret{secret}})
			if result.Outcome != AddressRefused {
				t.Errorf("%s: sent with outcome %s, %v", target, result.Outcome, result.Err)
			}
		}
	}
}

// canary is a listener that must get no connection.
type canary struct {
	listener net.Listener
	hits     atomic.Int64
}

func newCanary(t testing.TB) *canary {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &canary{listener: listener}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.hits.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return c
}

func (c *canary) port() int { return c.listener.Addr().(*net.TCPAddr).Port }

func (c *canary) mustBeUntouched(t testing.TB) {
	t.Helper()
	// Dialling it ourselves makes sure that a connection made before would have been counted by now.
	conn, err := net.Dial("tcp4", c.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "our own connection to the canary", func() bool { return c.hits.Load() > 0 })
	if hits := c.hits.Load(); hits != 1 {
		t.Errorf("the canary got %d connections", hits-1)
	}
}

// a name that was public when somebody looked is judged by what it is when it is dialled.
func TestSender_Rebinding(t *testing.T) {
	t.Parallel()
	target := newCanary(t)
	resolver := newResolver(t, func(_ string, asked int) []netip.Addr {
		if asked == 0 {
			return []netip.Addr{netip.MustParseAddr("93.184.215.14")}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	})
	guard := newGuard(t, "")
	looked, err := resolver.LookupNetIP(t.Context(), "ip4", "rebind.example.com")
	if err != nil || len(looked) != 1 {
		t.Fatalf("lookup: %v, %v", looked, err)
	}
	if err := guard.Control("tcp4", netip.AddrPortFrom(looked[0].Unmap(), uint16(target.port())).String(), nil); err != nil {
		t.Fatalf("the first answer is public: %v", err)
	}
	result := newSender(t, SenderConfig{Guard: guard, Resolver: resolver}).Send(t.Context(), Request{
		URL: fmt.Sprintf("https://rebind.example.com:%d/", target.port()), ID: testID, Body: testBody, Secrets: []Secret{newSecret(t)}})
	if result.Outcome != AddressRefused {
		t.Errorf("outcome %s, %v", result.Outcome, result.Err)
	}
	target.mustBeUntouched(t)
}

// of a mixed set of answers, the bad one is refused when the good one does not answer. 127.0.0.2, where nobody
// listens, plays the public address.
func TestSender_MixedAnswers(t *testing.T) {
	t.Parallel()
	for _, answers := range [][]string{{"127.0.0.2", "127.0.0.1"}, {"127.0.0.1", "127.0.0.2"}} {
		target := newCanary(t)
		sender := newSender(t, SenderConfig{Guard: newGuard(t, "127.0.0.2/32,10.0.0.0/8"), Resolver: fixedResolver(t, answers...)})
		result := sender.Send(t.Context(), Request{
			URL: fmt.Sprintf("https://mixed.example.com:%d/", target.port()), ID: testID, Body: testBody, Secrets: []Secret{newSecret(t)}})
		if result.Outcome != AddressRefused && result.Outcome != ConnectError {
			t.Errorf("%v: outcome %s, %v", answers, result.Outcome, result.Err)
		}
		target.mustBeUntouched(t)
	}
}

// hosts that some system resolvers take for an IPv4 address are refused by name, and at the dial if a resolver
// does so: this one answers loopback to everything, as getaddrinfo does to these.
func TestSender_OddSpellings(t *testing.T) {
	t.Parallel()
	target := newCanary(t)
	sender := newSender(t, SenderConfig{Resolver: fixedResolver(t, "127.0.0.1")})
	for _, host := range []string{"2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "017700000001", "0", "127.0.0.1.",
		"127.0.0.01", "0x7f.0x0.0x0.0x1", "1.2.3.4.5", "127.0.0.1.nip.example.com", "hooks.example.com."} {
		raw := fmt.Sprintf("https://%s:%d/", host, target.port())
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := sender.transport.RoundTrip(request)
		if err == nil {
			response.Body.Close()
		}
		// A resolver may also refuse such a name itself.
		if _, isDNS := errors.AsType[*net.DNSError](err); !isDNS && !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%s: %v", host, err)
		}
		if result := sender.Send(t.Context(), Request{URL: raw, ID: testID, Body: testBody, Secrets: []Secret{newSecret(t)}}); result.Outcome != AddressRefused {
			t.Errorf("%s: outcome %s, %v", host, result.Outcome, result.Err)
		}
	}
	target.mustBeUntouched(t)
}

// The name localhost is where plain HTTP is allowed, so it must be this machine whatever a resolver says.
func TestGuard_LocalhostIsLoopback(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "127.0.0.0/8,::1/128,10.0.0.0/8")
	for address, want := range map[string]bool{"127.0.0.1:80": true, "10.0.0.1:80": false, "1.1.1.1:443": false, "junk": false} {
		if err := guard.controlLoopback("tcp4", address, nil); (err == nil) != want || err != nil && !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := newGuard(t, "").controlLoopback("tcp4", "127.0.0.1:80", nil); !errors.Is(err, ErrAddressRefused) {
		t.Errorf("loopback is not allowed, but: %v", err)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer receiver.Close()
	sender := newSender(t, SenderConfig{Guard: newGuard(t, "127.0.0.0/8"), Timeout: 5 * time.Second})
	result := sender.Send(context.Background(), Request{URL: strings.Replace(receiver.URL, "127.0.0.1", "LocalHost", 1), ID: testID, Body: testBody, Secrets: []Secret{newSecret(t)}})
	if result.Outcome != Delivered {
		t.Errorf("localhost: %s, %v", result.Outcome, result.Err)
	}
}
