package main

import (
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// usedInfo is what a key shows of its use.
type usedInfo struct {
	LastUsedAt *time.Time `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
	UseCount   int64      `json:"use_count"`
}

// TestUsage uses keys as callers do, with rekey itself and with a service that verifies them, and reads when and from
// where they were used last: soon, and after a restart.
func TestUsage(t *testing.T) {
	t.Parallel()
	began := time.Now()
	r := start(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	customer := r.create(t, "customer", map[string]any{"scopes": []string{"store:read"}})
	caller := r.create(t, "caller", map[string]any{"scopes": []string{"keys:read", "events:read"}})
	unused := r.create(t, "unused", nil)

	verify := func(scope, ip string) {
		t.Helper()
		r.call(t, "POST", "/v1/api-keys/verify", map[string]any{"key": customer.Key, "scopes": []string{scope}, "ip": ip}, http.StatusOK, nil)
	}
	verify("store:read", "203.0.113.7")
	verify("store:read", "2001:DB8::7")
	verify("store:write", "203.0.113.8") // not valid, and so no use

	request, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/v1/api-keys?project_id="+caller.ProjectID, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+caller.Key)
	request.Header["X-Forwarded-For"] = []string{"192.0.2.66, 198.51.100.9"} // the caller's own word, and the proxy's
	if got, err := r.do(request); err != nil || got.status != http.StatusOK {
		t.Fatalf("%v %s", err, got.body)
	}

	check := func(key keyInfo, count int64, ip string) {
		t.Helper()
		var got usedInfo
		eventually(t, "the uses are counted", func() bool {
			got = usedInfo{}
			r.call(t, "GET", "/v1/api-keys/"+key.ID, nil, http.StatusOK, &got)
			return got.UseCount >= count
		})
		switch {
		case count == 0:
			if got != (usedInfo{}) {
				t.Errorf("%s: a key that was never used shows %+v", key.Name, got)
			}
		case got.LastUsedAt == nil || got.LastUsedAt.Before(began.Add(-time.Second)) || got.LastUsedAt.After(time.Now().Add(time.Second)):
			t.Errorf("%s: last used at %v", key.Name, got.LastUsedAt)
		case got.LastUsedIP == nil || *got.LastUsedIP != ip || got.UseCount != count:
			t.Errorf("%s: used %d times, last from %v; want %d, %s", key.Name, got.UseCount, got.LastUsedIP, count, ip)
		}
	}
	for restart := range 2 {
		if restart == 1 {
			r = r.again(t)
		}
		check(customer, 2, "2001:db8::7")
		check(caller, 1, "198.51.100.9")
		check(unused, 0, "")
	}
}
