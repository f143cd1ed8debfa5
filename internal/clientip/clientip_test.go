package clientip_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/clientip"
)

var trusted = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("fd00::/8"),
}

func request(remote string, forwarded ...string) *http.Request {
	return &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": forwarded}}
}

func TestFromRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what      string
		remote    string
		forwarded []string
		want      string // empty: none
	}{
		{"nothing forwarded", "192.0.2.7:5000", nil, "192.0.2.7"},
		{"a stranger's header is not read", "192.0.2.7:5000", []string{"198.51.100.1"}, "192.0.2.7"},
		{"a stranger that names a trusted one", "192.0.2.7:5000", []string{"10.0.0.1"}, "192.0.2.7"},
		{"a trusted proxy", "10.0.0.1:5000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a trusted proxy that says nothing", "10.0.0.1:5000", nil, "10.0.0.1"},
		{"what the caller wrote itself is at the left", "10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{"a chain of trusted proxies", "10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.1, 10.0.0.3,10.0.0.2"}, "198.51.100.1"},
		{"trusted ones only", "10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"several lines are one list", "10.0.0.1:5000", []string{"203.0.113.9", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"the forged line is first", "10.0.0.1:5000", []string{"10.0.0.9", "198.51.100.1"}, "198.51.100.1"},
		{"garbage at the end", "10.0.0.1:5000", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"garbage stops the walk", "10.0.0.1:5000", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"an empty line", "10.0.0.1:5000", []string{""}, "10.0.0.1"},
		{"an empty last line", "10.0.0.1:5000", []string{"198.51.100.1", ""}, "10.0.0.1"},
		{"an empty entry", "10.0.0.1:5000", []string{"198.51.100.1,,10.0.0.2"}, "10.0.0.2"},
		{"a comma at the end", "10.0.0.1:5000", []string{"198.51.100.1,"}, "10.0.0.1"},
		{"blanks and tabs", "10.0.0.1:5000", []string{"203.0.113.9,\t 198.51.100.1 \t"}, "198.51.100.1"},
		{"a name is no address", "10.0.0.1:5000", []string{"localhost"}, "10.0.0.1"},
		{"with a port", "10.0.0.1:5000", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"IPv6", "[fd00::1]:5000", []string{"2001:db8::1, [2001:DB8:0::2]:4711"}, "2001:db8::2"},
		{"IPv4 written as IPv6 is trusted alike", "[::ffff:10.0.0.1]:5000", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"IPv4 written as IPv6 in the chain", "10.0.0.1:5000", []string{"198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		{"no zone", "[fe80::1%eth0]:5000", nil, "fe80::1"},
		{"a zone hides no trusted proxy", "[fd00::1%eth0]:5000", []string{"fe80::2%lo"}, "fe80::2"},
		{"a number is no address", "10.0.0.1:5000", []string{"3221225985"}, "10.0.0.1"},
		{"octal is no address", "10.0.0.1:5000", []string{"0300.0.2.1"}, "10.0.0.1"},
		{"a Unix socket", "@", []string{"198.51.100.1"}, ""},
		{"no connection", "", []string{"198.51.100.1"}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			var want netip.Addr
			if c.want != "" {
				want = netip.MustParseAddr(c.want)
			}
			if got := clientip.FromRequest(request(c.remote, c.forwarded...), trusted); got != want {
				t.Errorf("from %s, forwarded %q: %s, want %s", c.remote, c.forwarded, got, want)
			}
		})
	}
	if got := clientip.FromRequest(request("10.0.0.1:5000", "198.51.100.1"), nil); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("nobody is trusted, and the header is read: %s", got)
	}
}

// FuzzFromRequest: whatever a caller writes at the left of the list, the answer is what the trusted proxies at its right
// end saw; and the answer is always in the one spelling.
func FuzzFromRequest(f *testing.F) {
	for _, forged := range []string{"", ",", "10.0.0.1", "unknown", "198.51.100.1, 10.0.0.2", "[::1]:80", "::ffff:10.0.0.1%x", "a\x00,b\n"} {
		f.Add("10.0.0.1:5000", forged, "198.51.100.7")
	}
	f.Add("[fd00::1%z]:1", "fe80::1%eth0", "2001:db8::1")
	f.Fuzz(func(t *testing.T, remote, forged, seen string) {
		got := clientip.FromRequest(request(remote, forged), trusted)
		if got.Is4In6() || got.Zone() != "" {
			t.Errorf("%s is not in its one spelling", got)
		}
		again := clientip.FromRequest(request(remote, strings.Split(forged, ",")...), trusted)
		if again != got {
			t.Errorf("as lines of one entry each: %s, as one line: %s", again, got)
		}
		caller, err := netip.ParseAddr(seen)
		if err != nil || caller.Zone() != "" || caller.Is4In6() || trusted[0].Contains(caller) || trusted[1].Contains(caller) || trusted[2].Contains(caller) {
			return
		}
		for _, tail := range []string{seen, seen + ", 10.1.2.3", seen + ",fd00::2,127.0.0.1"} {
			if got := clientip.FromRequest(request("10.0.0.1:5000", forged+","+tail), trusted); got != caller {
				t.Errorf("a proxy saw %s, and the answer is %s", caller, got)
			}
		}
	})
}
