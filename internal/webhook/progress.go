package webhook

import (
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// Timing says where the time of an attempt went. What did not happen is zero: on a connection that was used before there
// is no DNS, Connect or TLS.
type Timing struct {
	DNS, Connect, TLS time.Duration
	// FirstByte is from the begin of the attempt to the first byte of the answer.
	FirstByte time.Duration
}

// progress is how far an attempt got, as net/http reports it from several goroutines.
type progress struct {
	gotConn, failedHandshake, gotByte atomic.Bool

	began time.Time
	mu    sync.Mutex
	// Of several connections that are tried at once, the times are those of the last to be reported.
	dnsAt, connectAt, tlsAt time.Time
	times                   Timing
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:          func(httptrace.DNSStartInfo) { p.mark(&p.dnsAt) },
		DNSDone:           func(httptrace.DNSDoneInfo) { p.measure(&p.times.DNS, &p.dnsAt) },
		ConnectStart:      func(string, string) { p.mark(&p.connectAt) },
		ConnectDone:       func(string, string, error) { p.measure(&p.times.Connect, &p.connectAt) },
		TLSHandshakeStart: func() { p.mark(&p.tlsAt) },
		GotConn:           func(httptrace.GotConnInfo) { p.gotConn.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			p.measure(&p.times.TLS, &p.tlsAt)
			if err != nil {
				p.failedHandshake.Store(true)
			}
		},
		GotFirstResponseByte: func() {
			p.gotByte.Store(true)
			p.measure(&p.times.FirstByte, &p.began)
		},
	}
}

func (p *progress) mark(at *time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*at = time.Now()
}

func (p *progress) measure(into *time.Duration, since *time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !since.IsZero() {
		*into = time.Since(*since)
	}
}

// timing is a copy, because a connection that lost the race may still be reported.
func (p *progress) timing() Timing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times
}
