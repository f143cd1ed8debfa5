package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/rekeyhq/rekey/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ownKey = "rk_live_this_service"
	secret = "rk_live_who_presents_this"
	keyID  = "key_01jz8q0v6me5et8b3k2c9d4x7a"
	linID  = "lin_01jz8q0v6me5et8b3k2c9d4x7b"
	// valid is an answer as rekey writes it.
	valid = `{"valid":true,"code":"VALID","status":"grace","key_id":"` + keyID + `","lineage_id":"` + linID + `","generation":3,` +
		`"organization_id":"org_1","project_id":"proj_1","environment_id":"env_1","name":"ci","scopes":["orders:*"],"metadata":{"team":"pay"},` +
		`"expires_at":"2031-01-02T03:04:05.678Z","grace_expires_at":"2030-01-02T03:04:05Z","replaced_by_key_id":"key_01jz8q0v6me5et8b3k2c9d4x7c","later":1}`
	notFound = `{"valid":false,"code":"NOT_FOUND","status":null,"key_id":null,"lineage_id":null,"generation":null,"organization_id":null,` +
		`"project_id":null,"environment_id":null,"name":null,"scopes":[],"metadata":null,"expires_at":null,"grace_expires_at":null,"replaced_by_key_id":null}`
)

// serve starts a server that answers as told, and a client of it.
func serve(t *testing.T, handler http.HandlerFunc, options ...client.Option) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL+"/", ownKey, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func verify(c *client.Client) (client.Verdict, error) {
	return c.Verify(context.Background(), client.Request{Secret: client.NewSecret(secret)})
}

// TestClientAsks looks at a request on its way, and at all fields of the answer.
func TestClientAsks(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		want := `{"key":"` + secret + `","scopes":["orders:read"],"resources":{"app":"com.demo.app"},"ip":"203.0.113.7"}`
		if err != nil || string(body) != want || r.URL.Path != "/v1/api-keys/verify" || r.Method != "POST" ||
			r.Header.Get("Authorization") != "Bearer "+ownKey || r.Header.Get("Content-Type") != "application/json" || r.Header["Idempotency-Key"] != nil {
			t.Errorf("it asks %s %s with %v: %s", r.Method, r.URL, r.Header, body)
		}
		_, _ = io.WriteString(w, valid)
	})
	got, err := c.Verify(t.Context(), client.Request{
		Secret: client.NewSecret(secret), Scopes: []string{"orders:read"}, Resources: map[string]string{"app": "com.demo.app"},
		IP: netip.MustParseAddr("::ffff:203.0.113.7"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := client.Verdict{
		Valid: true, Code: client.CodeValid, Status: client.StatusGrace, Generation: 3, OrganizationID: "org_1", ProjectID: "proj_1",
		EnvironmentID: "env_1", Name: "ci", Scopes: client.ScopesOf([]string{"orders:*"}), Metadata: `{"team":"pay"}`,
		ExpiresAt: time.Date(2031, 1, 2, 3, 4, 5, 678e6, time.UTC), GraceExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		KeyID: got.KeyID, LineageID: got.LineageID, ReplacedBy: got.ReplacedBy,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.KeyID.String() != keyID || got.LineageID.String() != linID || got.ReplacedBy.String() != "key_01jz8q0v6me5et8b3k2c9d4x7c" || !got.InGrace() {
		t.Errorf("it is %s of %s, replaced by %s", got.KeyID, got.LineageID, got.ReplacedBy)
	}
	var metadata struct{ Team string }
	if err := got.Metadata.Decode(&metadata); err != nil || metadata.Team != "pay" || !got.Scopes.Allow("orders:read") || got.Scopes.Allow("other") {
		t.Errorf("metadata %v, %v", metadata, err)
	}
	raw, err := json.Marshal(got)
	var again client.Verdict
	if err != nil || json.Unmarshal(raw, &again) != nil || !cmp.Equal(got, again) {
		t.Errorf("written and read again it is %s", raw)
	}
}

// TestClientFailsClosed answers with whatever a broken or a wrong server may answer. There is never a valid verdict.
func TestClientFailsClosed(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", "null", "{}", "[]", "true", `{"valid":true}`, `{"valid":true,"code":"REVOKED"}`, `{"valid":false,"code":"VALID"}`, "<html>ok</html>",
		`{"valid":"true","code":"VALID"}`, valid + "{}", valid[:len(valid)-1], strings.Replace(valid, `"`+keyID+`"`, "null", 1),
		strings.Replace(valid, keyID, "key_1", 1), strings.Replace(valid, `"status":"grace"`, `"status":"revoked"`, 1),
		strings.Replace(valid, `"status":"grace"`, `"status":null`, 1), `{"valid":true,"code":"VALID","name":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }, client.WithTimeout(400*time.Millisecond))
		got, err := verify(c)
		if got.Valid || !cmp.Equal(got, client.Verdict{}) || !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("of %.60q it makes %+v, %v", body, got, err)
		}
	}
	for _, body := range []string{notFound, `{"valid":false,"code":"SOMETHING_NEW"}`} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if got, err := verify(c); err != nil || got.Valid || got.Code == "" {
			t.Errorf("of %.60q it makes %+v, %v", body, got, err)
		}
	}
}

// TestClientErrors tells the kinds of refusals apart.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	const invalid = `{"code":"validation_failed","detail":"ip is not an IP address","request_id":"req_1","errors":[{"field":"ip","message":"is not an IP address","remedy":"leave it out"}]}`
	for _, c := range []struct {
		status int
		body   string
		want   client.Error
	}{
		{401, `{"code":"unauthenticated","detail":"no"}`, client.Error{Kind: client.ErrRefused, Code: "unauthenticated", Message: "no"}},
		{403, `{"code":"insufficient_scope","detail":"no","details":{"required_scope":"keys:verify"}}`, client.Error{
			Kind: client.ErrRefused, Code: "insufficient_scope", Message: "no", RequiredScope: "keys:verify",
		}},
		{422, invalid, client.Error{
			Kind: client.ErrBadRequest, Code: "validation_failed", Message: "ip is not an IP address", RequestID: "req_1",
			Fields: []client.FieldError{{Field: "ip", Message: "is not an IP address", Remedy: "leave it out"}},
		}},
		{404, "not here", client.Error{Kind: client.ErrBadRequest, Message: "the answer is not one of rekey's"}},
		{500, `{"code":"internal","detail":"oh"}`, client.Error{Kind: client.ErrUnavailable, Code: "internal", Message: "oh"}},
		{302, "", client.Error{Kind: client.ErrUnavailable, Message: "the answer is not one of rekey's"}},
	} {
		var asked atomic.Int32
		k := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		verdict, err := verify(k)
		got, ok := errors.AsType[*client.Error](err)
		if !ok || verdict.Valid {
			t.Fatalf("%d: %v, %v", c.status, verdict, err)
		}
		c.want.Status = c.status
		if diff := cmp.Diff(c.want, *got, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Errorf("%d:\n%s", c.status, diff)
		}
		if asked.Load() != 1 {
			t.Errorf("%d: it asked %d times", c.status, asked.Load())
		}
		if !errors.Is(err, c.want.Kind) || err.Error() == "" {
			t.Errorf("%d: %v", c.status, err)
		}
	}
}

// TestClientTriesAgain is refused for a while: it tries again within its time, not before it may, and not after that.
func TestClientTriesAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	busy := func(times int32, after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) <= times {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(503)
				_, _ = io.WriteString(w, `{"code":"unavailable","detail":"the store cannot be reached"}`)
				return
			}
			_, _ = io.WriteString(w, valid)
		}
	}
	began := time.Now()
	if verdict, err := verify(serve(t, busy(1, "1"), client.WithTimeout(20*time.Second))); err != nil || !verdict.Valid || time.Since(began) < time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	asked.Store(0)
	_, err := verify(serve(t, busy(1, "30")))
	if e, ok := errors.AsType[*client.Error](err); !ok || e.RetryAfter != 30*time.Second || !errors.Is(err, client.ErrUnavailable) || asked.Load() != 1 {
		t.Errorf("told to wait 30 s it asked %d times: %v", asked.Load(), err)
	}
	asked.Store(0)
	if _, err = verify(serve(t, busy(1e6, "0"), client.WithTimeout(500*time.Millisecond))); !errors.Is(err, client.ErrUnavailable) || asked.Load() < 2 {
		t.Errorf("it asked %d times: %v", asked.Load(), err)
	}
}

// TestClientIsBounded asks a server that never answers, one that is not there, and one for which nobody waits any more.
func TestClientIsBounded(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}
	t.Cleanup(func() { close(released) })
	c := serve(t, silent, client.WithTimeout(300*time.Millisecond))
	if _, err := verify(c); !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Verify(ctx, client.Request{Secret: client.NewSecret(secret)}); !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("for nobody: %v", err)
	}
	gone := httptest.NewServer(http.HandlerFunc(silent))
	gone.Close()
	away, err := client.New(gone.URL, ownKey, client.WithTimeout(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(away); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("without a server: %v", err)
	}
}

// TestClientKeepsConnections asks many times, also where it is refused: over one connection.
func TestClientKeepsConnections(t *testing.T) {
	t.Parallel()
	var asked int
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked%2 == 0 {
			w.WriteHeader(403)
		}
		_, _ = io.WriteString(w, valid)
	})
	var fresh int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			fresh++
		}
	}})
	for range 50 {
		_, _ = c.Verify(ctx, client.Request{Secret: client.NewSecret(secret)}) // every second one is refused
	}
	if fresh != 1 || asked != 50 {
		t.Errorf("it asked %d times over %d connections", asked, fresh)
	}
}

// TestClientSendsNoGarbage gives no answer to what cannot be a key, without asking.
func TestClientSendsNoGarbage(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it asked") })
	for _, text := range []string{"", strings.Repeat("x", 10000)} {
		if got, err := c.Verify(t.Context(), client.Request{Secret: client.NewSecret(text)}); err != nil || got.Code != client.CodeNotFound || got.Valid {
			t.Errorf("%.10q: %+v, %v", text, got, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"", ownKey}, {"rekey.example.com", ownKey}, {"ftp://rekey.example.com", ownKey}, {"https://user:hunter2@rekey.example.com", ownKey},
		{"https://rekey.example.com?key=hunter2", ownKey}, {"https://rekey.example.com", ""}, {"https://rekey.example.com", "a\r\nHost: b"},
	} {
		if _, err := client.New(c[0], c[1]); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q, %q: %v", c[0], c[1], err)
		}
	}
}

// TestG5SecretsStaySecret prints whatever holds a secret, in every way.
func TestG5SecretsStaySecret(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) {})
	s := client.NewSecret(secret)
	if s.Reveal() != secret || s.IsZero() || !(client.Secret{}).IsZero() || (client.Secret{}).Reveal() != "" {
		t.Error("it does not reveal what it is")
	}
	request := client.Request{Secret: s}
	hidden := struct {
		s client.Secret
		r client.Request
		c *client.Client
	}{s, request, c}
	var out strings.Builder
	for _, v := range []any{s, &s, request, &request, hidden, &hidden, c, *c} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%p", "%w", "%t"} {
			fmt.Fprintf(&out, verb, v) //nolint // wrong verbs are the point
		}
		raw, _ := json.Marshal(v)
		out.Write(raw)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	_, err := verify(c)
	fmt.Fprintf(&out, "%v %+v %#v", err, err, err)
	for _, secret := range []string{secret, ownKey, fmt.Sprintf("%x", secret), fmt.Sprintf("%x", ownKey)} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("it shows %s", secret)
		}
	}
}
