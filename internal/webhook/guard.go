package webhook

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

// ErrAddressRefused is in every error of a Guard about an address. The error's text names the address: it is for the
// operator.
var ErrAddressRefused = errors.New("address refused")

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// Guard decides which addresses webhooks may reach: the public internet, by the special-purpose registries of IANA, and
// what the operator allows beside it. It is safe for concurrent use.
type Guard struct {
	public *ssrf.Guardian
	allow  []netip.Prefix
	deny   []netip.AddrPort
	ports  []uint16
}

// GuardOption changes a Guard while it is made.
type GuardOption func(*Guard)

// WithPorts names the ports that may be reached on the public internet. Unset, these are 443 and every port from 1024:
// below it live services that were never meant to be spoken to in HTTP. Addresses in the allow list have no such limit.
func WithPorts(ports ...uint16) GuardOption {
	return func(g *Guard) { g.ports = slices.Clone(ports) }
}

// WithDeny names places that may never be reached, even inside the allow list: rekey's own listeners, its database, its
// NATS. An unspecified address (0.0.0.0 or ::) stands for its port on every address of this machine.
func WithDeny(own ...netip.AddrPort) GuardOption {
	return func(g *Guard) { g.deny = slices.Clone(own) }
}

// NewGuard makes a Guard that lets through the public internet and the prefixes in allow.
func NewGuard(allow []netip.Prefix, options ...GuardOption) (*Guard, error) {
	g := &Guard{public: ssrf.New(ssrf.WithAnyPort())}
	for _, prefix := range allow {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("make webhook guard: allowed prefix %s: want an IPv4 or IPv6 prefix", prefix)
		}
		g.allow = append(g.allow, prefix.Masked())
	}
	for _, option := range options {
		option(g)
	}
	for _, own := range g.deny {
		if !own.IsValid() {
			return nil, fmt.Errorf("make webhook guard: denied address %s: want address and port", own)
		}
	}
	return g, nil
}

// LoopbackPrefixes is what `rekey dev` allows: this machine.
func LoopbackPrefixes() []netip.Prefix { return []netip.Prefix{loopback4, loopback6} }

// ParsePrefixes reads a list of CIDRs with commas between them, as REKEY_WEBHOOK_ALLOW has it. An empty list is none.
func ParsePrefixes(list string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, fmt.Errorf("parse allowed prefix %q (want a CIDR such as 10.0.0.0/8): %w", item, err)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// Control is for net.Dialer: it sees the address that is about to be connected to, after names were resolved, and
// refuses it by an error that is ErrAddressRefused.
func (g *Guard) Control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return refuse(address, "not TCP")
	}
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return refuse(address, "not an address and a port")
	}
	return g.check(target)
}

// controlLoopback is Control for the name localhost: a resolver that sends it elsewhere would make us speak plain HTTP
// to the network.
func (g *Guard) controlLoopback(network, address string, c syscall.RawConn) error {
	if target, err := netip.ParseAddrPort(address); err != nil || !target.Addr().IsLoopback() {
		return refuse(address, "localhost is elsewhere")
	}
	return g.Control(network, address, c)
}

func (g *Guard) check(target netip.AddrPort) error {
	addr := target.Addr()
	switch {
	case !addr.IsValid() || target.Port() == 0:
		return refuse(target.String(), "incomplete")
	case addr.Zone() != "":
		return refuse(target.String(), "has a zone")
	case addr.Is4In6():
		// One spelling for each address. The dialer turns these into IPv4 before they get here.
		return refuse(target.String(), "IPv4 written as IPv6")
	case addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast:
		// No prefix can allow these: an unspecified address is this machine under another name.
		return refuse(target.String(), "not the address of one machine")
	case g.denies(target):
		return refuse(target.String(), "belongs to rekey itself")
	case g.allows(addr):
		return g.checkEmbedded(target)
	}
	if err := g.public.SafeAddr(addr); err != nil {
		return fmt.Errorf("%w: %w", ErrAddressRefused, err)
	}
	if !g.portOpen(target.Port()) {
		return refuse(target.String(), "port is not allowed")
	}
	return nil
}

// checkEmbedded judges what stands behind an allowed NAT64 address: a gateway translates it to IPv4, and allowing the
// gateway is not meant to allow every private address behind it.
func (g *Guard) checkEmbedded(target netip.AddrPort) error {
	if !ssrf.IPv6NAT64Prefix.Contains(target.Addr()) {
		return nil
	}
	bytes := target.Addr().As16()
	return g.check(netip.AddrPortFrom(netip.AddrFrom4([4]byte(bytes[12:])), target.Port()))
}

func (g *Guard) allows(addr netip.Addr) bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (g *Guard) denies(target netip.AddrPort) bool {
	return slices.ContainsFunc(g.deny, func(own netip.AddrPort) bool {
		if own.Port() != target.Port() {
			return false
		}
		ownAddr := own.Addr().Unmap()
		return ownAddr == target.Addr() || ownAddr.IsUnspecified() && onThisMachine(target.Addr())
	})
}

// onThisMachine asks the system each time, since addresses come and go; it is asked only when the port already matches.
func onThisMachine(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == addr
	})
}

func (g *Guard) portOpen(port uint16) bool {
	if len(g.ports) == 0 {
		return port == 443 || port >= 1024
	}
	return slices.Contains(g.ports, port)
}

// allowsLoopback says whether receivers on this machine are wanted at all.
func (g *Guard) allowsLoopback() bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool {
		return p.Overlaps(loopback4) || p.Overlaps(loopback6)
	})
}

// allowsPrivate says whether the operator allows more than this machine, and so has receivers with internal names.
func (g *Guard) allowsPrivate() bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool {
		return !loopback4.Contains(p.Addr()) && !loopback6.Contains(p.Addr())
	})
}

func refuse(address, why string) error {
	return fmt.Errorf("%w: %s: %s", ErrAddressRefused, address, why)
}
