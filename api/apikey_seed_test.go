package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The answers of the page.
const (
	pageListed = `{
"data": [
{
"id": 1,
"key": "ak_123...",
"mode": "read",
"name": "CI/CD Read Key",
"created_at": "2024-01-01T00:00:00Z",
"updated_at": "2024-01-01T00:00:00Z",
"user_id": "user_123"
},
{
"id": 2,
"key": "ak_456...",
"mode": "upload",
"name": "Deploy Bot",
"created_at": "2024-01-02T00:00:00Z",
"updated_at": "2024-01-02T00:00:00Z",
"user_id": "user_123",
"limited_to_apps": ["com.demo.app"]
}
]
}`

	pageCreated = `{
"apikey": {
"id": 3,
"key": "ak_789...",
"mode": "read",
"name": "Limited Read Key",
"created_at": "2024-02-12T00:00:00Z",
"user_id": "user_123",
"limited_to_apps": ["com.demo.app"]
}
}`

	pageDeleted = `{
"success": true
}`

	pageInvalidMode = `{
"error": "Invalid mode specified. Must be one of: read, write, upload, all",
"status": "KO"
}`

	pageNotFound = `{
"error": "API key not found",
"status": "KO"
}`

	pageDenied = `{
"error": "Insufficient permissions to manage API keys",
"status": "KO"
}`
)

// pageCurl are the page's requests, as its curl commands send them.
func pageCurl(key string) (list, create, remove string) {
	authorization := "authorization: " + key
	list = curl("GET", "/apikey/", []string{authorization}, "")
	create = curl("POST", "/apikey/", []string{authorization, "Content-Type: application/json"}, `{
"name": "Limited Read Key",
"mode": "read",
"limited_to_apps": ["com.demo.app"]
}`)
	remove = curl("DELETE", "/apikey/1/", []string{authorization}, "")
	return list, create, remove
}

// pageKey is a key as the page's client reads it: what the interface marks with ? may be absent, nothing may be null.
type pageKey struct {
	ID            int64
	Key           string
	Mode          string
	Name          string
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     *time.Time `json:"updated_at"`
	UserID        string     `json:"user_id"`
	LimitedToApps []string   `json:"limited_to_apps"`
	LimitedToOrgs []string   `json:"limited_to_orgs"`
}

// exactly fails the test unless the answer is the page's example itself.
func (a *answer) exactly(status int, page string) {
	a.t.Helper()
	var want, got any
	must(a.t, json.Unmarshal([]byte(page), &want))
	a.wants(status).into(&got)
	if diff := cmp.Diff(want, got); diff != "" {
		a.t.Errorf("(-page +ours):\n%s", diff)
	}
}

// items are the objects of an answer's list, each as an answer of its own.
func items(t *testing.T, raw []byte) []*answer {
	t.Helper()
	var list struct{ Data []json.RawMessage }
	must(t, json.Unmarshal(raw, &list))
	var out []*answer
	for _, item := range list.Data {
		out = append(out, &answer{t: t, body: item})
	}
	return out
}

// TestSeed002 sends the requests of the page, byte for byte but for the key and the id, and holds the answers against those
// of the page, field by field.
func TestSeed002(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	list, create, remove := pageCurl(b.root.secret)
	ask := func(request string) *answer {
		t.Helper()
		b.clock.advance(time.Second) // ids sort by the millisecond
		return b.exchange(t, request)
	}
	other := func(body string) *answer {
		t.Helper()
		return ask(curl("POST", "/apikey/", []string{"authorization: " + b.root.secret, "Content-Type: application/json"}, body))
	}
	other(`{"name": "CI/CD Read Key", "mode": "read"}`).wants(200)
	other(`{"name": "Deploy Bot", "mode": "upload", "limited_to_apps": ["com.demo.app"]}`).wants(200)

	// The key that asks is the oldest; then come those of the page.
	listed := ask(list).wants(200)
	asOnPage(t, pageListed, listed, false)
	ours, page := items(t, listed.body), items(t, []byte(pageListed))
	if len(ours) != 3 {
		t.Fatalf("listed %s", listed.body)
	}
	for i, a := range ours[1:] {
		asOnPage(t, string(page[i].body), a, false)
		var want, got pageKey
		page[i].into(&want)
		a.into(&got)
		same := cmp.Equal([]any{want.Mode, want.Name, want.LimitedToApps}, []any{got.Mode, got.Name, got.LimitedToApps})
		if !same || got.ID <= 0 || got.ID >= 1<<53 || !strings.HasSuffix(got.Key, "...") || got.UserID != string(b.tenant.Key.ID) {
			t.Errorf("listed %s, on the page %s", a.body, page[i].body)
		}
	}

	made := ask(create).wants(200)
	asOnPage(t, pageCreated, made, false)
	var key struct{ APIKey pageKey }
	made.into(&key)
	if k := key.APIKey; k.Mode != "read" || k.Name != "Limited Read Key" || !cmp.Equal(k.LimitedToApps, []string{"com.demo.app"}) {
		t.Errorf("created %s", made.body)
	}
	if b.verify(key.APIKey.Key).fields()["valid"] != true {
		t.Error("the new key is not valid")
	}

	withoutRights, _, _ := pageCurl(key.APIKey.Key)
	ask(withoutRights).exactly(403, pageDenied)
	ask(remove).exactly(404, pageNotFound) // the page's own id is nobody's
	ask(strings.Replace(remove, "/apikey/1/", fmt.Sprintf("/apikey/%d/", key.APIKey.ID), 1)).exactly(200, pageDeleted)
	if b.verify(key.APIKey.Key).fields()["code"] != "REVOKED" {
		t.Error("the deleted key is not revoked")
	}
	other(`{"name": "x", "mode": "admin"}`).exactly(400, pageInvalidMode)
}
