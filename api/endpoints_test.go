package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/webhook"
)

// reachLoopback lets receivers on this machine be reached.
func reachLoopback(t *testing.T) func(*commands.Config) {
	t.Helper()
	guard, err := webhook.NewGuard(webhook.LoopbackPrefixes())
	must(t, err)
	return func(c *commands.Config) {
		c.CheckURL, c.Sender = guard.CheckURL, webhook.NewSender(webhook.SenderConfig{Guard: guard, Now: c.Now})
	}
}

// receiver is one that checks signatures and answers challenges.
func (b *bench) receiver(private webhook.ReceiverPrivateKey) (*webhook.Receiver, string) {
	b.t.Helper()
	r := webhook.NewReceiver(webhook.ReceiverConfig{
		Now: b.clock.Now, Handle: func(context.Context, webhook.Received) error { return nil },
		Answer: func(m webhook.Received) http.Header {
			challenge, err := webhook.ReadVerification(m.Body, m.ID, private)
			if err != nil {
				return nil
			}
			answer, err := webhook.AnswerChallenge(m.SignedBy, challenge)
			if err != nil {
				return nil
			}
			return http.Header{webhook.HeaderChallenge: {answer}}
		},
	})
	server := httptest.NewServer(r)
	b.t.Cleanup(server.Close)
	return r, server.URL
}

// TestEndpointTranscript holds the answers about webhook endpoints against a file that was reviewed. Its receiver is one
// of this machine.
func TestEndpointTranscript(t *testing.T) {
	t.Parallel()
	tr := &transcript{b: setup(t, options{now: began, commands: reachLoopback(t)})}
	playEndpoints(tr)
	tr.end("endpoints.http")
}

func playEndpoints(tr *transcript) {
	root, project := tr.b.root, tr.b.tenant.Key.ProjectID
	private, err := webhook.NewReceiverKey(strings.NewReader(strings.Repeat("k", 32)))
	must(tr.b.t, err)
	receiver, at := tr.b.receiver(private)
	made := tr.call(root, "Register", "POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": at + "/hook?tenant=1"}).wants(201)
	path := "/v1/webhook-endpoints/" + made.text("id")
	tr.call(root, "Get", "GET", path, nil).wants(200)
	tr.call(root, "Ask a receiver that does not know the secret", "POST", path+"/verify", nil).wants(200)
	secret, err := webhook.ParseSecret(made.text("signing_secret"))
	must(tr.b.t, err)
	receiver.AddSecret(secret)
	tr.call(root, "Verify", "POST", path+"/verify", nil).wants(200)
	tr.call(root, "Send a test", "POST", path+"/test", nil).wants(200)
	tr.call(root, "Have secrets sealed", "PATCH", path, fields{
		"secret_mode": "sealed", "receiver_public_key": private.Public().String(), "ack_level": "proof",
	}).wants(200)
	tr.call(root, "Verify the key", "POST", path+"/verify", nil).wants(200)
	tr.call(root, "Pause", "POST", path+"/pause", fields{"reason": "the receiver moves"}).wants(200)
	tr.call(root, "Resume", "POST", path+"/resume", nil).wants(200)
	tr.call(root, "Rotate the signing secret", "POST", path+"/rotate-secret", nil).wants(200)
	tr.call(root, "Get while the old secret signs too", "GET", path, nil).wants(200)
	tr.call(root, "End all old secrets now", "POST", path+"/rotate-secret", fields{"grace_seconds": 0}).wants(200)
	tr.call(root, "Disable", "POST", path+"/disable", nil).wants(200)
	tr.call(root, "Verify what is disabled", "POST", path+"/verify", nil).wants(409)
	tr.call(root, "Enable", "POST", path+"/enable", nil).wants(200)
	key := tr.call(root, "A key that uses it", "POST", "/v1/api-keys", fields{
		"project_id": project, "name": "rotating", "rotation_interval_days": 30, "webhook_endpoint_id": made.text("id"),
	}).wants(201)
	tr.call(root, "Delete what a key uses", "DELETE", path, nil).wants(409)
	tr.call(root, "A key's own address in its place", "PATCH", "/v1/api-keys/"+key.text("id"), fields{"rotation_webhook_url": at + "/own"}).wants(200)
	tr.call(root, "Both at once", "PATCH", "/v1/api-keys/"+key.text("id"), fields{"rotation_webhook_url": at, "webhook_endpoint_id": made.text("id")}).wants(422)
	tr.call(root, "List, newest first", "GET", "/v1/webhook-endpoints?limit=1&project_id="+string(project), nil).wants(200)
	tr.call(root, "Delete", "DELETE", path, nil).wants(204)
	tr.call(root, "What was deleted", "GET", path, nil).wants(404)
	tr.call(root, "An address that is none", "POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": "https://user:pass@hooks.example.com/"}).wants(422)
	tr.call(root, "Sealed without a key", "POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": "https://hooks.example.com/", "secret_mode": "sealed"}).wants(422)
	tr.call(root, "A key that is none", "POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": "https://hooks.example.com/", "receiver_public_key": "AAAA"}).wants(422)
}

// a signing secret is in the answer that made it, and in no other; a retry with the same Idempotency-Key is that
// answer again.
func TestSigningSecretsAreShownOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	register := func() *answer {
		return b.root.call("POST", "/v1/webhook-endpoints", fields{"project_id": b.tenant.Key.ProjectID, "url": "https://hooks.example.com/"},
			"Idempotency-Key", "register").wants(201)
	}
	made := register()
	if again := register(); string(again.body) != string(made.body) {
		t.Errorf("a retry was answered differently: %s", again.body)
	}
	path := "/v1/webhook-endpoints/" + made.text("id")
	rotate := func() *answer {
		return b.root.call("POST", path+"/rotate-secret", nil, "Idempotency-Key", "rotate").wants(200)
	}
	rotated := rotate()
	if again := rotate(); string(again.body) != string(rotated.body) {
		t.Errorf("a retry was answered differently: %s", again.body)
	}
	secrets := []string{made.text("signing_secret"), rotated.text("signing_secret")}
	if n := b.count("endpoint_secrets"); n != 4 || !strings.HasPrefix(secrets[0], "whsec_") || secrets[0] == secrets[1] {
		t.Errorf("%d sealed secrets", n)
	}
	for _, ask := range []string{path, "/v1/webhook-endpoints", "/v1/events"} {
		shown := string(b.root.call("GET", ask, nil).wants(200).body)
		for _, secret := range secrets {
			if strings.Contains(shown, secret) {
				t.Errorf("%s shows a signing secret", ask)
			}
		}
	}
}

// The scopes of endpoints are their own: who may write keys may not say where their secrets go.
func TestEndpointScopes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	made := b.root.call("POST", "/v1/webhook-endpoints", fields{"project_id": b.tenant.Key.ProjectID, "url": "https://hooks.example.com/"}).wants(201)
	path := "/v1/webhook-endpoints/" + made.text("id")
	reader, keys := b.holding("webhooks:read"), b.holding("keys:*")
	reader.call("GET", path, nil).wants(200)
	reader.call("POST", path+"/disable", nil).refused(403, domain.CodeInsufficientScope)
	reader.call("POST", path+"/rotate-secret", nil).refused(403, domain.CodeInsufficientScope)
	keys.call("GET", path, nil).refused(403, domain.CodeInsufficientScope)
	keys.call("PATCH", path, fields{"url": "https://evil.example.com/"}).refused(403, domain.CodeInsufficientScope)
	writer := b.holding("webhooks:write")
	b.root.newKeyIn(b.tenant.Key.ProjectID, fields{"webhook_endpoint_id": made.text("id")})
	writer.call("PATCH", path, fields{"url": "https://evil.example.com/"}).refused(403, domain.CodeEscalation)
	writer.call("POST", path+"/disable", fields{"reason": "leaking"}).wants(200)
}

// lists show where endpoints are, and not the whole address; the endpoint itself does. One that a key's own address
// was is not listed any more once no live key uses it.
func TestEndpointListsShowHosts(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	project := b.tenant.Key.ProjectID
	made := b.root.call("POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": "https://hooks.example.com:8443/canary?token=canary"}).wants(201)
	own := b.root.newKeyIn(project, fields{"rotation_webhook_url": "https://own.example.com/canary", "rotation_interval_days": 30})
	list := b.root.call("GET", "/v1/webhook-endpoints", nil).wants(200)
	text := string(list.body)
	if strings.Contains(text, "canary") || !strings.Contains(text, `"host":"hooks.example.com:8443"`) || !strings.Contains(text, `"host":"own.example.com"`) {
		t.Errorf("the list is %s", text)
	}
	one := b.root.call("GET", "/v1/webhook-endpoints/"+made.text("id"), nil).wants(200)
	if one.text("url") != "https://hooks.example.com:8443/canary?token=canary" {
		t.Errorf("the endpoint is %s", one.body)
	}
	b.root.call("PATCH", "/v1/webhook-endpoints/"+made.text("id"), fields{"event_types": []string{"key.revoked"}}).wants(200)
	b.root.call("PATCH", "/v1/webhook-endpoints/"+made.text("id"), fields{"event_types": []string{}}).refused(422, domain.CodeValidation)
	b.root.call("PATCH", "/v1/webhook-endpoints/"+made.text("id"), fields{"event_types": []string{"key.exploded"}}).refused(422, domain.CodeValidation)
	b.root.call("DELETE", "/v1/api-keys/"+own.text("id"), nil).wants(204)
	if text := string(b.root.call("GET", "/v1/webhook-endpoints", nil).wants(200).body); strings.Contains(text, "own.example.com") || !strings.Contains(text, "hooks.example.com") {
		t.Errorf("after its key has ended the list is %s", text)
	}
}

// An import may name a registered endpoint of its project, and no other.
func TestImportNamesAnEndpoint(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	project := b.tenant.Key.ProjectID
	made := b.root.call("POST", "/v1/webhook-endpoints", fields{"project_id": project, "url": "https://hooks.example.com/"}).wants(201)
	own := b.root.newKeyIn(project, fields{"rotation_webhook_url": "https://own.example.com/", "rotation_interval_days": 30})
	send := func(more fields) *answer {
		entry := fields{"name": "imported", "key": "old-system-secret-0123456789", "rotation_interval_days": 30}
		for field, value := range more {
			entry[field] = value
		}
		return b.root.call("POST", "/v1/api-keys/import", fields{"project_id": project, "keys": []fields{entry}})
	}
	for what, more := range map[string]fields{
		"an unknown one": {"webhook_endpoint_id": unknown("ep")}, "no id": {"webhook_endpoint_id": "x"},
		"a key's own": {"webhook_endpoint_id": own.text("webhook_endpoint_id")},
		"two":         {"webhook_endpoint_id": made.text("id"), "rotation_webhook_url": "https://hooks.example.com/"},
	} {
		if got := send(more).wants(422); !strings.Contains(string(got.body), "keys[0].") {
			t.Errorf("%s: %s", what, got.body)
		}
	}
	got := send(fields{"webhook_endpoint_id": made.text("id")}).wants(200)
	var body struct {
		Keys []struct{ ID string }
	}
	must(t, json.Unmarshal(got.body, &body))
	if key := b.root.call("GET", "/v1/api-keys/"+body.Keys[0].ID, nil).wants(200); key.text("webhook_endpoint_id") != made.text("id") {
		t.Errorf("the key is %s", key.body)
	}
}
