package domain

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what limits the use of a key.
const (
	MaxAllowedIPs    = 64
	MaxRateRequests  = 1_000_000_000
	MaxRateWindow    = 24 * time.Hour
	MaxUses          = 1_000_000_000_000
	networkFormsHint = "write addresses or networks such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32"
)

// RateLimit bounds how often a lineage may be used in each window of time. Windows are aligned to the epoch.
type RateLimit struct {
	Requests      int64 `json:"requests"`
	WindowSeconds int64 `json:"window_seconds"`
}

// UsagePeriod is what a budget of uses is for.
type UsagePeriod string

// Periods of usage limits. Days and months are those of UTC.
const (
	UsageTotal UsagePeriod = "total" // for the life of the lineage
	UsageDay   UsagePeriod = "day"
	UsageMonth UsagePeriod = "month"
)

// UsageLimit is a budget of uses of a lineage.
type UsageLimit struct {
	Uses   int64       `json:"uses"`
	Period UsagePeriod `json:"period"`
}

// Networks are where a key may be used from; none is anywhere. They are kept sorted, without repetition, each one masked
// and an IPv4 network as such.
type Networks []netip.Prefix

// Allow reports whether an address is in one of the networks. One that is not known is in none.
func (n Networks) Allow(from netip.Addr) bool {
	if len(n) == 0 {
		return true
	}
	from = from.Unmap().WithZone("")
	for _, network := range n {
		if network.Contains(from) {
			return true
		}
	}
	return false
}

// Strings writes the networks as CIDRs; none is nil.
func (n Networks) Strings() []string {
	if len(n) == 0 {
		return nil
	}
	out := make([]string, len(n))
	for i, network := range n {
		out[i] = network.String()
	}
	return out
}

// ParseNetworks reads addresses and CIDRs. A list that is empty is refused: it could mean anywhere and nowhere.
func ParseNetworks(field string, texts []string) (Networks, error) {
	if len(texts) == 0 {
		return nil, InvalidField(field, "is empty", "send null for a key that may be used from anywhere, and enabled=false for one that may not be used")
	}
	if len(texts) > MaxAllowedIPs {
		return nil, tooManyNetworks(field)
	}
	out := make(Networks, len(texts))
	for i, text := range texts {
		network, problem := parseNetwork(text)
		if problem != "" {
			return nil, InvalidField(fmt.Sprintf("%s[%d]", field, i), problem, networkFormsHint)
		}
		out[i] = network
	}
	return out.sorted(), nil
}

func tooManyNetworks(field string) *Error {
	return InvalidField(field, fmt.Sprintf("has more than %d entries", MaxAllowedIPs), "name wider networks")
}

// parseNetwork says what is wrong, or nothing. Bits behind a network's length are a mistake in one of the two.
func parseNetwork(text string) (netip.Prefix, string) {
	if address, err := netip.ParseAddr(text); err == nil {
		if address.Zone() != "" {
			return netip.Prefix{}, "has a zone, which only means something on one machine"
		}
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), ""
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return network, "is neither an address nor a network"
	}
	if network.Masked() != network {
		return network, "is an address inside of its network, not the network"
	}
	if address := network.Addr(); address.Is4In6() && network.Bits() >= 96 {
		network = netip.PrefixFrom(address.Unmap(), network.Bits()-96)
	}
	return network, ""
}

// sorted is the canonical form of networks that are each well formed.
func (n Networks) sorted() Networks {
	out := slices.Clone(n)
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func validateNetworks(field string, n Networks) (Networks, error) {
	if len(n) == 0 {
		return nil, nil
	}
	if len(n) > MaxAllowedIPs {
		return nil, tooManyNetworks(field)
	}
	for i, network := range n {
		if again, problem := parseNetwork(network.String()); problem != "" || again != network {
			return nil, InvalidField(fmt.Sprintf("%s[%d]", field, i), "is not a network", networkFormsHint)
		}
	}
	return n.sorted(), nil
}

func validateRate(field string, r *RateLimit) error {
	longest := int64(MaxRateWindow / time.Second)
	switch {
	case r == nil:
		return nil
	case r.Requests < 1 || r.Requests > MaxRateRequests:
		return InvalidField(field+".requests", "is out of range", fmt.Sprintf("choose 1 to %d; a key that may not be used is one with enabled=false", int64(MaxRateRequests)))
	case r.WindowSeconds < 1 || r.WindowSeconds > longest:
		return InvalidField(field+".window_seconds", "is out of range", fmt.Sprintf("choose 1 to %d (a day)", longest))
	}
	return nil
}

func validateUsage(field string, u *UsageLimit) error {
	switch {
	case u == nil:
		return nil
	case u.Uses < 1 || u.Uses > MaxUses:
		return InvalidField(field+".uses", "is out of range", fmt.Sprintf("choose 1 to %d; a key that may not be used is one with enabled=false", int64(MaxUses)))
	case u.Period != UsageTotal && u.Period != UsageDay && u.Period != UsageMonth:
		return InvalidField(field+".period", "is not a period", "choose total, day or month")
	}
	return nil
}

// disabled is the refusal of what a disabled key cannot do.
func (l *Lineage) disabled(id KeyID) *Error {
	return Refuse(CodeKeyDisabled, "this key is disabled; enable it first").With("key_id", id)
}
