package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// bare is call with the key as the /apikey/ page sends it.
func (c *client) bare(method, path string, body any, headers ...string) *answer {
	c.b.t.Helper()
	return c.call(method, path, body, append([]string{"Authorization", c.secret}, headers...)...)
}

// ko reads an error of the /apikey/ surface: a sentence, the word KO, and nothing else.
func (a *answer) ko(status int, sentence string) {
	a.t.Helper()
	a.wants(status)
	want := fields{"error": sentence, "status": "KO"}
	if diff := cmp.Diff(want, a.fields()); diff != "" || a.header.Get("Content-Type") != "application/json" {
		a.t.Errorf("%s (-want +got):\n%s", a.header.Get("Content-Type"), diff)
	}
}

const (
	koKey     = "Invalid API key"
	koSubkey  = "Invalid subkey"
	koTwoKeys = "Send one API key only"
	koDenied  = "Insufficient permissions to manage API keys"
	koUnknown = "API key not found"
	koMode    = "Invalid mode specified. Must be one of: read, write, upload, all"
)

// madeKey is a key that was created on the /apikey/ surface.
func madeKey(a *answer) (made pageKey) {
	a.t.Helper()
	var body struct{ APIKey pageKey }
	a.wants(200).into(&body)
	return body.APIKey
}

// number is the numeric id of a key.
func number[T ~string](id T) string { return fmt.Sprint(domain.KeyNumber(domain.KeyID(id))) }

// playAPIKey is a conversation in the manner of the page.
func playAPIKey(tr *transcript) {
	call := func(c *client, title, method, path string, body any, headers ...string) *answer {
		tr.b.t.Helper()
		return tr.call(c, title, method, path, body, append([]string{"authorization", c.secret}, headers...)...)
	}
	root, nobody := tr.b.root, tr.b.as("")
	reader := madeKey(call(root, "Create", "POST", "/apikey/", fields{"name": "CI/CD Read Key", "mode": "read"}))
	limited := madeKey(call(root, "Create with limits", "POST", "/apikey/", fields{
		"name": "Deploy Bot", "mode": "upload", "limited_to_apps": []string{"com.demo.app"}, "limited_to_orgs": []string{"demo"},
	}))
	admin := madeKey(call(root, "Create by the query", "POST", "/apikey/?name=Admin&mode=all&limited_to_apps=com.demo.app,com.other.app", nil))
	path := fmt.Sprintf("/apikey/%d/", limited.ID)
	call(root, "List", "GET", "/apikey/", nil).wants(200)
	call(root, "List, first page", "GET", "/apikey/?limit=1", nil).wants(200)
	call(root, "Get", "GET", path, nil).wants(200)
	call(root, "Act as a narrower key", "POST", "/apikey/", fields{"name": "By the admin", "mode": "write"}, "x-limited-key-id", fmt.Sprint(admin.ID)).wants(200)
	call(tr.b.as(admin.Key), "Act as a wider key", "GET", "/apikey/", nil, "x-limited-key-id", string(tr.b.tenant.Key.ID)).ko(401, koSubkey)
	call(root, "Delete", "DELETE", path, nil).wants(200)
	call(root, "Delete again, without the slash", "DELETE", strings.TrimSuffix(path, "/"), nil).wants(200)
	call(root, "Get a deleted key", "GET", path, nil).ko(404, koUnknown)
	call(tr.b.as(limited.Key), "With a deleted key", "GET", "/apikey/", nil).ko(401, koKey)
	tr.call(nobody, "Without a key", "GET", "/apikey/", nil).ko(401, koKey)
	tr.call(nobody, "With two keys", "GET", "/apikey/", nil, "authorization", root.secret, "x-api-key", admin.Key).ko(400, koTwoKeys)
	call(tr.b.as(reader.Key), "Without the rights", "GET", "/apikey/", nil).ko(403, koDenied)
	call(tr.b.as(admin.Key), "More than the caller's own", "POST", "/apikey/", fields{"name": "x", "mode": "read", "limited_to_apps": []string{"com.third.app"}}).ko(403, koDenied)
	call(root, "An unknown mode", "POST", "/apikey/", fields{"name": "x", "mode": "admin"}).ko(400, koMode)
	call(root, "An empty name", "POST", "/apikey/", fields{"name": " ", "mode": "read"}).wants(400)
	call(root, "Broken JSON", "POST", "/apikey/", `{"name": `).wants(400)
	call(root, "No such method", "PUT", "/apikey/", fields{}).wants(405)
}

// TestAPIKey_Refusals: what is wrong with a request is a 400 and a sentence that names the field and the remedy in the
// words of this surface; nothing is done.
func TestAPIKey_Refusals(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	before := b.head()
	const object = ": send one JSON object as /apikey/openapi.json describes it"
	for name, c := range map[string]struct {
		body     any
		status   int
		sentence string
	}{
		"NoMode":       {fields{"name": "x"}, 400, koMode},
		"NullMode":     {fields{"name": "x", "mode": nil}, 400, koMode},
		"UnknownMode":  {fields{"name": "x", "mode": "READ"}, 400, koMode},
		"NumericMode":  {fields{"name": "x", "mode": 1}, 400, koMode},
		"NoName":       {fields{"mode": "read"}, 400, "name is missing"},
		"Nothing":      {fields{}, 400, koMode},
		"EmptyName":    {fields{"name": " ", "mode": "read"}, 400, "name is empty: give it a name of 1 to 200 characters"},
		"UnknownField": {fields{"name": "x", "mode": "read", "nmae": "y"}, 400, "nmae is not a field here: remove it, or look for a misspelling; /apikey/openapi.json lists the fields"},
		"AppsIsAText":  {fields{"name": "x", "mode": "read", "limited_to_apps": "a"}, 400, "limited_to_apps does not fit: expected array: see the field's type in /apikey/openapi.json"},
		"AnEmptyApp":   {fields{"name": "x", "mode": "read", "limited_to_apps": []string{""}}, 400, "limited_to_apps has an empty, overlong or unprintable name: use 1 to 256 printable characters"},
		"AnEmptyOrg":   {fields{"name": "x", "mode": "read", "limited_to_orgs": []string{""}}, 400, "limited_to_orgs has an empty, overlong or unprintable name: use 1 to 256 printable characters"},
		"BrokenJSON":   {`{"name": `, 400, "body is not valid JSON, as seen at byte 9" + object},
		"TwoNames":     {`{"name": "a", "name": "b", "mode": "read"}`, 400, "body names a field twice in one object" + object},
		"NotUTF8":      {"{\"name\": \"\xff\", \"mode\": \"read\"}", 400, "body is not valid UTF-8" + object},
		"AList":        {`[]`, 400, "body does not fit: expected object: see the field's type in /apikey/openapi.json"},
		"Huge":         {fields{"name": strings.Repeat("n", 70_000), "mode": "read"}, 413, "the body is larger than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			b.root.at(t).bare("POST", "/apikey/", c.body).ko(c.status, c.sentence)
		})
	}
	b.root.bare("POST", "/apikey/", "name=x&mode=read", "Content-Type", "application/x-www-form-urlencoded").ko(415, "send the body with Content-Type: application/json")
	b.root.bare("GET", "/apikey/?limit=0", nil).ko(400, "limit does not fit: expected number >= 1: see the field's type in /apikey/openapi.json")
	b.root.bare("GET", "/apikey/?cursor=1", nil).ko(400, "cursor is not one of ours: take it from the Link header of the page before")
	b.root.bare("PUT", "/apikey/", fields{}).ko(405, "PUT is not possible here; the Allow header lists what is")
	b.root.bare("GET", "/apikey/1/2/", nil).ko(404, "no such route")
	if b.head() != before {
		t.Error("a refusal did something")
	}
}

// TestAPIKey_BothSpellings: each route is there with the slash of the page and without it.
func TestAPIKey_BothSpellings(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	for _, slash := range []string{"/", ""} {
		made := madeKey(b.root.bare("POST", "/apikey"+slash, fields{"name": "a key", "mode": "read"}))
		b.root.bare("GET", "/apikey"+slash, nil).wants(200)
		one := fmt.Sprintf("/apikey/%d%s", made.ID, slash)
		b.root.bare("GET", one, nil).wants(200)
		b.root.bare("HEAD", one, nil).wants(200)
		b.root.bare("DELETE", one, nil).wants(200)
		b.root.bare("GET", one, nil).ko(404, koUnknown)
		b.root.bare("DELETE", one, nil).wants(200) // again
		b.as("").call("GET", "/apikey"+slash, nil).ko(401, koKey)
	}
}

// TestG6_APIKeyUnknownIDs: what is no id, unknown, foreign or out of reach is the same 404, and nothing is done.
func TestG6_APIKeyUnknownIDs(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	mine, theirs := b.newOrganization("mine"), b.newOrganization("theirs")
	elsewhere := mine.owner.call("POST", "/v1/projects", fields{"name": "Elsewhere"}).wants(201).text("id")
	outOfReach := mine.owner.newKeyIn(domain.ProjectID(elsewhere), nil).text("id")
	caller := b.as(mine.owner.newKeyIn(mine.project, fields{"resources": fields{"project": []string{string(mine.project)}}}).text("key"))
	before := b.head()
	own := number(mine.key)
	var answers []seen
	for name, id := range map[string]string{
		"Foreign": number(theirs.key), "OutOfReach": number(outOfReach), "Unknown": "4503599627370496", "Zero": "0", "Negative": "-1",
		"Exponent": "1e3", "Huge": strings.Repeat("9", 30), "Beyond53Bits": "9007199254740993", "Fraction": "1.5", "Space": "%20" + own, "SpaceAfter": own + "%20",
		"NUL": "%00", "NULAfter": own + "%00", "Plus": "+" + own, "LeadingZero": "0" + own, "Hex": "0x1", "Underscore": "1_000",
		"KeyID": string(mine.key), "Word": "abc", "BadEscape": "%ff", "Slash": own + "%2F",
	} {
		for _, method := range []string{"GET", "DELETE"} {
			for _, slash := range []string{"/", ""} {
				a := caller.bare(method, "/apikey/"+id+slash, nil)
				if a.status != 404 {
					t.Errorf("%s %s: %d %s", method, name, a.status, a.body)
				}
				a.ko(404, koUnknown)
				answers = append(answers, a.shown())
			}
		}
	}
	for _, a := range answers[1:] {
		if diff := cmp.Diff(answers[0], a); diff != "" {
			t.Fatal(diff)
		}
	}
	if b.head() != before {
		t.Error("something was done")
	}
}

// TestAPIKey_List walks the pages: all live keys in reach, oldest first, none twice.
func TestAPIKey_List(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	org := b.newOrganization("mine")
	second := org.owner.call("POST", "/v1/projects", fields{"name": "Second"}).wants(201).text("id")
	want := []string{number(org.key)}
	projects := []domain.ProjectID{org.project, domain.ProjectID(second)}
	for n := range 7 {
		b.clock.advance(time.Second)
		want = append(want, number(org.owner.newKeyIn(projects[n%2], nil).text("id")))
	}
	b.clock.advance(time.Second)
	gone := org.owner.newKeyIn(org.project, nil).text("id")
	org.owner.call("DELETE", "/v1/api-keys/"+gone, nil).wants(204)
	org.owner.newKeyIn(org.project, fields{"expires_at": b.clock.Now().Add(time.Second)})
	rotated := org.owner.newKeyIn(domain.ProjectID(second), nil).text("id")
	successor := org.owner.call("POST", "/v1/api-keys/"+rotated+"/rotate", fields{"grace_period_seconds": 1}).wants(200)
	want = append(want, number(successor.text("new_key_id")))
	b.clock.advance(time.Second) // no sweep has recorded what that ended

	walk := func(c *client, path string) (ids []string) {
		for path != "" {
			a := c.bare("GET", path, nil).wants(200)
			for _, item := range items(t, a.body) {
				var k struct{ ID json.Number }
				item.into(&k)
				ids = append(ids, k.ID.String())
			}
			if path = next(t, a); len(ids) > 100 {
				t.Fatalf("no end: %v", ids)
			}
		}
		return ids
	}
	for _, path := range []string{"/apikey/", "/apikey", "/apikey/?limit=3", "/apikey?limit=9", "/apikey/?limit=1000"} {
		if diff := cmp.Diff(want, walk(org.owner, path)); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
	}
	b.clock.advance(time.Second)
	inOne := org.owner.newKeyIn(org.project, fields{"resources": fields{"project": []string{second}}})
	if diff := cmp.Diff([]string{want[2], want[4], want[6], want[8]}, walk(b.as(inOne.text("key")), "/apikey/?limit=2")); diff != "" {
		t.Errorf("limited to a project:\n%s", diff)
	}
	nowhere := org.owner.newKeyIn(org.project, fields{"resources": fields{"project": []string{}}})
	if a := b.as(nowhere.text("key")).bare("GET", "/apikey/", nil).wants(200); strings.TrimSpace(string(a.body)) != `{"data":[]}` {
		t.Errorf("limited to no project: %s", a.body)
	}
}
