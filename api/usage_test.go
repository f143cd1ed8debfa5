package api_test

import (
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

type usageBucket struct {
	Start       time.Time `json:"start"`
	UseCount    int64     `json:"use_count"`
	DeniedCount int64     `json:"denied_count"`
	Complete    bool      `json:"complete"`
}

// TestUsage verifies and uses keys, and reads how often as series.
func TestUsage(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(30 * time.Minute) // the start of a day, so that one is over
	var usage *projections.Usage
	b := setup(t, options{now: now.Add(-24 * time.Hour), configure: func(c *api.Config) {
		c.Usage = func(k *verifier.Record, from netip.Addr, _ string, at time.Time) {
			usage.Used(k.Key(), where(from), at)
		}
		c.Denied = func(k *verifier.Record, at time.Time) { usage.Denied(k.Key(), at) }
		usage = projections.NewUsage(projections.UsageConfig{})
	}})
	usage = projections.NewUsage(projections.UsageConfig{Pool: b.options.pool})
	key := b.newKey(fields{"name": "used"})
	id, secret, lineage := key.text("id"), key.text("key"), key.text("lineage_id")
	verify := func(scope string) {
		t.Helper()
		b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret, "scopes": []string{scope}}).wants(200)
	}
	verify("orders:read")
	b.root.call("PATCH", "/v1/api-keys/"+id, fields{"scopes": []string{"orders:read"}}).wants(200)
	b.clock.advance(24 * time.Hour)
	verify("orders:read")
	verify("orders:read")
	verify("orders:write") // denied
	b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret + "x"}).wants(200)
	must(t, usage.Flush(t.Context()))
	_, err := projections.NewUsageProjection(projections.UsageProjectionConfig{Pool: b.options.pool}).Apply(t.Context())
	must(t, err)

	get := func(c *client, query url.Values) ([]usageBucket, string) {
		t.Helper()
		a := c.call("GET", "/v1/usage?"+query.Encode(), nil).wants(200)
		var got []usageBucket
		a.into(&got)
		return got, a.header.Get("Rekey-Use-Complete-Until")
	}
	day := now.Truncate(24 * time.Hour)
	span := url.Values{"from": {day.Add(-24 * time.Hour).Format(time.RFC3339)}, "to": {day.Add(24 * time.Hour).Format(time.RFC3339)}}
	with := func(pairs ...string) url.Values {
		v := url.Values{"from": span["from"], "to": span["to"]}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	until, err := time.Parse(time.RFC3339Nano, func() string { _, h := get(b.root, with("key_id", id)); return h }())
	if err != nil || time.Since(until) > time.Minute || until.After(time.Now()) {
		t.Errorf("counts are complete until %s, %v", until, err)
	}
	days := []usageBucket{{day.Add(-24 * time.Hour), 1, 0, true}, {day, 2, 1, false}}
	for _, query := range []url.Values{with("key_id", id), with("lineage_id", lineage), with("key_id", id, "lineage_id", lineage, "project_id", key.text("project_id"))} {
		query.Set("granularity", "day")
		got, _ := get(b.root, query)
		if diff := cmp.Diff(days, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	hours, _ := get(b.root, with("key_id", id))
	if len(hours) != 48 || hours[0] != (usageBucket{day.Add(-24 * time.Hour), 1, 0, true}) || hours[24].UseCount != 2 || hours[1].UseCount != 0 {
		t.Errorf("hours: %+v", hours)
	}
	// Page by page it is the same.
	query := with("key_id", id, "limit", "7")
	if paged := pages[usageBucket](t, b.root, "/v1/usage?"+query.Encode()); !cmp.Equal(paged, hours) {
		t.Errorf("in pages: %s", cmp.Diff(hours, paged))
	}
	// The whole project has the caller's own requests too.
	if got, _ := get(b.root, with("granularity", "day", "project_id", key.text("project_id"))); got[1].UseCount < 6 || got[1].DeniedCount != 1 {
		t.Errorf("the project: %+v", got)
	}
	// Without a span: the day until now.
	if got, _ := get(b.root, url.Values{"key_id": {id}}); len(got) != 25 || !got[24].Start.Equal(now.Truncate(time.Hour)) || got[24].UseCount != 2 {
		t.Errorf("by default: %+v", got)
	}
	var shown struct {
		Until *time.Time `json:"use_complete_until"`
	}
	b.root.call("GET", "/v1/api-keys/"+id, nil).wants(200).into(&shown)
	if shown.Until == nil || !shown.Until.Equal(until) {
		t.Errorf("a key shows %v, want %s", shown.Until, until)
	}

	// G6: another tenant sees what it sees of ids that nobody has.
	other := b.newOrganization("other").owner
	for _, field := range []string{"key_id", "lineage_id", "project_id"} {
		theirs, _ := get(other, with(field, map[string]string{"key_id": id, "lineage_id": lineage, "project_id": key.text("project_id")}[field]))
		nobodys, _ := get(other, with(field, domain.IDs{}.New(map[string]string{"key_id": "key", "lineage_id": "lin", "project_id": "proj"}[field], now)))
		if !cmp.Equal(theirs, nobodys) || len(theirs) != 48 || theirs[0].UseCount+theirs[24].UseCount != 0 {
			t.Errorf("by %s another tenant sees %+v", field, theirs)
		}
	}
	limited := b.as(b.newKey(fields{"scopes": []string{"orders:read"}}).text("key"))
	limited.call("GET", "/v1/usage", nil).refused(403, domain.CodeInsufficientScope)

	for field, query := range map[string]string{
		"key_id": "key_id=key_1", "lineage_id": "lineage_id=" + id, "project_id": "project_id=app", "granularity": "granularity=week",
		"from": "from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", "to": "from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z",
		"cursor": "cursor=2026-03-01T00:30:00Z&from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z", "limit": "limit=0",
	} {
		p := b.root.call("GET", "/v1/usage?"+query, nil).refused(422, domain.CodeValidation)
		if len(p.Errors) != 1 || p.Errors[0].Field != field || p.Errors[0].Remedy == "" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	b.root.call("GET", "/v1/usage?granularity=day&from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z", nil).wants(200)
}
