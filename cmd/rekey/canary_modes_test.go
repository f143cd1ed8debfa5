package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/internal/tooltest"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
	"github.com/rekeyhq/rekey/projections"
)

// handOvers sends secrets in every mode to registered endpoints that echo them, with success and with failure, and does
// with them what can be done.
func (c *canary) handOvers(t *testing.T) {
	t.Helper()
	lineages := map[string]keyInfo{}
	endpoints := map[string]endpointInfo{}
	for _, mode := range []string{"plain", "sealed", "claim"} {
		for _, how := range []string{"/echo", "/fail"} {
			path := "/" + mode + how
			endpoints[path] = c.endpoint(t, path, mode)
			lineages[path] = c.make(t, "to "+path, map[string]any{
				"webhook_endpoint_id": endpoints[path].ID, "rotation_interval_seconds": 2, "grace_period_seconds": 1,
			})
		}
	}
	eventually(t, "a new secret in each mode", func() bool {
		for path := range lineages {
			if c.receiver.count(path) == 0 {
				return false
			}
		}
		return true
	})
	for _, path := range []string{"/claim/echo", "/claim/fail"} {
		c.claimAt(t, path)
	}
	c.again(t, lineages)
	c.replaceSigning(t, endpoints["/plain/echo"])
	c.replaceCertificate(t, endpoints["/plain/echo"])
}

// endpoint registers a path of the receiver and has it prove itself. One that always fails is taken as proven by a path
// that does not.
func (c *canary) endpoint(t *testing.T, path, mode string) endpointInfo {
	t.Helper()
	proving := strings.Replace(path, "/fail", "/echo", 1)
	fields := map[string]any{"secret_mode": mode, "receiver_public_key": c.receiver.private.Public().String()}
	if strings.HasPrefix(c.receiver.url, "https:") {
		fields["client_certificate"] = c.certificate(t, path)
	}
	endpoint := c.registerEndpoint(t, c.receiver.url+proving, fields)
	c.seen.add("signing secret of "+path, endpoint.SigningSecret)
	c.receiver.trust(proving, endpoint.SigningSecret)
	if probe := c.probe(t, endpoint.ID, "verify"); !probe.Delivered {
		t.Fatalf("%s was not verified: %+v", path, probe)
	}
	if path != proving {
		c.move(t, endpoint, path)
	}
	c.probe(t, endpoint.ID, "test")
	return endpoint
}

// certificate makes a client certificate, whose key is not to be seen again.
func (c *canary) certificate(t *testing.T, name string) map[string]any {
	t.Helper()
	chain, key := webhooktest.NewAuthority(t, "Canary").New(t, name)
	for _, trace := range webhooktest.Traces(t, key) {
		if len(trace) > 40 { // each is looked for in many spellings; those of the bare bytes are among the others
			c.seen.add("key of the client certificate of "+name, trace)
		}
	}
	return map[string]any{"certificate_pem": chain, "private_key_pem": key}
}

// move sends what is meant for an endpoint elsewhere, as a receiver does that breaks after it was verified.
func (c *canary) move(t *testing.T, endpoint endpointInfo, path string) {
	t.Helper()
	tag, err := operatorConn(t, c.dir).Exec(t.Context(), `UPDATE webhook_endpoints SET url = $2 WHERE id = $1`, endpoint.ID, c.receiver.url+path)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("%s, %v", tag, err)
	}
}

// claimAt fetches a secret where the receiver was told to, and comes a second time.
func (c *canary) claimAt(t *testing.T, path string) {
	t.Helper()
	address, err := url.Parse(c.receiver.claim(path))
	if err != nil {
		t.Fatal(err)
	}
	var claimed struct{ Key string }
	stranger := c.with("")
	stranger.call(t, "POST", address.Path, nil, http.StatusOK, &claimed)
	c.seen.add("secret claimed of "+path, claimed.Key)
	c.verify(t, claimed.Key)
	stranger.call(t, "POST", address.Path, nil, http.StatusNotFound, nil)
	if got, err := stranger.send(t.Context(), "GET", address.Path, nil); err != nil || got.status != http.StatusMethodNotAllowed {
		t.Errorf("read, it answers %d, %v", got.status, err)
	}
}

// again delivers what has not arrived again, with the same secret and with another, and cancels, forces and revokes.
func (c *canary) again(t *testing.T, lineages map[string]keyInfo) {
	t.Helper()
	on := func(path, action string, body any) {
		t.Helper()
		waiting := c.waiting(t, lineages[path].LineageID)
		sent := c.receiver.count(path)
		c.call(t, "POST", "/v1/rotations/"+waiting+"/"+action, body, http.StatusOK, nil)
		if action == "redeliver" {
			eventually(t, "another attempt at "+path, func() bool { return c.receiver.count(path) > sent })
		}
	}
	for _, path := range []string{"/plain/fail", "/sealed/fail"} {
		on(path, "redeliver", nil)
		on(path, "redeliver", map[string]any{"fresh": true})
	}
	on("/plain/fail", "cancel", map[string]any{"reason": "canary"})
	on("/sealed/fail", "force", nil)
	var found []struct{ ID, Type string }
	c.call(t, "GET", "/v1/deliveries?state=delivered", nil, http.StatusOK, &found)
	for _, d := range found[:min(3, len(found))] {
		_, _ = c.send(t.Context(), "POST", "/v1/deliveries/"+d.ID+"/redeliver", nil) // those with secrets are refused
	}
}

func (c *canary) waiting(t *testing.T, lineage string) string {
	t.Helper()
	var id string
	eventually(t, "a rotation that waits", func() bool {
		var found []rotationInfo
		c.call(t, "GET", "/v1/rotations?state=delivering&lineage_id="+lineage, nil, http.StatusOK, &found)
		if len(found) > 0 {
			id = found[0].ID
		}
		return id != ""
	})
	return id
}

func (c *canary) replaceSigning(t *testing.T, endpoint endpointInfo) {
	t.Helper()
	var rotated endpointInfo
	c.call(t, "POST", "/v1/webhook-endpoints/"+endpoint.ID+"/rotate-secret", nil, http.StatusOK, &rotated)
	c.seen.add("next signing secret", rotated.SigningSecret)
	c.probe(t, endpoint.ID, "test")
}

// replaceCertificate gives another one, after one whose key is in the wrong place.
func (c *canary) replaceCertificate(t *testing.T, endpoint endpointInfo) {
	t.Helper()
	if !strings.HasPrefix(c.receiver.url, "https:") {
		return
	}
	next := c.certificate(t, "next")
	wrong := map[string]any{"certificate_pem": next["private_key_pem"], "private_key_pem": next["certificate_pem"]}
	c.call(t, "PATCH", "/v1/webhook-endpoints/"+endpoint.ID, map[string]any{"client_certificate": wrong}, http.StatusUnprocessableEntity, nil)
	c.call(t, "PATCH", "/v1/webhook-endpoints/"+endpoint.ID, map[string]any{"client_certificate": next}, http.StatusOK, nil)
	c.probe(t, endpoint.ID, "test")
	c.receiver.mu.Lock()
	defer c.receiver.mu.Unlock()
	if c.receiver.callers["/sealed/echo"] == 0 || c.receiver.callers["next"] == 0 {
		t.Errorf("messages came with the certificates %v", c.receiver.callers)
	}
}

// readAll looks at everything that can be looked at: none of it may show a secret.
func (c *canary) readAll(t *testing.T) {
	t.Helper()
	for _, list := range []string{"/v1/webhook-endpoints", "/v1/rotations", "/v1/deliveries", "/v1/api-keys"} {
		query := "?limit=500"
		if list == "/v1/api-keys" {
			query += "&include_revoked=true&project_id=" + c.project(t)
		}
		for i, one := range pages[struct{ ID string }](t, c.rest, list+query) {
			if i < 100 {
				c.call(t, "GET", list+"/"+one.ID, nil, http.StatusOK, nil)
			}
		}
	}
	c.allEvents(t)
}

// signingKeys adds the private halves, which no answer ever shows: they are opened with the master key.
func (c *canary) signingKeys(t *testing.T) {
	t.Helper()
	databaseURL, err := envDatabaseURL(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	rows, err := pool.Query(t.Context(), `SELECT id FROM webhook_endpoints`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[domain.EndpointID])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(c.dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	master, err := seal.ParseKey(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(master)
	if err != nil {
		t.Fatal(err)
	}
	service := commands.New(commands.Config{Reader: projections.NewReader(pool, pool), Sealer: sealer})
	keys, err := service.SigningKeys(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	var pairs int
	for id, all := range keys {
		for _, key := range all {
			if c.seen.add("signing key of "+string(id), key.Reveal()); key.Asymmetric() {
				pairs++
			}
		}
	}
	if pairs < len(canaryReceivers)+6 {
		t.Errorf("%d key pairs of %d endpoints", pairs, len(ids))
	}
}

// pgDump is the whole database as a backup has it.
func pgDump(t *testing.T, dir string) string {
	t.Helper()
	tool, err := exec.LookPath("pg_dump")
	if err != nil && !tooltest.Required() {
		return "" // the rows have been looked at
	}
	databaseURL, urlErr := envDatabaseURL(dir)
	if err != nil || urlErr != nil {
		t.Fatal(err, urlErr)
	}
	var complaints bytes.Buffer
	// As INSERT, text is not escaped once more.
	dump := exec.CommandContext(t.Context(), tool, "--inserts", "--no-sync", databaseURL)
	dump.Stderr = &complaints
	out, err := dump.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, complaints.Bytes())
	}
	for _, control := range []string{canaryControl, "INSERT INTO river.river_job ", "INSERT INTO public.pending_secrets ", "INSERT INTO public.endpoint_secrets ", "INSERT INTO public.endpoint_certificates "} {
		if !bytes.Contains(out, []byte(control)) {
			t.Errorf("the output of pg_dump has no %s", control)
		}
	}
	return string(out)
}

// recorder keeps every answer.
type recorder struct {
	next http.RoundTripper

	mu   sync.Mutex
	kept []recorded
}

// recorded is one answer.
type recorded struct {
	what, text string
	may        bool // be a secret in it: it is the answer to a request that made one
}

// RoundTrip makes a request and keeps a copy of its answer.
func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err != nil {
		return response, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, recorded{
		what: fmt.Sprintf("the answer %d to %s at %s", response.StatusCode, request.Method, time.Now().Format(time.StampMilli)),
		text: fmt.Sprint(response.Header) + string(body),
		may:  request.Method != http.MethodGet && response.StatusCode < 300,
	})
	return response, err
}

// harmless are the answers that must hold no secret: to whoever only reads, and all refusals.
func (r *recorder) harmless() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []recorded
	for _, a := range r.kept {
		if !a.may {
			out = append(out, a)
		}
	}
	return out
}
