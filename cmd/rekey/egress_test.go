package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rekeyhq/rekey/internal/webhook"
)

// egress is a dev and a serve beside it that the environment would send through a proxy, and that may reach this machine's
// own address in its network.
type egress struct {
	dev, serve rest
	dir        string
	proxy      *doorbell
	addr       string   // of this machine in its network; empty: it has none
	own        []string // what they listen on and work with
}

// doorbell counts who connects.
type doorbell struct {
	listener net.Listener
	rung     atomic.Int64
}

func newDoorbell(t *testing.T) *doorbell {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &doorbell{listener: listener}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				d.rung.Add(1)
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return d
}

// outerAddress is one of this machine's that is not loopback: proxies are never asked for those that are.
func outerAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if network, ok := a.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	return ""
}

func startEgress(t *testing.T) *egress {
	t.Helper()
	e := &egress{dir: inMemory(t), proxy: newDoorbell(t), addr: outerAddress(t)}
	env := []string{"NO_PROXY=", "no_proxy="}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		env = append(env, name+"=http://"+e.proxy.listener.Addr().String())
	}
	allow := "127.0.0.0/8,::1/128"
	if e.addr != "" {
		allow += "," + e.addr + "/32"
	}
	observe := freeAddr(t)
	dev := startRekey(t, devEnv(e.dir, append(env, "REKEY_WEBHOOK_ALLOW="+allow, "REKEY_METRICS_ADDR="+observe)...), "dev")
	fields, _ := dev.awaitReady(t)
	e.dev = newREST(t, fields["url"], fields["root_key"])
	joining := e.joinEnv(t)
	servers := serversOf(joining["REKEY_DATABASE_URL"], joining["REKEY_NATS_URL"])
	if len(servers) != 2 {
		t.Fatalf("the variables name %v", servers)
	}
	for _, s := range servers {
		e.own = append(e.own, net.JoinHostPort(s.host, strconv.Itoa(int(s.port))))
	}
	for name, value := range joining {
		env = append(env, name+"="+value)
	}
	observeServe := freeAddr(t)
	serve := startRekey(t, append(env, "REKEY_ADDR=127.0.0.1:0", "REKEY_METRICS_ADDR="+observeServe), "serve")
	ready, _ := serve.awaitReady(t)
	e.serve = newREST(t, ready["url"], fields["root_key"])
	e.own = append(e.own, observe, observeServe, strings.TrimPrefix(e.dev.url, "http://"), strings.TrimPrefix(e.serve.url, "http://"))
	return e
}

// joinEnv reads what dev wrote for those that join.
func (e *egress) joinEnv(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(e.dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = strings.Trim(value, "'")
	}
	return env
}

// TestEgress holds a running rekey to where its webhooks may go: not through a proxy of the environment, not to
// itself or what it works with, not where a redirect points, and not again to a receiver that said 410.
func TestEgress(t *testing.T) {
	t.Parallel()
	e := startEgress(t)
	t.Run("R-44", e.noProxy)
	t.Run("R-45", e.notItself)
	t.Run("R-30", e.noRedirect)
	t.Run("R-29", e.gone)
	if rung := e.proxy.rung.Load(); rung != 0 {
		t.Errorf("the proxy got %d connections", rung)
	}
}

func (e *egress) noProxy(t *testing.T) {
	if e.addr == "" {
		t.Skip("this machine has no address beside loopback, and no proxy is asked for that")
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(e.addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var got atomic.Int64
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) })}}
	server.Start()
	t.Cleanup(server.Close)
	for _, a := range []rest{e.dev, e.serve} {
		endpoint := a.registerEndpoint(t, server.URL, nil)
		if probe := a.probe(t, endpoint.ID, "test"); !probe.Delivered {
			t.Errorf("the test message: %+v", probe)
		}
	}
	e.dev.create(t, "rotating", map[string]any{"rotation_interval_seconds": 1, "grace_period_seconds": 0, "rotation_webhook_url": server.URL})
	eventually(t, "a webhook at the receiver", func() bool { return got.Load() >= 3 })
}

// notItself tries every address that belongs to rekey: it cannot be registered, and an older entry gets no connection.
func (e *egress) notItself(t *testing.T) {
	receiver := newDoorbell(t)
	conn := operatorConn(t, e.dir)
	for _, own := range e.own {
		host, port, err := net.SplitHostPort(own)
		if err != nil || host != "127.0.0.1" {
			t.Fatalf("%s: %v", own, err)
		}
		// Each process knows what it listens on itself, and the servers that both work with.
		asked := []rest{e.dev, e.serve}
		switch slices.Index(e.own, own) {
		case 2, 4:
			asked = asked[:1]
		case 3, 5:
			asked = asked[1:]
		}
		for _, a := range asked {
			endpoint := a.registerEndpoint(t, "http://"+receiver.listener.Addr().String()+"/", nil)
			for _, target := range []string{"http://127.0.0.1:", "https://127.0.0.1:", "http://localhost:", "https://localhost:"} {
				target += port + "/"
				body := map[string]any{"project_id": a.project(t), "url": target}
				a.call(t, "POST", "/v1/webhook-endpoints", body, http.StatusUnprocessableEntity, nil)
				if _, err := conn.Exec(t.Context(), `UPDATE webhook_endpoints SET url = $2 WHERE id = $1`, endpoint.ID, target); err != nil {
					t.Fatal(err)
				}
				if probe := a.probe(t, endpoint.ID, "test"); probe.Code != string(webhook.AddressRefused) || probe.Status != 0 {
					t.Errorf("%s of %s, which knows %v: %+v", target, a.url, e.own, probe)
				}
			}
		}
	}
	if rung := receiver.rung.Load(); rung != 0 {
		t.Errorf("the receiver got %d connections meant for others", rung)
	}
}

func (e *egress) noRedirect(t *testing.T) {
	target := newDoorbell(t)
	var redirected atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		redirected.Add(1)
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		http.Redirect(w, r, "http://"+target.listener.Addr().String()+"/", status)
	}))
	t.Cleanup(server.Close)
	var keys []keyInfo
	for _, status := range []string{"301", "302", "303", "307", "308"} {
		endpoint := e.dev.registerEndpoint(t, server.URL+"/?status="+status, nil)
		if probe := e.dev.probe(t, endpoint.ID, "test"); probe.Code != string(webhook.RedirectRefused) || strconv.Itoa(probe.Status) != status {
			t.Errorf("%s: %+v", status, probe)
		}
		keys = append(keys, e.dev.create(t, "redirected "+status, map[string]any{
			"rotation_interval_seconds": 1, "grace_period_seconds": 0, "rotation_webhook_url": server.URL + "/?status=" + status,
		}))
	}
	for _, key := range keys {
		e.attempted(t, key.LineageID, webhook.RedirectRefused)
		if v := e.dev.verify(t, key.Key); v.Status != "active" {
			t.Errorf("the old key is %s", v)
		}
	}
	if rung := target.rung.Load(); rung != 0 || redirected.Load() < 10 {
		t.Errorf("of %d redirects %d were followed", redirected.Load(), rung)
	}
}

// attempted waits for the first attempt to bring a lineage's new secret, and requires how it ended.
func (e *egress) attempted(t *testing.T, lineage string, want webhook.Outcome) {
	t.Helper()
	eventually(t, "an attempt that ended with "+string(want), func() bool {
		var found []struct {
			LineageID   string `json:"lineage_id"`
			Type        string `json:"type"`
			LastOutcome string `json:"last_outcome"`
		}
		e.dev.call(t, "GET", "/v1/deliveries?limit=500", nil, http.StatusOK, &found)
		for _, d := range found {
			if d.LineageID == lineage && d.Type == webhook.TypeRotationCreated && d.LastOutcome != "" {
				if d.LastOutcome != string(want) {
					t.Fatalf("it ended with %s", d.LastOutcome)
				}
				return true
			}
		}
		return false
	})
}

// turncoat answers challenges, and then as it is told.
type turncoat struct {
	*httptest.Server
	mu     sync.Mutex
	secret webhook.Secret
	status int
	types  []string // of what came
}

func newTurncoat(t *testing.T) *turncoat {
	c := &turncoat{status: http.StatusNoContent}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP takes one message.
func (c *turncoat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if challenge, err := webhook.ReadVerification(body.Bytes(), r.Header.Get(webhook.HeaderID)); err == nil {
		answer, _ := webhook.AnswerChallenge(c.secret, challenge) // without one it is refused
		w.Header().Set(webhook.HeaderChallenge, answer)
		return
	}
	_, kind, _ := strings.Cut(body.String(), `"type":"`)
	kind, _, _ = strings.Cut(kind, `"`)
	c.types = append(c.types, kind)
	w.WriteHeader(c.status)
}

func (c *turncoat) came() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.types)
}

// verified registers it and has it answer the challenge.
func (c *turncoat) verified(t *testing.T, a rest) endpointInfo {
	t.Helper()
	endpoint := a.registerEndpoint(t, c.URL, nil)
	secret, err := webhook.ParseSecret(endpoint.SigningSecret)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.secret = secret
	c.mu.Unlock()
	if probe := a.probe(t, endpoint.ID, "verify"); !probe.Delivered {
		t.Fatalf("not verified: %+v", probe)
	}
	return endpoint
}

// gone has a receiver say 410: one answer is enough, what else is meant for it is held, and the others are told.
func (e *egress) gone(t *testing.T) {
	leaving, watching := newTurncoat(t), newTurncoat(t)
	endpoint := leaving.verified(t, e.dev)
	watching.verified(t, e.dev)
	leaving.mu.Lock()
	leaving.status = http.StatusGone
	leaving.mu.Unlock()
	key := e.dev.create(t, "to who leaves", map[string]any{
		"rotation_interval_seconds": 1, "grace_period_seconds": 0, "webhook_endpoint_id": endpoint.ID,
	})
	var shown struct{ State, StateReason string }
	eventually(t, "the end of the endpoint", func() bool {
		var now struct {
			State  string `json:"state"`
			Reason string `json:"state_reason"`
		}
		e.dev.call(t, "GET", "/v1/webhook-endpoints/"+endpoint.ID, nil, http.StatusOK, &now)
		shown.State, shown.StateReason = now.State, now.Reason
		return now.State == "disabled"
	})
	if shown.StateReason != "gone" {
		t.Errorf("it is disabled because %s", shown.StateReason)
	}
	eventually(t, "the word to who watches", func() bool { return slices.Contains(watching.came(), webhook.TypeRotationStalled) })
	eventually(t, "something that is held", func() bool {
		var held, pending []struct{ ID string }
		e.dev.call(t, "GET", "/v1/deliveries?state=held&endpoint_id="+endpoint.ID, nil, http.StatusOK, &held)
		e.dev.call(t, "GET", "/v1/deliveries?state=pending&endpoint_id="+endpoint.ID, nil, http.StatusOK, &pending)
		return len(held) > 0 && len(pending) == 0
	})
	if came := leaving.came(); len(came) != 1 || came[0] != webhook.TypeRotationCreated {
		t.Errorf("who left got %v", came)
	}
	if v := e.dev.verify(t, key.Key); v.Status != "active" {
		t.Errorf("the old key is %s", v)
	}
}

// TestServersOf reads every spelling of the servers' addresses.
func TestServersOf(t *testing.T) {
	t.Parallel()
	for want, urls := range map[string][2]string{
		"127.0.0.1:5432 ":                {"postgres://u:p@127.0.0.1:5432/db", ""},
		"127.0.0.1:5433 [::1]:5434 ":     {"host=127.0.0.1,::1 port=5433,5434 user=u sslmode=disable", ""},
		"127.0.0.1:4222 127.0.0.2:4333 ": {"", "nats://t@127.0.0.1, nats://127.0.0.2:4333"},
		"127.0.0.1:6432 [::1]:4222 ":     {"postgres://127.0.0.1:6432/db?sslmode=disable", "tls://[::1]:4222"},
		"":                               {"postgres:///db?host=/var/run/postgresql", ""},
	} {
		var got string
		for _, addr := range resolveAll(context.Background(), serversOf(urls[0], urls[1])) {
			if !strings.Contains(got, addr.String()+" ") { // a server is listed once for each way to speak to it
				got += addr.String() + " "
			}
		}
		if got != want {
			t.Errorf("%v: %q, not %q", urls, got, want)
		}
	}
}
