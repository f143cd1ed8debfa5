package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// by name: whatever a name resolves to is judged like an address in the URL.
func TestSender_HostileNames(t *testing.T) {
	t.Parallel()
	byName := make(map[string][]netip.Addr)
	for i, text := range hostileAddresses {
		addr := netip.MustParseAddr(text)
		if addr.Zone() == "" { // no DNS answer has one
			byName[fmt.Sprintf("h%d.example.com", i)] = []netip.Addr{addr}
		}
	}
	if len(byName) < 60 {
		t.Fatalf("only %d names", len(byName))
	}
	// Mixed families and mixed answers without one good address among them.
	byName["mixed.example.com"] = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("64:ff9b::7f00:1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::1")}
	sender := newSender(t, SenderConfig{Resolver: newResolver(t, func(name string, _ int) []netip.Addr { return byName[name] }), Timeout: 10 * time.Second})
	for name, addrs := range byName {
		result := sender.Send(t.Context(), requestTo(t, "https://"+name+":8443/"))
		if result.Outcome != AddressRefused || !errors.Is(result.Err, ErrAddressRefused) {
			t.Errorf("%v: %s, %v", addrs, result.Outcome, result.Err)
		}
	}
}

// R-45 through the client: rekey's own listeners get no connection where their network is allowed, under any name.
func TestSender_OwnListeners(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]string{"loopback": "127.0.0.1", "every address": "0.0.0.0", "every address, IPv6": "[::]"} {
		target := newCanary(t)
		guard := newGuard(t, loopbackCIDRs+",10.0.0.0/8", WithDeny(netip.MustParseAddrPort(fmt.Sprintf("%s:%d", own, target.port()))))
		sender := newSender(t, SenderConfig{Guard: guard, Resolver: fixedResolver(t, "127.0.0.1"), Timeout: 5 * time.Second})
		for _, url := range []string{"http://127.0.0.1:%d/", "https://127.0.0.1:%d/", "http://localhost:%d/", "https://database.internal:%d/", "https://hooks.example.com:%d/"} {
			if result := sender.Send(t.Context(), requestTo(t, fmt.Sprintf(url, target.port()))); result.Outcome != AddressRefused {
				t.Errorf("%s: %s: %+v", name, url, result)
			}
		}
		target.mustBeUntouched(t)
	}
}

// what an owner is told about a URL names no address, not even one the owner wrote.
func TestGuard_RefusalsNameNoAddress(t *testing.T) {
	t.Parallel()
	guard := newGuard(t, "", WithDeny(netip.MustParseAddrPort("127.0.0.1:5432")))
	for _, addr := range hostileAddresses {
		for _, url := range []string{"https://" + literal(addr) + ":5432/", "http://" + literal(addr) + "/"} {
			err := guard.CheckURL(url)
			if _, ok := errors.AsType[*URLError](err); !ok || strings.Contains(err.Error(), addr) {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
}

const cgoChild = "REKEY_TEST_WEBHOOK_CGO_CHILD"

// R-43 with the resolver of the C library, which takes 127.1 and its like for addresses. The choice of the resolver is
// made once per process, hence the child.
func TestSender_SystemResolver(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("another C library reads other spellings")
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSender_SystemResolverChild$", "-test.v")
	child.Env = append(os.Environ(), cgoChild+"=1", "GODEBUG=netdns=cgo")
	output, err := child.CombinedOutput()
	if bytes.Contains(output, []byte("built without cgo")) {
		t.Skip("built without cgo: there is only one resolver, which TestSender_OddSpellings asks")
	}
	if err != nil || !bytes.Contains(output, []byte("--- PASS: TestSender_SystemResolverChild")) {
		t.Errorf("child: %v\n%s", err, output)
	}
}

func TestSender_SystemResolverChild(t *testing.T) {
	if os.Getenv(cgoChild) != "1" {
		t.Skip("runs as the child of TestSender_SystemResolver")
	}
	if addrs, err := net.DefaultResolver.LookupHost(t.Context(), "127.1"); err != nil || len(addrs) == 0 || addrs[0] != "127.0.0.1" {
		t.Skipf("built without cgo: %v, %v", addrs, err)
	}
	target := newCanary(t)
	sender := newSender(t, SenderConfig{Timeout: 5 * time.Second})
	for _, host := range []string{"2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "017700000001", "0", "127.0.0.01", "0x7f.0x0.0x0.0x1"} {
		url := fmt.Sprintf("https://%s:%d/", host, target.port())
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := sender.transport.RoundTrip(request)
		if err == nil {
			response.Body.Close()
		}
		if !errors.Is(err, ErrAddressRefused) {
			t.Errorf("%s: %v", host, err)
		}
		if result := sender.Send(t.Context(), requestTo(t, url)); result.Outcome != AddressRefused {
			t.Errorf("%s: %+v", host, result)
		}
	}
	target.mustBeUntouched(t)
}
