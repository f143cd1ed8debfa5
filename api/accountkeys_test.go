package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// accountKey is a created or listed key of this surface.
type accountKey struct {
	ID, Name, Key       string
	Scopes              []string
	CreatedAt           time.Time
	ExpiresAt, LastUsed *time.Time
	Prefix, LastFour    string
}

func (a *answer) accountKey() accountKey {
	a.t.Helper()
	var body struct{ Data accountKey }
	a.wants(201).into(&body)
	return body.Data
}

func (a *answer) accountKeys() []accountKey {
	a.t.Helper()
	var body struct{ Data struct{ Keys []accountKey } }
	a.wants(200).into(&body)
	if body.Data.Keys == nil {
		a.t.Errorf("keys is no list: %s", a.body)
	}
	return body.Data.Keys
}

// onEach runs a part of a test at each address of the surface.
func onEach(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	for _, path := range accountPaths {
		t.Run(strings.ReplaceAll(strings.Trim(path, "/"), "/", "_"), func(t *testing.T) { test(t, path) })
	}
}

// TestAccountKeys_Scopes holds each scope against each route. Scopes of the native surface count for nothing here.
func TestAccountKeys_Scopes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	holders := map[string]*client{}
	for _, scope := range []string{"read", "write", "delete", "*", "keys:*", "read:*", "reads", "READ"} {
		holders[scope] = b.holding(scope)
	}
	victims := map[string]string{}
	for scope := range holders {
		victims[scope] = b.newKey(nil).text("id")
	}
	onEach(t, func(t *testing.T, path string) {
		for scope, c := range holders {
			c := c.at(t)
			for needed, call := range map[string]func() *answer{
				"read":   func() *answer { return c.call("GET", path, nil) },
				"write":  func() *answer { return c.call("POST", path, fields{"name": "x"}) },
				"delete": func() *answer { return c.call("DELETE", path+"/"+victims[scope], nil) },
			} {
				if a := call(); scope == needed || scope == "*" {
					if a.status >= 300 {
						t.Errorf("%s does not do for %s: %d %s", scope, needed, a.status, a.body)
					}
				} else if e := a.enveloped(403, "FORBIDDEN"); e.Error.Details.RequiredScope != needed {
					t.Errorf("%s lacks %s, but is told %s", scope, needed, a.body)
				}
			}
		}
	})
}

// TestAccountKeys_Creation shows what a new key gets: what is named, else what the page says, and never more than its
// maker has.
func TestAccountKeys_Creation(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	end := began.Add(24 * time.Hour)
	limited := b.as(b.newKey(fields{
		"scopes": []string{"write", "read", "projects:read"}, "expires_at": end, "resources": fields{"app": []string{"a"}},
	}).text("key"))
	writer, all := b.holding("write"), b.holding("*")
	onEach(t, func(t *testing.T, path string) {
		limited, writer, all := limited.at(t), writer.at(t), all.at(t)
		for name, c := range map[string]struct {
			caller *client
			scopes any
			want   []string
		}{
			"Default":              {all, nil, []string{"read", "write"}},
			"DefaultCutDown":       {writer, nil, []string{"write"}},
			"DefaultOfALimitedKey": {limited, nil, []string{"read", "write"}},
			"Named":                {all, []string{"delete", "read", "delete"}, []string{"delete", "read"}},
		} {
			t.Run(name, func(t *testing.T) {
				made := c.caller.at(t).call("POST", path, fields{"name": " x ", "scopes": c.scopes}).accountKey()
				if !slices.Equal(made.Scopes, c.want) || made.Name != "x" {
					t.Errorf("got %+v", made)
				}
			})
		}
		t.Run("BelongsToItsMakersProject", func(t *testing.T) {
			made := limited.at(t).call("POST", path, fields{"name": "x"}).accountKey()
			k, err := b.reader.Key(t.Context(), projections.Reach{Organization: b.tenant.OrganizationID}, domain.KeyID(made.ID))
			must(t, err)
			if k.ProjectID != b.tenant.Key.ProjectID || k.EnvironmentID != b.tenant.Key.EnvironmentID || k.Resources["app"] == nil {
				t.Errorf("made %+v", k)
			}
			if made.ExpiresAt == nil || !made.ExpiresAt.Equal(end) {
				t.Errorf("ends %v, its maker %v", made.ExpiresAt, end)
			}
		})
		before := b.head()
		for name, c := range map[string]struct {
			caller *client
			body   fields
			field  string
		}{
			"AScope":       {writer, fields{"scopes": []string{"write", "delete"}}, "scopes"},
			"ALaterExpiry": {limited, fields{"expiresAt": "2026-03-03"}, "expiresAt"},
		} {
			t.Run("CannotGrant"+name, func(t *testing.T) {
				c.body["name"] = "x"
				c.caller.at(t).call("POST", path, c.body).fault(403, "FORBIDDEN", c.field)
			})
		}
		if after := b.head(); after != before {
			t.Errorf("%d events", after-before)
		}
	})
}

// TestAccountKeys_Expiry shows which forms of ISO 8601 are taken, and what they mean.
func TestAccountKeys_Expiry(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	for text, want := range map[string]string{
		"2030-12-31T23:59:59Z":      "2030-12-31T23:59:59Z",
		"2030-12-31T23:59:59.250Z":  "2030-12-31T23:59:59.25Z",
		"2030-12-31T23:59:59+02:00": "2030-12-31T21:59:59Z",
		"2030-12-31T23:59:59":       "2030-12-31T23:59:59Z",
		"2030-12-31T23:59Z":         "2030-12-31T23:59:00Z",
		"2030-12-31T23:59-01:30":    "2031-01-01T01:29:00Z",
		"2030-12-31T23:59":          "2030-12-31T23:59:00Z",
		"2030-12-31":                "2030-12-31T00:00:00Z",
		"2028-02-29":                "2028-02-29T00:00:00Z",
	} {
		made := b.root.call("POST", "/v1/keys", fields{"name": "x", "expiresAt": text}).accountKey()
		if made.ExpiresAt == nil || made.ExpiresAt.Format(time.RFC3339Nano) != want {
			t.Errorf("%s is taken for %v, want %s", text, made.ExpiresAt, want)
		}
	}
	for _, text := range []string{"", "tomorrow", "2030", "2030-12", "20301231", "2030-02-30", "2030-12-31 23:59:59", "1893456000", "2030-12-31T24:00:00Z", "2020-01-01", "9999-12-31T23:59:59-12:00"} {
		b.root.call("POST", "/v1/keys", fields{"name": "x", "expiresAt": text}).fault(422, "VALIDATION_ERROR", "expiresAt")
	}
	if made := b.root.call("POST", "/v1/keys", fields{"name": "x", "expiresAt": nil, "scopes": nil}).accountKey(); made.ExpiresAt != nil || len(made.Scopes) != 2 {
		t.Errorf("null is not the same as nothing: %+v", made)
	}
}

// TestAccountKeys_BadInput sends what must be refused, in this surface's form.
func TestAccountKeys_BadInput(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	before := b.head()
	onEach(t, func(t *testing.T, path string) {
		root := b.root.at(t)
		for body, field := range map[string]string{
			`{}`: "name", `{"name":""}`: "name", `{"name":7}`: "name", `{"name":null}`: "name", `{"name":"x","scopes":[]}`: "scopes",
			`{"name":"x","scopes":["admin"]}`: "scopes[0]", `{"name":"x","scopes":["read","*"]}`: "scopes[1]", `{"name":"x","scopes":["keys:read"]}`: "scopes[0]",
			`{"name":"x","scopes":"read"}`: "scopes", `{"name":"x","expiresAt":5}`: "expiresAt", `{"name":"x","expires_at":null}`: "expires_at",
			`{"name":"x","Name":"y"}`: "Name", `{"name":"x","extra":1}`: "extra", `[]`: "body", `null`: "body",
		} {
			root.call("POST", path, body).fault(422, "VALIDATION_ERROR", field)
		}
		for _, body := range []string{"", "{", `{"name":"x"}x`, `{"name":"a","name":"b"}`, "{\"name\":\"\xff\"}", "\x00"} {
			root.call("POST", path, body).fault(400, "BAD_REQUEST", "body")
		}
		root.call("POST", path, "name=x", "Content-Type", "application/x-www-form-urlencoded").enveloped(415, "UNSUPPORTED_MEDIA_TYPE")
		root.call("POST", path, `{"name":"`+strings.Repeat("n", 70_000)+`"}`).enveloped(413, "PAYLOAD_TOO_LARGE")
		for _, query := range []string{"limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=%00", "cursor=" + unknown("proj")} {
			name, _, _ := strings.Cut(query, "=")
			root.call("GET", path+"?"+query, nil).fault(422, "VALIDATION_ERROR", name)
		}
		for _, id := range []string{unknown("key"), unknown("proj"), "x", "%00", "%ff", "..%2F..%2Fhealthz", "openapi.json", strings.Repeat("k", 5000)} {
			root.call("DELETE", path+"/"+id, nil).enveloped(404, "NOT_FOUND")
		}
		if a := root.call("PUT", path, nil); a.header.Get("Allow") != "GET, HEAD, POST, OPTIONS" {
			t.Errorf("Allow %q", a.header.Get("Allow"))
		} else {
			a.enveloped(405, "METHOD_NOT_ALLOWED")
		}
		root.call("GET", path+"/"+unknown("key"), nil).enveloped(405, "METHOD_NOT_ALLOWED")
		root.call("GET", path+"/a/b", nil).enveloped(404, "NOT_FOUND")
	})
	if after := b.head(); after != before {
		t.Errorf("%d events", after-before)
	}
}

// TestAccountKeys_List shows what is listed: the live keys of the organization, newest first, in pages.
func TestAccountKeys_List(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	b.clock.advance(time.Second) // ids sort by the millisecond
	other := b.newOrganization("other")
	other.owner.newKeyIn(other.project, nil)
	second := b.root.call("POST", "/v1/projects", fields{"name": "second"}).wants(201).text("id")
	var want []string
	add := func(project string, settings fields) *answer {
		t.Helper()
		b.clock.advance(time.Second)
		a := b.root.newKeyIn(domain.ProjectID(project), settings)
		want = append([]string{a.text("id")}, want...)
		return a
	}
	want = append(want, string(b.tenant.Key.ID))
	reader := b.as(add(second, fields{"scopes": []string{"read"}, "resources": fields{"project": []string{second}}}).text("key"))
	inReach := want[0]
	old := add(string(b.tenant.Key.ProjectID), nil)
	b.clock.advance(time.Second)
	want = append([]string{b.root.call("POST", "/v1/api-keys/"+old.text("id")+"/rotate", fields{"grace_period_seconds": 60}).wants(200).text("new_key_id")}, want...)
	revoked := add(second, nil).text("id")
	b.root.call("DELETE", "/v1/api-keys/"+revoked, nil).wants(204)
	brief := add(second, fields{"expires_at": b.clock.Now().Add(30 * time.Second)}).text("id")

	listed := func(c *client, path string) (ids []string) {
		t.Helper()
		for path != "" {
			a := c.call("GET", path, nil)
			for _, k := range a.accountKeys() {
				ids = append(ids, k.ID)
			}
			path = next(t, a)
		}
		return ids
	}
	without := func(gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(want), func(id string) bool { return slices.Contains(gone, id) })
	}
	check := func(what string, got, want []string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	for _, path := range accountPaths {
		check(path, listed(b.root, path), without(revoked))
		check(path+" in pages", listed(b.root, path+"?limit=2"), without(revoked))
		check(path+" within reach", listed(reader, path), []string{brief, inReach})
		check(path+" from another organization's key", listed(b.root, path+"?cursor="+string(other.key)), want[len(want)-1:])
	}
	// What has run out is not live, though no sweep has recorded it: first the key that ends, then the one in grace.
	b.clock.advance(30 * time.Second)
	check("after the end of one", listed(b.root, "/v1/keys"), without(revoked, brief))
	b.clock.advance(30 * time.Second)
	check("after the grace of another", listed(b.root, "/v1/keys"), without(revoked, brief, old.text("id")))
	var native []struct{ ID string }
	b.root.call("GET", "/v1/api-keys?project_id="+second, nil).wants(200).into(&native)
	if len(native) != 1 || native[0].ID != inReach {
		t.Errorf("the native list shows %v", native)
	}
}

// TestAccountKeys_Foreign asks for keys of another organization and out of the caller's reach: the answer is the one for
// what does not exist, and nothing is done.
func TestAccountKeys_Foreign(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	other := b.newOrganization("other")
	second := b.root.call("POST", "/v1/projects", fields{"name": "second"}).wants(201).text("id")
	limited := b.as(b.root.newKeyIn(domain.ProjectID(second), fields{"resources": fields{"project": []string{second}}}).text("key"))
	before := b.head()
	onEach(t, func(t *testing.T, path string) {
		ask := func(c *client, id string) seen { return c.at(t).call("DELETE", path+"/"+id, nil).shown() }
		if diff := cmp.Diff(ask(b.root, unknown("key")), ask(b.root, string(other.key))); diff != "" {
			t.Errorf("a foreign key differs from none (-none +foreign):\n%s", diff)
		}
		if diff := cmp.Diff(ask(limited, unknown("key")), ask(limited, string(b.tenant.Key.ID))); diff != "" {
			t.Errorf("a key out of reach differs from none (-none +out of reach):\n%s", diff)
		}
	})
	if after := b.head(); after != before {
		t.Errorf("%d events", after-before)
	}
	for _, ended := range []string{"revoked", "rotated"} { // what has ended already can be revoked
		k := b.newKey(nil).text("id")
		if ended == "revoked" {
			b.root.call("DELETE", "/v1/api-keys/"+k, nil).wants(204)
		} else {
			b.root.call("POST", "/v1/api-keys/"+k+"/rotate", fields{"grace_period_seconds": 0}).wants(200)
		}
		b.root.call("DELETE", "/v1/keys/"+k, nil).wants(200)
	}
}

// playAccountKeys writes a conversation with the surface down.
func playAccountKeys(tr *transcript) {
	b := tr.b
	b.clock.advance(time.Second) // ids sort by the millisecond
	owner := b.as(b.newKey(fields{"name": "owner", "scopes": []string{"read", "write", "delete"}}).text("key"))
	tr.call(owner, "Create with the least", "POST", "/v1/keys", fields{"name": "New API Key"}).wants(201)
	made := tr.call(owner, "Create with everything", "POST", "/api/v1/keys", fields{
		"name": "CI/CD <&>", "scopes": []string{"read", "write", "delete"}, "expiresAt": "2030-12-31",
	}).accountKey()
	tr.call(owner, "List", "GET", "/v1/keys", nil).wants(200)
	tr.call(owner, "List, one page", "GET", "/api/v1/keys?limit=1", nil).wants(200)
	tr.call(owner, "Revoke", "DELETE", "/v1/keys/"+made.ID, nil).wants(200)
	tr.call(owner, "Revoke again", "DELETE", "/v1/keys/"+made.ID, nil).wants(200)
	tr.call(owner, "An unknown key", "DELETE", "/v1/keys/key_01jz8q0v6me5et8b3k2c9d4x7a", nil).wants(404)
	tr.call(owner, "A scope that there is not", "POST", "/v1/keys", fields{"name": "x", "scopes": []string{"admin"}}).wants(422)
	tr.call(owner, "No name, and a field that does not exist", "POST", "/v1/keys", fields{"title": "x"}).wants(422)
	tr.call(owner, "An end that is no date", "POST", "/v1/keys", fields{"name": "x", "expiresAt": "soon"}).wants(422)
	tr.call(owner, "Broken JSON", "POST", "/v1/keys", `{"name":`).wants(400)
	tr.call(b.holding("write"), "More than the caller holds", "POST", "/v1/keys", fields{"name": "x", "scopes": []string{"read"}}).wants(403)
	tr.call(b.holding("keys:*"), "Without the scope", "GET", "/v1/keys", nil).wants(403)
	tr.call(b.as(""), "Without a key", "GET", "/v1/keys", nil).wants(401)
	tr.call(owner, "No such method", "PUT", "/v1/keys", nil).wants(405)
}

// TestAccountKeys_Document shows that both addresses have the same surface.
func TestAccountKeys_Document(t *testing.T) {
	t.Parallel()
	var first string
	for _, path := range accountPaths {
		text := strings.ReplaceAll(string(about(path).raw), `"`+path, `"{path}`)
		if first == "" {
			first = text
		}
		if text != first || !strings.Contains(text, `"{path}/{id}"`) {
			t.Errorf("%s: %s", path, cmp.Diff(first, text))
		}
	}
}
