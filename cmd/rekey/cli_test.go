package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// cli is a command line that runs in this process.
type cli struct {
	out, errs *output
	cancel    context.CancelFunc
	ended     chan struct{}
	err       error
}

// startCLI starts a command that runs until it is stopped.
func startCLI(t testing.TB, stdin string, args ...string) *cli {
	t.Helper()
	c := &cli{out: &output{}, errs: &output{}, ended: make(chan struct{})}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(c.out)
	root.SetErr(c.errs)
	go func() {
		defer close(c.ended)
		c.err = root.ExecuteContext(ctx)
	}()
	t.Cleanup(func() { c.cancel(); <-c.ended })
	return c
}

// wait returns how the command ended.
func (c *cli) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-c.ended:
		return c.err
	case <-time.After(patience):
		t.Fatalf("the command did not end: %s%s", c.out.tail(), c.errs.tail())
		return nil
	}
}

// command runs a command line to its end.
func command(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	c := startCLI(t, stdin, args...)
	err := c.wait(t)
	return c.out.String(), err
}

// commandJSON runs one that must succeed and prints JSON.
func commandJSON(t testing.TB, into any, stdin string, args ...string) {
	t.Helper()
	out, err := command(t, stdin, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%v printed %q: %v", args, out, err)
	}
}

// TestCLI uses every client and operator command against one rekey.
func TestCLI(t *testing.T) {
	r := start(t, func(c *Config) { c.Addr, c.NATSAddr = freeAddr(t), freeAddr(t) })
	t.Setenv("REKEY_URL", r.url+"/")
	t.Setenv("REKEY_KEY", r.key)
	t.Setenv("REKEY_DATA_DIR", r.dataDir)
	t.Setenv("REKEY_ADDR", strings.TrimPrefix(r.url, "http://"))

	t.Run("Keys", func(t *testing.T) { cliKeys(t, r) })
	t.Run("KeysRefused", func(t *testing.T) { cliKeysRefused(t, r) })
	t.Run("Import", func(t *testing.T) { cliImport(t, r) })
	t.Run("Projections", func(t *testing.T) { cliProjections(t, r) })
	t.Run("ScannerRules", func(t *testing.T) { cliScannerRules(t, r) })
	t.Run("Migrate", func(t *testing.T) { cliMigrate(t, r) })
	t.Run("Health", func(t *testing.T) { cliHealth(t) })
	t.Run("EventsTail", func(t *testing.T) { cliEventsTail(t, r) }) // restarts it, so it comes last
}

func cliKeys(t *testing.T, r *instance) {
	project := r.project(t)
	var key keyInfo
	commandJSON(t, &key, "", "keys", "create", "--project", project, "--name", "by hand", "--scopes", "read,write",
		"--rotation-interval", "3600", "--grace", "60", "--webhook", "http://127.0.0.1:9/hook", "--expires-at", "2999-01-01T00:00:00Z")
	if key.Name != "by hand" || key.Key == "" || key.WebhookSecret == "" {
		t.Errorf("create printed %+v", key)
	}
	var shown struct {
		keyInfo
		Scopes    []string `json:"scopes"`
		Interval  int      `json:"rotation_interval_seconds"`
		Grace     int      `json:"grace_period_seconds"`
		Webhook   string   `json:"rotation_webhook_url"`
		ExpiresAt string   `json:"expires_at"`
	}
	commandJSON(t, &shown, "", "keys", "get", key.ID)
	settings := fmt.Sprintf("%s %s %v %d %d %s %s", shown.ID, shown.Key, shown.Scopes, shown.Interval, shown.Grace, shown.Webhook, shown.ExpiresAt)
	if want := key.ID + "  [read write] 3600 60 http://127.0.0.1:9/hook 2999-01-01T00:00:00Z"; settings != want {
		t.Errorf("get printed %s, not %s", settings, want)
	}
	var listed []keyInfo
	commandJSON(t, &listed, "", "keys", "list", "--project", project)
	if len(listed) != 2 || listed[0].ID != key.ID {
		t.Errorf("list printed %+v", listed)
	}
	var rotated rotatedInfo
	commandJSON(t, &rotated, "", "keys", "rotate", key.ID, "--grace", "0")
	cliVerify(t, key.Key, "GRACE_EXPIRED")
	cliVerify(t, rotated.Key, "VALID", "--scopes", "read")
	cliVerify(t, rotated.Key, "INSUFFICIENT_SCOPE", "--scopes", "read,delete")
	if out, err := command(t, "", "keys", "revoke", rotated.NewKeyID, "--reason", "left the company"); err != nil || out != "" {
		t.Errorf("revoke printed %q: %v", out, err)
	}
	cliVerify(t, rotated.Key, "REVOKED")
	var history []eventInfo
	commandJSON(t, &history, "", "keys", "events", key.ID)
	if last := history[len(history)-1]; last.Type != "Revoked" || !strings.Contains(string(last.Data), "left the company") {
		t.Errorf("the history ends with %+v", last)
	}
	commandJSON(t, &listed, "", "keys", "list", "--project", project)
	var all []keyInfo
	commandJSON(t, &all, "", "keys", "list", "--project", project, "--all")
	if len(listed) != 1 || len(all) != 3 {
		t.Errorf("the list has %d keys, with ended ones %d", len(listed), len(all))
	}
}

// cliVerify gives the secret on standard input, as a line.
func cliVerify(t *testing.T, secret, code string, flags ...string) {
	t.Helper()
	var v verdictInfo
	commandJSON(t, &v, secret+"\n", append([]string{"keys", "verify"}, flags...)...)
	if v.Code != code {
		t.Errorf("verify says %s, not %s", v, code)
	}
}

// cliKeysRefused requires that what the server refuses becomes an error that says why and what to do.
func cliKeysRefused(t *testing.T, r *instance) {
	for want, args := range map[string][]string{
		"not_found: ":            {"keys", "get", "key_01jz8q0v6me5et8b3k2c9d4x7a"},
		"validation_failed: ":    {"keys", "create", "--project", r.project(t), "--name", ""},
		"rotation_interval":      {"keys", "create", "--project", r.project(t), "--name", "x", "--rotation-interval", "-1"},
		"rotation_webhook_url: ": {"keys", "create", "--project", r.project(t), "--name", "x", "--webhook", "ftp://example.com/", "--rotation-interval", "60"},
	} {
		if out, err := command(t, "", args...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	t.Setenv("REKEY_KEY", r.key+"x")
	if _, err := command(t, "", "keys", "get", "key_01jz8q0v6me5et8b3k2c9d4x7a"); err == nil || !strings.Contains(err.Error(), "unauthenticated: ") {
		t.Errorf("with a wrong key: %v", err)
	}
	t.Setenv("REKEY_URL", "http://127.0.0.1:1")
	if _, err := command(t, "", "keys", "get", "key_01jz8q0v6me5et8b3k2c9d4x7a"); err == nil || !strings.Contains(err.Error(), "REKEY_URL") {
		t.Errorf("without a server: %v", err)
	}
}

// cliProjections damages the read model by hand: check must see it, rebuild must mend it.
func cliProjections(t *testing.T, r *instance) {
	key := r.create(t, "damaged", nil)
	out, err := command(t, "", "projections", "check")
	if err != nil || !strings.Contains(out, "the read model is what the log says") || !regexp.MustCompile(`(?m)^keys +\d+ rows$`).MatchString(out) {
		t.Fatalf("check of a sound read model: %v\n%s", err, out)
	}
	conn := operatorConn(t, r.dataDir)
	for _, damage := range []string{
		"UPDATE keys SET state = 'revoked' WHERE id = '" + key.ID + "'",
		"DELETE FROM keys WHERE id = '" + key.ID + "'",
		"INSERT INTO due_work (lineage_id, kind, key_id, due_at, scan_at) VALUES ('" + key.LineageID + "', 'expire', '" + key.ID + "', now() + '1 hour', now() + '1 hour')",
	} {
		if _, err := conn.Exec(t.Context(), damage); err != nil {
			t.Fatal(err)
		}
		out, err := command(t, "", "projections", "check")
		if err == nil || !strings.Contains(err.Error(), "rekey projections rebuild") || !strings.Contains(out, key.ID) {
			t.Errorf("check after %q: %v\n%s", damage, err, out)
		}
		if out, err = command(t, "", "projections", "rebuild"); err != nil || !strings.HasPrefix(out, "rebuilt the rows of ") {
			t.Errorf("rebuild: %v\n%s", err, out)
		}
		if out, err = command(t, "", "projections", "check"); err != nil {
			t.Errorf("check after the rebuild: %v\n%s", err, out)
		}
		if v := r.verify(t, key.Key); v.String() != "VALID active" {
			t.Errorf("after the rebuild the key answers %s", v)
		}
	}
}

// cliMigrate brings an empty database up to date, and finds nothing to do the second time.
func cliMigrate(t *testing.T, r *instance) {
	conn := operatorConn(t, r.dataDir)
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE another"); err != nil {
		t.Fatal(err)
	}
	databaseURL, err := envDatabaseURL(r.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("REKEY_DATABASE_URL", strings.Replace(databaseURL, "/postgres?", "/another?", 1))
	for range 2 {
		if out, err := command(t, "", "migrate"); err != nil || out != "the schema is up to date\n" {
			t.Errorf("migrate printed %q: %v", out, err)
		}
	}
	if out, err := command(t, "", "projections", "check"); err != nil || !strings.Contains(out, "folded 0 events") {
		t.Errorf("check of an empty log: %v\n%s", err, out)
	}
	t.Setenv("REKEY_DATABASE_URL", "")
	t.Setenv("REKEY_DATA_DIR", t.TempDir())
	for _, args := range [][]string{{"migrate"}, {"projections", "check"}, {"projections", "rebuild"}, {"scanner-rules"}} {
		if _, err := command(t, "", args...); err == nil || !strings.Contains(err.Error(), "REKEY_DATABASE_URL is not set") {
			t.Errorf("%v without a database: %v", args, err)
		}
	}
}

func cliHealth(t *testing.T) {
	if out, err := command(t, "", "health"); err != nil || out != "" {
		t.Errorf("health of a running rekey: %q, %v", out, err)
	}
	t.Setenv("REKEY_ADDR", freeAddr(t))
	if _, err := command(t, "", "health"); err == nil {
		t.Error("health finds a rekey where there is none")
	}
}

// cliEventsTail follows the feed over a restart of the server: each event once, in order, as it is committed.
func cliEventsTail(t *testing.T, r *instance) {
	tail := startCLI(t, "", "events", "tail", "--json")
	table := startCLI(t, "", "events", "tail", "--after", fmt.Sprint(r.head(t)))
	seen := func() []eventInfo {
		var events []eventInfo
		for line := range strings.Lines(tail.out.String()) {
			var e eventInfo
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil {
				events = append(events, e)
			}
		}
		return events
	}
	shown := func(key keyInfo) bool {
		events := seen()
		return len(events) > 0 && strings.Contains(string(events[len(events)-1].Data), key.ID)
	}
	first := r.create(t, "tailed", nil)
	eventually(t, "the event of a new key", func() bool { return shown(first) })
	r = r.again(t)
	second := r.create(t, "tailed again", nil)
	eventually(t, "the event of a new key after a restart", func() bool { return shown(second) })
	if !strings.Contains(tail.errs.String(), "reconnecting: ") {
		t.Errorf("of the restart it says %q", tail.errs.String())
	}
	all := r.allEvents(t)
	for i, e := range seen() {
		if i >= len(all) || e.Position != int64(i+1) || e.ID != all[i].ID || !sameJSON(t, e.Data, all[i].Data) {
			t.Fatalf("line %d is event %d %s", i+1, e.Position, e.ID)
		}
	}
	eventually(t, "the table's lines", func() bool { return strings.Count(table.out.String(), " Created ") == 2 })
	for _, c := range []*cli{tail, table} {
		c.cancel()
		if err := c.wait(t); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	revoked := r.create(t, "no rights", map[string]any{"scopes": []string{"read"}})
	t.Setenv("REKEY_KEY", revoked.Key)
	if _, err := command(t, "", "events", "tail"); err == nil || !strings.Contains(err.Error(), "insufficient_scope") {
		t.Errorf("without the right it ends with %v", err) // and does not try for ever
	}
}
