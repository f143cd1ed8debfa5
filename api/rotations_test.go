package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

// waiting makes a key whose successor waits for a receiver, and returns the rotation's path and the old secret.
func (b *bench) waiting(name string) (path, old string) {
	made := b.newKey(fields{"name": name, "rotation_interval_seconds": 3600, "rotation_webhook_url": "https://hooks.example.com/rekey"})
	b.clock.advance(2 * time.Hour)
	b.sweep()
	var list []fields
	b.root.call("GET", "/v1/rotations?lineage_id="+made.text("lineage_id"), nil).wants(200).into(&list)
	return "/v1/rotations/" + fmt.Sprint(list[0]["id"]), made.text("key")
}

func playRotations(tr *transcript) {
	root, b := tr.b.root, tr.b
	path, _ := b.waiting("waits")
	tr.call(root, "A rotation that waits", "GET", path, nil).wants(200)
	tr.call(root, "All that wait", "GET", "/v1/rotations?state=delivering", nil).wants(200)
	tr.call(root, "Roll it back before its time", "POST", path+"/roll-back", nil).wants(409)
	tr.call(root, "Deliver it again", "POST", path+"/redeliver", nil).wants(200)
	tr.call(root, "Deliver another secret", "POST", path+"/redeliver", fields{"fresh": true}).wants(200)
	tr.call(root, "The one that was superseded", "GET", path, nil).wants(200)
	tr.call(root, "Force the one that was superseded", "POST", path+"/force", nil).wants(409)

	cancelled, _ := b.waiting("is cancelled")
	tr.call(root, "Cancel", "POST", cancelled+"/cancel", fields{"reason": "not now"}).wants(200)
	forced, _ := b.waiting("is forced")
	tr.call(root, "Force", "POST", forced+"/force", nil).wants(200)
	later := b.clock.Now().Add(3 * time.Hour).Format(time.RFC3339)
	changed := tr.call(root, "Extend the grace", "PATCH", forced, fields{"grace_expires_at": later}).wants(200)
	tr.call(root, "Extend it too far", "PATCH", forced, fields{"grace_expires_at": "2026-06-01T00:00:00Z"}).wants(422)
	tr.call(root, "Change what has changed since", "PATCH", forced, fields{"grace_expires_at": later}, "If-Match", `"1"`).wants(412)
	tr.call(root, "Roll back", "POST", forced+"/roll-back", nil, "If-Match", changed.header.Get("ETag")).wants(200)
	ended, _ := b.waiting("is ended")
	root.call("POST", ended+"/force", nil).wants(200)
	tr.call(root, "End the grace", "POST", ended+"/end-grace", nil).wants(200)

	key := b.newKey(fields{"name": "leaked"})
	tr.call(root, "Rotate a compromised key", "POST", "/v1/api-keys/"+key.text("id")+"/rotate", fields{"compromised": true}).wants(200)
	tr.call(root, "Its old key", "GET", "/v1/api-keys/"+key.text("id"), nil).wants(200)
	tr.call(root, "Newest first, one page", "GET", "/v1/rotations?limit=1", nil).wants(200)
	tr.call(root, "An unknown rotation", "GET", "/v1/rotations/rot_01jz8q0v6me5et8b3k2c9d4x7a", nil).wants(404)
	tr.call(root, "A state that there is not", "GET", "/v1/rotations?state=lost", nil).wants(422)
}

// TestR58ACompromisedKeyIsRefusedAtOnce: also while its rotation waits for a receiver that does not answer, and only with
// the flag.
func TestR58ACompromisedKeyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	path, old := b.waiting("leaked")
	rotation := b.root.call("GET", path, nil).wants(200)
	rotate := "/v1/api-keys/" + rotation.text("previous_key_id") + "/rotate"
	b.root.call("POST", rotate, fields{}).refused(409, domain.CodeRotationInProgress)
	if code := b.verify(old).text("code"); code != "VALID" {
		t.Fatalf("the old key is %s before", code)
	}
	rotated := b.root.call("POST", rotate, fields{"compromised": true}).wants(200)
	if code := b.verify(old).text("code"); code != "REVOKED" {
		t.Errorf("the old key is %s", code)
	}
	if code := b.verify(rotated.text("key")).text("code"); code != "VALID" {
		t.Errorf("the new key is %s", code)
	}
	if state := b.root.call("GET", path, nil).wants(200).text("state"); state != "superseded" {
		t.Errorf("the rotation that waited is %s", state)
	}
	if state := b.root.call("GET", "/v1/rotations/"+rotated.text("rotation_id"), nil).wants(200).text("state"); state != "completed" {
		t.Errorf("the rotation is %s", state)
	}
}

// TestRotationsAreListed pages through what there is, by each filter.
func TestRotationsAreListed(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	first, _ := b.waiting("first")
	second, _ := b.waiting("second")
	b.root.call("POST", second+"/force", nil).wants(200)
	key := b.newKey(fields{"name": "third"})
	b.clock.advance(time.Second)
	third := b.root.call("POST", "/v1/api-keys/"+key.text("id")+"/rotate", nil).wants(200).text("rotation_id")
	ids := func(path string) (out []string) {
		for path != "" {
			a := b.root.call("GET", path, nil).wants(200)
			var list []struct{ ID string }
			a.into(&list)
			for _, r := range list {
				out = append(out, r.ID)
			}
			path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		}
		return out
	}
	id := func(path string) string { return strings.TrimPrefix(path, "/v1/rotations/") }
	for path, want := range map[string][]string{
		"/v1/rotations":                                              {third, id(second), id(first)},
		"/v1/rotations?limit=1":                                      {third, id(second), id(first)},
		"/v1/rotations?state=delivering":                             {id(first)},
		"/v1/rotations?limit=1&state=overlap":                        {third, id(second)},
		"/v1/rotations?lineage_id=" + key.text("lineage_id"):         {third},
		"/v1/rotations?limit=2&project_id=" + key.text("project_id"): {third, id(second), id(first)},
		"/v1/rotations?project_id=" + unknown("proj"):                nil,
	} {
		if got := ids(path); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s lists %v, want %v", path, got, want)
		}
	}
	b.root.call("GET", "/v1/rotations?cursor=key_01jz8q0v6me5et8b3k2c9d4x7a", nil).wants(422)
	b.root.call("GET", "/v1/rotations?lineage_id=x", nil).wants(422)
}

// TestG10RotationActionsAreAnsweredOnce: a retry gets the answer of the first try, though the rotation moved on meanwhile.
func TestG10RotationActionsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	path, _ := b.waiting("once")
	do := func(action, key string) *answer {
		return b.root.call("POST", path+action, nil, "Idempotency-Key", key)
	}
	redelivered := do("/redeliver", "a").wants(200)
	forced := do("/force", "b").wants(200)
	for _, again := range []struct{ first, second *answer }{{redelivered, do("/redeliver", "a")}, {forced, do("/force", "b")}} {
		again.second.wants(200)
		if string(again.first.body) != string(again.second.body) || again.first.header.Get("ETag") != again.second.header.Get("ETag") {
			t.Errorf("answered %s, and then %s", again.first.body, again.second.body)
		}
	}
	do("/redeliver", "c").refused(http.StatusConflict, domain.CodeRotationState)
}

// TestR69WindowsAreChecked: a window, a timeout and an overlap of a project's policy.
func TestR69WindowsAreChecked(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	path := "/v1/projects/" + string(b.tenant.Key.ProjectID)
	window := fields{"days": []string{"sun"}, "start": "02:00", "length_minutes": 90, "time_zone": "Europe/Berlin"}
	set := b.root.call("PATCH", path, fields{"policy": fields{"rotation_window": window, "rotation_timeout": "rollback", "max_overlap_seconds": 7200}}).wants(200)
	var got struct {
		Policy struct {
			RotationWindow    fields `json:"rotation_window"`
			RotationTimeout   string `json:"rotation_timeout"`
			MaxOverlapSeconds int64  `json:"max_overlap_seconds"`
		}
	}
	if set.into(&got); got.Policy.RotationWindow["time_zone"] != "Europe/Berlin" || got.Policy.RotationTimeout != "rollback" || got.Policy.MaxOverlapSeconds != 7200 {
		t.Errorf("policy is %s", set.body)
	}
	next, err := time.Parse(time.RFC3339, b.newKey(fields{"name": "windowed", "rotation_interval_seconds": 86400}).text("next_rotation_at"))
	berlin, _ := time.LoadLocation("Europe/Berlin")
	if local := next.In(berlin); err != nil || local.Weekday() != time.Sunday || local.Hour() < 2 || local.Hour() > 3 {
		t.Errorf("it rotates next at %v (%v)", local, err)
	}
	for field, value := range map[string]any{"days": []string{"someday"}, "start": "2am", "length_minutes": 30, "time_zone": "Europe/Atlantis"} {
		bad := fields{"days": []string{"sun"}, "start": "02:00", "length_minutes": 90, "time_zone": "Europe/Berlin"}
		bad[field] = value
		b.root.call("PATCH", path, fields{"policy": fields{"rotation_window": bad}}).wants(422)
	}
	cleared := b.root.call("PATCH", path, fields{"policy": fields{"rotation_window": nil, "rotation_timeout": nil, "max_overlap_seconds": nil}}).wants(200)
	if cleared.into(&got); got.Policy.RotationWindow != nil || got.Policy.RotationTimeout != "hold" || got.Policy.MaxOverlapSeconds != 604800 {
		t.Errorf("policy is %s", cleared.body)
	}
}

// E20: an old key may end early where a policy says so, in bounds, and no longer once it says so no more.
func TestEarlyRetireIsChecked(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	path := "/v1/projects/" + string(b.tenant.Key.ProjectID)
	set := func(value any) *answer {
		return b.root.call("PATCH", path, fields{"policy": fields{"early_retire_seconds": value}})
	}
	shown := func(a *answer) *int64 {
		var got struct {
			Policy struct {
				EarlyRetireSeconds *int64 `json:"early_retire_seconds"`
			}
		}
		a.wants(200).into(&got)
		return got.Policy.EarlyRetireSeconds
	}
	if got := shown(b.root.call("GET", path, nil)); got != nil {
		t.Errorf("by default old keys end after %d seconds", *got)
	}
	for _, seconds := range []int64{3600, 2592000} {
		if got := shown(set(seconds)); got == nil || *got != seconds {
			t.Errorf("%d is shown as %v", seconds, got)
		}
	}
	for _, bad := range []any{0, -1, 3599, 2592001, 1e30, 3600.5, "3600", true, []int{3600}} {
		p := set(bad).refused(422, domain.CodeValidation)
		if len(p.Errors) != 1 || p.Errors[0].Field != "policy.early_retire_seconds" || p.Errors[0].Remedy == "" {
			t.Errorf("%v is refused with %+v", bad, p.Errors)
		}
	}
	if got := shown(b.root.call("GET", path, nil)); got == nil || *got != 2592000 {
		t.Errorf("after refusals it is %v", got)
	}
	if got := shown(set(nil)); got != nil {
		t.Errorf("cleared, it is %d", *got)
	}
}
