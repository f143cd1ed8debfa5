package eventstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// proxy stands between a pool and the real server and can break a connection at a chosen message. It knows no more of the
// protocol than where a message ends and how the tests' marked ones look.
type proxy struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	conns    sync.WaitGroup

	mu   sync.Mutex
	plan *plan // for the next transaction that carries the marker
}

// plan says when to break.
type plan struct {
	marker string
	// beforeCommit: the message with the marker (the append) and what follows do not reach the server.
	// afterCommit: everything up to the end of the batch reaches the server, no answer from then on reaches the client, and
	// the connection is cut when proceed is closed.
	// atCommit: instead of the server's last word, that the batch is complete, comes the end of the session.
	// confirmed: the server's confirmation of an explicit commit is followed by the end of the session.
	where   string
	proceed chan struct{}
	sent    chan struct{} // closed when the batch has reached the server
}

// through returns a pool of one connection whose traffic goes through a proxy.
func (b *bundle) through(t *testing.T) (*pgxpool.Pool, *proxy) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener}
	pool := b.poolNamed(t, "proxied", func(c *pgxpool.Config) {
		c.MaxConns = 1
		network, address := pgconn.NetworkAddress(c.ConnConfig.Host, c.ConnConfig.Port)
		p.dial = func() (net.Conn, error) { return net.Dial(network, address) }
		c.ConnConfig.TLSConfig, c.ConnConfig.Fallbacks = nil, nil // the proxy must be able to read
		c.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", listener.Addr().String())
		}
	})
	p.conns.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		pool.Close()
		p.conns.Wait()
	})
	return pool, p
}

// breakAt arms the proxy.
func (p *proxy) breakAt(where, marker string) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan = &plan{marker: marker, where: where, proceed: make(chan struct{}), sent: make(chan struct{})}
	return p.plan
}

// take returns the plan that this message sets off.
func (p *proxy) take(message []byte) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan == nil || !bytes.Contains(message, []byte(p.plan.marker)) {
		return nil
	}
	taken := p.plan
	p.plan = nil
	return taken
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := p.dial()
		if err != nil {
			_ = client.Close()
			continue
		}
		s := &session{proxy: p, client: client, server: server}
		p.conns.Go(s.upstream)
		p.conns.Go(s.downstream)
	}
}

// session is one connection through the proxy.
type session struct {
	proxy          *proxy
	client, server net.Conn

	mu     sync.Mutex
	active *plan
}

func (s *session) cut() {
	_ = s.client.Close()
	_ = s.server.Close()
}

// upstream carries the client's messages to the server.
func (s *session) upstream() {
	defer s.cut()
	first := true
	for {
		message, err := readMessage(s.client, first)
		if err != nil {
			return
		}
		first = false
		s.mu.Lock()
		if s.active == nil {
			s.active = s.proxy.take(message)
		}
		active := s.active
		s.mu.Unlock()
		if active != nil && active.where == "beforeCommit" {
			return
		}
		if _, err := s.server.Write(message); err != nil {
			return
		}
		if active != nil && active.where == "afterCommit" && message[0] == 'S' { // Sync: the batch is complete
			close(active.sent)
			<-active.proceed
			return
		}
	}
}

// downstream carries the server's answers to the client.
func (s *session) downstream() {
	defer s.cut()
	for {
		message, err := readMessage(s.server, false)
		if err != nil {
			return
		}
		s.mu.Lock()
		active := s.active
		s.mu.Unlock()
		if active != nil && active.where == "afterCommit" {
			continue // swallowed
		}
		confirmed := message[0] == 'C' && bytes.Contains(message, []byte("COMMIT"))
		if active != nil && active.where == "atCommit" && message[0] == 'Z' {
			close(active.sent)
			s.endSession()
			return
		}
		if _, err := s.client.Write(message); err != nil {
			return
		}
		if active != nil && active.where == "confirmed" && confirmed {
			close(active.sent)
			s.endSession()
			return
		}
	}
}

// endSession tells the client what a server says that is being shut down.
func (s *session) endSession() {
	fatal, _ := (&pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01",
		Message: "terminating connection due to administrator command",
	}).Encode(nil)
	_, _ = s.client.Write(fatal)
}

// readMessage reads one message; the first one of a client has no type.
func readMessage(r io.Reader, startup bool) ([]byte, error) {
	head := make([]byte, 5)
	if startup {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint32(head[len(head)-4:])) - 4
	if length < 0 || length > 1<<24 {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	message := append(head, make([]byte, length)...)
	_, err := io.ReadFull(r, message[len(head):])
	return message, err
}
