package webhook

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// ownTransport is the transport of one endpoint with one certificate. It knows its connections, to close all of them: to
// net/http, one over HTTP/2 is not idle until a moment after its last answer was read, and would then stay for a while.
type ownTransport struct {
	*http.Transport
	digest string // of the certificate's chain

	// Under the lock of transports:
	users   int       // attempts under way
	dropped bool      // it is not kept any more
	used    uint64    // counts; the lowest makes room
	at      time.Time // when it was last

	mu     sync.Mutex
	conns  map[*ownConn]struct{}
	closed bool
}

func newOwn(transport *http.Transport, digest string) *ownTransport {
	own := &ownTransport{Transport: transport, digest: digest, conns: map[*ownConn]struct{}{}}
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return own.keep(conn)
	}
	return own
}

// ownConn is a connection that its transport knows until it is closed.
type ownConn struct {
	net.Conn
	of *ownTransport
}

// Close closes it.
func (c *ownConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// keep knows a connection from now on. net/http may still dial when nobody waits for that any more.
func (o *ownTransport) keep(conn net.Conn) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		_ = conn.Close() // nothing was sent over it
		return nil, net.ErrClosed
	}
	own := &ownConn{conn, o}
	o.conns[own] = struct{}{}
	return own, nil
}

// close ends all connections, for good. No attempt may be under way.
func (o *ownTransport) close() {
	o.mu.Lock()
	o.closed = true
	conns := o.conns
	o.conns = map[*ownConn]struct{}{}
	o.mu.Unlock()
	for conn := range conns {
		_ = conn.Conn.Close() // nobody reads from it any more
	}
	// After that, so that no word of farewell waits for a receiver that reads nothing.
	o.CloseIdleConnections()
}
