package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// misplaced lists requests that have a secret where none belongs.
func misplaced(secret, project, key string) []refusal {
	body := func(name string, settings fields) refusal {
		all := fields{"project_id": project, "name": "a key"}
		for field, value := range settings {
			all[field] = value
		}
		return refusal{name: name, method: "POST", path: "/v1/api-keys", body: all}
	}
	raw := func(name, text string) refusal {
		return refusal{name: name, method: "POST", path: "/v1/api-keys", body: text}
	}
	to := func(name, method, path string, more ...any) refusal {
		r := refusal{name: name, method: method, path: path}
		if len(more) > 0 {
			r.body = more[0]
		}
		return r
	}
	with := func(name, header, value string) refusal {
		return refusal{name: name, method: "GET", path: "/v1/projects", headers: []string{header, value}}
	}
	escaped := url.QueryEscape(secret)
	return []refusal{
		body("name of a field", fields{secret: 1}),
		body("name of a field with a dot", fields{"a." + secret: 1}),
		body("kind of resource", fields{"resources": fields{secret: []string{"x"}}}),
		body("kind of resource with a wrong type", fields{"resources": fields{secret: 5}}),
		body("name in metadata", fields{"metadata": fields{secret: strings.Repeat("m", 5000)}}),
		body("project_id", fields{"project_id": secret}),
		body("environment_id", fields{"environment_id": secret}),
		body("expires_at", fields{"expires_at": secret}),
		body("rotation_interval_seconds", fields{"rotation_interval_seconds": secret}),
		body("ftp webhook", fields{"rotation_webhook_url": "ftp://" + secret}),
		body("password in a webhook", fields{"rotation_webhook_url": "https://u:" + secret + "@hooks.example.com"}),
		body("webhook", fields{"rotation_webhook_url": secret}),
		body("scopes as a string", fields{"scopes": secret}),
		body("a bad scope", fields{"scopes": []string{secret + " "}}),
		body("metadata as a string", fields{"metadata": secret}),
		body("name with NUL", fields{"name": secret + "\x00"}),
		raw("broken JSON", `{"name":"`+secret),
		raw("broken JSON after it", `{"name":"`+secret+`",}`),
		raw("a bare body", secret),
		raw("a JSON string", `"`+secret+`"`),
		raw("a name twice", fmt.Sprintf(`{"%s":1,"%s":2}`, secret, secret)),
		refusal{name: "another content type", method: "POST", path: "/v1/api-keys", body: secret, headers: []string{"Content-Type", "text/plain"}},
		refusal{name: "the content type", method: "POST", path: "/v1/api-keys", body: "{}", headers: []string{"Content-Type", secret}},
		to("verify with a list", "POST", "/v1/api-keys/verify", fields{"key": []string{secret}}),
		to("verify with a resource", "POST", "/v1/api-keys/verify", fields{"key": "x", "resources": fields{secret: 1}}),
		to("verify in another field", "POST", "/v1/api-keys/verify", fields{"secret": secret}),
		to("imported key that is none", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{{"name": "x", "key": secret + " "}}}),
		to("imported twice", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{{"name": "x", "key": secret}, {"name": "x", "key": secret}}}),
		to("imported as a digest", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{{"name": "x", "sha256": secret}}}),
		to("imported as a prefix", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{{"name": "x", "sha256": strings.Repeat("0", 64), "key_prefix": secret}}}),
		to("imported as a field", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{{"name": "x", secret: "x"}}}),
		to("imported as a list", "POST", "/v1/api-keys/import", fields{"project_id": project, "keys": secret}),
		to("bulk-revoked by a maker", "POST", "/v1/api-keys/bulk-revoke", fields{"dry_run": true, "created_by": secret}),
		to("bulk-revoked with it as token", "POST", "/v1/api-keys/bulk-revoke", fields{"scope": "x", "token": secret}),
		to("brand", "POST", "/v1/projects", fields{"name": "x", "brand": secret}),
		to("organization_id", "POST", "/v1/projects", fields{"name": "x", "organization_id": secret}),
		to("name of an environment", "POST", "/v1/environments", fields{"project_id": project, "name": secret}),
		to("grace", "POST", "/v1/api-keys/"+key+"/rotate", fields{"grace_period_seconds": secret}),
		to("reason with NUL", "DELETE", "/v1/api-keys/"+key+"?reason="+escaped+"%00"),
		to("path of a get", "GET", "/v1/api-keys/"+escaped),
		to("path of a rotation", "POST", "/v1/api-keys/"+escaped+"/rotate", "{}"),
		to("path of a revocation", "DELETE", "/v1/api-keys/"+escaped),
		to("path of a history", "GET", "/v1/api-keys/"+escaped+"/events"),
		to("path of a project", "GET", "/v1/projects/"+escaped),
		to("path of an environment", "GET", "/v1/environments/"+escaped),
		to("path of an organization", "GET", "/v1/organizations/"+escaped),
		to("path of no route", "GET", "/"+escaped),
		to("path with a method that it lacks", "PUT", "/v1/api-keys/"+escaped),
		to("query project_id", "GET", "/v1/api-keys?project_id="+escaped),
		to("query environment_id", "GET", "/v1/api-keys?environment_id="+escaped+"&project_id="+project),
		to("query lineage_id", "GET", "/v1/api-keys?lineage_id="+escaped+"&project_id="+project),
		to("query include_revoked", "GET", "/v1/api-keys?include_revoked="+escaped+"&project_id="+project),
		to("query limit", "GET", "/v1/projects?limit="+escaped),
		to("query cursor", "GET", "/v1/projects?cursor="+escaped),
		to("query after", "GET", "/v1/events?after="+escaped),
		to("query of its own", "GET", "/v1/nowhere?"+escaped+"="+escaped),
		to("method", secret, "/v1/api-keys"),
		to("method of no route", secret, "/nowhere"),
		with("authorization without a scheme", "Authorization", secret),
		with("authorization with another scheme", "Authorization", "Basic "+secret),
		with("authorization with more behind it", "Authorization", "Bearer "+secret+" "+secret),
		refusal{name: "Last-Event-ID", method: "GET", path: "/v1/events", headers: []string{"Accept", "text/event-stream", "Last-Event-ID", secret}},
		refusal{name: "request id", method: "GET", path: "/nowhere", headers: []string{"X-Request-Id", secret}},
		refusal{name: "accept", method: "GET", path: "/nowhere", headers: []string{"Accept", secret}},
		refusal{name: "query of a refused caller", method: "GET", path: "/v1/events?key=" + escaped, headers: []string{"Authorization", ""}},
	}
}

// TestG5_MisplacedSecretsAreNotRepeated sends a working secret in every wrong place. Neither the answer nor the log may
// have it: both are read by others than the one who sent it.
func TestG5_MisplacedSecretsAreNotRepeated(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	secret := b.newKey(nil).text("key")
	for _, r := range misplaced(secret, string(b.tenant.Key.ProjectID), b.newKey(nil).text("id")) {
		t.Run(r.name, func(t *testing.T) {
			a := b.root.call(r.method, r.path, r.body, r.headers...)
			if a.status < 400 {
				t.Fatalf("accepted with %d: %s", a.status, a.body)
			}
			if text := string(a.body) + fmt.Sprint(a.header); strings.Contains(text, secret) || strings.Contains(text, secret[8:40]) {
				t.Errorf("the answer repeats it: %s", text)
			}
			b.logs.line(t, a.header.Get("X-Request-Id"))
		})
	}
	t.Run("a scope that the caller lacks", func(t *testing.T) {
		a := b.holding("keys:write").call("POST", "/v1/api-keys", fields{
			"project_id": b.tenant.Key.ProjectID, "name": "x", "scopes": []string{secret},
		})
		if a.refused(403, domain.CodeEscalation); strings.Contains(string(a.body), secret) {
			t.Errorf("the answer repeats it: %s", a.body)
		}
	})
	if strings.Contains(b.logs.String(), secret) {
		t.Errorf("the log has it:\n%s", linesWith(b.logs.String(), secret))
	}
}

// TestG5_SecretsAreNotLogged lives a key's whole life, and looks for each secret that was answered.
func TestG5_SecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	made := b.newKey(fields{"rotation_interval_seconds": 3600, "rotation_webhook_url": "https://hooks.example.com/x"})
	secrets := []string{b.root.secret, made.text("key"), made.text("rotation_webhook_secret")}
	edited := b.root.call("PATCH", "/v1/api-keys/"+made.text("id"), fields{"rotation_webhook_url": "https://hooks.example.com/y"}).wants(200)
	secrets = append(secrets, edited.text("rotation_webhook_secret"))
	claimed := b.newKey(fields{"rotation_interval_seconds": 3600})
	b.clock.advance(2 * time.Hour)
	b.sweep()
	successor := b.as(claimed.text("key")).call("POST", "/v1/api-keys/"+claimed.text("id")+"/successor", nil).wants(200)
	rotated := b.root.call("POST", "/v1/api-keys/"+successor.text("key_id")+"/rotate", "{}").wants(200)
	secrets = append(secrets, claimed.text("key"), successor.text("key"), rotated.text("key"), b.newOrganization("x").owner.secret)
	for _, secret := range secrets {
		b.verify(secret)
	}
	for i, secret := range secrets {
		if strings.Contains(b.logs.String(), secret) {
			t.Errorf("secret %d is in the log:\n%s", i, linesWith(b.logs.String(), secret))
		}
	}
}

// TestRequestLog shows what one line has: the route and well-formed ids, not what was sent.
func TestRequestLog(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	key := unknown("key")
	for _, c := range []struct {
		method, path string
		want         fields
	}{
		{"GET", "/v1/api-keys/" + key + "?x=1", fields{"route": "/v1/api-keys/{id}", "id": key, "method": "GET", "status": 404.0, "code": "not_found", "level": "DEBUG"}},
		{"GET", "/v1/api-keys/secret-text", fields{"route": "/v1/api-keys/{id}", "id": nil}},
		{"GET", "/secret-text", fields{"route": "", "status": 404.0}},
		{"SECRET-TEXT", "/healthz", fields{"method": "another method", "status": 405.0}},
		{"GET", "/v1/projects", fields{"route": "/v1/projects", "actor": string(b.tenant.Key.ID), "status": 200.0}},
	} {
		line := b.logs.line(t, b.root.call(c.method, c.path, nil).header.Get("X-Request-Id"))
		for name, want := range c.want {
			if line[name] != want {
				t.Errorf("%s %s: %s is %v, want %v", c.method, c.path, name, line[name], want)
			}
		}
	}
	if strings.Contains(strings.ToLower(b.logs.String()), "secret-text") {
		t.Errorf("the log has the path:\n%s", linesWith(b.logs.String(), "secret"))
	}
}
