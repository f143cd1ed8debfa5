package api_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTranscripts holds every route's answers against files that were reviewed: status, headers, body.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(tr *transcript){
		"health.http": playHealth, "keys.http": playKeys, "rotation.http": playRotation, "rotations.http": playRotations, "verify.http": playVerify,
		"gateways.http": playGateways,
		"tenants.http":  playTenants, "events.http": playEvents, "errors.http": playErrors,
		"accountkeys.http": playAccountKeys, "projects.http": playProjects, "apikey.http": playAPIKey,
	} {
		t.Run(strings.TrimSuffix(name, ".http"), func(t *testing.T) {
			t.Parallel()
			tr := newTranscript(t)
			play(tr)
			tr.end(name)
		})
	}
}

func playHealth(tr *transcript) {
	nobody := tr.b.as("")
	tr.call(nobody, "The process runs", "GET", "/healthz", nil).wants(200)
	tr.call(nobody, "It can serve", "GET", "/readyz", nil).wants(200)
	tr.call(nobody, "A caller's own request id", "GET", "/healthz", nil, "X-Request-Id", "deploy-42").wants(200)
	tr.call(nobody, "HEAD is GET without the body", "HEAD", "/healthz", nil).wants(200)
	tr.call(nobody, "OPTIONS lists the methods", "OPTIONS", "/v1/api-keys", nil).wants(204)
}

func playKeys(tr *transcript) {
	root, project := tr.b.root, tr.b.tenant.Key.ProjectID
	least := tr.call(root, "Create with the least", "POST", "/v1/api-keys", fields{"project_id": project, "name": "least"}).wants(201)
	full := tr.call(root, "Create with everything", "POST", "/v1/api-keys", fields{
		"project_id": project, "environment_id": tr.b.tenant.Key.EnvironmentID, "name": "  everything <&>  ",
		"scopes": []string{"projects:read", "store:*"}, "resources": fields{"app": []string{"com.demo.app"}},
		"expires_at": "2027-01-01T01:00:00+01:00", "rotation_interval_days": 30, "grace_period_minutes": 90,
		"rotation_webhook_url": "https://hooks.example.com/rekey?a=1&b=2", "metadata": fields{"team": "billing", "n": 1.5},
	}).wants(201)
	id := full.text("id")
	tr.call(root, "Get", "GET", "/v1/api-keys/"+id, nil).wants(200)
	tr.call(root, "Edit", "PATCH", "/v1/api-keys/"+id, fields{
		"name": "edited", "scopes": []string{"projects:read"}, "expires_at": nil, "rotation_interval_seconds": 7200,
		"rotation_webhook_url": "https://hooks.example.com/other", "metadata": nil, "resources": nil,
	}).wants(200)
	tr.call(root, "Edit nothing", "PATCH", "/v1/api-keys/"+id, fields{}).wants(200)
	tr.call(root, "List, first page", "GET", "/v1/api-keys?limit=1&project_id="+string(project), nil).wants(200)
	tr.call(root, "Revoke with a reason", "DELETE", "/v1/api-keys/"+id+"?reason=left+the+company", nil).wants(204)
	tr.call(root, "Revoke again", "DELETE", "/v1/api-keys/"+id, nil).wants(204)
	tr.call(root, "A revoked key", "GET", "/v1/api-keys/"+id, nil).wants(200)
	tr.call(root, "Edit a revoked key", "PATCH", "/v1/api-keys/"+id, fields{"name": "too late"}).wants(409)
	tr.call(root, "Revoke with a body", "DELETE", "/v1/api-keys/"+least.text("id"), fields{"reason": "tidying"}).wants(204)
	tr.call(root, "The history of a key", "GET", "/v1/api-keys/"+id+"/events", nil).wants(200)
	tr.call(root, "The history from a version, one page", "GET", "/v1/api-keys/"+id+"/events?after=1&limit=1", nil).wants(200)
	tr.call(root, "An unknown key", "GET", "/v1/api-keys/key_01jz8q0v6me5et8b3k2c9d4x7a", nil).wants(404)
}

func playRotation(tr *transcript) {
	root := tr.b.root
	first := tr.b.newKey(fields{"name": "by hand", "expires_at": "2026-03-01T13:00:00Z"}).text("id")
	second := tr.call(root, "Rotate", "POST", "/v1/api-keys/"+first+"/rotate", "{}").wants(200).text("new_key_id")
	tr.call(root, "The old key in grace", "GET", "/v1/api-keys/"+first, nil).wants(200)
	tr.call(root, "Rotate the old key", "POST", "/v1/api-keys/"+first+"/rotate", "{}").wants(409)
	third := tr.call(root, "Rotate without a body", "POST", "/v1/api-keys/"+second+"/rotate", nil).wants(200).text("new_key_id")
	fourth := tr.call(root, "Rotate with a grace in seconds", "POST", "/v1/api-keys/"+third+"/rotate", fields{"grace_period_seconds": 30}).wants(200).text("new_key_id")
	tr.call(root, "Too many in grace", "POST", "/v1/api-keys/"+fourth+"/rotate", fields{"grace_period_minutes": 5}).wants(409)
	tr.call(root, "Cut over now", "POST", "/v1/api-keys/"+fourth+"/rotate", fields{"grace_period_minutes": 0}).wants(200)

	made := tr.b.newKey(fields{"name": "by interval", "rotation_interval_seconds": 3600})
	tr.b.clock.advance(2 * time.Hour)
	tr.b.sweep()
	claimant, path := tr.b.as(made.text("key")), "/v1/api-keys/"+made.text("id")
	tr.call(root, "Rotate while a successor waits", "POST", path+"/rotate", "{}").wants(409)
	tr.call(claimant, "Fetch the successor", "POST", path+"/successor", nil).wants(200)
	tr.call(claimant, "Fetch it again", "POST", path+"/successor", nil).wants(404)
	tr.call(root, "Fetch the successor of another key", "POST", path+"/successor", nil).wants(404)
}

func playVerify(tr *transcript) {
	root := tr.b.root
	verify := func(title, secret string, more fields) {
		body := fields{"key": secret}
		for name, value := range more {
			body[name] = value
		}
		tr.call(root, title, "POST", "/v1/api-keys/verify", body).wants(200)
	}
	made := tr.b.newKey(fields{
		"name": "limited", "scopes": []string{"store:*"}, "resources": fields{"app": []string{"com.demo.app"}},
		"metadata": fields{"plan": "pro"},
	})
	secret, path := made.text("key"), "/v1/api-keys/"+made.text("id")
	verify("Valid", secret, nil)
	verify("Valid for what it is used for", secret, fields{"scopes": []string{"store:read"}, "resources": fields{"app": "com.demo.app"}, "ip": "203.0.113.7"})
	verify("A scope is missing", secret, fields{"scopes": []string{"projects:read"}})
	verify("Another resource", secret, fields{"resources": fields{"app": "com.other.app"}})
	successor := root.call("POST", path+"/rotate", fields{"grace_period_seconds": 60}).wants(200)
	verify("In grace", secret, nil)
	tr.b.clock.advance(time.Minute)
	verify("After its grace", secret, nil)
	root.call("DELETE", "/v1/api-keys/"+successor.text("new_key_id"), nil).wants(204)
	verify("Revoked", successor.text("key"), nil)
	brief := tr.b.newKey(fields{"expires_at": tr.b.clock.Now().Add(time.Minute).Format(time.RFC3339)}).text("key")
	tr.b.clock.advance(time.Minute)
	verify("Expired", brief, nil)
	waiting := tr.b.newKey(fields{"name": "interval", "rotation_interval_seconds": 3600})
	tr.b.clock.advance(2 * time.Hour)
	tr.b.sweep()
	verify("While its successor waits", waiting.text("key"), nil)
	verify("Malformed", "not-a-key", nil)
	verify("Of another organization", tr.b.newOrganization("other").owner.secret, nil)
	batch := func(title string, requests ...fields) *answer {
		return tr.call(root, title, "POST", "/v1/api-keys/verify/batch", fields{"requests": requests})
	}
	batch("Several at once", fields{"key": waiting.text("key")}, fields{"key": "not-a-key", "ip": "203.0.113.7"}, fields{"key": secret, "scopes": []string{"a"}}).wants(200)
	batch("Several, of which two are not well-formed", fields{"key": secret}, fields{"key": secret, "scope": "a"}, fields{"scopes": []string{}}).wants(422)
	batch("Several, of which one comes from nowhere", fields{"key": secret}, fields{"key": secret, "ip": "nowhere"}).wants(422)
	batch("None").wants(422)
}

func playGateways(tr *transcript) {
	made := tr.b.newKey(fields{"name": "a client", "scopes": []string{"orders:read", "a:*"}, "resources": fields{"app": []string{"com.demo.app"}}})
	secret, gateway := made.text("key"), tr.b.holding("keys:verify").secret
	ask := func(title, path string, headers ...string) *answer {
		return tr.call(tr.b.as(""), title, "GET", "/v1/auth"+path, nil, headers...)
	}
	ours := []string{"Rekey-Authorization", "Bearer " + gateway}
	bearer := append(ours, "Authorization", "Bearer "+secret)
	ask("Let through", "?scope=orders:read&scope=a:b&resource=app:com.demo.app", bearer...).wants(200)
	ask("Let through by the other header", "", append(ours, "X-API-Key", secret)...).wants(200)
	ask("A scope is missing", "?scope=orders:read+orders:write", bearer...).wants(403)
	ask("Another resource", "?resource=app:other", bearer...).wants(403)
	ask("No key", "", ours...).wants(401)
	ask("An unknown key", "", append(ours, "Authorization", "Bearer nonsense")...).wants(401)
	ask("The gateway shows no key of its own", "", "Authorization", "Bearer "+secret).wants(401)
	ask("The gateway's key is not valid", "", "Authorization", "Bearer "+secret, "Rekey-Authorization", "Bearer nonsense").wants(401)
	ask("The gateway's key may not ask", "", "Authorization", "Bearer "+secret, "Rekey-Authorization", "Bearer "+secret).wants(403)
	ask("A misspelt condition", "?scopes=orders:read", bearer...).wants(422)
	tr.b.root.call("POST", "/v1/api-keys/"+made.text("id")+"/rotate", fields{"grace_period_seconds": 60}).wants(200)
	ask("In grace", "", bearer...).wants(200)

	caller := tr.b.as(gateway)
	introspect := func(title, form string, headers ...string) *answer {
		return tr.call(caller, title, "POST", "/v1/introspect", form, append([]string{"Content-Type", formType}, headers...)...)
	}
	introspect("Introspect", "token="+secret+"&token_type_hint=access_token").wants(200)
	introspect("Introspect an unknown secret", "token=nonsense").wants(200)
	introspect("Introspect nothing", "token=").wants(400)
	tr.call(caller, "Introspect JSON", "POST", "/v1/introspect", "{}").wants(415)
	introspect("Introspect without a key", "token="+secret, "Authorization", "").wants(401)
	tr.call(caller, "Introspect with GET", "GET", "/v1/introspect?token=x", nil).wants(405)
}

func playTenants(tr *transcript) {
	root := tr.b.root
	made := tr.call(root, "Create an organization", "POST", "/v1/organizations", fields{"name": "Example GmbH"}).wants(201)
	tr.call(root, "List organizations, one page", "GET", "/v1/organizations?limit=1", nil).wants(200)
	tr.call(root, "Get an organization", "GET", "/v1/organizations/"+made.text("id"), nil).wants(200)
	owner := tr.b.as(made.text("key"))
	tr.call(owner, "List organizations without the operator right", "GET", "/v1/organizations", nil).wants(200)
	tr.call(owner, "Create an organization without it", "POST", "/v1/organizations", fields{"name": "mine"}).wants(403)
	project := tr.call(owner, "Create a project", "POST", "/v1/projects", fields{"name": "Shop", "brand": "shop"}).wants(201).text("id")
	tr.call(owner, "Get a project", "GET", "/v1/projects/"+project, nil).wants(200)
	tr.call(owner, "List projects", "GET", "/v1/projects", nil).wants(200)
	environment := tr.call(owner, "Create an environment", "POST", "/v1/environments", fields{"project_id": project, "name": "test"}).wants(201).text("id")
	tr.call(owner, "Create it again", "POST", "/v1/environments", fields{"project_id": project, "name": "test"}).wants(422)
	tr.call(owner, "Get an environment", "GET", "/v1/environments/"+environment, nil).wants(200)
	tr.call(owner, "List environments of a project, one page", "GET", "/v1/environments?limit=1&project_id="+project, nil).wants(200)
	tr.call(owner, "A key of that environment and brand", "POST", "/v1/api-keys",
		fields{"project_id": project, "environment_id": environment, "name": "branded"}).wants(201)
	playEdits(tr, owner, made.text("id"), "/v1/projects/"+project)
}

func playEdits(tr *transcript, owner *client, organization, path string) {
	tr.call(owner, "Rename the organization and switch surfaces off", "PATCH", "/v1/organizations/"+organization,
		fields{"name": "Example AG", "disabled_surfaces": []string{"projects", "apikey"}}).wants(200)
	tr.call(owner, "Switch all of them on, if nobody else changed it", "PATCH", "/v1/organizations/"+organization,
		fields{"disabled_surfaces": nil}, "If-Match", `"1"`).wants(412)
	tr.call(owner, "Switch one off that is unknown", "PATCH", "/v1/organizations/"+organization, fields{"disabled_surfaces": []string{"native"}}).wants(422)
	tr.call(owner, "Change a project", "PATCH", path, fields{"name": "Store", "brand": nil, "policy": fields{
		"max_lifetime_seconds": 86400, "default_grace_seconds": 60, "max_grace_seconds": 600, "allowed_scopes": []string{"orders:*"}, "on_leak": "notify",
	}}).wants(200)
	tr.call(owner, "Change one term of its policy", "PATCH", path, fields{"policy": fields{"require_expiry": true, "default_grace_seconds": nil}}).wants(200)
	tr.call(owner, "A key without the end that the policy requires", "POST", "/v1/api-keys", fields{"project_id": path[len("/v1/projects/"):], "name": "endless"}).wants(422)
	tr.call(owner, "A policy that contradicts itself", "PATCH", path, fields{"policy": fields{"default_grace_seconds": 601}}).wants(422)
	tr.call(owner, "A policy with a term that does not exist", "PATCH", path, fields{"policy": fields{"min_grace_seconds": 1}}).wants(422)
	tr.call(owner, "Take the policy away", "PATCH", path, fields{"policy": nil}).wants(200)
	tr.call(owner, "Delete a project with keys", "DELETE", path, nil).wants(409)
	empty := tr.call(owner, "Create a project with a policy", "POST", "/v1/projects", fields{"name": "Empty", "policy": fields{"require_expiry": true}}).wants(201).text("id")
	tr.call(owner, "Delete a project without keys", "DELETE", "/v1/projects/"+empty, nil).wants(204)
	tr.call(owner, "It is gone", "GET", "/v1/projects/"+empty, nil).wants(404)
}

func playEvents(tr *transcript) {
	root := tr.b.root
	made := root.call("POST", "/v1/api-keys", fields{
		"project_id": tr.b.tenant.Key.ProjectID, "name": "a key", "rotation_interval_days": 1, "rotation_webhook_url": "https://hooks.example.com/rekey",
	}, "X-Request-Id", "create-1").wants(201)
	tr.b.newOrganization("whose events are not shown")
	root.call("DELETE", "/v1/api-keys/"+made.text("id"), fields{"reason": "over"}).wants(204)
	tr.call(root, "The feed", "GET", "/v1/events", nil).wants(200)
	tr.call(root, "One page of it", "GET", "/v1/events?after=2&limit=1", nil).wants(200)
	tr.call(root, "After the end", "GET", "/v1/events?after=1000", nil).wants(200)
	playStream(tr)
}

// playStream writes the start of a stream down.
func playStream(tr *transcript) {
	tr.b.clock.advance(time.Second)
	request := tr.b.root.request("GET", "/v1/events?after=4", nil, "Accept", "text/event-stream")
	response, err := tr.b.root.http.Do(request)
	must(tr.b.t, err)
	defer func() { _ = response.Body.Close() }()
	fmt.Fprint(&tr.text, "### As a stream\n\nGET /v1/events?after=4\nAccept: text/event-stream\n\n")
	tr.write(&answer{t: tr.b.t, status: response.StatusCode, header: response.Header})
	lines := bufio.NewScanner(response.Body)
	for events := 0; events < 2 && lines.Scan(); {
		fmt.Fprintln(&tr.text, lines.Text())
		if lines.Text() == "" {
			events++
		}
	}
}

func playErrors(tr *transcript) {
	root, nobody, project := tr.b.root, tr.b.as(""), tr.b.tenant.Key.ProjectID
	reader := tr.b.holding("keys:read")
	tr.call(nobody, "No key", "GET", "/v1/projects", nil).wants(401)
	tr.call(nobody, "A bad key", "GET", "/v1/projects", nil, "Authorization", "Bearer nonsense").wants(401)
	tr.call(reader, "A scope is missing", "POST", "/v1/api-keys", fields{"project_id": project, "name": "x"}).wants(403)
	tr.call(tr.b.holding("keys:write"), "More than the caller holds", "POST", "/v1/api-keys", fields{"project_id": project, "name": "x", "scopes": []string{"keys:write", "keys:read"}}).wants(403)
	tr.call(root, "No such route", "GET", "/v2/api-keys", nil).wants(404)
	tr.call(root, "No such method", "PUT", "/v1/api-keys", fields{}).wants(405)
	tr.call(root, "No such project", "GET", "/v1/api-keys?project_id=proj_01jz8q0v6me5et8b3k2c9d4x7a", nil).wants(404)
	tr.call(root, "Broken JSON", "POST", "/v1/api-keys", `{"name": `).wants(400)
	tr.call(root, "No body", "POST", "/v1/api-keys", nil).wants(400)
	tr.call(root, "Another content type", "POST", "/v1/api-keys", "name=x", "Content-Type", "application/x-www-form-urlencoded").wants(415)
	tr.call(root, "Several fields are wrong", "POST", "/v1/api-keys", `{"nmae": "x", "scopes": "keys:read", "rotation_interval_days": -1}`).wants(422)
	tr.call(root, "A field that is refused by a rule", "POST", "/v1/api-keys", fields{"project_id": project, "name": " "}).wants(422)
	tr.call(root, "A parameter is missing", "GET", "/v1/api-keys", nil).wants(422)
	big := root.call("POST", "/v1/api-keys", fields{"project_id": project, "name": strings.Repeat("n", 70_000)}).wants(http.StatusRequestEntityTooLarge)
	fmt.Fprint(&tr.text, "### A body of 70 kB\n\nPOST /v1/api-keys\n\n")
	tr.write(big)
}
