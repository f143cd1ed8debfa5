package api_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// in is the bench as one run of a fuzz target uses it.
func (b *bench) in(t *testing.T) *bench {
	here := *b
	here.t, here.root = t, b.root.at(t)
	return &here
}

// serve has a request answered without a network in between, and judges the answer: it has the form of its surface and is
// no fault of ours, nothing happens if it is a refusal, and the caller's key is not repeated.
func (b *bench) answer(method, target string, header http.Header, body []byte) *answer {
	t := b.t
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://rekey"+target, bytes.NewReader(body))
	if err != nil {
		t.Skip() // no client could send it
	}
	request.Header = header
	if header.Get("Authorization") == "" {
		header.Set("Authorization", "Bearer "+b.root.secret)
	}
	before, recorder := b.head(), httptest.NewRecorder()
	b.http.Config.Handler.ServeHTTP(recorder, request)
	response := recorder.Result()
	a := &answer{t: t, status: response.StatusCode, header: response.Header, body: recorder.Body.Bytes()}
	if a.status >= 500 {
		t.Fatalf("answered %d: %s", a.status, a.body)
	}
	if err := about(request.URL.Path).judge(request, response, a.body); err != nil {
		t.Errorf("answered %d: %v\n%s", a.status, err, a.body)
	}
	if after := b.head(); a.status >= 400 && after != before {
		t.Errorf("answered %d, but %d events were appended: %s", a.status, after-before, a.body)
	}
	if strings.Contains(string(a.body), b.root.secret) {
		t.Errorf("the answer has the caller's key: %s", a.body)
	}
	return a
}

// fuzzBodies feeds bodies to a route. In the path and in them {key} and {project} stand for a key and a project that exist.
func fuzzBodies(f *testing.F, method, path string, seeds ...string) {
	b := setup(f, options{})
	key, project := b.newKey(nil).text("id"), string(b.tenant.Key.ProjectID)
	for _, seed := range slices.Concat(seeds, []string{"", "{}", "null", "[]", `{"name":1}`, `{"name":"a","name":"b"}`, "{\"\xff\":0}", `{"x":{"y":[]}}`}) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := b.in(t)
		ids := strings.NewReplacer("{key}", key, "{project}", project)
		a := b.answer(method, ids.Replace(path), http.Header{"Content-Type": {"application/json"}}, []byte(ids.Replace(string(body))))
		if strings.Contains(path, "{key}") && (a.status == http.StatusConflict || method == http.MethodPost && a.status < 300) {
			key = b.newKey(nil).text("id") // the other one has been rotated, or has ended
		}
	})
}

const (
	seedSettings = `"name":"a key","scopes":["keys:read","a:*"],"resources":{"app":["com.demo.app"]},"expires_at":"2999-01-01T00:00:00Z","metadata":{"a":[{"b":null}]}`
	seedInterval = `"rotation_interval_days":1,"rotation_webhook_url":"https://hooks.example.com/x","grace_period_minutes":5`
)

func FuzzCreateKey(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/api-keys", `{"project_id":"{project}",`+seedSettings+`}`, `{"project_id":"{project}","name":"a",`+seedInterval+`}`,
		`{"project_id":"{project}","environment_id":null,"name":"a","rotation_interval_seconds":3600.0,"grace_period_seconds":1e3}`)
}

func FuzzUpdateKey(f *testing.F) {
	fuzzBodies(f, "PATCH", "/v1/api-keys/{key}", `{`+seedSettings+`}`, `{`+seedInterval+`}`,
		`{"scopes":null,"resources":null,"expires_at":null,"rotation_interval_days":null,"rotation_webhook_url":null,"metadata":null}`,
		`{"expires_at":"2999-01-01T0:00:00Z"}`)
}

func FuzzRevokeKey(f *testing.F) {
	fuzzBodies(f, "DELETE", "/v1/api-keys/{key}", `{"reason":"left in a log"}`, `{"reason":null}`, `{"reason":"\u0000"}`)
}

func FuzzRotateKey(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/api-keys/{key}/rotate", `{"grace_period_minutes":0}`, `{"grace_period_seconds":60,"supersede":true}`, `{"grace_period_seconds":null}`)
}

func FuzzVerifyKey(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/api-keys/verify", `{"key":"rk_live_x","scopes":["a:b"],"resources":{"app":"x"},"ip":"203.0.113.7"}`)
}

func FuzzImportKeys(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/api-keys/import", `{"project_id":"{project}","dry_run":true,"keys":[{"key":"a secret-of-another-system",`+seedSettings+`}]}`,
		`{"project_id":"{project}","keys":[{"name":"x","key_prefix":"sk_live_","last_four":"9aZk","sha256":"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"},{"name":"y","key":"0123456789abcdefg"}]}`,
		`{"project_id":"{project}","keys":[{"name":"x","sha256":"uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek="}]}`)
}

func FuzzBulkRevoke(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/api-keys/bulk-revoke", `{"project_id":"{project}","scope":"a","key_prefix":"rk_","dry_run":true}`,
		`{"created_by":"{key}","unused_since":"2020-01-01T00:00:00+02:00","reason":"x","dry_run":true}`, `{"key_prefix":"rk_","token":"AAAA"}`)
}

func FuzzCreateProject(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/projects", `{"name":"x","brand":"rk","organization_id":null}`,
		`{"name":"x","policy":{"max_lifetime_seconds":60,"require_expiry":true,"default_grace_seconds":1,"max_grace_seconds":null,"allowed_scopes":["a:*"],"on_leak":"notify"}}`)
}

func FuzzUpdateProject(f *testing.F) {
	fuzzBodies(f, "PATCH", "/v1/projects/{project}", `{"name":"x","brand":null,"policy":null}`, `{"policy":{"max_grace_seconds":60,"allowed_scopes":[]}}`)
}

func FuzzCreateEnvironment(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/environments", `{"project_id":"{project}","name":"test"}`)
}

func FuzzCreateOrganization(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/organizations", `{"name":"Example GmbH"}`)
}

func FuzzRevokeLeaked(f *testing.F) {
	fuzzBodies(f, "POST", "/v1/revoke-leaked", `{"key":"rk_live_x","url":"https://u:p@git.example.com/a?b#c"}`, `{"keys":["x","y"]}`)
}

func FuzzAccountKeysCreate(f *testing.F) {
	fuzzBodies(f, "POST", "/api/v1/keys", `{"name":"New API Key","scopes":["read","write","delete"],"expiresAt":"2999-12-31"}`, `{"name":"x","scopes":null,"expiresAt":"2999-12-31T23:59"}`)
}

func FuzzAPIKeyCreate(f *testing.F) {
	fuzzBodies(f, "POST", "/apikey/", `{"name":"Limited Read Key","mode":"read","limited_to_apps":["com.demo.app"],"limited_to_orgs":[]}`)
}

func FuzzProjectsCreate(f *testing.F) {
	fuzzBodies(f, "POST", "/api/v1/projects", `{"name":"Billing","brand":"rk"}`, `{"name":"x","brand":null}`)
}

// FuzzAPIKeyCreateByQuery creates keys with what a query says.
func FuzzAPIKeyCreateByQuery(f *testing.F) {
	b := setup(f, options{})
	for _, seed := range []string{"name=x&mode=read", "name=x&mode=all&limited_to_apps=a,b&limited_to_apps=c", "name=%00&mode=", "limited_to_orgs=,&mode=x", "mode=read;name=x", "%zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		b.in(t).answer("POST", "/apikey/?"+query, http.Header{}, nil)
	})
}

// FuzzGitHubLeaks takes batches whose signature is right.
func FuzzGitHubLeaks(f *testing.F) {
	gh := newScanner(f, elliptic.P256())
	b := setup(f, options{configure: knows(f, gh)})
	for _, seed := range []string{"[]", "", "null", "{}", `[{"token":"x","type":"y","url":"https://github.com/a","source":"commit"}]`, `[{"token":"a","token":"b"}]`, "[[]]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		header := http.Header{"Content-Type": {"application/json"}}
		signed := gh.headers(t, string(body))
		for i := 0; i < len(signed); i += 2 {
			header.Set(signed[i], signed[i+1])
		}
		b.in(t).answer("POST", "/v1/leaks/github", header, body)
	})
}

// placeOfExpiry is what stands in a cursor of expiring keys.
var placeOfExpiry = regexp.MustCompile(`^[0-9]+ key_[0-9a-z]{26}$`)

// FuzzCursor asks each list for the page after a text: only what the list itself could have given is taken.
func FuzzCursor(f *testing.F) {
	b := setup(f, options{})
	lists := []struct{ path, prefix string }{
		{"/v1/api-keys?project_id=" + string(b.tenant.Key.ProjectID) + "&", "key"}, {"/v1/organizations?", "org"}, {"/v1/projects?", "proj"},
		{"/v1/environments?", "env"}, {"/api/v1/keys?", "key"}, {"/v1/keys?", "key"}, {"/apikey/?", "key"}, {"/api/v1/projects?", "proj"},
		{"/v1/api-keys/expiring-soon?", ""},
	}
	for i, list := range lists {
		for _, seed := range []string{"", "x", "\x00", "\xff", list.prefix + "_01jz8q0v6me5et8b3k2c9d4x7a", list.prefix + "_81jz8q0v6me5et8b3k2c9d4x7a", "MSBrZXlfMDFqejhxMHY2bWU1ZXQ4YjNrMmM5ZDR4N2E"} {
			f.Add(uint8(i), seed)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, cursor string) {
		list := lists[int(which)%len(lists)]
		a := b.in(t).answer("GET", list.path+"cursor="+url.QueryEscape(cursor), http.Header{}, nil)
		ours := cursor == "" || list.prefix != "" && domain.ValidID(list.prefix, cursor)
		if place, err := base64.RawURLEncoding.DecodeString(cursor); list.prefix == "" && err == nil && placeOfExpiry.Match(place) {
			ours = a.status == http.StatusOK // as long as its numbers are in range
		}
		if ours != (a.status == http.StatusOK) {
			t.Errorf("%s took the cursor %q with %d", list.path, cursor, a.status)
		}
	})
}

// FuzzIdempotencyKey repeats a request under a text: it is refused, or the second answer is the first one.
func FuzzIdempotencyKey(f *testing.F) {
	b := setup(f, options{})
	for _, seed := range []string{"", " ", "a", `"a"`, `"`, `""`, `"a\"b"`, "a b", "é", "\x00", strings.Repeat("x", 255), strings.Repeat("x", 256), "a,b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		ask := func() *answer { // its answer has a token that is new each time
			header := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}}
			return b.in(t).answer("POST", "/v1/api-keys/bulk-revoke", header, []byte(`{"key_prefix":"rk_","dry_run":true}`))
		}
		first, second := ask(), ask()
		if first.status != http.StatusOK && first.status != http.StatusBadRequest {
			t.Errorf("%q was answered %d: %s", key, first.status, first.body)
		}
		if first.status == http.StatusOK && (!bytes.Equal(first.body, second.body) || second.header.Get("Idempotent-Replayed") != "true") {
			t.Errorf("%q: the second answer is another one:\n%s", key, cmp.Diff(string(first.body), string(second.body)))
		}
	})
}

// FuzzIfMatch edits under a condition: it is done only if the condition is the tag of the key as it is, or none.
func FuzzIfMatch(f *testing.F) {
	b := setup(f, options{})
	made := b.newKey(nil)
	path, tag := "/v1/api-keys/"+made.text("id"), made.header.Get("ETag")
	for _, seed := range []string{"", "*", tag, `"1"`, ` "1" `, `W/"1"`, `"1", "2"`, `"01"`, `"+1"`, `"-1"`, "1", `"`, `"99999999999999999999"`, `"x"`, "\x00"} {
		f.Add(seed, "a name")
	}
	f.Fuzz(func(t *testing.T, condition, name string) {
		header := http.Header{"Content-Type": {"application/json"}, "If-Match": {condition}}
		a := b.in(t).answer("PATCH", path, header, written(fields{"name": name}))
		text := strings.TrimSpace(condition)
		holds := text == "" || text == "*" || text == tag
		switch a.status {
		case http.StatusOK:
			if tag = a.header.Get("ETag"); !holds {
				t.Errorf("done under %q, though the tag is %s", condition, tag)
			}
		case http.StatusPreconditionFailed, http.StatusBadRequest:
			if holds {
				t.Errorf("refused with %d under %q, which is the tag: %s", a.status, condition, a.body)
			}
		}
	})
}

// FuzzLimitedKeyID acts as another key: only by the id or the number of one that is there, in its one spelling.
func FuzzLimitedKeyID(f *testing.F) {
	b := setup(f, options{})
	id := b.newKey(nil).text("id")
	for _, seed := range []string{"{id}", "{number}", "+{number}", "0{number}", " {number}", "", "0", "-1", "9223372036854775808", "key_", "{id}\x00", "{number}.0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.NewReplacer("{id}", id, "{number}", number(id)).Replace(text)
		a := b.in(t).answer("GET", "/apikey/", http.Header{"X-Limited-Key-Id": {text}}, nil)
		own := slices.Contains([]string{id, number(id), string(b.tenant.Key.ID), number(b.tenant.Key.ID)}, text)
		if a.status != http.StatusOK && a.status != http.StatusUnauthorized || own != (a.status == http.StatusOK) {
			t.Errorf("%q was answered %d: %s", text, a.status, a.body)
		}
	})
}
