package webhook

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// dnsServer is a name server on loopback that answers every question by a function.
type dnsServer struct {
	conn   net.PacketConn
	answer func(name string, asked int) []netip.Addr

	mu    sync.Mutex
	asked map[string]int
}

// newResolver gives a resolver that asks a name server answering each question by answer, which gets the name in lower
// case and how often its IPv4 addresses were asked for before. No addresses means that the name does not exist.
func newResolver(t testing.TB, answer func(name string, asked int) []netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dnsServer{conn: conn, answer: answer, asked: make(map[string]int)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.serve()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// fixedResolver gives the same addresses for every name.
func fixedResolver(t testing.TB, addrs ...string) *net.Resolver {
	t.Helper()
	var parsed []netip.Addr
	for _, a := range addrs {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return newResolver(t, func(string, int) []netip.Addr { return parsed })
}

func (s *dnsServer) serve() {
	query := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(query)
		if err != nil {
			return
		}
		if response := s.respond(query[:n]); response != nil {
			_, _ = s.conn.WriteTo(response, from)
		}
	}
}

// respond builds an answer out of the query: its header and question, then one record for each address.
func (s *dnsServer) respond(query []byte) []byte {
	const header, typeA, typeAAAA = 12, 1, 28
	name, end := dnsName(query, header)
	if end == 0 || end+4 > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end:])
	var addrs []netip.Addr
	exists := true
	if kind == typeA || kind == typeAAAA {
		s.mu.Lock()
		before := s.asked[name]
		if kind == typeA {
			s.asked[name]++
		}
		s.mu.Unlock()
		addrs = s.answer(name, before)
		exists = len(addrs) > 0
	}
	response := append([]byte(nil), query[:end+4]...)
	clear(response[6:header])
	response[2], response[3] = 0x84, 0x00 // an authoritative answer
	if !exists {
		response[3] = 3
	}
	for _, addr := range addrs {
		if addr.Is4() != (kind == typeA) {
			continue
		}
		ip := addr.AsSlice()
		response[7]++
		response = append(response, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(ip)))
		response = append(response, ip...)
	}
	return response
}

// dnsName reads a name without compression and says where it ends, 0 when it does not.
func dnsName(msg []byte, at int) (string, int) {
	var labels []string
	for at < len(msg) {
		size := int(msg[at])
		if size == 0 {
			return strings.ToLower(strings.Join(labels, ".")), at + 1
		}
		if size > 63 || at+1+size > len(msg) {
			return "", 0
		}
		labels = append(labels, string(msg[at+1:at+1+size]))
		at += 1 + size
	}
	return "", 0
}
