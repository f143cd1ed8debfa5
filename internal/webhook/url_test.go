package webhook

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestGuard_CheckURL(t *testing.T) {
	t.Parallel()
	strict, dev, private := newGuard(t, ""), newGuard(t, "127.0.0.0/8,::1/128"), newGuard(t, "10.0.0.0/8")
	if got := LoopbackPrefixes(); len(got) != 2 || got[0].String() != "127.0.0.0/8" || got[1].String() != "::1/128" {
		t.Errorf("loopback is %v", got)
	}
	tests := []struct {
		url                        string
		inStrict, inDev, inPrivate error
	}{
		// what works everywhere
		{"https://hooks.example.com", nil, nil, nil},
		{"https://hooks.example.com/rekey?token=a%20b&x", nil, nil, nil},
		{"HTTPS://Hooks.Example.COM:8443/", nil, nil, nil},
		{"https://a_b.example.com/", nil, nil, nil},
		{"https://xn--bcher-kva.example/", nil, nil, nil},
		{"https://8.8.8.8/", nil, nil, nil},
		{"https://[2606:4700:4700::1111]:8443/", nil, nil, nil},
		{"https://1password.example.com/", nil, nil, nil},
		{"https://hooks.example.com/" + strings.Repeat("a", 2048-26), nil, nil, nil},
		// http
		{"http://hooks.example.com/", errURLPlain, errURLPlain, errURLPlain},
		{"http://8.8.8.8/", errURLPlain, errURLPlain, errURLPlain},
		{"http://127.0.0.1:9000/", errURLPlain, nil, errURLPlain},
		{"http://[::1]:9000/", errURLPlain, nil, errURLPlain},
		{"http://10.0.0.1/", errURLPlain, errURLPlain, nil},
		{"http://localhost:9000/", errURLInternal, nil, errURLPlain},
		{"http://LOCALHOST/", errURLInternal, nil, errURLPlain},
		// private addresses
		{"https://127.0.0.1/", errURLAddress, nil, errURLAddress},
		{"https://10.0.0.1/", errURLAddress, errURLAddress, nil},
		{"https://169.254.169.254/latest/meta-data/", errURLAddress, errURLAddress, errURLAddress},
		{"https://[::ffff:127.0.0.1]/", errURLAddress, errURLAddress, errURLAddress},
		{"https://[fe80::1%25lo]/", errURLAddress, errURLAddress, errURLAddress},
		{"http://[fe80::1%25lo]/", errURLAddress, errURLAddress, errURLAddress},
		{"https://0.0.0.0/", errURLAddress, errURLAddress, errURLAddress},
		// names of private networks
		{"https://localhost/", errURLInternal, nil, nil},
		{"https://receiver/", errURLInternal, errURLInternal, nil},
		{"https://a.localhost/", errURLInternal, errURLInternal, nil},
		{"https://printer.local/", errURLInternal, errURLInternal, nil},
		{"https://metadata.google.internal/", errURLInternal, errURLInternal, nil},
		{"https://api.default.svc/", errURLInternal, errURLInternal, nil},
		{"https://api.default.svc.cluster.local/", errURLInternal, errURLInternal, nil},
		{"https://db.LocalDomain/", errURLInternal, errURLInternal, nil},
		// numbers as hosts
		{"https://2130706433/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://127.1/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://0x7f.1/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://0X7F000001/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://0177.0.0.1/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://256.1.1.1/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://a.0x/", errURLNumeric, errURLNumeric, errURLNumeric},
		{"https://127.0.0.1./", errURLHost, errURLHost, errURLHost},
		// hosts
		{"https://hooks.example.com./", errURLHost, errURLHost, errURLHost},
		{"https://.example.com/", errURLHost, errURLHost, errURLHost},
		{"https://a..b.com/", errURLHost, errURLHost, errURLHost},
		{"https://-a.example.com/", errURLHost, errURLHost, errURLHost},
		{"https://a-.example.com/", errURLHost, errURLHost, errURLHost},
		{"https://a!b.example.com/", errURLHost, errURLHost, errURLHost},
		{"https://" + strings.Repeat("a", 64) + ".com/", errURLHost, errURLHost, errURLHost},
		{"https://" + strings.Repeat("a.", 130) + "com/", errURLHost, errURLHost, errURLHost},
		{"https://h%C3%A9.example.com/", errURLHost, errURLHost, errURLHost},
		// ports
		{"https://hooks.example.com:/", errURLPort, errURLPort, errURLPort},
		{"https://hooks.example.com:0/", errURLPort, errURLPort, errURLPort},
		{"https://hooks.example.com:65536/", errURLPort, errURLPort, errURLPort},
		{"https://hooks.example.com:0443/", errURLPort, errURLPort, errURLPort},
		{"https://hooks.example.com:99999999999999999999/", errURLPort, errURLPort, errURLPort},
		{"https://hooks.example.com:25/", errURLPortClosed, errURLPortClosed, nil},
		{"https://8.8.8.8:25/", errURLPortClosed, errURLPortClosed, errURLPortClosed},
		// schemes and shape
		{"", errURLScheme, errURLScheme, errURLScheme},
		{"hooks.example.com", errURLScheme, errURLScheme, errURLScheme},
		{"/relative", errURLScheme, errURLScheme, errURLScheme},
		{"//hooks.example.com/", errURLScheme, errURLScheme, errURLScheme},
		{"ftp://hooks.example.com/", errURLScheme, errURLScheme, errURLScheme},
		{"file:///etc/passwd", errURLScheme, errURLScheme, errURLScheme},
		{"gopher://127.0.0.1:6379/_x", errURLScheme, errURLScheme, errURLScheme},
		{"unix:///run/docker.sock", errURLScheme, errURLScheme, errURLScheme},
		{"javascript:alert(1)", errURLScheme, errURLScheme, errURLScheme},
		{"https:hooks.example.com", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https:///path", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://[::1/", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://example.com\\@127.0.0.1/", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://%zz/", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://hooks.example.com:port/", errURLMalformed, errURLMalformed, errURLMalformed},
		{"https://user@hooks.example.com/", errURLUser, errURLUser, errURLUser},
		{"https://user:password@hooks.example.com/", errURLUser, errURLUser, errURLUser},
		{"https://@hooks.example.com/", errURLUser, errURLUser, errURLUser},
		{"https://hooks.example.com@127.0.0.1/", errURLUser, errURLUser, errURLUser},
		{"https://hooks.example.com/#a", errURLFragment, errURLFragment, errURLFragment},
		{"https://hooks.example.com/#", errURLFragment, errURLFragment, errURLFragment},
		// characters and length
		{"https://hooks.example.com/\x00", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/\r\nHost: evil", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/a b", errURLCharacters, errURLCharacters, errURLCharacters},
		{" https://hooks.example.com/", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/\t", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hé.example.com/", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://①②⑦.⓪.⓪.①/", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/\xff", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/\x7f", errURLCharacters, errURLCharacters, errURLCharacters},
		{"https://hooks.example.com/" + strings.Repeat("a", 2048-25), errURLTooLong, errURLTooLong, errURLTooLong},
	}
	for _, test := range tests {
		for name, in := range map[string]struct {
			guard *Guard
			want  error
		}{"strict": {strict, test.inStrict}, "dev": {dev, test.inDev}, "private": {private, test.inPrivate}} {
			if got := in.guard.CheckURL(test.url); got != in.want {
				t.Errorf("%s guard, %.60q: %v, want %v", name, test.url, got, in.want)
			}
		}
	}
}

// Nothing that is entered makes CheckURL panic, what it refuses it explains, and what it accepts is nothing but a way to
// an address that the guard judges the same.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://hooks.example.com/", "http://localhost:1", "https://[fe80::1%25lo]/", "https://[::ffff:127.0.0.1]:443/",
		"https://a@b:1#c", "https://0x7f.1", "https:%2f%2fa", "https://[v1.x]/", "http://127.0.0.1:80/\x00", "https://xn--/", "https://[::1]x/", "https://a%00b/"} {
		f.Add(seed)
	}
	guards := []*Guard{newGuard(f, ""), newGuard(f, "127.0.0.0/8,::1/128"), newGuard(f, "0.0.0.0/0,::/0")}
	f.Fuzz(func(t *testing.T, raw string) {
		for i, guard := range guards {
			err := guard.CheckURL(raw)
			if err != nil {
				if e, ok := errors.AsType[*URLError](err); !ok || e.Reason == "" || e.Remedy == "" {
					t.Errorf("guard %d: %q: not explained: %v", i, raw, err)
				}
				continue
			}
			u, err := url.Parse(raw)
			if err != nil || u.User != nil || u.Fragment != "" || u.Hostname() == "" {
				t.Fatalf("guard %d: accepted %q", i, raw)
			}
			addr, err := netip.ParseAddr(u.Hostname())
			if err != nil {
				if u.Scheme == "http" && !strings.EqualFold(u.Hostname(), "localhost") {
					t.Errorf("guard %d: plain http to a name: %q", i, raw)
				}
				continue
			}
			port := u.Port()
			if port == "" {
				port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
			}
			if err := guard.Control(network(addr.String()), net.JoinHostPort(addr.String(), port), nil); err != nil {
				t.Errorf("guard %d: %q is accepted, but %v", i, raw, err)
			}
		}
	})
}
