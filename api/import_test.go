package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// theirs is the n-th secret that another system issued.
func theirs(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "theirs %d", n))
	return "sk_live_" + hex.EncodeToString(sum[:12])
}

func digestOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// importing sends an import into the first project.
func (b *bench) importing(c *client, settings fields, keys ...fields) *answer {
	b.t.Helper()
	body := fields{"project_id": b.tenant.Key.ProjectID, "keys": keys}
	for name, value := range settings {
		body[name] = value
	}
	return c.call("POST", "/v1/api-keys/import", body)
}

// imported is the answer.
type imported struct {
	DryRun   bool `json:"dry_run"`
	Created  int
	Existing int
	Keys     []struct {
		Index                 int
		Result                string
		ID, Status            *string
		Name                  string
		KeyPrefix             string  `json:"key_prefix"`
		LastFour              string  `json:"last_four"`
		RotationWebhookSecret *string `json:"rotation_webhook_secret"`
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	keys := []fields{
		{"name": "raw", "key": theirs(0), "scopes": []string{"a:read"}, "rotation_interval_days": 30, "rotation_webhook_url": "https://hooks.example.com/a"},
		{"name": "hex", "sha256": hex.EncodeToString(digestOf(theirs(1))), "key_prefix": "sk_live_", "last_four": theirs(1)[28:], "grace_period_minutes": 5},
		{"name": "base64", "sha256": base64.StdEncoding.EncodeToString(digestOf(theirs(2))), "metadata": fields{"team": "x"}},
		{"name": "base64 for URLs", "sha256": base64.RawURLEncoding.EncodeToString(digestOf(theirs(3))), "expires_at": "2027-01-01T00:00:00Z"},
	}
	head := b.head()
	var dry, first, again imported
	b.importing(b.root, fields{"dry_run": true}, keys...).wants(200).into(&dry)
	if b.head() != head || !dry.DryRun || dry.Created != 4 || dry.Keys[1].Result != "would_create" || dry.Keys[1].ID != nil || dry.Keys[1].Status != nil {
		t.Errorf("the dry run answers %+v and writes %d events", dry, b.head()-head)
	}
	b.importing(b.root, nil, keys...).wants(200).into(&first)
	if first.DryRun || first.Created != 4 || first.Existing != 0 || len(first.Keys) != 4 {
		t.Fatalf("got %+v", first)
	}
	for i, k := range first.Keys {
		if k.Index != i || k.Result != "created" || k.ID == nil || *k.Status != "active" || (k.RotationWebhookSecret != nil) != (i == 0) {
			t.Errorf("entry %d: %+v", i, k)
		}
		verdict := b.verify(theirs(i)).fields()
		if verdict["valid"] != true || verdict["key_id"] != *k.ID {
			t.Errorf("secret %d: %v", i, verdict)
		}
	}
	if k := first.Keys[1]; k.KeyPrefix != "sk_live_" || k.LastFour != theirs(1)[28:] {
		t.Errorf("it shows %q and %q", k.KeyPrefix, k.LastFour)
	}
	shown := b.root.call("GET", "/v1/api-keys/"+*first.Keys[0].ID, nil).wants(200).fields()
	if shown["rotation_interval_days"] != 30.0 || shown["name"] != "raw" || fmt.Sprint(shown["scopes"]) != "[a:read]" {
		t.Errorf("the first one is %v", shown)
	}
	// As the caller of the API, too, an imported key is a key.
	if rotated := b.root.call("POST", "/v1/api-keys/"+*first.Keys[2].ID+"/rotate", "{}").wants(200); !strings.HasPrefix(rotated.text("key"), "rk_live_") {
		t.Errorf("its successor is of another form")
	}
	b.as(theirs(2)).call("GET", "/v1/projects", nil).wants(200)

	head = b.head()
	b.importing(b.root, nil, append(keys[:1:1], keys[2])...).wants(200).into(&again)
	if b.head() != head || again.Created != 0 || again.Existing != 2 || again.Keys[0].Result != "exists" || *again.Keys[0].ID != *first.Keys[0].ID ||
		*again.Keys[1].Status != "grace" || again.Keys[0].RotationWebhookSecret != nil {
		t.Errorf("the same again: %+v", again)
	}
}

// One POST that is sent again with its Idempotency-Key is answered with the same webhook secrets, though its keys exist.
func TestG10_ImportIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	body := fields{"project_id": b.tenant.Key.ProjectID, "keys": []fields{{"name": "x", "key": theirs(0), "rotation_interval_days": 1, "rotation_webhook_url": "https://hooks.example.com/"}}}
	first := b.root.call("POST", "/v1/api-keys/import", body, "Idempotency-Key", "once").wants(200)
	again := b.root.call("POST", "/v1/api-keys/import", body, "Idempotency-Key", "once").wants(200)
	var got imported
	first.into(&got)
	if string(first.body) != string(again.body) || got.Created != 1 || got.Keys[0].RotationWebhookSecret == nil {
		t.Errorf("first %s\nagain %s", first.body, again.body)
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	stranger := b.newOrganization("other")
	taken := stranger.owner.newKeyIn(stranger.project, nil).text("key")
	writer, reader := b.holding("keys:write", "a:*"), b.holding("keys:read", "keys:delete")
	ok := fields{"name": "x", "key": theirs(0)}
	before := b.head()
	for _, c := range []struct {
		name   string
		caller *client
		keys   []fields
		status int
		code   domain.Code
		fields []string
	}{
		{"WithoutTheScope", reader, []fields{ok}, 403, domain.CodeInsufficientScope, nil},
		{"NoKeys", b.root, []fields{}, 422, domain.CodeValidation, []string{"keys"}},
		{"NeitherKeyNorHash", b.root, []fields{ok, {"name": "x"}}, 422, domain.CodeValidation, []string{"keys[1].key"}},
		{"BothKeyAndHash", b.root, []fields{{"name": "x", "key": theirs(1), "sha256": strings.Repeat("0", 64)}}, 422, domain.CodeValidation, []string{"keys[0].sha256"}},
		{"NullIsAbsent", b.root, []fields{{"name": "x", "key": nil, "sha256": nil}}, 422, domain.CodeValidation, []string{"keys[0].key"}},
		{"Weak", b.root, []fields{{"name": "x", "key": "password"}}, 422, domain.CodeValidation, []string{"keys[0].key"}},
		{"Foreign", b.root, []fields{{"name": "x", "key": taken}}, 422, domain.CodeValidation, []string{"keys[0].key"}},
		{"Twice", b.root, []fields{ok, {"name": "y", "sha256": hex.EncodeToString(digestOf(theirs(0)))}}, 422, domain.CodeValidation, []string{"keys[1].sha256"}},
		{"UnknownField", b.root, []fields{{"name": "x", "key": theirs(1), "hash": "x"}}, 422, domain.CodeValidation, []string{"keys[0].hash"}},
		{"WrongType", b.root, []fields{{"name": "x", "key": 1}}, 422, domain.CodeValidation, []string{"keys[0].key"}},
		{"AllFaultsAtOnce", b.root, []fields{
			ok, {"name": " ", "key": theirs(1)}, {"name": "x", "key": theirs(2), "scopes": []string{"a b"}}, {"name": "x", "key": theirs(3), "expires_at": "2020-01-01T00:00:00Z"},
			{"name": "x", "key": theirs(4), "grace_period_minutes": 1, "grace_period_seconds": 1}, {"name": "x", "key": theirs(5), "rotation_webhook_url": "ftp://x"},
		}, 422, domain.CodeValidation, []string{"keys[1].name", "keys[2].scopes[0]", "keys[3].expires_at", "keys[4].grace_period_minutes", "keys[5].rotation_webhook_url"}},
		{"G8_MoreThanTheCallerHolds", writer, []fields{{"name": "x", "key": theirs(1), "scopes": []string{"b:read"}}}, 403, domain.CodeEscalation, []string{"keys[0].scopes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := b.importing(c.caller, nil, c.keys...)
			p := a.refused(c.status, c.code)
			var named []string
			for _, f := range p.Errors {
				named = append(named, f.Field)
			}
			if fmt.Sprint(named) != fmt.Sprint(c.fields) {
				t.Errorf("it names %v, want %v: %s", named, c.fields, a.body)
			}
			for _, secret := range []string{theirs(0), theirs(1), taken, "password"} {
				if strings.Contains(string(a.body), secret) {
					t.Errorf("the answer has the secret: %s", a.body)
				}
			}
		})
	}
	b.importing(stranger.owner, nil, ok).refused(404, domain.CodeNotFound)
	b.importing(b.root, fields{"environment_id": unknown("env")}, ok).refused(404, domain.CodeNotFound)
	if b.head() != before {
		t.Errorf("%d events were made", b.head()-before)
	}
	if strings.Contains(b.logs.String(), theirs(0)) || strings.Contains(b.logs.String(), taken) {
		t.Error("a secret is in the log")
	}
}

// A thousand keys with metadata fit one request, and one more does not; no other route takes such bodies.
func TestImportIsLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var keys []fields
	for i := range domain.MaxImport {
		keys = append(keys, fields{"name": "x", "key": theirs(i), "metadata": fields{"note": strings.Repeat("n", 1500)}})
	}
	var got imported
	b.importing(b.root, nil, keys...).wants(200).into(&got)
	if got.Created != domain.MaxImport {
		t.Errorf("created %d", got.Created)
	}
	b.importing(b.root, nil, append(keys, fields{"name": "x", "key": theirs(1000)})...).refused(422, domain.CodeValidation)
	for i := range keys {
		keys[i]["metadata"] = fields{"note": strings.Repeat("n", 2500)}
	}
	b.importing(b.root, nil, keys...).refused(413, domain.CodeTooLarge)
	b.root.call("POST", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": "x", "metadata": fields{"x": strings.Repeat("n", 70_000)}}).
		refused(413, domain.CodeTooLarge)
}

// revoked is the answer of a bulk revocation.
type revoked struct {
	DryRun    bool `json:"dry_run"`
	Count     *int
	Revoked   *int
	Keys      []fields
	Token     *string
	ExpiresAt *time.Time `json:"expires_at"`
}

func TestBulkRevoke(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := b.tenant.Key.ProjectID
	deleter, reader := b.holding("keys:delete"), b.holding("keys:read", "keys:write")
	var secrets []string
	for range 3 {
		secrets = append(secrets, b.newKey(fields{"scopes": []string{"leaked:read"}}).text("key"))
	}
	bulk := func(c *client, body fields) *answer { return c.call("POST", "/v1/api-keys/bulk-revoke", body) }
	criteria := fields{"project_id": project, "scope": "leaked:read"}
	bulk(reader, criteria).refused(http.StatusForbidden, domain.CodeInsufficientScope)
	for what, c := range map[string]struct {
		body  fields
		field string
	}{
		"no token":           {criteria, "token"},
		"a false token":      {fields{"project_id": project, "scope": "leaked:read", "token": strings.Repeat("A", 100)}, "token"},
		"no criteria":        {fields{"dry_run": true, "reason": "x"}, "project_id"},
		"only null":          {fields{"dry_run": true, "scope": nil, "project_id": nil}, "project_id"},
		"no id":              {fields{"dry_run": true, "environment_id": "live"}, "environment_id"},
		"another kind":       {fields{"dry_run": true, "created_by": project}, "created_by"},
		"no time":            {fields{"dry_run": true, "unused_since": "yesterday"}, "unused_since"},
		"a time to come":     {fields{"dry_run": true, "unused_since": "2030-01-01T00:00:00Z"}, "unused_since"},
		"an unknown field":   {fields{"dry_run": true, "scopes": []string{"x"}}, "scopes"},
		"an empty criterion": {fields{"dry_run": true, "scope": ""}, "scope"},
	} {
		if p := bulk(deleter, c.body).refused(422, domain.CodeValidation); len(p.Errors) != 1 || p.Errors[0].Field != c.field || p.Errors[0].Remedy == "" {
			t.Errorf("%s: %+v", what, p.Errors)
		}
	}
	var dry, done revoked
	criteria["dry_run"] = true
	bulk(deleter, criteria).wants(200).into(&dry)
	if !dry.DryRun || *dry.Count != 3 || dry.Revoked != nil || len(dry.Keys) != 3 || !dry.ExpiresAt.Equal(began.Add(10*time.Minute)) {
		t.Fatalf("the dry run: %+v", dry)
	}
	k := dry.Keys[0]
	if k["status"] != "active" || k["project_id"] != string(project) || !strings.HasPrefix(fmt.Sprint(k["key_prefix"]), "rk_live_") || k["last_used_at"] != nil || k["created_at"] == nil || k["name"] != "a key" {
		t.Errorf("a key is named as %v", k)
	}
	if b.verify(secrets[0]).fields()["valid"] != true {
		t.Error("the dry run revoked a key")
	}
	delete(criteria, "dry_run")
	criteria["token"], criteria["reason"] = *dry.Token, "on a public page"
	another := b.newKey(fields{"scopes": []string{"leaked:read"}})
	bulk(deleter, criteria).refused(http.StatusConflict, domain.CodeSelectionChanged)
	b.root.call("DELETE", "/v1/api-keys/"+another.text("id"), nil).wants(204)
	bulk(b.root, criteria).refused(422, domain.CodeValidation) // a token of somebody else
	bulk(deleter, criteria).wants(200).into(&done)
	if done.DryRun || *done.Revoked != 3 || done.Count != nil || done.Token != nil || len(done.Keys) != 3 || done.Keys[0]["status"] != "revoked" {
		t.Errorf("the second call: %+v", done)
	}
	for _, secret := range secrets {
		if verdict := b.verify(secret).fields(); verdict["code"] != "REVOKED" {
			t.Errorf("after it %v", verdict)
		}
	}
	if got := b.root.call("GET", "/v1/api-keys/"+fmt.Sprint(k["id"]), nil).fields(); got["status"] != "revoked" {
		t.Errorf("the key is %v", got)
	}
	// The caller's own key is never among them.
	bulk(deleter, fields{"dry_run": true, "scope": "keys:delete"}).wants(200).into(&dry)
	if *dry.Count != 0 {
		t.Errorf("its own scope matches %v", dry.Keys)
	}
}
