package main

import (
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// line is a TCP proxy of our own between one replica and a server, whose network can be made bad.
type line struct {
	target   string
	listener net.Listener

	mu      sync.Mutex
	changed *sync.Cond
	weather weather
	wires   map[*wire]bool
	closed  bool
}

// wire is a connection through a line.
type wire struct {
	client, server net.Conn
	forgotten      bool // nothing passes any more, and nobody is told
}

// weather is what the network of a line is like. The zero value is a good one.
type weather struct {
	least, most                time.Duration // by which everything is late
	holdsRequests, holdAnswers bool          // what is sent arrives only when the weather is better
	refuses                    bool          // connections are reset
}

// newLine opens a line to an address.
func newLine(t testing.TB, target string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{target: target, listener: listener, wires: map[*wire]bool{}}
	l.changed = sync.NewCond(&l.mu)
	go l.accept()
	t.Cleanup(l.close)
	return l
}

// through is an address that leads through the line.
func (l *line) through(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.listener.Addr().String()
	return u.String()
}

// be changes the weather.
func (l *line) be(w weather) {
	l.mu.Lock()
	l.weather = w
	l.changed.Broadcast()
	l.mu.Unlock()
	if w.refuses {
		l.reset()
	}
}

// reset breaks all connections.
func (l *line) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wire := range l.wires {
		breakOff(wire.client)
		breakOff(wire.server)
	}
}

// forget drops all connections as a router does that has forgotten them; new ones are well.
func (l *line) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wire := range l.wires {
		wire.forgotten = true
	}
}

func breakOff(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (l *line) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.changed.Broadcast()
	l.mu.Unlock()
	l.reset()
}

func (l *line) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.connect(client)
	}
}

func (l *line) connect(client net.Conn) {
	l.mu.Lock()
	refuses := l.weather.refuses
	l.mu.Unlock()
	if refuses {
		breakOff(client)
		return
	}
	server, err := net.DialTimeout("tcp", l.target, 2*time.Second)
	if err != nil {
		breakOff(client)
		return
	}
	w := &wire{client: client, server: server}
	l.mu.Lock()
	l.wires[w] = true
	l.mu.Unlock()
	go l.carry(w, client, server, func(w weather) bool { return w.holdsRequests })
	l.carry(w, server, client, func(w weather) bool { return w.holdAnswers })
}

// carry brings what one side sends to the other, until one of them ends.
func (l *line) carry(w *wire, from, to net.Conn, held func(weather) bool) {
	defer func() {
		if !l.lost(w) {
			_, _ = from.Close(), to.Close()
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, failed := from.Read(buffer)
		if n > 0 {
			time.Sleep(l.wait(held))
			if l.lost(w) {
				continue
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if failed != nil {
			return
		}
	}
}

// lost reports whether a wire was forgotten: then the end of one side is not told to the other.
func (l *line) lost(w *wire) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.forgotten && !l.closed
}

// wait waits until a direction is open, and tells how late what is sent arrives.
func (l *line) wait(held func(weather) bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	for held(l.weather) && !l.closed {
		l.changed.Wait()
	}
	if l.weather.most == 0 {
		return 0
	}
	return l.weather.least + rand.N(l.weather.most-l.weather.least+1)
}
