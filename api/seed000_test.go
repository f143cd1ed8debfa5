package api_test

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// The answers on the page of seed 000.
const (
	seed000List = `{
"success": true,
"data": {
"keys": [
{
"id": "key_abc123",
"name": "Production API Key",
"prefix": "asc_live_xxxx",
"lastFour": "7890",
"scopes": ["read", "write"],
"lastUsed": "2024-01-20T14:30:00Z",
"createdAt": "2024-01-15T10:00:00Z",
"expiresAt": null
},
{
"id": "key_def456",
"name": "CI/CD Key",
"prefix": "asc_live_xxxx",
"lastFour": "1234",
"scopes": ["read", "write", "delete"],
"lastUsed": "2024-01-20T12:00:00Z",
"createdAt": "2024-01-10T08:00:00Z",
"expiresAt": "2024-12-31T23:59:59Z"
}
]
}
}`
	seed000Created = `{
"success": true,
"data": {
"id": "key_ghi789",
"name": "New API Key",
"key": "asc_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
"scopes": ["read", "write"],
"createdAt": "2024-01-20T15:00:00Z",
"expiresAt": null
},
"warning": "Store this key securely. It will not be shown again."
}`
	seed000Revoked = `{
"success": true,
"message": "API key revoked successfully"
}`
)

// The page's requests, as its curl commands send them to one of the two addresses.
func seed000(path, key string) (list, create, revoke string) {
	authorization := "Authorization: Bearer " + key
	list = curl("GET", path, []string{authorization}, "")
	create = curl("POST", path, []string{authorization, "Content-Type: application/json"}, `{
"name": "New API Key",
"scopes": ["read", "write"]
}`)
	revoke = curl("DELETE", path+"/key_abc123", []string{authorization}, "")
	return list, create, revoke
}

// accountPaths are where the account keys are: the page's headings say one, its commands the other.
var accountPaths = []string{"/v1/keys", "/api/v1/keys"}

// accountOwner is a caller as the page has it: a key of the brand asc that may do all that the page is about.
func (b *bench) accountOwner() *client {
	b.t.Helper()
	project := b.root.call("POST", "/v1/projects", fields{"name": "App", "brand": "asc"}).wants(201).text("id")
	made := b.root.call("POST", "/v1/api-keys", fields{"project_id": project, "name": "owner", "scopes": []string{"read", "write", "delete"}})
	return b.as(made.wants(201).text("key"))
}

// TestSeed000 sends the page's own requests, byte for byte, and holds the answers against its examples.
func TestSeed000(t *testing.T) {
	t.Parallel()
	for _, path := range accountPaths {
		t.Run(strings.ReplaceAll(strings.Trim(path, "/"), "/", "_"), func(t *testing.T) {
			t.Parallel()
			b := setup(t, options{now: time.Now()})
			owner := b.accountOwner()
			b.clock.advance(time.Second) // ids sort by the millisecond
			list, create, revoke := seed000(path, owner.secret)

			made := b.exchange(t, create).wants(201)
			asOnPage(t, seed000Created, made, false)
			var key struct {
				Data    struct{ ID, Name, Key string }
				Warning string
			}
			made.into(&key)
			if key.Data.Name != "New API Key" || key.Warning != "Store this key securely. It will not be shown again." {
				t.Errorf("created %s", made.body)
			}
			b.clock.advance(time.Second)
			ending := owner.call("POST", path, fields{"name": "CI/CD Key", "scopes": []string{"read", "write", "delete"}, "expiresAt": "2999-12-31T23:59:59Z"})
			asOnPage(t, strings.Replace(seed000Created, "null", `"2024-12-31T23:59:59Z"`, 1), ending.wants(201), false)

			listed := b.exchange(t, list).wants(200)
			asOnPage(t, seed000List, listed, false, "lastUsed") // of a key that was never used
			var keys struct {
				Data struct {
					Keys []struct{ ID, Prefix, LastFour string }
				}
			}
			listed.into(&keys)
			if strings.Contains(string(listed.body), key.Data.Key) || len(keys.Data.Keys) != 4 {
				t.Fatalf("listed %s", listed.body)
			}
			if k := keys.Data.Keys[1]; k.ID != key.Data.ID || !regexp.MustCompile(`^asc_live_[0-9A-Za-z]{4}$`).MatchString(k.Prefix) ||
				!strings.HasPrefix(key.Data.Key, k.Prefix) || !strings.HasSuffix(key.Data.Key, k.LastFour) || len(k.LastFour) != 4 {
				t.Errorf("%s is listed as %+v", key.Data.Key, k)
			}

			b.exchange(t, revoke).enveloped(404, "NOT_FOUND") // the page's own id is nobody's
			revoke = strings.Replace(revoke, "key_abc123", key.Data.ID, 1)
			for _, when := range []string{"first", "again"} {
				gone := b.exchange(t, revoke).wants(200)
				asOnPage(t, seed000Revoked, gone, false)
				if gone.text("message") != "API key revoked successfully" {
					t.Errorf("revoked %s: %s", when, gone.body)
				}
			}
			if a := b.verify(key.Data.Key); a.text("code") != "REVOKED" {
				t.Errorf("the revoked key is %s", a.body)
			}
			if a := b.exchange(t, list).wants(200); strings.Contains(string(a.body), key.Data.ID) {
				t.Errorf("a revoked key is listed: %s", a.body)
			}
		})
	}
}
