package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// verifyFrom asks for a verdict on a secret that was presented from an address.
func (b *bench) verifyFrom(secret, ip string) string {
	b.t.Helper()
	return b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret, "ip": ip}).wants(http.StatusOK).text("code")
}

func TestKeyLimits(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	path := func(id string) string { return "/v1/api-keys/" + id }

	t.Run("AreShownAsTheyWereChosen", func(t *testing.T) {
		chosen := fields{
			"enabled": false, "allowed_ips": []string{"203.0.113.7", "10.0.0.0/8", "203.0.113.7/32"},
			"rate_limit": fields{"requests": 10, "window_seconds": 60}, "usage_limit": fields{"uses": 100, "period": "month"},
		}
		want := map[string]any{
			"enabled": false, "allowed_ips": []any{"10.0.0.0/8", "203.0.113.7/32"},
			"rate_limit":  map[string]any{"requests": 10.0, "window_seconds": 60.0},
			"usage_limit": map[string]any{"uses": 100.0, "period": "month"},
		}
		shown := func(a *answer) map[string]any {
			out := map[string]any{}
			for name := range want {
				out[name] = a.fields()[name]
			}
			return out
		}
		none := map[string]any{"enabled": true, "allowed_ips": nil, "rate_limit": nil, "usage_limit": nil}
		made := b.newKey(chosen)
		for what, a := range map[string]*answer{"made": made, "read": b.root.call("GET", path(made.text("id")), nil).wants(http.StatusOK)} {
			if diff := cmp.Diff(want, shown(a)); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		cleared := b.root.call("PATCH", path(made.text("id")), fields{"enabled": true, "allowed_ips": nil, "rate_limit": nil, "usage_limit": nil}).wants(http.StatusOK)
		if diff := cmp.Diff(none, shown(cleared)); diff != "" {
			t.Error(diff)
		}
		again := b.root.call("PATCH", path(made.text("id")), chosen).wants(http.StatusOK)
		if diff := cmp.Diff(want, shown(again)); diff != "" {
			t.Error(diff)
		}
		b.root.call("POST", "/v1/api-keys/import", fields{"project_id": b.tenant.Key.ProjectID, "keys": []fields{{
			"key": "sk_of_another_system_0001", "name": "imported", "enabled": false, "usage_limit": fields{"uses": 1, "period": "day"},
		}}}).wants(http.StatusOK)
		if code := b.verify("sk_of_another_system_0001").text("code"); code != "DISABLED" {
			t.Errorf("an imported key that is disabled is %s", code)
		}
	})

	t.Run("RefuseWhatMakesNoSense", func(t *testing.T) {
		for field, wrong := range map[string]fields{
			"allowed_ips[0]":             {"allowed_ips": []string{"10.0.0.1/8"}},
			"allowed_ips":                {"allowed_ips": []string{}},
			"rate_limit.window_seconds":  {"rate_limit": fields{"requests": 1, "window_seconds": 86401}},
			"rate_limit.requests":        {"rate_limit": fields{"requests": 0, "window_seconds": 1}},
			"usage_limit.period":         {"usage_limit": fields{"uses": 1, "period": "week"}},
			"usage_limit.uses":           {"usage_limit": fields{"uses": 0, "period": "day"}},
			"rate_limit.requests ":       {"rate_limit": fields{"window_seconds": 1}},
			"usage_limit.window_seconds": {"usage_limit": fields{"uses": 1, "period": "day", "window_seconds": 1}},
		} {
			body := fields{"project_id": b.tenant.Key.ProjectID, "name": "a key"}
			for name, value := range wrong {
				body[name] = value
			}
			for _, a := range []*answer{b.root.call("POST", "/v1/api-keys", body), b.root.call("PATCH", path(b.newKey(nil).text("id")), wrong)} {
				if p := a.refused(http.StatusUnprocessableEntity, domain.CodeValidation); len(p.Errors) == 0 || p.Errors[0].Field != strings.TrimSpace(field) || p.Errors[0].Remedy == "" {
					t.Errorf("%v: %+v, want %s", wrong, p.Errors, field)
				}
			}
		}
		if p := b.root.call("PATCH", path(b.newKey(nil).text("id")), fields{"enabled": nil}); p.status == http.StatusOK {
			t.Error("enabled became null")
		}
	})

	// Disabling stops all generations of the lineage, here and with the service that asks, and enabling undoes just that.
	t.Run("DisabledKeysAuthenticateNowhere", func(t *testing.T) {
		old := b.newKey(fields{"scopes": []string{"keys:read"}})
		next := b.root.call("POST", path(old.text("id"))+"/rotate", fields{}).wants(http.StatusOK)
		current := path(next.text("new_key_id"))
		list := "/v1/api-keys?project_id=" + string(b.tenant.Key.ProjectID)
		b.root.call("PATCH", current, fields{"enabled": false}).wants(http.StatusOK)
		for _, secret := range []string{old.text("key"), next.text("key")} {
			if v := b.verify(secret); v.text("code") != "DISABLED" || v.fields()["valid"] != false || v.fields()["key_id"] == nil {
				t.Errorf("a disabled key verifies as %s", v.body)
			}
			b.as(secret).call("GET", list, nil).refused(http.StatusUnauthorized, domain.CodeUnauthenticated)
		}
		b.root.call("POST", current+"/rotate", fields{}).refused(http.StatusConflict, domain.CodeKeyDisabled)
		b.root.call("PATCH", current, fields{"enabled": true}).wants(http.StatusOK)
		for _, secret := range []string{old.text("key"), next.text("key")} {
			if code := b.verify(secret).text("code"); code != "VALID" {
				t.Errorf("an enabled key verifies as %s", code)
			}
			b.as(secret).call("GET", list, nil).wants(http.StatusOK)
		}
	})

	t.Run("AddressesAreJudged", func(t *testing.T) {
		made := b.newKey(fields{"allowed_ips": []string{"10.0.0.0/8", "2001:db8::/32"}})
		for ip, want := range map[string]string{
			"10.1.2.3": "VALID", "::ffff:10.1.2.3": "VALID", "2001:db8::1": "VALID", "": "IP_DENIED", "11.0.0.1": "IP_DENIED", "2001:db9::1": "IP_DENIED",
		} {
			if code := b.verifyFrom(made.text("key"), ip); code != want {
				t.Errorf("from %q it is %s, want %s", ip, code, want)
			}
		}
		list := "/v1/api-keys?project_id=" + string(b.tenant.Key.ProjectID)
		b.as(made.text("key")).call("GET", list, nil).refused(http.StatusForbidden, domain.CodeIPDenied)
		here := b.newKey(fields{"allowed_ips": []string{"127.0.0.0/8", "::1"}})
		b.as(here.text("key")).call("GET", list, nil).wants(http.StatusOK)
	})

	// A budget belongs to the lineage: a rotation neither doubles nor resets it, and both generations spend from it. What is
	// refused for another reason, costs nothing.
	t.Run("BudgetsSurviveRotation", func(t *testing.T) {
		old := b.newKey(fields{"scopes": []string{"a"}, "usage_limit": fields{"uses": 5, "period": "total"}})
		verify := func(secret, scope string) *answer {
			return b.root.call("POST", "/v1/api-keys/verify", fields{"key": secret, "scopes": []string{scope}}).wants(http.StatusOK)
		}
		wants := func(a *answer, code string, remaining any) {
			t.Helper()
			state, _ := a.fields()["usage_limit"].(map[string]any)
			if a.text("code") != code || state["remaining"] != remaining || state["uses"] != 5.0 || a.fields()["rate_limit"] != nil || a.fields()["retry_after_seconds"] != nil {
				t.Errorf("got %s, want %s with %v left", a.body, code, remaining)
			}
		}
		wants(verify(old.text("key"), "a"), "VALID", 4.0)
		for range 10 {
			wants(verify(old.text("key"), "b"), "INSUFFICIENT_SCOPE", nil)
		}
		next := b.root.call("POST", path(old.text("id"))+"/rotate", fields{}).wants(http.StatusOK)
		for i, secret := range []string{next.text("key"), old.text("key"), next.text("key"), old.text("key")} {
			wants(verify(secret, "a"), "VALID", float64(3-i))
		}
		wants(verify(old.text("key"), "a"), "USAGE_EXCEEDED", 0.0)
		wants(verify(next.text("key"), "a"), "USAGE_EXCEEDED", 0.0)
	})

	t.Run("RatesAreLimited", func(t *testing.T) {
		made := b.newKey(fields{"rate_limit": fields{"requests": 3, "window_seconds": 86400}})
		var codes []string
		for range 5 {
			codes = append(codes, b.verify(made.text("key")).text("code"))
		}
		if want := []string{"VALID", "VALID", "VALID", "RATE_LIMITED", "RATE_LIMITED"}; !cmp.Equal(codes, want) {
			t.Errorf("got %v", codes)
		}
		limited := b.verify(made.text("key")).fields()
		if after, ok := limited["retry_after_seconds"].(float64); !ok || after < 1 || after > 86400 || limited["valid"] != false {
			t.Errorf("it says %v", limited)
		}
		if state := fmt.Sprint(limited["rate_limit"]); state != "map[remaining:0 requests:3 window_seconds:86400]" {
			t.Errorf("the limit is %s", state)
		}
	})
}
