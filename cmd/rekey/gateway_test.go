package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// toyBackend is a service behind a gateway. It answers with the headers that reached it.
type toyBackend struct {
	*httptest.Server
	calls atomic.Int64
}

func newToyBackend(t *testing.T) *toyBackend {
	b := &toyBackend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Got-Body", string(body))
		for name, values := range r.Header {
			w.Header()["Got-"+name] = values
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// startNginx runs the configuration that docs/gateways.md shows, with other addresses and a real key, and returns where it
// listens and its folder.
func startNginx(t *testing.T, rekey, backend, key string) (url, dir string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		tooltest.Missing(t, "nginx; scripts/ensure-nginx.sh installs it")
	}
	docs, err := os.ReadFile("../../docs/gateways.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(docs), "```nginx\n")
	shown, _, _ = strings.Cut(shown, "```")
	dir, listen := t.TempDir(), freeAddr(t)
	for from, to := range map[string]string{"127.0.0.1:8080": rekey, "127.0.0.1:9000": backend, "127.0.0.1:8000": listen, "rk_live_...": key} {
		if strings.Count(shown, from) != 1 {
			t.Fatalf("the documented configuration names %s %d times", from, strings.Count(shown, from))
		}
		shown = strings.Replace(shown, from, to, 1)
	}
	config := "daemon off; master_process off; pid nginx.pid; error_log stderr warn; events { worker_connections 64; }\nhttp {\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += fmt.Sprintf("%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config+shown+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := startChild(t, exec.Command(path, "-p", dir, "-c", file, "-e", "stderr"))
	eventually(t, "nginx listens", func() bool {
		if nginx.hasExited() {
			t.Fatalf("nginx ended: %s", nginx.errs.tail())
		}
		conn, err := net.DialTimeout("tcp", listen, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "http://" + listen, dir
}

// TestGateway_Nginx: a real nginx with auth_request, configured as documented, lets through what may be, and nothing else:
// not a revoked key right after the revoke's answer, and nothing at all while rekey is away.
func TestGateway_Nginx(t *testing.T) {
	i := start(t, func(c *Config) {
		c.Logger = slog.New(slog.NewJSONHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelInfo})) // as in production
	})
	gateway := i.create(t, "gateway", map[string]any{"scopes": []string{"keys:verify"}})
	backend := newToyBackend(t)
	url, dir := startNginx(t, strings.TrimPrefix(i.url, "http://"), strings.TrimPrefix(backend.URL, "http://"), gateway.Key)
	scopes := map[string]any{"scopes": []string{"orders:read"}}
	// ask sends a request through nginx, and requires that the service sees it exactly if it was let through.
	ask := func(t *testing.T, want int, method, path string, headers ...string) answer {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader("a body"))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(headers); n += 2 {
			request.Header.Add(headers[n], headers[n+1])
		}
		before := backend.calls.Load()
		got, err := i.do(request)
		if err != nil {
			t.Fatal(err)
		}
		if passed := backend.calls.Load() - before; got.status != want || passed == 1 != (want == 200) {
			t.Fatalf("answered %d, want %d; the service was called %d times: %s", got.status, want, passed, got.body)
		}
		return got
	}
	key := i.create(t, "client", scopes)
	bearer := []string{"Authorization", "Bearer " + key.Key}

	t.Run("Valid", func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "PROPFIND"} {
			got := ask(t, 200, method, "/orders/7?scope=x&scopes=y", append(bearer, "Rekey-Key-Id", "key_forged", "X-API-Key", "")...)
			for name, want := range map[string]string{
				"Got-Rekey-Key-Id": key.ID, "Got-Rekey-Organization-Id": key.OrganizationID, "Got-Rekey-Scopes": "orders:read", "Got-Body": "a body",
				"Got-Authorization": "", "Got-Rekey-Authorization": "", "Rekey-Key-Status": "active",
			} {
				if got.header.Get(name) != want {
					t.Errorf("%s: %s is %q, want %q", method, name, got.header.Get(name), want)
				}
			}
		}
	})
	t.Run("ByTheOtherHeader", func(t *testing.T) { ask(t, 200, "GET", "/orders/", "X-API-Key", key.Key) })
	t.Run("MissingScope", func(t *testing.T) {
		ask(t, 403, "GET", "/orders/", "Authorization", "Bearer "+i.create(t, "other", map[string]any{"scopes": []string{"orders:write"}}).Key)
	})
	t.Run("NoKey", func(t *testing.T) {
		for _, method := range []string{"GET", "OPTIONS"} {
			if got := ask(t, 401, method, "/orders/"); got.header.Get("WWW-Authenticate") != `Bearer realm="rekey"` {
				t.Errorf("challenge %q", got.header.Get("WWW-Authenticate"))
			}
		}
	})
	t.Run("AForgedGateway", func(t *testing.T) { // its own, or a stripped one, counts for nothing
		ask(t, 401, "GET", "/orders/", "Authorization", "Bearer nonsense", "Rekey-Authorization", "Bearer "+i.key)
		ask(t, 200, "GET", "/orders/", append(bearer, "Connection", "Rekey-Authorization, close")...)
	})
	t.Run("RevokedAtOnce", func(t *testing.T) {
		for n := range 20 {
			k := i.create(t, fmt.Sprint("to be revoked ", n), scopes)
			ask(t, 200, "GET", "/orders/", "Authorization", "Bearer "+k.Key)
			i.revoke(t, k.ID)
			ask(t, 401, "GET", "/orders/", "Authorization", "Bearer "+k.Key)
		}
	})
	t.Run("InGrace", func(t *testing.T) {
		k := i.create(t, "to be rotated", scopes)
		i.rotate(t, k.ID, 3600)
		eventually(t, "the old key is in grace", func() bool { return i.verify(t, k.Key).Status == "grace" }) // nobody has to wait for it
		got := ask(t, 200, "GET", "/orders/", "Authorization", "Bearer "+k.Key)
		ends := i.verify(t, k.Key).GraceExpiresAt
		if want := fmt.Sprintf("grace; until=%d", ends.Unix()); got.header.Get("Rekey-Key-Status") != want {
			t.Errorf("Rekey-Key-Status %q, want %q", got.header.Get("Rekey-Key-Status"), want)
		}
		next := i.create(t, "to be cut over", scopes)
		i.rotate(t, next.ID, 0)
		ask(t, 401, "GET", "/orders/", "Authorization", "Bearer "+next.Key)
	})
	t.Run("FromWhereTheClientIs", func(t *testing.T) {
		eventually(t, "the use is shown", func() bool {
			var shown struct {
				LastUsedIP *string `json:"last_used_ip"`
			}
			i.call(t, "GET", "/v1/api-keys/"+key.ID, nil, http.StatusOK, &shown)
			return shown.LastUsedIP != nil && *shown.LastUsedIP == "127.0.0.1"
		})
	})
	t.Run("GatewayKeyRevoked", func(t *testing.T) {
		i.revoke(t, gateway.ID)
		ask(t, 401, "GET", "/orders/", bearer...)
		eventually(t, "nginx's log tells it from a client's fault", func() bool {
			log, err := os.ReadFile(filepath.Join(dir, "logs", "access.log"))
			return err == nil && strings.Contains(string(log), " 401 key= code= gateway_error=unauthenticated\n") && strings.Contains(string(log), " 401 key= code=REVOKED gateway_error=\n")
		})
	})
	t.Run("RekeyIsAway", func(t *testing.T) {
		i.stop(t)
		ask(t, 500, "GET", "/orders/", bearer...)
	})
}
