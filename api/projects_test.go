package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// shownProject is a project as a client of the surface reads it.
type shownProject struct {
	ID             domain.ProjectID
	Name, Brand    string
	OrganizationID domain.OrganizationID `json:"organization_id"`
	CreatedAt      time.Time             `json:"created_at"`
	UpdatedAt      time.Time             `json:"updated_at"`
}

func (a *answer) project(status int) shownProject {
	a.t.Helper()
	var body struct {
		Success bool
		Data    shownProject
	}
	if a.wants(status).into(&body); !body.Success {
		a.t.Errorf("no success: %s", a.body)
	}
	return body.Data
}

// TestSeed003 goes through what the page says, sentence by sentence, with requests as curl sends them.
func TestSeed003(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := b.root.call("POST", "/v1/projects", fields{"name": "App", "brand": "fvk"}).wants(201).text("id")
	key := func(scopes ...string) string {
		t.Helper()
		return b.root.newKeyIn(domain.ProjectID(project), fields{"scopes": scopes}).text("key")
	}
	request := func(method, path, key, data string) *answer {
		t.Helper()
		var headers []string
		if key != "" {
			headers = append(headers, "Authorization: Bearer "+key)
		}
		if data != "" {
			headers = append(headers, "Content-Type: application/json")
		}
		return b.exchange(t, curl(method, path, headers, data))
	}
	wildcard, reader := key("*"), key("projects:read")

	t.Run("RequiresAToken", func(t *testing.T) {
		request("GET", "/api/v1/healthz", "", "").wants(200)
		request("GET", "/api/v1/openapi.json", "", "").wants(200)
		request("GET", "/api/v1/projects", "", "").enveloped(401, "UNAUTHORIZED")
		request("GET", "/api/v1/anything", "", "").enveloped(401, "UNAUTHORIZED")
		request("GET", "/api/v1/projects", "fvk_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "").enveloped(401, "UNAUTHORIZED") // the page's own
	})
	t.Run("HasKeysOfTheShownForm", func(t *testing.T) {
		if !strings.HasPrefix(wildcard, "fvk_live_") {
			t.Errorf("the key begins with %.9s", wildcard)
		}
	})
	t.Run("EnforcesScopesPerEndpoint", func(t *testing.T) {
		request("GET", "/api/v1/projects", reader, "").wants(200)
		e := request("POST", "/api/v1/projects", reader, `{"name":"x"}`).enveloped(403, "FORBIDDEN")
		if e.Error.Details.RequiredScope != "projects:write" {
			t.Errorf("required_scope %q", e.Error.Details.RequiredScope)
		}
		for _, scope := range []string{"*", "projects:*", "projects:write"} {
			request("POST", "/api/v1/projects", key(scope), `{"name":"x"}`).wants(201)
		}
		for _, scope := range []string{"aso:read", "aso:write", "store:read", "store:write", "screenshots:read", "screenshots:write", "review:simulate"} {
			e := request("GET", "/api/v1/projects", key(scope), "").enveloped(403, "FORBIDDEN")
			if e.Error.Details.RequiredScope != "projects:read" {
				t.Errorf("%s: required_scope %q", scope, e.Error.Details.RequiredScope)
			}
		}
	})
	t.Run("GrantsEverythingWithoutRestriction", func(t *testing.T) {
		made := b.root.newKeyIn(domain.ProjectID(project), nil).fields()
		if !cmp.Equal(made["scopes"], []any{"*"}) {
			t.Errorf("scopes %v", made["scopes"])
		}
	})
	t.Run("KeepsOrganizationsApart", func(t *testing.T) {
		other := b.newOrganization("B")
		none := request("GET", "/api/v1/projects/"+unknown("proj"), wildcard, "").shown()
		for _, method := range []string{"GET", "DELETE"} {
			a := request(method, "/api/v1/projects/"+string(other.project), wildcard, "")
			a.enveloped(404, "NOT_FOUND")
			if diff := cmp.Diff(none, a.shown()); diff != "" {
				t.Errorf("%s tells a foreign project from none:\n%s", method, diff)
			}
		}
	})
	t.Run("RefusesARevokedKeyAtOnce", func(t *testing.T) {
		made := b.root.newKeyIn(domain.ProjectID(project), nil)
		request("GET", "/api/v1/projects", made.text("key"), "").wants(200)
		b.root.call("DELETE", "/v1/api-keys/"+made.text("id"), nil).wants(204)
		request("GET", "/api/v1/projects", made.text("key"), "").enveloped(401, "UNAUTHORIZED")
	})
	t.Run("RefusesAnExpiredKey", func(t *testing.T) {
		brief := b.root.newKeyIn(domain.ProjectID(project), fields{"expires_at": b.clock.Now().Add(time.Minute)}).text("key")
		request("GET", "/api/v1/projects", brief, "").wants(200)
		b.clock.advance(time.Minute)
		request("GET", "/api/v1/projects", brief, "").enveloped(401, "UNAUTHORIZED")
	})
}

// TestProjects_Life follows a project from its creation to its end.
func TestProjects_Life(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	c := b.holding("projects:*")
	made := c.call("POST", "/api/v1/projects", fields{"name": " Shop ", "brand": "shop"}).project(201)
	if made.Name != "Shop" || made.Brand != "shop" || made.OrganizationID != b.tenant.OrganizationID || !made.UpdatedAt.Equal(made.CreatedAt) {
		t.Errorf("created %+v", made)
	}
	path := "/api/v1/projects/" + string(made.ID)
	if got := c.call("GET", path, nil).project(200); got != made {
		t.Errorf("got %+v, created %+v", got, made)
	}
	for _, method := range []string{"PATCH", "PUT"} {
		b.clock.advance(time.Minute)
		named := c.call(method, path, fields{"name": "by " + method}).project(200)
		if named.Name != "by "+method || named.Brand != "shop" || !named.UpdatedAt.Equal(b.clock.Now()) || !named.CreatedAt.Equal(made.CreatedAt) {
			t.Errorf("%s: %+v", method, named)
		}
		if same := c.call(method, path, fields{}).project(200); same != named {
			t.Errorf("%s of nothing: %+v", method, same)
		}
	}
	if plain := c.call("PATCH", path, fields{"brand": nil}).project(200); plain.Brand != domain.DefaultBrand {
		t.Errorf("without a brand %+v", plain)
	}
	if branded := c.call("PATCH", path, fields{"brand": "store"}).project(200); branded.Brand != "store" || branded.Name != "by PUT" {
		t.Errorf("branded %+v", branded)
	}
	key := b.root.newKeyIn(made.ID, nil)
	if !strings.HasPrefix(key.text("key"), "store_live_") {
		t.Errorf("the new brand is not in %s", key.text("key_prefix"))
	}
	c.call("DELETE", path, nil).enveloped(409, "CONFLICT")
	c.call("GET", path, nil).project(200)
	b.root.call("DELETE", "/v1/api-keys/"+key.text("id"), nil).wants(204)
	var gone struct {
		Success bool
		Data    struct {
			ID      domain.ProjectID
			Deleted bool
		}
	}
	if c.call("DELETE", path, nil).wants(200).into(&gone); !gone.Success || gone.Data.ID != made.ID || !gone.Data.Deleted {
		t.Errorf("deleted %+v", gone)
	}
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		body := any(nil)
		if method != "GET" && method != "DELETE" {
			body = fields{"name": "x"}
		}
		c.call(method, path, body).enveloped(404, "NOT_FOUND")
	}
}

// TestProjects_List shows the projects of the organization, oldest first, in pages, within the caller's reach.
func TestProjects_List(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	other := b.newOrganization("other")
	want := []domain.ProjectID{b.tenant.Key.ProjectID}
	for range 4 {
		b.clock.advance(time.Second)
		want = append(want, b.root.call("POST", "/api/v1/projects", fields{"name": "p"}).project(201).ID)
	}
	listed := func(c *client, path string) (ids []domain.ProjectID) {
		t.Helper()
		for path != "" {
			var body struct {
				Success bool
				Data    struct{ Projects []shownProject }
			}
			a := c.call("GET", path, nil).wants(200)
			if a.into(&body); !body.Success || body.Data.Projects == nil {
				t.Errorf("listed %s", a.body)
			}
			for _, p := range body.Data.Projects {
				ids = append(ids, p.ID)
			}
			path = next(t, a)
		}
		return ids
	}
	if got := listed(b.root, "/api/v1/projects"); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if got := listed(b.root, "/api/v1/projects?limit=2"); !slices.Equal(got, want) {
		t.Errorf("in pages %v, want %v", got, want)
	}
	if got := listed(other.owner, "/api/v1/projects"); !slices.Equal(got, []domain.ProjectID{other.project}) {
		t.Errorf("another organization sees %v", got)
	}
	limited := b.as(b.newKey(fields{"resources": fields{"project": []domain.ProjectID{want[2], other.project}}}).text("key"))
	if got := listed(limited, "/api/v1/projects"); !slices.Equal(got, want[2:3]) {
		t.Errorf("a limited key sees %v, want %v", got, want[2:3])
	}
	for _, method := range []string{"GET", "DELETE"} {
		limited.call(method, "/api/v1/projects/"+string(want[1]), nil).enveloped(404, "NOT_FOUND")
	}
	limited.call("PATCH", "/api/v1/projects/"+string(want[1]), fields{"name": "x"}).enveloped(404, "NOT_FOUND")
	limited.call("PATCH", "/api/v1/projects/"+string(want[2]), fields{"name": "x"}).project(200)
	limited.call("POST", "/api/v1/projects", fields{"name": "x"}).fault(403, "FORBIDDEN", "resources")
}

// TestProjects_BadInput sends what must be refused, in this surface's form.
func TestProjects_BadInput(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	own := "/api/v1/projects/" + string(b.tenant.Key.ProjectID)
	before := b.head()
	for body, field := range map[string]string{
		`{}`: "name", `{"name":" "}`: "name", `{"name":null}`: "name", `{"name":"x","brand":"A_B"}`: "brand", `{"name":"x","brand":5}`: "brand",
		`{"name":"x","policy":{}}`: "policy", `{"name":"x","organization_id":"` + string(b.tenant.OrganizationID) + `"}`: "organization_id", `"x"`: "body",
	} {
		b.root.call("POST", "/api/v1/projects", body).fault(422, "VALIDATION_ERROR", field)
	}
	for body, field := range map[string]string{`{"name":""}`: "name", `{"name":null}`: "name", `{"id":"x"}`: "id"} {
		b.root.call("PATCH", own, body).fault(422, "VALIDATION_ERROR", field)
		b.root.call("PUT", own, body).fault(422, "VALIDATION_ERROR", field)
	}
	for _, body := range []string{"", "{", `{"name":"a","name":"b"}`} {
		for method, path := range map[string]string{"POST": "/api/v1/projects", "PATCH": own, "PUT": own} {
			b.root.call(method, path, body).fault(400, "BAD_REQUEST", "body")
		}
	}
	b.root.call("POST", "/api/v1/projects", "name=x", "Content-Type", "text/plain").enveloped(415, "UNSUPPORTED_MEDIA_TYPE")
	b.root.call("POST", "/api/v1/projects", `{"name":"`+strings.Repeat("n", 70_000)+`"}`).enveloped(413, "PAYLOAD_TOO_LARGE")
	for _, query := range []string{"limit=0", "limit=501", "cursor=x", "cursor=" + unknown("key")} {
		name, _, _ := strings.Cut(query, "=")
		b.root.call("GET", "/api/v1/projects?"+query, nil).fault(422, "VALIDATION_ERROR", name)
	}
	for _, id := range []string{unknown("proj"), unknown("key"), "x", "%00", "%ff", strings.ToUpper(unknown("proj"))} {
		b.root.call("GET", "/api/v1/projects/"+id, nil).enveloped(404, "NOT_FOUND")
		b.root.call("PATCH", "/api/v1/projects/"+id, fields{"name": "x"}).enveloped(404, "NOT_FOUND")
		b.root.call("DELETE", "/api/v1/projects/"+id, nil).enveloped(404, "NOT_FOUND")
	}
	b.root.call("GET", "/api/v1/nowhere", nil).enveloped(404, "NOT_FOUND")
	b.root.call("POST", "/api/v1/healthz", nil).enveloped(405, "METHOD_NOT_ALLOWED")
	if after := b.head(); after != before {
		t.Errorf("%d events", after-before)
	}
}

// playProjects writes a conversation with the surface down.
func playProjects(tr *transcript) {
	b := tr.b
	owner := b.holding("projects:*")
	tr.call(b.as(""), "The process runs", "GET", "/api/v1/healthz", nil).wants(200)
	made := tr.call(owner, "Create", "POST", "/api/v1/projects", fields{"name": "Shop", "brand": "shop"}).project(201)
	path := "/api/v1/projects/" + string(made.ID)
	tr.call(owner, "Get", "GET", path, nil).wants(200)
	tr.call(owner, "Edit", "PATCH", path, fields{"name": "Store"}).wants(200)
	tr.call(owner, "Edit with PUT", "PUT", path, fields{"brand": "store"}).wants(200)
	tr.call(owner, "List", "GET", "/api/v1/projects", nil).wants(200)
	tr.call(owner, "List, one page", "GET", "/api/v1/projects?limit=1", nil).wants(200)
	key := b.root.newKeyIn(made.ID, nil).text("id")
	tr.call(owner, "Delete a project that has live keys", "DELETE", path, nil).wants(409)
	b.root.call("DELETE", "/v1/api-keys/"+key, nil).wants(204)
	tr.call(owner, "Delete", "DELETE", path, nil).wants(200)
	tr.call(owner, "A deleted project", "GET", path, nil).wants(404)
	tr.call(b.holding("projects:read"), "Without the scope", "POST", "/api/v1/projects", fields{"name": "x"}).wants(403)
	tr.call(b.as(""), "Without a key", "GET", "/api/v1/projects", nil).wants(401)
	tr.call(b.as(""), "No such route, without a key", "GET", "/api/v1/nowhere", nil).wants(401)
	tr.call(owner, "No such route", "GET", "/api/v1/nowhere", nil).wants(404)
	tr.call(owner, "Fields that are wrong", "POST", "/api/v1/projects", fields{"brand": 5, "owner": "me"}).wants(422)
}
