package api_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook/webhooktest"
)

const receiverAt = "https://hooks.example.com/"

func given(chain, key string) fields { return fields{"certificate_pem": chain, "private_key_pem": key} }

// shows asserts that an endpoint shows the certificate of a name, or none.
func shows(t *testing.T, got *answer, name string) {
	t.Helper()
	var body struct {
		Certificate *struct {
			Subject, Issuer, Serial string
			Fingerprint             string    `json:"fingerprint_sha256"`
			NotBefore               time.Time `json:"not_before"`
			NotAfter                time.Time `json:"not_after"`
		} `json:"client_certificate"`
	}
	must(t, json.Unmarshal(got.body, &body))
	switch c := body.Certificate; {
	case name == "" && c != nil, name != "" && c == nil:
		t.Errorf("it shows %+v, want %q", c, name)
	case c != nil && (c.Subject != "CN="+name || c.Issuer != "CN=Acme" || c.Serial == "" || len(c.Fingerprint) != 64 || !c.NotBefore.Before(c.NotAfter)):
		t.Errorf("it shows %+v, want %q", c, name)
	}
}

// A certificate is given with its key, replaced and taken away; answers show what everybody may know of it. Of the keys
// there is nothing in any answer, log or row, of those that were refused either.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	authority, project := webhooktest.NewAuthority(t, "Acme"), b.tenant.Key.ProjectID
	var keys []string
	issue := func(name string, change ...func(*x509.Certificate)) (chain, key string) {
		chain, key = authority.Issue(t, name, webhooktest.NewKey(t), change...)
		keys = append(keys, key)
		return chain, key
	}
	var answers []*answer
	call := func(method, path string, body any, headers ...string) *answer {
		got := b.root.call(method, path, body, headers...)
		answers = append(answers, got)
		return got
	}
	register := func(more fields) *answer {
		body := fields{"project_id": project, "url": receiverAt}
		maps.Copy(body, more)
		return call("POST", "/v1/webhook-endpoints", body)
	}
	chain, key := issue("one")
	first := call("POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": receiverAt, "client_certificate": given(chain, key)},
		"Idempotency-Key", "certified").wants(201)
	shows(t, first, "one")
	if again := call("POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": receiverAt, "client_certificate": given(chain, key)},
		"Idempotency-Key", "certified").wants(201); string(again.body) != string(first.body) {
		t.Errorf("a retry was answered differently: %s", again.body)
	}
	path := "/v1/webhook-endpoints/" + first.text("id")
	second, secondKey := issue("two")
	shows(t, call("PATCH", path, fields{"client_certificate": given(second, secondKey)}).wants(200), "two")
	shows(t, call("PATCH", path, fields{"ack_level": "proof"}).wants(200), "two")
	shows(t, call("GET", path, nil).wants(200), "two")
	shows(t, call("PATCH", path, fields{"client_certificate": given(second, secondKey)}).wants(200), "two") // again, as a remedy
	if n := b.count("endpoint_certificates"); n != 1 {
		t.Errorf("%d certificates are stored", n)
	}
	plain := register(fields{"client_certificate": nil}).wants(201)
	shows(t, plain, "")

	other, otherKey := issue("other")
	past, pastKey := issue("past", func(c *x509.Certificate) { c.NotAfter = b.clock.Now().Add(-time.Minute) })
	future, futureKey := issue("future", func(c *x509.Certificate) { c.NotBefore = b.clock.Now().Add(time.Hour) })
	for what, c := range map[string]struct {
		certificate any
		status      int
		field       string
	}{
		"no PEM":             {given("one", key), 422, "client_certificate.certificate_pem"},
		"no certificate":     {given(key, key), 422, "client_certificate.certificate_pem"},
		"expired":            {given(past, pastKey), 422, "client_certificate.certificate_pem"},
		"not valid yet":      {given(future, futureKey), 422, "client_certificate.certificate_pem"},
		"too long":           {given(chain+strings.Repeat(" ", 32<<10), key), 422, "client_certificate.certificate_pem"},
		"no key":             {given(chain, ""), 422, "client_certificate.private_key_pem"},
		"another's key":      {given(other, key), 422, "client_certificate.private_key_pem"},
		"a key that is cut":  {given(other, otherKey[:len(otherKey)-40]), 422, "client_certificate.private_key_pem"},
		"a key too long":     {given(chain, key+strings.Repeat(" ", 16<<10)), 422, "client_certificate.private_key_pem"},
		"without a key":      {fields{"certificate_pem": chain}, 422, "client_certificate.private_key_pem"},
		"the key elsewhere":  {fields{"certificate_pem": chain, "private_key": key}, 422, "client_certificate."},
		"the key as a list":  {fields{"certificate_pem": chain, "private_key_pem": []string{key}}, 422, "client_certificate.private_key_pem"},
		"one text":           {chain + key, 422, "client_certificate"},
		"more than is taken": {given(chain, key+strings.Repeat("\n", 64<<10)), 413, ""},
	} {
		for method, got := range map[string]*answer{
			"POST": register(fields{"client_certificate": c.certificate}), "PATCH": call("PATCH", path, fields{"client_certificate": c.certificate}),
		} {
			var problem struct{ Errors []domain.FieldError }
			must(t, json.Unmarshal(got.wants(c.status).body, &problem))
			if c.field != "" && (len(problem.Errors) == 0 || !strings.HasPrefix(problem.Errors[0].Field, c.field) || problem.Errors[0].Remedy == "") {
				t.Errorf("%s, %s: %s", what, method, got.body)
			}
		}
	}
	shows(t, call("GET", path, nil).wants(200), "two")
	for _, list := range []string{"/v1/webhook-endpoints", "/v1/events", path} {
		call("GET", list, nil).wants(200)
	}
	b.findsNothing(keys, answers)

	shows(t, call("PATCH", path, fields{"client_certificate": nil}).wants(200), "")
	call("PATCH", path, fields{"client_certificate": given(second, secondKey)}).wants(200)
	call("DELETE", path, nil).wants(204)
	if n := b.count("endpoint_certificates"); n != 0 {
		t.Errorf("%d certificates are left", n)
	}
}

// An address without TLS can be shown no certificate.
func TestClientCertificateNeedsHTTPS(t *testing.T) {
	t.Parallel()
	b := setup(t, options{commands: reachLoopback(t)})
	chain, key := webhooktest.NewAuthority(t, "Acme").New(t, "one")
	body := fields{"project_id": b.tenant.Key.ProjectID, "url": "http://127.0.0.1:8081/", "client_certificate": given(chain, key)}
	refused := func(got *answer) {
		t.Helper()
		if got.wants(422); !strings.Contains(string(got.body), `"field":"client_certificate"`) || !strings.Contains(string(got.body), "https") {
			t.Errorf("%s", got.body)
		}
	}
	refused(b.root.call("POST", "/v1/webhook-endpoints", body))
	body["url"] = receiverAt
	path := "/v1/webhook-endpoints/" + b.root.call("POST", "/v1/webhook-endpoints", body).wants(201).text("id")
	refused(b.root.call("PATCH", path, fields{"url": "http://127.0.0.1:8081/"}))
	b.root.call("PATCH", path, fields{"url": "http://127.0.0.1:8081/", "client_certificate": nil}).wants(200)
}

// findsNothing looks for private keys in every row of every table, in the log, and in answers.
func (b *bench) findsNothing(keys []string, answers []*answer) {
	b.t.Helper()
	var traces []string
	for _, key := range keys {
		traces = append(traces, webhooktest.Traces(b.t, key)...)
	}
	look := func(where, text string) {
		if i := slices.IndexFunc(traces, func(trace string) bool { return strings.Contains(text, trace) }); i >= 0 {
			b.t.Errorf("%s holds a private key", where)
		}
	}
	ctx, owner := b.t.Context(), b.options.db.OwnerPool(b.t)
	rows, err := owner.Query(ctx, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'river')`)
	must(b.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(b.t, err)
	var all strings.Builder
	for _, table := range tables {
		var text string
		must(b.t, owner.QueryRow(ctx, fmt.Sprintf("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM %s t", table)).Scan(&text))
		look(table, text)
		all.WriteString(text)
	}
	if !strings.Contains(all.String(), "CN=two") {
		b.t.Error("no row has the certificate, so nothing was shown")
	}
	for _, got := range answers {
		look("the answer "+string(got.body), fmt.Sprint(got.header)+string(got.body))
	}
	logged := b.logs.String()
	if look("the log", logged); !strings.Contains(logged, "/v1/webhook-endpoints") {
		b.t.Error("nothing was logged")
	}
}
