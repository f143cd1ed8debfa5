package webhook

import (
	"net/http"
	"sync"
	"time"
)

// maxTransports is for how many endpoints connections with a certificate of their own are kept.
const maxTransports = 256

// transports keeps a transport for each endpoint that has a client certificate. net/http finds connections again by host
// alone and would let one endpoint's messages out over what another has opened under its name. One endpoint has one
// transport at a time: with another certificate it gets another one, and nothing new goes over the old connections.
type transports struct {
	build func(ClientCertificate) *http.Transport
	size  int

	mu   sync.Mutex
	kept map[string]*ownTransport // by endpoint
	uses uint64
}

// enter gives the transport for an endpoint with a certificate; leave ends its use.
func (t *transports) enter(endpoint string, certificate ClientCertificate) (own *ownTransport, leave func()) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	own = t.kept[endpoint]
	if own == nil || own.digest != certificate.facts.Digest {
		t.drop(endpoint)
		t.makeRoom(now)
		own = newOwn(t.build(certificate), certificate.facts.Digest)
		t.kept[endpoint] = own
	}
	t.uses++
	own.used, own.at = t.uses, now
	own.users++
	return own, func() { t.leave(own) }
}

// leave closes what was dropped while the attempt was under way.
func (t *transports) leave(own *ownTransport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.users--; own.dropped && own.users == 0 {
		own.close()
	}
}

// forget drops the transport of an endpoint that has no certificate now.
func (t *transports) forget(endpoint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(endpoint)
}

// drop closes the connections of an endpoint, at the latest when the last attempt has left them.
func (t *transports) drop(endpoint string) {
	if own, ok := t.kept[endpoint]; ok {
		delete(t.kept, endpoint)
		own.dropped = true
		if own.users == 0 {
			own.close()
		}
	}
}

// makeRoom drops what has no connections left, and if that is not enough, what was used least recently.
func (t *transports) makeRoom(now time.Time) {
	var oldest string
	for endpoint, own := range t.kept {
		if own.users == 0 && now.Sub(own.at) > idleConnTimeout {
			t.drop(endpoint)
		} else if oldest == "" || own.used < t.kept[oldest].used {
			oldest = endpoint
		}
	}
	if len(t.kept) >= t.size {
		t.drop(oldest)
	}
}

// close drops all.
func (t *transports) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for endpoint := range t.kept {
		t.drop(endpoint)
	}
}
