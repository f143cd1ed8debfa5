package api_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// seen is all of an answer that a caller could tell two things apart by.
type seen struct {
	Status int
	Header map[string][]string
	Body   string
}

// shown removes what differs between any two requests.
func (a *answer) shown() seen {
	header := maps.Clone(map[string][]string(a.header))
	id := a.header.Get("X-Request-Id")
	delete(header, "X-Request-Id")
	delete(header, "Date")
	return seen{a.status, header, strings.ReplaceAll(string(a.body), id, "<request>")}
}

// foreignIDs are those of another organization, by prefix.
func foreignIDs(o organization, environment, lineage, endpoint string) map[string]string {
	return map[string]string{
		"key": string(o.key), "org": string(o.id), "proj": string(o.project), "env": environment, "lin": lineage, "ep": endpoint,
	}
}

// TestG6_ForeignIsUnknown asks for everything of another organization, on every route: the answer is the one for what does
// not exist, byte for byte, and nothing is done.
func TestG6_ForeignIsUnknown(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	mine, theirs := b.newOrganization("mine"), b.newOrganization("theirs")
	key := theirs.owner.call("GET", "/v1/api-keys/"+string(theirs.key), nil).wants(200)
	endpoint := func(o organization) string {
		return o.owner.call("POST", "/v1/webhook-endpoints", fields{"project_id": o.project, "url": "https://hooks.example.com/"}).wants(201).text("id")
	}
	rotated := theirs.owner.newKeyIn(theirs.project, fields{"name": "rotated"}).text("id")
	rotation := theirs.owner.call("POST", "/v1/api-keys/"+rotated+"/rotate", nil).wants(200).text("rotation_id")
	foreign := foreignIDs(theirs, string(theirs.environment), key.text("lineage_id"), endpoint(theirs))
	own := foreignIDs(mine, string(mine.environment), mine.owner.call("GET", "/v1/api-keys/"+string(mine.key), nil).text("lineage_id"), endpoint(mine))
	foreign["rot"] = rotation
	foreign["dlv"] = (&neighbour{b: b}).delivery(theirs.id, theirs.project, rotation)
	before := b.head()

	same := func(name, method, path string, body fields, kind string) {
		t.Run(name, func(t *testing.T) {
			ask := func(id string) seen {
				text := strings.NewReplacer("{project}", own["proj"], "{id}", id)
				filled := fields{}
				for field, value := range body {
					filled[field] = text.Replace(fmt.Sprint(value))
				}
				if body == nil {
					return mine.owner.call(method, text.Replace(path), nil).shown()
				}
				return mine.owner.call(method, text.Replace(path), filled).shown()
			}
			got := ask(foreign[kind])
			if diff := cmp.Diff(ask(unknown(kind)), got); diff != "" {
				t.Errorf("a foreign id can be told from an unknown one (-unknown +foreign):\n%s", diff)
			}
			if strings.Contains(got.Body, string(theirs.id)) || got.Status == 200 && got.Body != "[]\n" {
				t.Errorf("answered %d: %s", got.Status, got.Body)
			}
		})
	}
	published().each(func(method, pattern string, o *operation) {
		if !strings.Contains(pattern, "{id}") {
			return
		}
		kind := ""
		path := somePath(pattern, func(prefix string) string { kind = prefix; return "{id}" })
		var body fields
		if method == "PATCH" {
			body = fields{"name": "mine now"}
			if kind == "ep" {
				body = fields{"url": "https://mine.example.com/"}
			}
			if kind == "rot" {
				body = fields{"grace_expires_at": b.clock.Now().Add(time.Minute).Format(time.RFC3339)}
			}
		}
		same(o.OperationID, method, path, body, kind)
	})
	same("keys of a project", "GET", "/v1/api-keys?project_id={id}", nil, "proj")
	same("keys of an environment", "GET", "/v1/api-keys?project_id={project}&environment_id={id}", nil, "env")
	same("keys of a lineage", "GET", "/v1/api-keys?project_id={project}&lineage_id={id}", nil, "lin")
	same("rotations of a project", "GET", "/v1/rotations?project_id={id}", nil, "proj")
	same("rotations of a lineage", "GET", "/v1/rotations?lineage_id={id}", nil, "lin")
	same("environments of a project", "GET", "/v1/environments?project_id={id}", nil, "proj")
	same("a key in a project", "POST", "/v1/api-keys", fields{"project_id": "{id}", "name": "x"}, "proj")
	same("a key in an environment", "POST", "/v1/api-keys", fields{"project_id": "{project}", "environment_id": "{id}", "name": "x"}, "env")
	same("endpoints of a project", "GET", "/v1/webhook-endpoints?project_id={id}", nil, "proj")
	same("an endpoint in a project", "POST", "/v1/webhook-endpoints", fields{"project_id": "{id}", "url": "https://hooks.example.com/"}, "proj")
	same("a key for an endpoint", "POST", "/v1/api-keys", fields{"project_id": "{project}", "webhook_endpoint_id": "{id}", "name": "x"}, "ep")
	same("an environment in a project", "POST", "/v1/environments", fields{"project_id": "{id}", "name": "x"}, "proj")
	same("a project in an organization", "POST", "/v1/projects", fields{"organization_id": "{id}", "name": "x"}, "org")
	if after := b.head(); after != before {
		t.Errorf("%d events were appended", after-before)
	}
	theirs.owner.call("GET", "/v1/projects", nil).wants(200) // whose keys all still work
}

// TestG6_ListsShowOnlyTheirOwn looks for anything of another organization in whatever can be listed, also from a cursor or
// a position in the middle of the other's.
func TestG6_ListsShowOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	mine, theirs := b.newOrganization("mine"), b.newOrganization("theirs")
	theirs.owner.newKeyIn(theirs.project, nil)
	mine.owner.newKeyIn(mine.project, nil)
	endpoint := func(o organization) string {
		return o.owner.call("POST", "/v1/webhook-endpoints", fields{"project_id": o.project, "url": "https://hooks.example.com/"}).wants(201).text("id")
	}
	theirHook, _ := endpoint(theirs), endpoint(mine)
	for _, path := range []string{
		"/v1/webhook-endpoints", "/v1/webhook-endpoints?cursor=" + theirHook,
		"/v1/organizations", "/v1/projects", "/v1/environments", "/v1/events", "/v1/events?after=5", "/v1/api-keys?project_id=" + string(mine.project),
		"/v1/organizations?cursor=" + string(b.tenant.OrganizationID), "/v1/projects?cursor=" + string(b.tenant.Key.ProjectID),
		"/v1/api-keys?project_id=" + string(mine.project) + "&cursor=" + string(theirs.key),
	} {
		a := mine.owner.call("GET", path, nil).wants(200)
		var list []fields
		if a.into(&list); len(list) == 0 && !strings.Contains(path, "cursor") {
			t.Errorf("%s shows nothing", path)
		}
		for _, id := range []string{string(theirs.id), string(theirs.project), string(theirs.key), string(b.tenant.OrganizationID), theirHook} {
			if strings.Contains(string(a.body), id) {
				t.Errorf("%s shows %s: %s", path, id, a.body)
			}
		}
	}
	for name, secret := range map[string]string{"theirs": theirs.owner.secret, "the operator's": b.root.secret} {
		verdict := mine.owner.call("POST", "/v1/api-keys/verify", fields{"key": secret}).wants(200)
		unknown := mine.owner.call("POST", "/v1/api-keys/verify", fields{"key": strings.Repeat("x", 47)}).wants(200)
		if diff := cmp.Diff(unknown.shown(), verdict.shown()); diff != "" {
			t.Errorf("the verdict on %s key differs from that on none:\n%s", name, diff)
		}
	}
}

// TestOperator shows what the operator right reaches: it sets organizations up, but does not look into them.
func TestOperator(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	theirs := b.newOrganization("theirs")
	b.root.call("POST", "/v1/projects", fields{"name": "set up", "organization_id": theirs.id}).wants(201)
	b.root.newKeyIn(theirs.project, fields{"name": "set up"})
	b.root.call("GET", "/v1/api-keys/"+string(theirs.key), nil).refused(404, domain.CodeNotFound)
	b.root.call("GET", "/v1/projects/"+string(theirs.project), nil).refused(404, domain.CodeNotFound)
	var organizations []struct{ ID domain.OrganizationID }
	b.root.call("GET", "/v1/organizations", nil).wants(200).into(&organizations)
	if !slices.ContainsFunc(organizations, func(o struct{ ID domain.OrganizationID }) bool { return o.ID == theirs.id }) || len(organizations) != 2 {
		t.Errorf("the operator sees %v", organizations)
	}
}
