package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestIntrospect(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	keys := b.keysByState()
	caller := b.holding("keys:verify")
	introspect := func(form string, headers ...string) *answer {
		return caller.call("POST", "/v1/introspect", form, append([]string{"Content-Type", formType}, headers...)...)
	}
	for name, secret := range map[string]string{
		"Revoked": keys.revoked, "Expired": keys.expired, "Retired": keys.retired, "Discarded": keys.discarded, "Unknown": freshSecret(b.root).(string),
		"Malformed": "nonsense", "NUL": "\x00", "InvalidUTF8": "\xff",
	} {
		t.Run(name+"SaysOnlyInactive", func(t *testing.T) {
			if a := introspect("token=" + url.QueryEscape(secret)).wants(200); string(a.body) != "{\"active\":false}\n" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s", a.header.Get("Content-Type"), a.body)
			}
		})
	}
	for name, secret := range map[string]string{"active": keys.active, "grace": keys.grace, "pending": keys.pending} {
		t.Run(name, func(t *testing.T) {
			got := introspect("token=" + secret).wants(200).fields()
			verdict := b.verify(secret).fields()
			for member, want := range map[string]any{
				"active": true, "token_type": "Bearer", "rekey_status": name, "client_id": verdict["lineage_id"], "sub": verdict["lineage_id"], "jti": verdict["key_id"],
				"username": verdict["name"], "scope": "*", "rekey_organization_id": verdict["organization_id"],
			} {
				if got[member] != want {
					t.Errorf("%s is %v, want %v", member, got[member], want)
				}
			}
			if _, ends := got["exp"]; ends != (name == "grace") {
				t.Errorf("exp is %v", got["exp"])
			}
			if made, _ := got["iat"].(float64); made < float64(began.Unix()) || made > float64(b.clock.Now().Unix()) {
				t.Errorf("iat is %v", got["iat"])
			}
		})
	}
	t.Run("ExpiryAndGraceWhicheverIsFirst", func(t *testing.T) {
		expiry := b.clock.Now().Add(time.Hour)
		made := b.newKey(fields{"expires_at": expiry.Format(time.RFC3339)})
		ends := func() float64 { return introspect("token=" + made.text("key")).wants(200).fields()["exp"].(float64) }
		if got := ends(); got != float64(expiry.Unix()) {
			t.Errorf("exp is %v, want %d", got, expiry.Unix())
		}
		b.root.call("POST", "/v1/api-keys/"+made.text("id")+"/rotate", fields{"grace_period_seconds": 60}).wants(200)
		if got := ends(); got != float64(b.clock.Now().Add(time.Minute).Unix()) {
			t.Errorf("in grace exp is %v", got)
		}
	})
	t.Run("IgnoresWhatElseIsInTheForm", func(t *testing.T) {
		introspect("token_type_hint=refresh_token&resource=x&token="+keys.active, "Content-Type", formType+"; charset=utf-8").wants(200)
	})
	for name, c := range map[string]struct {
		form, kind string
		status     int
	}{
		"Nothing": {"", formType, 400}, "NoToken": {"tokens=x", formType, 400}, "EmptyToken": {"token=", formType, 400},
		"TwoTokens": {"token=a&token=b", formType, 400}, "BadEscape": {"token=%zz", formType, 400}, "Semicolon": {"token=a;b", formType, 400},
		"JSON": {"{}", "application/json", 415}, "NoType": {"token=a", "", 415}, "Large": {"token=" + strings.Repeat("k", 70_000), formType, 413},
	} {
		t.Run("Refuses"+name, func(t *testing.T) {
			a := introspect(c.form, "Content-Type", c.kind).wants(c.status)
			if a.fields()["error"] != "invalid_request" {
				t.Errorf("error is %v", a.fields()["error"])
			}
		})
	}
	t.Run("RefusesCallers", func(t *testing.T) {
		for header, want := range map[string]string{"": "401 invalid_token", "Bearer x": "401 invalid_token", "Bearer " + b.holding("keys:read").secret: "403 insufficient_scope"} {
			a := introspect("token="+keys.active, "Authorization", header)
			if got := fmt.Sprint(a.status, " ", a.fields()["error"]); got != want || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%q: %s, challenge %q", header, got, a.header.Get("WWW-Authenticate"))
			}
		}
	})
	t.Run("RefusesOtherMethods", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			if a := caller.call(method, "/v1/introspect?token="+keys.active, nil).wants(405); a.header.Get("Allow") != "POST, OPTIONS" {
				t.Errorf("%s: Allow %q", method, a.header.Get("Allow"))
			}
		}
	})
}
