package api_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// TestVerifyBatch_IsVerifyManyTimes (but for a pending key, whose first use makes it active): each verdict is, byte for byte, the one that the key alone gets, in the same order.
func TestVerifyBatch_IsVerifyManyTimes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	keys := b.keysByState()
	var requests []fields
	for _, secret := range []string{keys.active, keys.grace, keys.revoked, keys.expired, keys.retired, keys.discarded, "nonsense", keys.active} {
		requests = append(requests, fields{"key": secret}, fields{"key": secret, "scopes": []string{"x"}, "resources": fields{"app": "a"}, "ip": "203.0.113.7"})
	}
	slices.Reverse(requests)
	var got []json.RawMessage
	b.root.call("POST", "/v1/api-keys/verify/batch", fields{"requests": requests}).wants(200).into(&got)
	if len(got) != len(requests) {
		t.Fatalf("%d verdicts for %d requests", len(got), len(requests))
	}
	for i, request := range requests {
		alone := b.root.call("POST", "/v1/api-keys/verify", request).wants(200)
		if diff := cmp.Diff(strings.TrimSpace(string(alone.body)), string(got[i])); diff != "" {
			t.Errorf("request %d (-alone +in the batch):\n%s", i, diff)
		}
	}
}

// TestVerifyBatch_RefusesTheWhole: what is wrong is named by its place, and no use is counted.
func TestVerifyBatch_RefusesTheWhole(t *testing.T) {
	t.Parallel()
	uses := 0
	b := setup(t, options{configure: func(c *api.Config) {
		c.Usage = func(_ *verifier.Record, from netip.Addr, _ string, _ time.Time) {
			if where(from) == "203.0.113.7" {
				uses++
			}
		}
	}})
	secret := b.newKey(nil).text("key")
	good := fields{"key": secret, "ip": "203.0.113.7"}
	many := func(n int) []any { return slices.Repeat([]any{good}, n) }
	for name, c := range map[string]struct {
		requests any
		status   int
		code     domain.Code
		field    string
	}{
		"NoAddress":    {[]any{good, fields{"key": secret, "ip": "nowhere"}}, 422, domain.CodeValidation, "requests[1].ip"},
		"NoKey":        {[]any{good, good, fields{"ip": "203.0.113.7"}}, 422, domain.CodeValidation, "requests[2].key"},
		"UnknownField": {[]any{good, fields{"key": secret, "scope": "x"}}, 422, domain.CodeValidation, "requests[1].scope"},
		"NoObject":     {[]any{good, "x"}, 422, domain.CodeValidation, "requests[1]"},
		"BadScopes":    {[]any{fields{"key": secret, "scopes": "x"}}, 422, domain.CodeValidation, "requests[0].scopes"},
		"None":         {[]any{}, 422, domain.CodeValidation, "requests"},
		"Null":         {nil, 422, domain.CodeValidation, "requests"},
		"TooMany":      {many(101), 422, domain.CodeValidation, "requests"},
		"TooLarge":     {[]any{fields{"key": strings.Repeat("k", 300_000)}}, 413, domain.CodeTooLarge, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.root.call("POST", "/v1/api-keys/verify/batch", fields{"requests": c.requests}).refused(c.status, c.code)
			if c.field != "" && (len(p.Errors) == 0 || p.Errors[0].Field != c.field) {
				t.Errorf("it names %+v, want %s", p.Errors, c.field)
			}
		})
	}
	if uses != 0 {
		t.Errorf("%d uses were counted", uses)
	}
	b.root.call("POST", "/v1/api-keys/verify/batch", fields{"requests": many(100)}).wants(200)
	if uses != 100 {
		t.Errorf("%d uses were counted of 100", uses)
	}
}
