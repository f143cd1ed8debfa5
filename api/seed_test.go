package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// seedClient is written from the page of seed 001 alone: its paths, its fields, its examples.
type seedClient struct {
	t           *testing.T
	base, token string
	http        *http.Client
}

// seedKey has the fields of the page's example, no more.
type seedKey struct {
	ID                   string     `json:"id"`
	ProjectID            string     `json:"project_id"`
	Name                 string     `json:"name"`
	KeyPrefix            string     `json:"key_prefix"`
	Scopes               []string   `json:"scopes"`
	ExpiresAt            *time.Time `json:"expires_at"`
	LastUsedAt           *time.Time `json:"last_used_at"`
	CreatedAt            time.Time  `json:"created_at"`
	RevokedAt            *time.Time `json:"revoked_at"`
	ReplacedByKeyID      *string    `json:"replaced_by_key_id"`
	GraceExpiresAt       *time.Time `json:"grace_expires_at"`
	EnvironmentID        *string    `json:"environment_id"`
	RotationIntervalDays *int       `json:"rotation_interval_days"`
	NextRotationAt       *time.Time `json:"next_rotation_at"`
	RotationWebhookURL   *string    `json:"rotation_webhook_url"`
}

type seedRotation struct {
	OldKeyID       string     `json:"old_key_id"`
	NewKeyID       string     `json:"new_key_id"`
	ProjectID      string     `json:"project_id"`
	Name           string     `json:"name"`
	Key            string     `json:"key"`
	KeyPrefix      string     `json:"key_prefix"`
	Scopes         []string   `json:"scopes"`
	ExpiresAt      *time.Time `json:"expires_at"`
	CreatedAt      time.Time  `json:"created_at"`
	GraceExpiresAt *time.Time `json:"grace_expires_at"`
}

// do is the page's curl: a bearer token, JSON where there is a body, nothing else.
func (c *seedClient) do(method, path, body string) (int, []byte) {
	c.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = bytes.NewBufferString(body)
	}
	request, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, reader)
	must(c.t, err)
	request.Header.Set("Authorization", "Bearer "+c.token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	must(c.t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	must(c.t, err)
	return response.StatusCode, raw
}

// read decodes into the page's type and makes sure that each of its fields is there, with null where there is no value.
func read[T any](t *testing.T, raw []byte) T {
	t.Helper()
	var value T
	var present map[string]json.RawMessage
	if json.Unmarshal(raw, &value) != nil || json.Unmarshal(raw, &present) != nil {
		t.Fatalf("not the page's shape: %s", raw)
	}
	want, err := json.Marshal(value)
	must(t, err)
	var names map[string]json.RawMessage
	must(t, json.Unmarshal(want, &names))
	for name := range names {
		if _, ok := present[name]; !ok {
			t.Errorf("%s is missing: %s", name, raw)
		}
	}
	return value
}

// TestSeed001 runs a client that knows nothing but the page.
func TestSeed001(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: time.Now()})
	b.clock.advance(time.Second) // ids sort by the millisecond
	project := string(b.tenant.Key.ProjectID)
	c := &seedClient{t: t, base: b.http.URL, token: b.root.secret, http: b.root.http}
	list := func() []seedKey {
		t.Helper()
		status, raw := c.do("GET", "/v1/api-keys?project_id="+url.QueryEscape(project), "")
		var items []json.RawMessage
		if status != 200 || json.Unmarshal(raw, &items) != nil {
			t.Fatalf("list: %d %s, want a bare array", status, raw)
		}
		var keys []seedKey
		for _, item := range items {
			keys = append(keys, read[seedKey](t, item))
		}
		return keys
	}

	status, raw := c.do("POST", "/v1/api-keys", `{ "project_id": "`+project+`", "name": "string" }`)
	if status != 201 {
		t.Fatalf("create: %d %s", status, raw)
	}
	made := read[seedKey](t, raw)
	if made.ProjectID != project || made.Name != "string" || made.ExpiresAt != nil || made.RevokedAt != nil || made.EnvironmentID == nil ||
		time.Since(made.CreatedAt).Abs() > time.Minute {
		t.Errorf("created %+v", made)
	}
	if keys := list(); len(keys) != 2 || keys[0].ID != made.ID {
		t.Errorf("list: %+v, want the new key first", keys)
	}

	current := made.ID
	for name, body := range map[string]string{"an empty object": "{}", "no body": ""} {
		status, raw := c.do("POST", "/v1/api-keys/"+current+"/rotate", body)
		if status != 200 {
			t.Fatalf("rotate with %s: %d %s", name, status, raw)
		}
		r := read[seedRotation](t, raw)
		if r.OldKeyID != current || r.NewKeyID == current || r.Name != "string" || r.ProjectID != project ||
			!strings.HasPrefix(r.Key, r.KeyPrefix) || r.GraceExpiresAt == nil || time.Until(*r.GraceExpiresAt) < 59*time.Minute {
			t.Errorf("rotated with %s: %+v", name, r)
		}
		keys := list()
		old := keys[slices.IndexFunc(keys, func(k seedKey) bool { return k.ID == current })]
		if old.ReplacedByKeyID == nil || *old.ReplacedByKeyID != r.NewKeyID || old.GraceExpiresAt == nil {
			t.Errorf("the old key is %+v", old)
		}
		current = r.NewKeyID
	}

	if status, raw := c.do("DELETE", "/v1/api-keys/"+current, ""); status != 204 || len(raw) != 0 {
		t.Errorf("revoke: %d %q, want 204 and nothing", status, raw)
	}
	if keys := list(); len(keys) != 1 || keys[0].ID != string(b.tenant.Key.ID) {
		t.Errorf("after the revocation: %+v", keys)
	}
}
