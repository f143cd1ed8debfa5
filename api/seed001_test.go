package api_test

import (
	"strings"
	"testing"
	"time"
)

// The answers on the page of seed 001.
const (
	seed001Key = `{
"id": "string",
"project_id": "string",
"name": "string",
"key_prefix": "string",
"scopes": [
"string"
],
"expires_at": "2019-08-24T14:15:22Z",
"last_used_at": "2019-08-24T14:15:22Z",
"created_at": "2019-08-24T14:15:22Z",
"revoked_at": "2019-08-24T14:15:22Z",
"replaced_by_key_id": "string",
"grace_expires_at": "2019-08-24T14:15:22Z",
"environment_id": "string",
"rotation_interval_days": 0,
"next_rotation_at": "2019-08-24T14:15:22Z",
"rotation_webhook_url": "string"
}`
	seed001Rotated = `{
"old_key_id": "string",
"new_key_id": "string",
"project_id": "string",
"name": "string",
"key": "string",
"key_prefix": "string",
"scopes": [
"string"
],
"expires_at": "2019-08-24T14:15:22Z",
"created_at": "2019-08-24T14:15:22Z",
"grace_expires_at": "2019-08-24T14:15:22Z"
}`
)

// seed001Nullable are the fields that have no value on a key to which nothing of the kind has happened. The page, whose
// examples were generated, does not say so.
var seed001Nullable = []string{
	"expires_at", "last_used_at", "revoked_at", "replaced_by_key_id", "grace_expires_at", "rotation_interval_days", "next_rotation_at",
	"rotation_webhook_url",
}

// TestSeed001_Page sends the page's own requests, byte for byte but for the ids, and holds the answers against its
// examples. A key has more fields than the page knows.
func TestSeed001_Page(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := string(b.tenant.Key.ProjectID)
	authorization, asJSON := "Authorization: Bearer "+b.root.secret, "Content-Type: application/json"
	list := curl("GET", "/v1/api-keys?project_id="+project, []string{authorization}, "")
	post := func(path, body string) string { return curl("POST", path, []string{authorization, asJSON}, body) }

	made := b.exchange(t, post("/v1/api-keys", `{ "project_id": "`+project+`", "name": "string" }`)).wants(201)
	asOnPage(t, seed001Key, made, true, seed001Nullable...)
	asOnPage(t, "["+seed001Key+"]", b.exchange(t, list).wants(200), true, seed001Nullable...)

	// And a key that has a value in all of them.
	end := began.Add(48 * time.Hour).Format(time.RFC3339)
	full := b.newKey(fields{"expires_at": end, "rotation_interval_days": 1, "rotation_webhook_url": "https://hooks.example.com/"})
	asOnPage(t, seed001Key, full, true, "last_used_at", "revoked_at", "replaced_by_key_id", "grace_expires_at")

	b.clock.advance(time.Second) // ids sort by the millisecond
	path := "/v1/api-keys/" + full.text("id")
	rotated := b.exchange(t, post(path+"/rotate", `{}`)).wants(200)
	asOnPage(t, seed001Rotated, rotated, true)
	asOnPage(t, seed001Key, b.root.call("GET", path, nil).wants(200), true, "last_used_at", "revoked_at", "next_rotation_at")

	gone := b.exchange(t, curl("DELETE", path, []string{authorization}, "")).wants(204)
	if len(gone.body) != 0 {
		t.Errorf("the page says Empty, got %q", gone.body)
	}
	if a := b.exchange(t, list).wants(200); strings.Contains(string(a.body), full.text("id")) {
		t.Errorf("a revoked key is listed: %s", a.body)
	}
	asOnPage(t, seed001Key, b.root.call("GET", path, nil).wants(200), true, "last_used_at", "next_rotation_at")
}
