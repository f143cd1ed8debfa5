package api_test

import (
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/domain"
)

// Deliveries are listed newest first, page by page, and one is shown with all its attempts, without anything of a message.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	o := b.newOrganization("mine")
	n := &neighbour{b: b}
	var made []string
	for range 3 {
		made = append(made, n.delivery(o.id, o.project, unknown("rot")))
	}
	_, err := b.options.pool.Exec(t.Context(), `INSERT INTO webhook_attempts (delivery_id, number, started_at, finished_at, outcome, status, total_ms, worker)
		VALUES ($1, 1, $2, $2, 'server_error', 503, 12, 'host/1'), ($1, 2, $2, NULL, NULL, NULL, NULL, 'host/1')`, made[2], began)
	must(t, err)

	list := func(query string) (ids []string, link string) {
		t.Helper()
		page := o.owner.call("GET", "/v1/deliveries?"+query, nil).wants(200)
		var items []struct{ ID string }
		page.into(&items)
		for _, item := range items {
			ids = append(ids, item.ID)
		}
		return ids, page.header.Get("Link")
	}
	first, link := list("limit=2")
	if len(first) != 2 || first[0] <= first[1] || !strings.Contains(link, "cursor="+first[1]) {
		t.Errorf("the first page is %v, and the link to the next %q", first, link)
	}
	if rest, link := list("limit=2&cursor=" + first[1]); len(rest) != 1 || rest[0] != made[0] || link != "" {
		t.Errorf("the last page is %v, %q", rest, link)
	}
	for query, want := range map[string]int{
		"state=failed": 3, "state=pending": 0, "project_id=" + string(o.project): 3, "project_id=" + unknown("proj"): 0, "endpoint_id=" + unknown("ep"): 0,
	} {
		if got, _ := list(query); len(got) != want {
			t.Errorf("%s lists %d, want %d", query, len(got), want)
		}
	}
	for _, query := range []string{"state=lost", "cursor=x", "endpoint_id=x", "project_id=key_x"} {
		o.owner.call("GET", "/v1/deliveries?"+query, nil).refused(422, domain.CodeValidation)
	}

	shown := o.owner.call("GET", "/v1/deliveries/"+made[2], nil).wants(200)
	log := shown.fields()["attempt_log"].([]any)
	if len(log) != 2 || log[0].(map[string]any)["outcome"] != "server_error" || log[1].(map[string]any)["outcome"] != nil {
		t.Errorf("the attempts are %v", log)
	}
}

// What cannot be delivered again says why; a span names its endpoint and its times.
func TestRedeliverRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	o := b.newOrganization("mine")
	endpoint := o.owner.call("POST", "/v1/webhook-endpoints", fields{"project_id": o.project, "url": "https://hooks.example.com/"}).wants(201).text("id")
	span := fields{"endpoint_id": endpoint, "from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
	o.owner.call("POST", "/v1/deliveries/redeliver", span).refused(409, domain.CodeEndpointState) // it was never verified
	span["from"] = "2026-03-03T00:00:00Z"
	span["endpoint_id"] = unknown("ep")
	o.owner.call("POST", "/v1/deliveries/redeliver", span).refused(404, domain.CodeNotFound)
	span["from"] = "yesterday"
	o.owner.call("POST", "/v1/deliveries/redeliver", span).refused(422, domain.CodeValidation)
	o.owner.call("POST", "/v1/deliveries/"+unknown("dlv")+"/redeliver", nil).refused(404, domain.CodeNotFound)
}

// Whoever holds no right address finds nothing, whatever it looks like.
func TestClaimsOfNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for _, token := range []string{"x", strings.Repeat("A", 43), strings.Repeat("%00", 43), strings.Repeat("A", 128)} {
		b.as("").call("POST", "/v1/claims/"+token, nil).refused(404, domain.CodeNotFound)
	}
}
