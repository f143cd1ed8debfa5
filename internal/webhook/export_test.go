package webhook

import (
	"net"
	"net/url"
	"testing"
)

// FixedResolver is for tests outside of the package.
func FixedResolver(t testing.TB, addrs ...string) *net.Resolver {
	t.Helper()
	return fixedResolver(t, addrs...)
}

// TunnelTo runs a proxy that leads everybody to one place, and counts who asked.
func TunnelTo(t *testing.T, target string) (proxy *url.URL, asked func() int64) {
	t.Helper()
	p := newConnectProxy(t, target)
	address, err := ParseProxy(p.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return address, p.count.Load
}

// KeepTransports sets for how many endpoints transports are kept.
func KeepTransports(s *Sender, size int) { s.own.size = size }
