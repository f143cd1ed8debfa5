package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/github"
)

// scanner is GitHub: it signs batches.
type scanner struct{ key *ecdsa.PrivateKey }

func newScanner(t testing.TB, curve elliptic.Curve) scanner {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return scanner{key}
}

// keys is the document that GitHub publishes.
func (s scanner) keys(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	must(t, err)
	raw, err := json.Marshal(fields{"public_keys": []fields{{
		"key_identifier": "current", "is_current": true,
		"key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}}})
	must(t, err)
	return raw
}

func (s scanner) sign(t *testing.T, body string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(body))
	signature, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	return signature
}

// headers are those that GitHub sends with a body.
func (s scanner) headers(t *testing.T, body string) []string {
	t.Helper()
	return []string{github.HeaderKeyID, "current", github.HeaderSignature, base64.StdEncoding.EncodeToString(s.sign(t, body))}
}

// knows lets the surface take batches of a scanner.
func knows(t testing.TB, s scanner) func(*api.Config) {
	t.Helper()
	keys, err := github.ParseKeys(s.keys(t))
	must(t, err)
	return func(c *api.Config) { c.GitHub = keys.Check }
}

func batchOf(t *testing.T, tokens ...string) string {
	t.Helper()
	matches := make([]fields, len(tokens))
	for i, token := range tokens {
		matches[i] = fields{"token": token, "type": "acme_key", "url": "https://github.com/a/b/blob/main/" + token, "source": "Commit"}
	}
	raw, err := json.Marshal(matches)
	must(t, err)
	return string(raw) + "\n" // not what an encoder would give: the signature is of the very bytes
}

func unknownSecret(t *testing.T) string {
	t.Helper()
	secret, err := domain.MintSecret(nil, "rk", "live")
	must(t, err)
	return secret.Reveal()
}

func TestGitHubLeaks(t *testing.T) {
	t.Parallel()
	gh := newScanner(t, elliptic.P256())
	b := setup(t, options{configure: knows(t, gh)})
	nobody := b.as("")
	live, ended, foreign := b.newKey(nil).text("key"), b.newKey(nil), b.newOrganization("acme")
	b.root.call("DELETE", "/v1/api-keys/"+ended.text("id"), nil).wants(http.StatusNoContent)
	theirs := foreign.owner.newKeyIn(foreign.project, nil).text("key")
	tokens := []string{live, unknownSecret(t), ended.text("key"), theirs, "", "garbage", live[:len(live)-1] + "-", live}
	labels := []string{"true_positive", "false_positive", "true_positive", "true_positive", "false_positive", "false_positive", "false_positive", "true_positive"}
	var want []map[string]string
	for i, token := range tokens {
		want = append(want, map[string]string{
			"token_hash": fmt.Sprintf("%x", sha256.Sum256([]byte(token))), "token_type": "acme_key", "label": labels[i],
		})
	}
	body := batchOf(t, tokens...)
	for range 2 { // GitHub sends again what was lost on the way
		var got []map[string]string
		answer := nobody.call("POST", "/v1/leaks/github", body, gh.headers(t, body)...).wants(http.StatusOK)
		answer.into(&got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("feedback (-want +got):\n%s", diff)
		}
		for _, secret := range tokens[:4] {
			if strings.Contains(string(answer.body), secret) {
				t.Error("the feedback has a token in it")
			}
		}
	}
	if code := b.verify(live).text("code"); code != "REVOKED" {
		t.Errorf("the key is %s after it was reported", code)
	}
	if code := foreign.owner.call("POST", "/v1/api-keys/verify", fields{"key": theirs}).text("code"); code != "REVOKED" {
		t.Errorf("the key of another organization is %s after it was reported", code)
	}
	nobody.call("POST", "/v1/leaks/github", "[]", gh.headers(t, "[]")...).wants(http.StatusOK)
	// The program may grow: a field that is not documented yet does not keep a leak from being acted on.
	newer := `[{"token":"` + ended.text("key") + `","type":"acme_key","severity":{"of":"tomorrow"}}]`
	undocumented := &client{b: b, http: b.http.Client()}
	if a := undocumented.call("POST", "/v1/leaks/github", newer, gh.headers(t, newer)...).wants(http.StatusOK); !strings.Contains(string(a.body), `"true_positive"`) {
		t.Errorf("with a new field: %s", a.body)
	}
	wantLeakEvents(t, b, live, "github_commit", "")
}

// wantLeakEvents requires the event of one leak of a key in its history.
func wantLeakEvents(t *testing.T, b *bench, secret, source, place string) {
	t.Helper()
	id := b.verify(secret).text("key_id")
	var events []struct {
		Type, Actor string
		Data        map[string]any
	}
	b.root.call("GET", "/v1/api-keys/"+id+"/events", nil).wants(http.StatusOK).into(&events)
	var leaks []map[string]any
	for _, e := range events {
		if e.Type == "LeakReported" && e.Actor == "system:leak" {
			leaks = append(leaks, e.Data)
		}
	}
	want := map[string]any{"key_id": id, "source": source, "action": "revoke"}
	if place != "" {
		want["url"] = place
	}
	if diff := cmp.Diff([]map[string]any{want}, leaks); diff != "" {
		t.Errorf("leaks in the history (-want +got):\n%s", diff)
	}
}

// Nothing that GitHub did not sign is acted on, and all of it gets the same answer.
func TestGitHubLeaksRefusesForgeries(t *testing.T) {
	t.Parallel()
	gh, stranger := newScanner(t, elliptic.P256()), newScanner(t, elliptic.P256())
	b := setup(t, options{configure: knows(t, gh)})
	nobody, secret := b.as(""), b.newKey(nil).text("key")
	body := batchOf(t, secret)
	signature := gh.sign(t, body)
	encoded := func(signature []byte) []string {
		return []string{github.HeaderKeyID, "current", github.HeaderSignature, base64.StdEncoding.EncodeToString(signature)}
	}
	flipped := slices.Clone(signature)
	flipped[len(flipped)-1] ^= 1
	head, seen := b.head(), ""
	for name, headers := range map[string][]string{
		"unsigned":        nil,
		"no identifier":   encoded(signature)[2:],
		"no signature":    encoded(signature)[:2],
		"unknown key":     append([]string{github.HeaderKeyID, "other"}, encoded(signature)[2:]...),
		"another key":     encoded(stranger.sign(t, body)),
		"another curve":   encoded(newScanner(t, elliptic.P384()).sign(t, body)),
		"another body":    encoded(gh.sign(t, strings.TrimSpace(body))),
		"a flipped bit":   encoded(flipped),
		"truncated":       encoded(signature[:len(signature)-2]),
		"no base64":       {github.HeaderKeyID, "current", github.HeaderSignature, "%%%"},
		"a key of rekey":  {"Authorization", "Bearer " + b.tenant.Secret.Reveal()},
		"the secret as a": {github.HeaderKeyID, secret, github.HeaderSignature, secret},
	} {
		answer := nobody.call("POST", "/v1/leaks/github", body, headers...)
		p := answer.refused(http.StatusUnauthorized, domain.CodeUnauthenticated)
		text := strings.ReplaceAll(string(answer.body), p.RequestID, "")
		if seen == "" {
			seen = text
		}
		if text != seen {
			t.Errorf("%s can be told from others: %s", name, text)
		}
	}
	nobody.call("POST", "/v1/leaks/github", "not even JSON").refused(http.StatusUnauthorized, domain.CodeUnauthenticated)
	if b.head() != head || b.verify(secret).text("code") != "VALID" {
		t.Error("a forgery was acted on")
	}
	// Signed, but not a batch.
	many := "[" + strings.Repeat(`{"token":"x"},`, commands.MaxLeaks) + `{"token":"` + secret + `"}]`
	large := `[{"token":"` + secret + `"}` + strings.Repeat(" ", github.MaxBodyBytes) + "]"
	for _, c := range []struct {
		body   string
		status int
		code   domain.Code
	}{
		{many, http.StatusRequestEntityTooLarge, domain.CodeTooLarge},
		{large, http.StatusRequestEntityTooLarge, domain.CodeTooLarge},
		{`{"token":"` + secret + `"}`, http.StatusUnprocessableEntity, domain.CodeValidation},
		{`[{"token":"` + secret + `"`, http.StatusUnprocessableEntity, domain.CodeValidation},
		{`["` + secret + `"]`, http.StatusUnprocessableEntity, domain.CodeValidation},
	} {
		answer := nobody.call("POST", "/v1/leaks/github", c.body, gh.headers(t, c.body)...)
		answer.refused(c.status, c.code)
		if strings.Contains(string(answer.body), secret) {
			t.Errorf("the refusal has the secret in it: %s", answer.body)
		}
	}
	if b.head() != head || strings.Contains(b.logs.String(), secret) {
		t.Error("what was refused was acted on, or logged")
	}
}

// Without GitHub's keys the route is not there.
func TestGitHubLeaksUnconfigured(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	body := batchOf(t, "x")
	answer := b.as("").call("POST", "/v1/leaks/github", body, newScanner(t, elliptic.P256()).headers(t, body)...)
	nowhere := b.as("").call("POST", "/v1/leaks/gitlab", body)
	a, z := answer.refused(http.StatusNotFound, domain.CodeNotFound), nowhere.refused(http.StatusNotFound, domain.CodeNotFound)
	a.RequestID, z.RequestID = "", ""
	if diff := cmp.Diff(z, a); diff != "" {
		t.Errorf("it can be told from a route that does not exist (-not there +unconfigured):\n%s", diff)
	}
}

// A full batch, every other token a live key, is done well within the 30 s that GitHub waits.
func TestGitHubLeaksThousand(t *testing.T) {
	t.Parallel()
	gh := newScanner(t, elliptic.P256())
	b := setup(t, options{configure: knows(t, gh)})
	tokens := make([]string, commands.MaxLeaks)
	for i := range tokens {
		if tokens[i] = fmt.Sprint("no key number ", i); i%10 == 0 {
			tokens[i] = b.newKey(nil).text("key")
		}
	}
	body := batchOf(t, tokens...)
	began := time.Now()
	var got []github.Feedback
	b.as("").call("POST", "/v1/leaks/github", body, gh.headers(t, body)...).wants(http.StatusOK).into(&got)
	if took := time.Since(began); took > 15*time.Second || len(got) != len(tokens) {
		t.Errorf("%d answers after %s", len(got), took)
	}
	for i, f := range got {
		if (f.Label == github.TruePositive) != (i%10 == 0) {
			t.Errorf("match %d is labelled %s", i, f.Label)
		}
	}
	if code := b.verify(tokens[990]).text("code"); code != "REVOKED" {
		t.Errorf("the last key is %s", code)
	}
}

// G1 for everybody: whoever has a secret may have it revoked, and learns nothing from the answer.
func TestG1RevokeLeaked(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	nobody := b.as("")
	ended, foreign := b.newKey(nil), b.newOrganization("acme")
	b.root.call("DELETE", "/v1/api-keys/"+ended.text("id"), nil).wants(http.StatusNoContent)
	live, several := b.newKey(nil).text("key"), []string{b.newKey(nil).text("key"), "garbage", foreign.owner.newKeyIn(foreign.project, nil).text("key")}
	const place = "https://git.example.com/acme/demo/.env"
	seen := ""
	for name, body := range map[string]fields{
		"a live key": {"key": live, "url": "https://user:" + live + "@git.example.com/acme/demo/.env?" + live}, "several": {"keys": several, "url": "nowhere"},
		"an ended key": {"key": ended.text("key")}, "an unknown key": {"key": unknownSecret(t)}, "garbage": {"key": "garbage", "url": live},
		"nothing": {"key": ""}, "a long text": {"key": strings.Repeat("x", 5000)}, "NUL": {"key": "\x00", "url": "\x00"},
	} {
		answer := nobody.call("POST", "/v1/revoke-leaked", body).wants(http.StatusOK)
		answer.header.Del("Date")
		answer.header.Del("X-Request-Id")
		text := fmt.Sprint(answer.header, string(answer.body))
		if seen == "" {
			seen = text
		}
		if text != seen {
			t.Errorf("%s can be told from others: %s", name, text)
		}
	}
	for _, secret := range append(several[:1:1], live) {
		if code := b.verify(secret).text("code"); code != "REVOKED" {
			t.Errorf("a key is %s after it was reported", code)
		}
	}
	if code := foreign.owner.call("POST", "/v1/api-keys/verify", fields{"key": several[2]}).text("code"); code != "REVOKED" {
		t.Errorf("the key of another organization is %s after it was reported", code)
	}
	wantLeakEvents(t, b, live, "possession", place)
	wantLeakEvents(t, b, several[0], "possession", "")
	if strings.Contains(b.logs.String(), live) {
		t.Error("the secret stands in the log")
	}
}

// A key whose project only wants to be told lives on.
func TestRevokeLeakedByPolicy(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	project := b.root.call("POST", "/v1/projects", fields{"name": "told", "policy": fields{"on_leak": "notify"}}).wants(http.StatusCreated)
	secret := b.root.newKeyIn(domain.ProjectID(project.text("id")), nil).text("key")
	b.as("").call("POST", "/v1/revoke-leaked", fields{"key": secret}).wants(http.StatusOK)
	if code := b.verify(secret).text("code"); code != "VALID" {
		t.Errorf("the key is %s", code)
	}
	feed := b.root.call("GET", "/v1/events?limit=1000", nil).wants(http.StatusOK)
	if !strings.Contains(string(feed.body), `"action":"notify"`) {
		t.Error("nobody was told")
	}
}

func TestRevokeLeakedRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	secret := b.newKey(nil).text("key")
	head := b.head()
	for _, c := range []struct {
		name   string
		body   any
		status int
		code   domain.Code
		field  string
	}{
		{"neither", fields{"url": secret}, http.StatusUnprocessableEntity, domain.CodeValidation, "key"},
		{"both", fields{"key": secret, "keys": []string{secret}}, http.StatusUnprocessableEntity, domain.CodeValidation, "keys"},
		{"no keys", fields{"keys": []string{}}, http.StatusUnprocessableEntity, domain.CodeValidation, "keys"},
		{"too many keys", fields{"keys": slices.Repeat([]string{secret}, 101)}, http.StatusUnprocessableEntity, domain.CodeValidation, "keys"},
		{"a number", fields{"key": 5}, http.StatusUnprocessableEntity, domain.CodeValidation, "key"},
		{"null", fields{"key": nil}, http.StatusUnprocessableEntity, domain.CodeValidation, "key"},
		{"an object", fields{"key": fields{secret: secret}}, http.StatusUnprocessableEntity, domain.CodeValidation, "key"},
		{"another field", fields{"key": secret, secret: 1}, http.StatusUnprocessableEntity, domain.CodeValidation, "body"},
		{"twice", `{"key":"` + secret + `","key":"x"}`, http.StatusBadRequest, domain.CodeInvalidRequest, "body"},
		{"broken JSON", `{"key":"` + secret, http.StatusBadRequest, domain.CodeInvalidRequest, "body"},
		{"a list", []string{secret}, http.StatusUnprocessableEntity, domain.CodeValidation, "body"},
		{"huge", fields{"key": secret, "url": strings.Repeat("x", 70_000)}, http.StatusRequestEntityTooLarge, domain.CodeTooLarge, ""},
	} {
		answer := b.as("").call("POST", "/v1/revoke-leaked", c.body)
		p := answer.refused(c.status, c.code)
		if c.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != c.field) {
			t.Errorf("%s: %s", c.name, answer.body)
		}
		if strings.Contains(string(answer.body), secret) {
			t.Errorf("%s: the refusal has the secret in it: %s", c.name, answer.body)
		}
	}
	if b.head() != head || strings.Contains(b.logs.String(), secret) {
		t.Error("what was refused was acted on, or logged")
	}
}

// Without the store nothing can be promised: the reporter is told to come again.
func TestLeaksWithoutAStore(t *testing.T) {
	t.Parallel()
	gh, wire := newScanner(t, elliptic.P256()), &line{}
	b := setup(t, options{pool: wire.pool(t), configure: knows(t, gh)})
	secret := b.newKey(nil).text("key")
	body := batchOf(t, secret)
	wire.cut(true)
	for _, answer := range []*answer{
		b.as("").call("POST", "/v1/leaks/github", body, gh.headers(t, body)...),
		b.as("").call("POST", "/v1/revoke-leaked", fields{"keys": []string{"garbage", secret}}),
	} {
		answer.refused(http.StatusServiceUnavailable, domain.CodeUnavailable)
		if answer.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	b.as("").call("POST", "/v1/revoke-leaked", fields{"key": "garbage"}).wants(http.StatusOK)
	wire.mend()
	b.as("").call("POST", "/v1/leaks/github", body, gh.headers(t, body)...).wants(http.StatusOK)
	if code := b.verify(secret).text("code"); code != "REVOKED" {
		t.Errorf("the key is %s", code)
	}
}
