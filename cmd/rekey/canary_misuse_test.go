package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// misuse puts a living secret wherever a caller could by mistake. Each such request is refused without repeating it.
func (c *canary) misuse(t *testing.T) {
	t.Helper()
	key := c.make(t, "misused", nil)
	s, id, project := key.Key, key.ID, c.project(t)
	requests := [][3]string{
		{"GET", "/v1/api-keys/" + s, ""},
		{"DELETE", "/v1/api-keys/" + s, ""},
		{"PATCH", "/v1/api-keys/" + s, `{"name":"x"}`},
		{"POST", "/v1/api-keys/" + s + "/rotate", `{}`},
		{"POST", "/v1/api-keys/" + s + "/successor", ``},
		{"GET", "/v1/api-keys/" + s + "/events", ""},
		{"GET", "/" + s, ""},
		{"GET", "/v1/api-keys?project_id=" + s, ""},
		{"GET", "/v1/api-keys?project_id=" + project + "&cursor=" + s, ""},
		{"GET", "/v1/api-keys?project_id=" + project + "&limit=" + s, ""},
		{"GET", "/v1/events?after=" + s, ""},
		{"GET", "/v1/projects/" + s, ""},
		{"GET", "/v1/organizations/" + s, ""},
		{"POST", "/v1/api-keys", `{"project_id":"` + s + `","name":"x"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","environment_id":"` + s + `","name":"x"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"x","` + s + `":1}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":{"` + s + `":1}}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"x","expires_at":"` + s + `"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"x","rotation_interval_seconds":"` + s + `"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"x","metadata":"` + s + `"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"x","rotation_webhook_url":"https://user:` + s + `@example.com/"}`},
		{"POST", "/v1/api-keys", `{"project_id":"` + project + `","name":"` + s + "\x00" + `"}`},
		{"POST", "/v1/api-keys/" + id + "/rotate", `{"grace_period_seconds":"` + s + `"}`},
		{"POST", "/v1/api-keys/verify", `{"key":"` + s},
		{"POST", "/v1/api-keys/verify", `{"key":["` + s + `"]}`},
		{"POST", "/v1/api-keys/verify", `{"key":"` + s + `","keys":"` + s + `"}`},
		{"POST", "/v1/api-keys/verify", s},
		{"POST", "/v1/api-keys/verify", `{"key":"` + s + strings.Repeat(" ", 2<<20) + `"}`},
		{"PUT", "/v1/api-keys/verify", `{"key":"` + s + `"}`},
	}
	search := c.seen.search()
	for _, q := range requests {
		var body any
		if q[2] != "" {
			body = q[2]
		}
		got, err := c.send(t.Context(), q[0], q[1], body)
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("%s %.40s %.80s", q[0], q[1], q[2])
		if got.status < 400 || got.status >= 500 || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s answered %d: %s", what, got.status, got.body)
		}
		c.lookIn(t, search, "the answer to "+what, fmt.Sprint(got.header)+string(got.body))
	}
	c.misuseRequestID(t, s, project)
	c.misuseHeaders(t, s, search)
}

// misuseRequestID sends a secret as the id of a request that succeeds, which the log, the event and NATS keep.
func (c *canary) misuseRequestID(t *testing.T, s, project string) {
	t.Helper()
	body := strings.NewReader(`{"project_id":"` + project + `","name":"another"}`)
	request, err := http.NewRequestWithContext(t.Context(), "POST", c.url+"/v1/api-keys", body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Authorization": {"Bearer " + c.key}, "Content-Type": {"application/json"}, "X-Request-Id": {s}}
	got, err := c.do(request)
	if err != nil || got.status != http.StatusCreated || got.header.Get("X-Request-Id") == s {
		t.Errorf("answered %d: %v, %v", got.status, got.header, err)
	}
	var key keyInfo
	if err := json.Unmarshal(got.body, &key); err != nil {
		t.Fatal(err)
	}
	c.seen.add("secret of another key", key.Key)
}

// misuseHeaders sends what no client of HTTP would.
func (c *canary) misuseHeaders(t *testing.T, s string, search *search) {
	t.Helper()
	for _, text := range []string{
		"GET /v1/projects HTTP/1.1\r\nHost: rekey\r\nAuthorization: " + s + "\r\nConnection: close\r\n\r\n",
		"GET /v1/projects HTTP/1.1\r\nHost: rekey\r\nAuthorization: Basic " + s + "\r\nConnection: close\r\n\r\n",
		"GET /v1/projects HTTP/1.1\r\nHost: rekey\r\nX-Api-Key: " + s + "\r\nConnection: close\r\n\r\n",
		"GET /v1/projects HTTP/1.1\r\nHost: rekey\r\n" + s + "\r\nConnection: close\r\n\r\n",
		"GET /v1/projects HTTP/1.1\r\nHost: " + s + " x\r\nConnection: close\r\n\r\n",
		"GET /" + s + "\x01 HTTP/1.1\r\nHost: rekey\r\nConnection: close\r\n\r\n",
		"GET /v1/projects HTTP/" + s + "\r\nHost: rekey\r\n\r\n",
		s + "\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, text)
		got, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 4") {
			t.Errorf("%q answered %q: %v", text, got, err)
		}
		c.lookIn(t, search, "the answer to a broken request", string(got))
	}
}

// TestCanarySearch makes sure that the search finds what it is meant to find.
func TestCanarySearch(t *testing.T) {
	t.Parallel()
	var c canaries
	key := c.add("key", "rk_live_Z2ZM2lPEgve1Ov8JfHwAgm4n5hq1ccc9t1MxU6c")
	signing := c.add("signing secret", "whsec_plJ3nmyCDGBKInavdOK15jsl+/0Vs2FfWUzfcO3gQ0s=")
	s := c.search()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	quoted, _ := json.Marshal(map[string]string{"k": key, "s": signing})
	hidden := map[string]string{
		"raw": "x" + key, "JSON": string(quoted), "bytes": "x" + string(raw), "hex of bytes": hex.EncodeToString(raw),
		"hex": hex.EncodeToString([]byte("x" + key)), "slashes": strings.ReplaceAll(signing, "/", `\/`),
		"without prefix": strings.TrimPrefix(signing, "whsec_"), "part": key[12:42],
	}
	for shift := range 6 {
		hidden[fmt.Sprint("base64 ", shift)] = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + key + "yz"))
		hidden[fmt.Sprint("base64url ", shift)] = base64.URLEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + signing))
	}
	for name, text := range hidden {
		if len(s.in(text)) == 0 {
			t.Errorf("%s: nothing found in %q", name, text)
		}
	}
	for _, text := range []string{"", "r", "rk_live_Z2ZM", key[:20], "whsec_", strings.ToLower(key)} {
		if found := s.in(text); len(found) > 0 {
			t.Errorf("found in %q: %v", text, found)
		}
	}
}
