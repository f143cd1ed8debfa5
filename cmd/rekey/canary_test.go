package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
)

// TestG5Canary lives a full life, with receivers that send secrets back and callers who put them in the wrong places, and
// then looks for every secret it has seen: in the log at its most talkative, in every column of every table, in the
// metrics, and in every file of the data directory, which are the write-ahead log, JetStream and Postgres' own log.
func TestG5Canary(t *testing.T) {
	t.Parallel()
	c := startCanary(t)
	c.live(t)
	c.handOvers(t)
	c.misuse(t)
	c.readAll(t)
	c.signingKeys(t)
	search := c.seen.search()
	c.lookIn(t, search, "the database", c.dump(t))
	c.lookIn(t, search, "the output of pg_dump", pgDump(t, c.dir))
	for _, a := range c.answers.harmless() {
		c.lookIn(t, search, a.what, a.text)
	}
	c.lookIn(t, search, "the metrics", c.metrics(t))
	if code, _ := c.process.terminate(t); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	log := c.process.errs.String()
	if strings.Count(log, `"webhook attempted"`) < len(canaryReceivers)+4 || strings.Count(log, `"status":4`) < 15 {
		t.Errorf("the log has not told of everything")
	}
	c.lookIn(t, search, "the log", log)
	c.lookIn(t, search, "standard output", strings.Replace(c.process.out.String(), " root_key="+c.key, "", 1))
	c.lookInFiles(t, search)
	t.Logf("looked for %d secrets", len(c.seen.names))
}

// canaryControl is a word that must be found where secrets must not: the search does search.
const canaryControl = "canary-control"

type canary struct {
	rest
	process  *child
	dir      string
	nats     string
	observe  string
	seen     canaries
	answers  *recorder
	receiver *canaryReceiver
}

func startCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{dir: inMemory(t), observe: freeAddr(t)}
	var trusted string
	c.receiver, trusted = newCanaryReceiver(t, &c.seen)
	c.process = startRekey(t, devEnv(c.dir, "REKEY_METRICS_ADDR="+c.observe, "REKEY_LOG_LEVEL=debug", "SSL_CERT_FILE="+trusted), "dev")
	fields, _ := c.process.awaitReady(t)
	c.rest = newREST(t, fields["url"], c.seen.add("root key", fields["root_key"]))
	c.answers = &recorder{next: c.rest.http.Transport}
	c.rest.http.Transport = c.answers
	c.nats = fields["nats"]
	return c
}

func (c *canary) make(t *testing.T, name string, fields map[string]any) keyInfo {
	t.Helper()
	key := c.create(t, name, fields)
	c.seen.add("secret of "+name, key.Key)
	if key.WebhookSecret != "" {
		c.seen.add("signing secret of "+name, key.WebhookSecret)
	}
	return key
}

// live is every way in which secrets come and go.
func (c *canary) live(t *testing.T) {
	t.Helper()
	for receiver := range canaryReceivers {
		c.make(t, "to "+receiver, map[string]any{
			"rotation_interval_seconds": 2, "grace_period_seconds": 1, "rotation_webhook_url": c.receiver.url + receiver,
		})
	}
	claiming := c.make(t, "claiming", map[string]any{"rotation_interval_seconds": 2, "grace_period_seconds": 1})
	manual := c.make(t, canaryControl, nil)
	rotated := c.rotate(t, manual.ID, 60)
	c.seen.add("secret of a rotation", rotated.Key)
	var updated keyInfo
	c.call(t, "PATCH", "/v1/api-keys/"+rotated.NewKeyID, map[string]any{"rotation_webhook_url": c.receiver.url + "/echo"}, http.StatusOK, &updated)
	c.seen.add("signing secret of an edit", updated.WebhookSecret)
	var tenant struct{ Key string }
	c.call(t, "POST", "/v1/organizations", map[string]any{"name": "another"}, http.StatusCreated, &tenant)
	c.seen.add("first key of an organization", tenant.Key)
	c.claim(t, claiming)
	c.verify(t, manual.Key)
	c.verify(t, rotated.Key)
	c.revoke(t, rotated.NewKeyID)
	c.verify(t, rotated.Key)
	c.call(t, "GET", "/v1/api-keys", nil, http.StatusUnprocessableEntity, nil)
	for _, option := range []nats.Option{
		nats.Token(rotated.Key), nats.UserInfo(rotated.Key, ""), nats.UserInfo(manual.Key, manual.Key), nats.Token(c.key), nats.Token(tenant.Key),
	} {
		if nc, err := nats.Connect(c.nats, option, nats.MaxReconnects(0)); err == nil {
			nc.Close()
		}
	}
	eventually(t, "a webhook at each receiver", func() bool {
		for path := range canaryReceivers {
			if c.receiver.count(path) == 0 {
				return false
			}
		}
		return c.receiver.count("/echo") > 1
	})
	eventually(t, "the outcome of each webhook", func() bool {
		return strings.Count(c.process.errs.String(), `"webhook attempted"`) >= len(canaryReceivers)
	})
}

// claim fetches a successor with the old key.
func (c *canary) claim(t *testing.T, key keyInfo) {
	t.Helper()
	owner := c.with(key.Key)
	within(t, patience, "the successor", func() bool {
		got, err := owner.send(t.Context(), "POST", "/v1/api-keys/"+key.ID+"/successor", nil)
		if err != nil || got.status != http.StatusOK {
			return false
		}
		_, secret, _ := strings.Cut(string(got.body), `"key":"`)
		secret, _, _ = strings.Cut(secret, `"`)
		return strings.HasPrefix(c.seen.add("claimed secret", secret), "rk_live_")
	})
	owner.call(t, "POST", "/v1/api-keys/"+key.ID+"/successor", nil, http.StatusNotFound, nil) // once
}

// lookIn requires that no secret is in a text.
func (c *canary) lookIn(t *testing.T, s *search, where, text string) {
	t.Helper()
	for i, found := range s.in(text) {
		if i == 5 {
			t.Errorf("in %s: and more", where)
			return
		}
		t.Errorf("in %s: %s", where, found)
	}
}

// dump writes every row of every table as text.
func (c *canary) dump(t *testing.T) string {
	t.Helper()
	conn := operatorConn(t, c.dir)
	rows, err := conn.Query(t.Context(), `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, table := range tables {
		rows, err := conn.Query(t.Context(), "SELECT r::text FROM "+table+" r")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n%s\n", table, strings.Join(lines, "\n"))
	}
	text := b.String()
	for _, control := range []string{canaryControl, "river.river_job", "public.pending_secrets", "public.events_lifecycle_000000", `\x01`} {
		if !strings.Contains(text, control) {
			t.Errorf("the dump of %v has no %s", tables, control)
		}
	}
	return text
}

// operatorConn connects to the database of the dev that runs in a directory, with the owner's rights.
func operatorConn(t testing.TB, dir string) *pgx.Conn {
	t.Helper()
	databaseURL, err := envDatabaseURL(dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (c *canary) metrics(t *testing.T) string {
	t.Helper()
	got := newREST(t, "http://"+c.observe, "").call(t, "GET", "/metrics", nil, http.StatusOK, nil)
	if !strings.Contains(string(got.body), `route="/v1/api-keys/{id}"`) {
		t.Errorf("the metrics do not count by route: %.500s", got.body)
	}
	return string(got.body)
}

// lookInFiles requires that no secret is in any file, and that the search would have found one: each of the places that
// keep what happened has the control.
func (c *canary) lookInFiles(t *testing.T, s *search) {
	t.Helper()
	controls := map[string]string{
		"postgres/data/pg_wal": canaryControl, "jetstream/jetstream/$G/streams/REKEY_EVENTS/msgs": canaryControl,
		"jetstream/jetstream/$G/streams/REKEY_WEBHOOKS/msgs": `"mode":"sealed"`,
	}
	err := filepath.WalkDir(c.dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(c.dir, file)
		text := string(raw)
		c.lookIn(t, s, name, text)
		if place := path.Dir(filepath.ToSlash(name)); controls[place] != "" && strings.Contains(text, controls[place]) {
			delete(controls, place)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, control := range controls {
		t.Errorf("%s is not in %s", control, place)
	}
}
