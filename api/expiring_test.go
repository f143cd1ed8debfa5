package api_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// TestExpiringSoon shows the live keys that end within some days, soonest first, and nothing else.
func TestExpiringSoon(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	const day = 24 * time.Hour
	other := b.newOrganization("other")
	other.owner.newKeyIn(other.project, fields{"expires_at": began.Add(day)})
	second := b.root.call("POST", "/v1/projects", fields{"name": "second"}).wants(201).text("id")
	names := map[string]string{string(b.tenant.Key.ID): "root"}
	ending := func(name, project string, in time.Duration) string {
		t.Helper()
		id := b.root.newKeyIn(domain.ProjectID(project), fields{"name": name, "expires_at": began.Add(in)}).text("id")
		names[id] = name
		return id
	}
	first := string(b.tenant.Key.ProjectID)
	ending("in 20 days", first, 20*day)
	ending("in 2 days", first, 2*day)
	ending("in 1 day", second, day)
	ending("in 30 days", second, 30*day)
	ending("beyond 30 days", first, 30*day+time.Minute)
	ending("in a year", first, 365*day)
	ending("in an hour", first, time.Hour)
	revoked := ending("revoked", first, day)
	b.root.call("DELETE", "/v1/api-keys/"+revoked, nil).wants(204)
	rotated := ending("rotated", first, 10*day)
	b.clock.advance(time.Second) // keys that end together are in the order of their ids, which sort by the millisecond
	now := b.root.call("POST", "/v1/api-keys/"+rotated+"/rotate", fields{"grace_period_seconds": 7200}).wants(200).text("new_key_id")
	names[now] = "its successor"
	b.newKey(nil) // without an end

	listed := func(c *client, query string) (found []string) {
		t.Helper()
		for _, k := range pages[KeyNamed](t, c, "/v1/api-keys/expiring-soon"+query) {
			found = append(found, names[string(k.ID)])
		}
		return found
	}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	month := []string{"in an hour", "in 1 day", "in 2 days", "rotated", "its successor", "in 20 days", "in 30 days"}
	check("by default", listed(b.root, ""), month...)
	check("in pages", listed(b.root, "?limit=1"), month...)
	check("within a day", listed(b.root, "?within_days=1"), "in an hour", "in 1 day")
	check("within a year", listed(b.root, "?within_days=365&limit=2"), append(slices.Clone(month), "beyond 30 days", "in a year")...)
	check("of a project", listed(b.root, "?limit=1&project_id="+second), "in 1 day", "in 30 days")
	limited := b.as(b.newKey(fields{"scopes": []string{"keys:read"}, "resources": fields{"project": []string{second}}}).text("key"))
	check("within reach", listed(limited, ""), "in 1 day", "in 30 days")
	if ids := pages[KeyNamed](t, other.owner, "/v1/api-keys/expiring-soon"); len(ids) != 1 {
		t.Errorf("another organization sees %v", ids)
	}

	b.clock.advance(time.Hour) // the first has ended, though no sweep has recorded it
	check("an hour later", listed(b.root, "?within_days=2"), "in 1 day", "in 2 days")
	page := b.root.call("GET", "/v1/api-keys/expiring-soon?limit=1", nil).wants(200)
	b.clock.advance(2 * day) // while a client goes through the pages
	check("from a cursor in the past", listed(b.root, strings.TrimPrefix(next(t, page), "/v1/api-keys/expiring-soon")),
		"its successor", "in 20 days", "in 30 days", "beyond 30 days")
}

// KeyNamed is a key of which only the id matters.
type KeyNamed struct{ ID domain.KeyID }

// TestExpiringSoon_Refusals sends what must be refused.
func TestExpiringSoon_Refusals(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	other := b.newOrganization("other")
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	key := unknown("key")
	for query, field := range map[string]string{
		"within_days=0": "within_days", "within_days=366": "within_days", "within_days=x": "within_days", "limit=0": "limit", "limit=501": "limit",
		"cursor=x": "cursor", "cursor=%00": "cursor", "cursor=" + key: "cursor", "cursor=" + encode("1 x"): "cursor",
		"cursor=" + encode("x "+key): "cursor", "cursor=" + encode("+1 "+key): "cursor", "cursor=" + encode("-1 "+key): "cursor",
		"cursor=" + encode("9223372036854775807 "+key): "cursor", "cursor=" + encode("01 "+key): "cursor", "cursor=" + encode("1 "+key) + "=": "cursor",
		"cursor=" + encode(fmt.Sprintf("1 %s x", key)): "cursor", "cursor=" + encode("1 key_\x00"): "cursor",
	} {
		p := b.root.call("GET", "/v1/api-keys/expiring-soon?"+query, nil).refused(422, domain.CodeValidation)
		if len(p.Errors) == 0 || p.Errors[0].Field != field || p.Errors[0].Remedy == "" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	b.root.call("GET", "/v1/api-keys/expiring-soon?cursor="+encode("1 "+key), nil).wants(200)
	for _, id := range []string{unknown("proj"), string(other.project), "x"} {
		b.root.call("GET", "/v1/api-keys/expiring-soon?project_id="+id, nil).refused(404, domain.CodeNotFound)
	}
	b.holding("keys:write").call("GET", "/v1/api-keys/expiring-soon", nil).refused(403, domain.CodeInsufficientScope)
}
