// Package clientip tells which address a request comes from, behind proxies that are trusted to say so.
//
// X-Forwarded-For is a list to which each proxy adds the address it was connected from, at the right end. All that a
// caller sends itself is at the left, so the list is read from the right, and only as far as trusted proxies wrote it: the
// first address that is not one of theirs is the caller's. Without trusted proxies the header is not read at all.
package clientip

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// FromRequest returns the address of the caller, in one spelling: an IPv4 address is never written as IPv6, and there is
// no zone. It is the zero Addr if the connection has no such address (a Unix socket). Where the list cannot be read on, it
// is the last address that could be: that of a proxy.
func FromRequest(r *http.Request, trusted []netip.Prefix) netip.Addr {
	client := parse(r.RemoteAddr)
	lines := r.Header.Values("X-Forwarded-For") // several lines are one list
	for _, line := range slices.Backward(lines) {
		for more := true; more; {
			if !isTrusted(client, trusted) {
				return client
			}
			var entry string
			line, entry, more = cutLast(line)
			addr := parse(entry)
			if !addr.IsValid() {
				return client
			}
			client = addr
		}
	}
	return client
}

// cutLast takes the last entry off a list.
func cutLast(list string) (rest, entry string, more bool) {
	i := strings.LastIndexByte(list, ',')
	if i < 0 {
		return "", list, false
	}
	return list[:i], list[i+1:], true
}

// parse reads an address, with a port or without.
func parse(text string) netip.Addr {
	text = strings.Trim(text, " \t")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}

func isTrusted(addr netip.Addr, trusted []netip.Prefix) bool {
	return addr.IsValid() && slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}
