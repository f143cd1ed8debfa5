package webhook

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const maxURLLength = 2048

// URLError says why a webhook URL is not accepted and what to do, in words for the person who entered it.
type URLError struct {
	Reason string
	Remedy string
}

// Error gives both sentences.
func (e *URLError) Error() string { return e.Reason + " " + e.Remedy }

// The rules for a webhook URL, each with its way out. None names an address or what a name resolves to.
var (
	errURLTooLong = &URLError{
		"The webhook URL is longer than 2048 characters.", "Use a shorter URL."}
	errURLCharacters = &URLError{
		"The webhook URL has a space, a control character or a character outside ASCII.",
		"Percent-encode such characters, and write an international host name in its xn-- form."}
	errURLMalformed = &URLError{
		"The webhook URL cannot be read as a URL.", "Write it like https://hooks.example.com/rekey."}
	errURLScheme = &URLError{
		"The webhook URL does not start with https://.", "Serve the receiver over https and use that URL."}
	errURLPlain = &URLError{
		"The webhook URL uses http, which would send secrets readable over the network.",
		"Use https. In development, http works for localhost and for literal addresses in REKEY_WEBHOOK_ALLOW."}
	errURLUser = &URLError{
		"The webhook URL has a user name or password in it.",
		"Remove them; check the message's signature instead."}
	errURLFragment = &URLError{
		"The webhook URL has a # part, which is never sent.", "Remove the # and what follows it."}
	errURLHost = &URLError{
		"The webhook URL has no valid host name.",
		"Use a full host name such as hooks.example.com, without a full stop at its end."}
	errURLNumeric = &URLError{
		"The host of the webhook URL is a number, but not an address in its usual form.",
		"Write an IPv4 address as four decimal numbers, or use a host name."}
	errURLInternal = &URLError{
		"The host of the webhook URL is a name that only works inside a private network.",
		"Use a host name that is reachable from the internet, or let the operator allow the network in REKEY_WEBHOOK_ALLOW."}
	errURLAddress = &URLError{
		"The address in the webhook URL is not on the public internet.",
		"Use a public host name, or let the operator allow the address in REKEY_WEBHOOK_ALLOW."}
	errURLOwn = &URLError{
		"The webhook URL points at rekey itself or at a service it runs on.", "Use the address of your receiver."}
	errURLPort = &URLError{
		"The port in the webhook URL is not between 1 and 65535.", "Use port 443, or leave the port out."}
	errURLPortClosed = &URLError{
		"The port in the webhook URL is not one that webhooks may use.", "Use port 443, or leave the port out."}
)

// CheckURL says whether a webhook may be registered at raw: nil or a *URLError. It resolves no names. It is there for
// good messages; what protects the network is Control, at every connection.
func (g *Guard) CheckURL(raw string) error {
	if e := g.checkURL(raw); e != nil {
		return e
	}
	return nil
}

func (g *Guard) checkURL(raw string) *URLError {
	if len(raw) > maxURLLength {
		return errURLTooLong
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] > '~' {
			return errURLCharacters
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errURLMalformed
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errURLScheme
	case u.Opaque != "" || u.Host == "":
		return errURLMalformed
	case u.User != nil:
		return errURLUser
	case strings.Contains(raw, "#"):
		return errURLFragment
	}
	port, e := urlPort(u)
	if e != nil {
		return e
	}
	if strings.HasPrefix(u.Host, "[") || isDottedQuad(u.Hostname()) {
		return g.checkLiteral(u.Scheme, u.Hostname(), port)
	}
	return g.checkName(u.Scheme, strings.ToLower(u.Hostname()), port)
}

// urlPort takes a port in its one spelling, or the scheme's own.
func urlPort(u *url.URL) (uint16, *URLError) {
	text := u.Port()
	if text == "" {
		if strings.HasSuffix(u.Host, ":") {
			return 0, errURLPort
		}
		if u.Scheme == "http" {
			return 80, nil
		}
		return 443, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return 0, errURLPort
	}
	return uint16(port), nil
}

func (g *Guard) checkLiteral(scheme, host string, port uint16) *URLError {
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return errURLHost
	case addr.Zone() != "":
		return errURLAddress
	case scheme == "http" && !g.allows(addr):
		return errURLPlain
	case g.denies(netip.AddrPortFrom(addr, port)):
		return errURLOwn
	case !g.allows(addr) && g.public.SafeAddr(addr) == nil && !g.portOpen(port):
		return errURLPortClosed
	case g.check(netip.AddrPortFrom(addr, port)) != nil:
		return errURLAddress
	}
	return nil
}

func (g *Guard) checkName(scheme, host string, port uint16) *URLError {
	labels := strings.Split(host, ".")
	switch {
	case !validHost(host, labels):
		return errURLHost
	case endsInNumber(labels):
		return errURLNumeric
	case host == "localhost" && g.allowsLoopback():
		return g.checkLocalhost(port)
	case isInternal(labels) && !g.allowsPrivate():
		return errURLInternal
	case scheme == "http":
		return errURLPlain
	case !g.portOpen(port) && !g.allowsPrivate():
		return errURLPortClosed
	}
	return nil
}

// checkLocalhost lets http through and every port: the name is dialled on loopback only, whatever it resolves to.
func (g *Guard) checkLocalhost(port uint16) *URLError {
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if g.denies(netip.AddrPortFrom(addr, port)) {
			return errURLOwn
		}
	}
	return nil
}

func isDottedQuad(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is4()
}

// validHost is what DNS can carry, plus the underscore, which real host names have.
func validHost(host string, labels []string) bool {
	if len(host) > 253 {
		return false
	}
	return !slices.ContainsFunc(labels, func(label string) bool {
		return label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
	})
}

// endsInNumber finds the spellings that some resolvers take for an IPv4 address: 2130706433, 127.1, 0x7f.0.0.1.
func endsInNumber(labels []string) bool {
	last := labels[len(labels)-1]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// isInternal holds for names without a domain and for the endings that never resolve on the public internet.
func isInternal(labels []string) bool {
	if len(labels) == 1 {
		return true
	}
	return slices.Contains([]string{"localhost", "localdomain", "local", "internal", "svc"}, labels[len(labels)-1])
}
