package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// refusal is a request that must be refused, and how.
type refusal struct {
	name         string
	method, path string // {project} and {key} stand for ids that exist
	body         any
	headers      []string
	status       int
	code         domain.Code
	field        string // the first field that is named
}

// create is a refusal of a creation: the settings are laid over a good request.
func create(name string, settings fields, field string) refusal {
	body := fields{"project_id": "{project}", "name": "a key"}
	for name, value := range settings {
		body[name] = value
	}
	return refusal{name: name, body: body, status: 422, code: domain.CodeValidation, field: field}
}

// createRaw is a refusal of a body as it stands.
func createRaw(name, body string, status int, code domain.Code, field string) refusal {
	return refusal{name: name, body: body, status: status, code: code, field: field}
}

func get(name, path string, status int, code domain.Code, field string) refusal {
	return refusal{name: name, method: "GET", path: path, status: status, code: code, field: field}
}

// good is a body that is accepted, to be spoilt.
const good = `{"project_id":"{project}","name":"a key"}`

func fieldRefusals() []refusal {
	long := strings.Repeat("n", 10_000)
	deep := strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9)
	return []refusal{
		create("empty name", fields{"name": ""}, "name"),
		create("blank name", fields{"name": " \t "}, "name"),
		create("10 kB name", fields{"name": long}, "name"),
		create("name with NUL", fields{"name": "a\x00b"}, "name"),
		create("name with a control character", fields{"name": "a\x1bb"}, "name"),
		create("name that is null", fields{"name": nil}, "name"),
		create("name that is a number", fields{"name": 5}, "name"),
		create("unknown field", fields{"nmae": "x"}, "nmae"),
		{name: "unknown field of an inner object", method: "POST", path: "/v1/api-keys/import", status: 422, code: domain.CodeValidation, field: "keys[0].nmae",
			body: fields{"project_id": "{project}", "dry_run": true, "keys": []fields{{"key": "a secret of another system", "name": "x", "nmae": "x"}}}},
		create("field in another casing", fields{"Name": "x"}, "Name"),
		create("past expiry", fields{"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
		create("expiry that is no time", fields{"expires_at": "tomorrow"}, "expires_at"),
		create("expiry without a zone", fields{"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
		create("expiry after the year 9999", fields{"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
		create("expiry with an hour of one digit", fields{"expires_at": "2999-01-01T0:00:00Z"}, "expires_at"),
		create("expiry with a comma", fields{"expires_at": "2999-01-01T00:00:00,5Z"}, "expires_at"),
		create("expiry in a zone of 24 hours", fields{"expires_at": "2999-01-01T00:00:00+24:00"}, "expires_at"),
		create("expiry that is empty", fields{"expires_at": ""}, "expires_at"),
		create("expiry that is a number", fields{"expires_at": 1893456000}, "expires_at"),
		create("interval below the minimum", fields{"rotation_interval_seconds": 60}, "rotation_interval_seconds"),
		create("interval in both units", fields{"rotation_interval_seconds": 7200, "rotation_interval_days": 1}, "rotation_interval_days"),
		create("negative interval", fields{"rotation_interval_days": -1}, "rotation_interval_days"),
		create("interval that would overflow", fields{"rotation_interval_days": json.Number("9223372036854775807")}, "rotation_interval_days"),
		create("interval beyond 64 bits", fields{"rotation_interval_seconds": json.Number("1e300")}, "rotation_interval_seconds"),
		create("interval with a fraction", fields{"rotation_interval_seconds": 3600.5}, "rotation_interval_seconds"),
		create("interval written as a float", fields{"rotation_interval_seconds": json.Number("3600.0")}, "rotation_interval_seconds"),
		create("interval that is a string", fields{"rotation_interval_seconds": "3600"}, "rotation_interval_seconds"),
		create("grace in both units", fields{"grace_period_seconds": 60, "grace_period_minutes": 1}, "grace_period_minutes"),
		create("negative grace", fields{"grace_period_seconds": -1}, "grace_period_seconds"),
		create("grace over 30 days", fields{"grace_period_minutes": 43_201}, "grace_period_minutes"),
		create("grace as long as the interval", fields{"rotation_interval_seconds": 3600, "grace_period_seconds": 3600}, "grace_period_seconds"),
		create("ftp webhook", fields{"rotation_webhook_url": "ftp://hooks.example.com/x"}, "rotation_webhook_url"),
		create("webhook without a scheme", fields{"rotation_webhook_url": "hooks.example.com"}, "rotation_webhook_url"),
		create("plain http webhook", fields{"rotation_webhook_url": "http://hooks.example.com/x"}, "rotation_webhook_url"),
		create("loopback webhook", fields{"rotation_webhook_url": "http://127.0.0.1:9/x"}, "rotation_webhook_url"),
		create("loopback webhook with TLS", fields{"rotation_webhook_url": "https://127.0.0.1/x"}, "rotation_webhook_url"),
		create("metadata service webhook", fields{"rotation_webhook_url": "http://169.254.169.254/latest"}, "rotation_webhook_url"),
		create("loopback webhook in disguise", fields{"rotation_webhook_url": "https://2130706433/x"}, "rotation_webhook_url"),
		create("webhook with a password", fields{"rotation_webhook_url": "https://u:p@hooks.example.com/"}, "rotation_webhook_url"),
		create("too many scopes", fields{"scopes": manyScopes(65)}, "scopes"),
		create("bad scope", fields{"scopes": []string{"keys:read", "keys read"}}, "scopes[1]"),
		create("scope with a bare star inside", fields{"scopes": []string{"ke*"}}, "scopes[0]"),
		create("empty scope", fields{"scopes": []string{""}}, "scopes[0]"),
		create("scope that is null", fields{"scopes": []any{nil}}, "scopes[0]"),
		create("scopes that are a string", fields{"scopes": "keys:read"}, "scopes"),
		create("resources that are a list", fields{"resources": []string{"app"}}, "resources"),
		create("kind of resource that is null", fields{"resources": fields{"app": nil}}, "resources.app"),
		create("kind of resource with a bad name", fields{"resources": fields{"App!": []string{"x"}}}, "resources"),
		create("metadata too large", fields{"metadata": fields{"a": strings.Repeat("m", 5000)}}, "metadata"),
		create("metadata that is a list", fields{"metadata": []int{1}}, "metadata"),
		create("metadata that is a string", fields{"metadata": "x"}, "metadata"),
		create("metadata nested too deep", fields{"metadata": json.RawMessage(deep)}, "metadata"),
		create("metadata with NUL", fields{"metadata": fields{"a": "\x00"}}, "metadata"),
		create("metadata with NUL in a name", fields{"metadata": fields{"a\x00": 1}}, "metadata"),
	}
}

func manyScopes(n int) []string {
	var scopes []string
	for i := range n {
		scopes = append(scopes, fmt.Sprintf("scope:%d", i))
	}
	return scopes
}

func bodyRefusals() []refusal {
	return []refusal{
		createRaw("broken JSON", `{"project_id":`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("garbage after the JSON", good+"x", 400, domain.CodeInvalidRequest, "body"),
		createRaw("two JSON values", good+good, 400, domain.CodeInvalidRequest, "body"),
		createRaw("name twice", `{"project_id":"{project}","name":"a","name":"b"}`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("name twice, once escaped", `{"project_id":"{project}","name":"a","n\u0061me":"b"}`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("name in metadata twice", `{"project_id":"{project}","name":"a","metadata":{"x":[{"k":1,"k":2}]}}`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("invalid UTF-8 in the name", "{\"project_id\":\"{project}\",\"name\":\"a\xff\"}", 400, domain.CodeInvalidRequest, "body"),
		createRaw("raw NUL in a string", "{\"project_id\":\"{project}\",\"name\":\"a\x00\"}", 400, domain.CodeInvalidRequest, "body"),
		createRaw("NUL around the JSON", "\x00"+good, 400, domain.CodeInvalidRequest, "body"),
		createRaw("10,000 lists deep", strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000), 400, domain.CodeInvalidRequest, "body"),
		createRaw("10,000 objects deep", `{"metadata":`+strings.Repeat(`{"a":`, 5_000)+"1"+strings.Repeat("}", 5_001), 400, domain.CodeInvalidRequest, "body"),
		createRaw("30,000 lists open", strings.Repeat("[", 30_000), 400, domain.CodeInvalidRequest, "body"),
		createRaw("a number beyond every number", `{"rotation_interval_days":1e999}`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("one in metadata", `{"metadata":{"n":-1e400}}`, 400, domain.CodeInvalidRequest, "body"),
		createRaw("empty body", "", 400, domain.CodeInvalidRequest, "body"),
		createRaw("blank body", " \n", 400, domain.CodeInvalidRequest, "body"),
		createRaw("null", "null", 422, domain.CodeValidation, "body"),
		createRaw("a list", "["+good+"]", 422, domain.CodeValidation, "body"),
		createRaw("a string", `"x"`, 422, domain.CodeValidation, "body"),
		createRaw("a number", "1", 422, domain.CodeValidation, "body"),
		createRaw("nothing in the object", "{}", 422, domain.CodeValidation, "name"),
		createRaw("a body one byte over the limit", good+strings.Repeat(" ", surface.MaxBodyBytes+1-len(good)+len("{project}")-len(unknown("proj"))), 413, domain.CodeTooLarge, ""),
		createRaw("2 MB", `{"name":"`+strings.Repeat("n", 2<<20)+`"}`, 413, domain.CodeTooLarge, ""),
		{name: "a form", body: "name=x", headers: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, code: domain.CodeUnsupportedMedia},
		{name: "text", body: good, headers: []string{"Content-Type", "text/plain"}, status: 415, code: domain.CodeUnsupportedMedia},
		{name: "a nonsense content type", body: good, headers: []string{"Content-Type", "; +"}, status: 415, code: domain.CodeUnsupportedMedia},
	}
}

func pathRefusals() []refusal {
	key := unknown("key")
	del := func(name, path string, status int, code domain.Code, field string) refusal {
		return refusal{name: name, method: "DELETE", path: path, status: status, code: code, field: field}
	}
	patch := func(name string, body fields, field string) refusal {
		return refusal{name: name, method: "PATCH", path: "/v1/api-keys/{key}", body: body, status: 422, code: domain.CodeValidation, field: field}
	}
	post := func(name, path string, body any, status int, code domain.Code, field string) refusal {
		return refusal{name: name, method: "POST", path: path, body: body, status: status, code: code, field: field}
	}
	return []refusal{
		get("unknown key", "/v1/api-keys/"+key, 404, domain.CodeNotFound, ""),
		get("id of another kind", "/v1/api-keys/"+unknown("proj"), 404, domain.CodeNotFound, ""),
		get("id in upper case", "/v1/api-keys/"+strings.ToUpper(key), 404, domain.CodeNotFound, ""),
		get("id with a slash", "/v1/api-keys/"+key+"%2Fevents", 404, domain.CodeNotFound, ""),
		get("id with dots", "/v1/api-keys/..%2F..%2Fhealthz", 404, domain.CodeNotFound, ""),
		get("id with NUL", "/v1/api-keys/"+key+"%00", 404, domain.CodeNotFound, ""),
		get("id with invalid UTF-8", "/v1/api-keys/%ff%fe", 404, domain.CodeNotFound, ""),
		get("very long id", "/v1/api-keys/"+strings.Repeat("k", 8_000), 404, domain.CodeNotFound, ""),
		get("very long path", "/"+strings.Repeat("v1/", 4_000), 404, domain.CodeNotFound, ""),
		get("unknown route", "/v1/keyz", 404, domain.CodeNotFound, ""),
		get("empty id", "/v1/api-keys//events", 404, domain.CodeNotFound, ""),
		post("empty id to rotate", "/v1/api-keys//rotate", "{}", 404, domain.CodeNotFound, ""),
		get("slash at the end", "/v1/api-keys/", 404, domain.CodeNotFound, ""),
		get("environment id with NUL", "/v1/environments/%00", 404, domain.CodeNotFound, ""),
		get("organization id with NUL", "/v1/organizations/%00", 404, domain.CodeNotFound, ""),
		get("project id with NUL", "/v1/projects/%00", 404, domain.CodeNotFound, ""),
		del("unknown key to revoke", "/v1/api-keys/"+key, 404, domain.CodeNotFound, ""),
		del("reason with NUL", "/v1/api-keys/{key}?reason=%00", 422, domain.CodeValidation, "reason"),
		del("reason of 501 characters", "/v1/api-keys/{key}?reason="+strings.Repeat("r", 501), 422, domain.CodeValidation, "reason"),
		{name: "reason in the body with NUL", method: "DELETE", path: "/v1/api-keys/{key}", body: fields{"reason": "\x00"}, status: 422, code: domain.CodeValidation, field: "reason"},
		patch("edit to an empty name", fields{"name": ""}, "name"),
		patch("edit to no name", fields{"name": nil}, "name"),
		patch("edit to no grace", fields{"grace_period_seconds": nil}, "grace_period_seconds"),
		patch("edit of an unknown field", fields{"status": "revoked"}, "status"),
		patch("edit to a past expiry", fields{"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
		patch("edit to metadata that is a list", fields{"metadata": []int{}}, "metadata"),
		patch("edit to a short interval", fields{"rotation_interval_seconds": 1}, "rotation_interval_seconds"),
		patch("edit to a loopback webhook", fields{"rotation_webhook_url": "http://[::1]/"}, "rotation_webhook_url"),
		post("unknown project", "/v1/api-keys", fields{"project_id": unknown("proj"), "name": "x"}, 404, domain.CodeNotFound, ""),
		post("project id with NUL", "/v1/api-keys", fields{"project_id": "proj_\x00", "name": "x"}, 404, domain.CodeNotFound, ""),
		post("project id of another kind", "/v1/api-keys", fields{"project_id": unknown("lin"), "name": "x"}, 404, domain.CodeNotFound, ""),
		post("unknown environment", "/v1/api-keys", fields{"project_id": "{project}", "name": "x", "environment_id": unknown("env")}, 404, domain.CodeNotFound, ""),
		post("environment id with NUL in a body", "/v1/api-keys", fields{"project_id": "{project}", "name": "x", "environment_id": "\x00"}, 404, domain.CodeNotFound, ""),
		post("rotation of an unknown key", "/v1/api-keys/"+key+"/rotate", "{}", 404, domain.CodeNotFound, ""),
		post("rotation with a negative grace", "/v1/api-keys/{key}/rotate", fields{"grace_period_minutes": -1}, 422, domain.CodeValidation, "grace_period_minutes"),
		post("rotation with a huge grace", "/v1/api-keys/{key}/rotate", fields{"grace_period_seconds": json.Number("9223372036854775807")}, 422, domain.CodeValidation, "grace_period_seconds"),
		post("rotation with both units", "/v1/api-keys/{key}/rotate", fields{"grace_period_seconds": 1, "grace_period_minutes": 1}, 422, domain.CodeValidation, "grace_period_minutes"),
		post("rotation with an unknown field", "/v1/api-keys/{key}/rotate", fields{"grace": 1}, 422, domain.CodeValidation, "grace"),
		post("verify without a key", "/v1/api-keys/verify", "{}", 422, domain.CodeValidation, "key"),
		post("verify a key that is a list", "/v1/api-keys/verify", fields{"key": []string{"x"}}, 422, domain.CodeValidation, "key"),
		post("verify with 65 scopes", "/v1/api-keys/verify", fields{"key": "x", "scopes": manyScopes(65)}, 422, domain.CodeValidation, "scopes"),
		post("verify from no address", "/v1/api-keys/verify", fields{"key": "x", "ip": "10.0.0.1:80"}, 422, domain.CodeValidation, "ip"),
		post("verify with a resource that is null", "/v1/api-keys/verify", fields{"key": "x", "resources": fields{"app": nil}}, 422, domain.CodeValidation, "resources.app"),
		post("organization without a name", "/v1/organizations", "{}", 422, domain.CodeValidation, "name"),
		post("project with a bad brand", "/v1/projects", fields{"name": "x", "brand": "A_B"}, 422, domain.CodeValidation, "brand"),
		post("project of an unknown organization", "/v1/projects", fields{"name": "x", "organization_id": unknown("org")}, 404, domain.CodeNotFound, ""),
		post("project of an organization id with NUL", "/v1/projects", fields{"name": "x", "organization_id": "\x00"}, 404, domain.CodeNotFound, ""),
		post("environment with a bad name", "/v1/environments", fields{"project_id": "{project}", "name": "Live!"}, 422, domain.CodeValidation, "name"),
		post("environment of a project id with NUL", "/v1/environments", fields{"project_id": "\x00", "name": "x"}, 404, domain.CodeNotFound, ""),
		post("environment that exists", "/v1/environments", fields{"project_id": "{project}", "name": "live"}, 422, domain.CodeValidation, "name"),
	}
}

func queryRefusals() []refusal {
	var out []refusal
	for list, path := range map[string]string{
		"keys": "/v1/api-keys?project_id={project}&", "organizations": "/v1/organizations?", "projects": "/v1/projects?", "environments": "/v1/environments?",
	} {
		for name, query := range map[string]string{"0": "limit=0", "501": "limit=501", "abc": "limit=abc", "-1": "limit=-1", "a huge number": "limit=99999999999999999999"} {
			out = append(out, get(list+" with the limit "+name, path+query, 422, domain.CodeValidation, "limit"))
		}
		for name, query := range map[string]string{"nonsense": "cursor=x", "NUL": "cursor=%00", "invalid UTF-8": "cursor=%ff", "another kind": "cursor=" + unknown("rot")} {
			out = append(out, get(list+" with the cursor "+name, path+query, 422, domain.CodeValidation, "cursor"))
		}
	}
	for name, query := range map[string]string{"a broken escape": "%", "half an escape": "limit=1&cursor=%2", "a semicolon": "limit=1;cursor=x", "no hex": "after=%zz"} {
		out = append(out, get("a list with "+name+" in the query", "/v1/projects?"+query, 400, domain.CodeInvalidRequest, ""),
			get("events with "+name+" in the query", "/v1/events?"+query, 400, domain.CodeInvalidRequest, ""))
	}
	return append(out,
		get("keys of no project", "/v1/api-keys", 422, domain.CodeValidation, "project_id"),
		get("keys of an unknown project", "/v1/api-keys?project_id="+unknown("proj"), 404, domain.CodeNotFound, ""),
		get("keys of a project with NUL", "/v1/api-keys?project_id=%00", 404, domain.CodeNotFound, ""),
		get("keys of an environment with NUL", "/v1/api-keys?project_id={project}&environment_id=%00", 422, domain.CodeValidation, "environment_id"),
		get("keys of a lineage with NUL", "/v1/api-keys?project_id={project}&lineage_id=lin_%00", 422, domain.CodeValidation, "lineage_id"),
		get("keys with a flag that is none", "/v1/api-keys?project_id={project}&include_revoked=perhaps", 422, domain.CodeValidation, "include_revoked"),
		get("environments of a project with NUL", "/v1/environments?project_id=%00", 422, domain.CodeValidation, "project_id"),
		get("events after nonsense", "/v1/events?after=x", 422, domain.CodeValidation, "after"),
		get("events after less than nothing", "/v1/events?after=-1", 422, domain.CodeValidation, "after"),
		get("events with the limit 1001", "/v1/events?limit=1001", 422, domain.CodeValidation, "limit"),
		get("history after nonsense", "/v1/api-keys/{key}/events?after=x", 422, domain.CodeValidation, "after"),
		refusal{name: "stream after nonsense", method: "GET", path: "/v1/events?after=x", headers: []string{"Accept", "text/event-stream"}, status: 422, code: domain.CodeValidation, field: "after"},
		refusal{name: "stream after a nonsense id", method: "GET", path: "/v1/events", headers: []string{"Accept", "text/event-stream", "Last-Event-ID", "x"}, status: 422, code: domain.CodeValidation, field: "Last-Event-ID"},
	)
}

// TestBadInput sends what must be refused: each gets a clear problem document that names the field and the remedy, and
// nothing is half done.
func TestBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	ids := strings.NewReplacer("{project}", string(b.tenant.Key.ProjectID), "{key}", b.newKey(nil).text("id"))
	before := b.head()
	for _, group := range [][]refusal{fieldRefusals(), bodyRefusals(), pathRefusals(), queryRefusals()} {
		for _, r := range group {
			t.Run(r.name, func(t *testing.T) {
				a := r.send(t, b, ids)
				p := a.refused(r.status, r.code)
				if r.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != r.field) {
					t.Errorf("the field %s is not named: %s", r.field, a.body)
				}
				for _, e := range p.Errors {
					if e.Message == "" || e.Remedy == "" {
						t.Errorf("no message or no remedy: %+v", e)
					}
				}
				if strings.Contains(p.Detail+fmt.Sprint(p.Errors), "json:") || len(a.body) > 8_000 {
					t.Errorf("not for people: %s", a.body)
				}
				if after := b.head(); after != before {
					t.Errorf("%d events were appended", after-before)
					before = after
				}
			})
		}
	}
	if level := `"level":"ERROR"`; strings.Contains(b.logs.String(), level) {
		t.Errorf("a fault of the caller was logged as one of ours:\n%s", linesWith(b.logs.String(), level))
	}
}

func (r refusal) send(t *testing.T, b *bench, ids *strings.Replacer) *answer {
	t.Helper()
	method, path := r.method, r.path
	if method == "" {
		method, path = "POST", "/v1/api-keys"
	}
	body := r.body
	switch value := body.(type) {
	case nil:
	case string:
		body = ids.Replace(value)
	default:
		raw, err := json.Marshal(value)
		must(t, err)
		body = ids.Replace(string(raw))
	}
	a := b.root.call(method, ids.Replace(path), body, r.headers...)
	a.t = t
	return a
}

func linesWith(text, part string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestLenience shows what is accepted although it could be thought wrong.
func TestLenience(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	body := strings.ReplaceAll(good, "{project}", string(b.tenant.Key.ProjectID))
	t.Run("NoContentTypeIsJSON", func(t *testing.T) {
		b.root.call("POST", "/v1/api-keys", body, "Content-Type", "").wants(201)
	})
	t.Run("ContentTypeWithParameters", func(t *testing.T) {
		b.root.call("POST", "/v1/api-keys", body, "Content-Type", "application/json; charset=utf-8").wants(201)
	})
	t.Run("ABodyAtTheLimit", func(t *testing.T) {
		b.root.call("POST", "/v1/api-keys", body+strings.Repeat(" ", surface.MaxBodyBytes-len(body))).wants(201)
	})
	t.Run("NullIsAbsent", func(t *testing.T) {
		b.newKey(fields{
			"environment_id": nil, "scopes": nil, "resources": nil, "expires_at": nil, "rotation_interval_days": nil,
			"rotation_interval_seconds": nil, "rotation_webhook_url": nil, "grace_period_minutes": nil, "grace_period_seconds": nil, "metadata": nil,
		})
	})
	t.Run("AnyAcceptGetsJSON", func(t *testing.T) {
		for _, accept := range []string{"", "*/*", "text/html", "application/problem+json", "application/xml;q=0.9, */*;q=0.1"} {
			a := b.root.call("GET", "/v1/projects", nil, "Accept", accept).wants(200)
			if kind := a.header.Get("Content-Type"); kind != "application/json" {
				t.Errorf("Accept %q got %q", accept, kind)
			}
		}
	})
	t.Run("AMalformedKeyIsNotFound", func(t *testing.T) {
		for _, secret := range []string{"", "x", "rk_live_", "a\x00b", strings.Repeat("k", 60_000), "rk_live_" + strings.Repeat("0", 39), "Bearer x"} {
			if a := b.verify(secret); a.text("code") != "NOT_FOUND" || a.fields()["key_id"] != nil {
				t.Errorf("%.40q: %s", secret, a.body)
			}
		}
	})
	t.Run("ScopesThatNobodyCouldHoldAreMissing", func(t *testing.T) {
		secret := b.newKey(fields{"scopes": []string{"a:b"}}).text("key")
		a := b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret, "scopes": []string{"\x00", ""}}).wants(200)
		if a.text("code") != "INSUFFICIENT_SCOPE" {
			t.Errorf("got %s", a.body)
		}
	})
}

// TestMethods shows what paths do with methods that they do not have.
func TestMethods(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for path, allow := range map[string]string{
		"/healthz": "GET, HEAD, OPTIONS", "/openapi.json": "GET, HEAD, OPTIONS", "/v1/api-keys": "GET, HEAD, POST, OPTIONS",
		"/v1/api-keys/" + unknown("key"): "GET, HEAD, PATCH, DELETE, OPTIONS", "/v1/api-keys/" + unknown("key") + "/rotate": "POST, OPTIONS",
		"/v1/api-keys/verify": "GET, HEAD, POST, PATCH, DELETE, OPTIONS", // also an id, of a key that cannot exist
	} {
		for _, method := range []string{"PUT", "TRACE", "BREW"} {
			a := b.root.call(method, path, nil)
			a.refused(http.StatusMethodNotAllowed, domain.CodeMethodNotAllowed)
			if got := a.header.Get("Allow"); got != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, path, got, allow)
			}
		}
		if a := b.root.call("OPTIONS", path, nil).wants(204); a.header.Get("Allow") != allow {
			t.Errorf("OPTIONS %s: Allow %q, want %q", path, a.header.Get("Allow"), allow)
		}
	}
	for _, method := range []string{"GET", "OPTIONS", "BREW"} {
		b.root.call(method, "/nowhere", nil).refused(http.StatusNotFound, domain.CodeNotFound)
	}
	t.Run("HEADIsGETWithoutTheBody", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/v1/projects", "/v1/events"} {
			get, head := b.root.call("GET", path, nil).wants(200), b.root.call("HEAD", path, nil).wants(200)
			if len(head.body) != 0 || head.header.Get("Content-Type") != get.header.Get("Content-Type") {
				t.Errorf("HEAD %s: %d bytes, %v", path, len(head.body), head.header)
			}
		}
		b.as("").call("HEAD", "/v1/projects", nil).wants(401)
		b.root.call("HEAD", "/v1/events", nil, "Accept", "text/event-stream").wants(200) // and does not stream
	})
}

// TestBrokenOffBody is a caller that leaves in the middle of its request: no fault of ours, and nothing is done.
func TestBrokenOffBody(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	before := b.head()
	address := strings.TrimPrefix(b.http.URL, "http://")
	for name, rest := range map[string]string{
		"cut":       "Content-Length: 100\r\n\r\n{\"name\":",
		"bad chunk": "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		conn, err := net.Dial("tcp", address)
		must(t, err)
		id := "broken-" + strings.ReplaceAll(name, " ", "-")
		_, err = fmt.Fprintf(conn, "POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n%s",
			id, b.root.secret, rest)
		must(t, err)
		must(t, conn.(*net.TCPConn).CloseWrite())
		must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		var got bytes.Buffer
		_, _ = got.ReadFrom(conn)
		_ = conn.Close()
		if line := b.logs.line(t, id); line["level"] == "ERROR" || line["status"] != 400.0 {
			t.Errorf("%s: logged %v", name, line)
		}
	}
	if after := b.head(); after != before {
		t.Errorf("%d events were appended", after-before)
	}
}
