package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// TestAPIKey_Modes creates a key of each mode, sees what scopes it has on the native surface, and what it may manage here.
func TestAPIKey_Modes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	for mode, scopes := range map[string][]any{
		"read": {"read"}, "upload": {"read", "upload"}, "write": {"read", "upload", "write"}, "all": {"*"},
	} {
		made := madeKey(b.root.bare("POST", "/apikey/", fields{"name": mode, "mode": mode}))
		if made.Mode != mode || made.LimitedToApps != nil || made.LimitedToOrgs != nil {
			t.Errorf("%s: made %+v", mode, made)
		}
		verdict := b.verify(made.Key).fields()
		if diff := cmp.Diff(scopes, verdict["scopes"]); diff != "" || number(verdict["key_id"].(string)) != fmt.Sprint(made.ID) {
			t.Errorf("%s: %v, id %d: %s", mode, verdict, made.ID, diff)
		}
		native := b.root.call("GET", "/v1/api-keys/"+verdict["key_id"].(string), nil).wants(200)
		if native.text("project_id") != string(b.tenant.Key.ProjectID) || native.text("environment_id") != string(b.tenant.Key.EnvironmentID) {
			t.Errorf("%s: belongs to %s", mode, native.body)
		}
		c := b.as(made.Key)
		for _, request := range []string{"GET /apikey/", "POST /apikey/", "GET /apikey/1/", "DELETE /apikey/1/"} {
			method, path, _ := strings.Cut(request, " ")
			var body any
			if method == "POST" {
				body = fields{"name": "x", "mode": "read"}
			}
			a := c.bare(method, path, body)
			if mode != "all" {
				a.ko(403, koDenied)
			} else if a.status == 401 || a.status == 403 {
				t.Errorf("%s by a key of the mode all: %d %s", request, a.status, a.body)
			}
		}
	}
	for mode, scopes := range map[string][]string{ // of keys from elsewhere
		"all": {"a:b", "*"}, "write": {"write", "keys:*"}, "upload": {"upload"}, "read": {"uploads", "write:x", "read:*"},
	} {
		made := b.newKey(fields{"name": "native", "scopes": scopes})
		var got struct{ APIKey pageKey }
		b.root.bare("GET", "/apikey/"+number(made.text("id"))+"/", nil).wants(200).into(&got)
		if got.APIKey.Mode != mode || got.APIKey.Key != made.text("key_prefix")+"..." {
			t.Errorf("%v is shown as %+v", scopes, got.APIKey)
		}
	}
}

// TestAPIKey_StaysInTheEnvironment: a new key belongs where its maker does, not to the project's first environment.
func TestAPIKey_StaysInTheEnvironment(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := b.root.call("POST", "/v1/projects", fields{"name": "Shop", "brand": "shop"}).wants(201).text("id")
	environment := b.root.call("POST", "/v1/environments", fields{"project_id": project, "name": "test"}).wants(201).text("id")
	maker := b.root.newKeyIn(domain.ProjectID(project), fields{"environment_id": environment})
	made := madeKey(b.as(maker.text("key")).bare("POST", "/apikey/", fields{"name": "x", "mode": "read"}))
	if verdict := b.verify(made.Key); !strings.HasPrefix(made.Key, "shop_test_") || verdict.text("project_id") != project || verdict.text("environment_id") != environment {
		t.Errorf("made %+v: %s", made, verdict.body)
	}
}

// TestG8_APIKeyEscalation: a new key never has what its maker has not, whichever way it asks for it.
func TestG8_APIKeyEscalation(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	limited := b.as(b.newKey(fields{
		"name": "limited", "scopes": []string{"keys:*", "read", "upload"}, "expires_at": began.Add(time.Hour),
		"resources": fields{"app": []string{"a", "b"}, "org": []string{"x"}, "project": []string{string(b.tenant.Key.ProjectID)}},
	}).text("key"))
	before := b.head()
	for name, body := range map[string]fields{
		"Write":          {"name": "x", "mode": "write"},
		"All":            {"name": "x", "mode": "all"},
		"AnotherApp":     {"name": "x", "mode": "read", "limited_to_apps": []string{"a", "c"}},
		"AnotherOrg":     {"name": "x", "mode": "read", "limited_to_orgs": []string{"y"}},
		"AppsButNotOrgs": {"name": "x", "mode": "read", "limited_to_apps": []string{"a"}, "limited_to_orgs": []string{"x", "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			limited.at(t).bare("POST", "/apikey/", body).ko(403, koDenied)
			query := url.Values{}
			for field, value := range body {
				if list, ok := value.([]string); ok {
					query[field] = list
				} else {
					query.Set(field, fmt.Sprint(value))
				}
			}
			limited.at(t).bare("POST", "/apikey/?"+query.Encode(), nil).ko(403, koDenied)
		})
	}
	if b.head() != before {
		t.Error("a refusal did something")
	}
	for name, c := range map[string]struct{ apps, orgs, wantApps, wantOrgs []string }{
		"Inherits":        {nil, nil, []string{"a", "b"}, []string{"x"}},
		"EmptyIsNotNamed": {[]string{}, []string{}, []string{"a", "b"}, []string{"x"}},
		"Narrows":         {[]string{"b"}, nil, []string{"b"}, []string{"x"}},
		"NarrowsTheOther": {nil, []string{"x"}, []string{"a", "b"}, []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			made := madeKey(limited.at(t).bare("POST", "/apikey/", fields{"name": "x", "mode": "upload", "limited_to_apps": c.apps, "limited_to_orgs": c.orgs}))
			if !slices.Equal(made.LimitedToApps, c.wantApps) || !slices.Equal(made.LimitedToOrgs, c.wantOrgs) {
				t.Errorf("made %+v", made)
			}
			verdict := b.verify(made.Key).fields()
			if end, err := time.Parse(time.RFC3339, verdict["expires_at"].(string)); err != nil || !end.Equal(began.Add(time.Hour)) {
				t.Errorf("it ends at %v", verdict["expires_at"])
			}
			key := b.root.call("GET", "/v1/api-keys/"+verdict["key_id"].(string), nil).wants(200).fields()
			if diff := cmp.Diff([]any{string(b.tenant.Key.ProjectID)}, key["resources"].(fields)["project"]); diff != "" {
				t.Errorf("it reaches other projects: %s", diff)
			}
		})
	}
}

// TestAPIKey_CreateByQuery: the page heads the fields of a new key with Query Parameters, so they may stand there too.
func TestAPIKey_CreateByQuery(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	for query, apps := range map[string][]string{
		"name=CI&mode=upload":                                        nil,
		"name=CI&mode=upload&limited_to_apps=a":                      {"a"},
		"name=CI&mode=upload&limited_to_apps=a,b":                    {"a", "b"},
		"name=CI&mode=upload&limited_to_apps=a&limited_to_apps=b":    {"a", "b"},
		"name=CI&mode=upload&limited_to_apps=a%2Cb&limited_to_orgs=": {"a", "b"},
	} {
		for _, path := range []string{"/apikey/", "/apikey"} {
			made := madeKey(b.root.bare("POST", path+"?"+query, nil))
			if made.Name != "CI" || made.Mode != "upload" || !slices.Equal(made.LimitedToApps, apps) || made.LimitedToOrgs != nil {
				t.Errorf("%s: made %+v", query, made)
			}
		}
	}
	made := madeKey(b.root.bare("POST", "/apikey/?name=query&mode=all&limited_to_apps=a", fields{"name": "body", "mode": "read"}))
	if made.Name != "body" || made.Mode != "read" || made.LimitedToApps != nil {
		t.Errorf("with a body the query counts: %+v", made)
	}
	b.root.bare("POST", "/apikey/", nil).ko(400, koMode)
	b.root.bare("POST", "/apikey/?name=x", nil).ko(400, koMode)
	b.root.bare("POST", "/apikey/?name=x&mode=admin", nil).ko(400, koMode)
	b.root.bare("POST", "/apikey/?mode=read", nil).ko(400, "name is missing")
}

// TestAPIKey_Policy: a project's policy binds here too, in this surface's words.
func TestAPIKey_Policy(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	policy := func(change domain.PolicyChange) {
		t.Helper()
		_, err := b.commands.UpdateProject(t.Context(), commands.By{Caller: b.tenant.Key.Caller()}, domain.UpdateProject{ID: b.tenant.Key.ProjectID, Policy: change})
		must(t, err)
	}
	ask := func() *answer { return b.root.bare("POST", "/apikey/", fields{"name": "x", "mode": "upload"}) }
	policy(domain.PolicyChange{AllowedScopes: domain.ChangeTo(domain.Scopes{"read", "upload"}), MaxLifetimeSeconds: domain.ChangeTo[int64](60)})
	if end := b.verify(madeKey(ask()).Key).text("expires_at"); end != began.Add(time.Minute).Format(time.RFC3339) {
		t.Errorf("it ends at %s", end)
	}
	policy(domain.PolicyChange{AllowedScopes: domain.ChangeTo(domain.Scopes{"read"})})
	ask().ko(400, "mode includes upload, which this project does not allow: name only scopes that the project's policy allows")
}

// TestG10_APIKeyIdempotency: a retry of a creation gives the same key; acting as another key it is another request.
func TestG10_APIKeyIdempotency(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	body := fields{"name": "once", "mode": "read"}
	first := b.root.bare("POST", "/apikey/", body, "Idempotency-Key", "one").wants(200)
	again := b.root.bare("POST", "/apikey/", body, "Idempotency-Key", "one").wants(200)
	if string(first.body) != string(again.body) || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %s, again %s", first.body, again.body)
	}
	b.root.bare("POST", "/apikey/", fields{"name": "other", "mode": "read"}, "Idempotency-Key", "one").wants(http.StatusUnprocessableEntity)
	sub := b.newKey(fields{"name": "sub", "scopes": []string{"keys:*", "read"}})
	asSub := madeKey(b.root.bare("POST", "/apikey/", body, "Idempotency-Key", "one", "x-limited-key-id", number(sub.text("id"))))
	if asSub.ID == madeKey(first).ID || asSub.UserID != sub.text("id") {
		t.Errorf("as a subkey: %+v", asSub)
	}
}
