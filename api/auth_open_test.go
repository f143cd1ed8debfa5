package api_test

import (
	"testing"

	"github.com/rekeyhq/rekey/api"
)

// TestGatewayOfOneOrganization asks without a key of the gateway's: where it is configured whose keys are meant, those are
// judged, and all others are unknown.
func TestGatewayOfOneOrganization(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	other := b.newOrganization("other").owner
	config := b.config
	config.GatewayOrganization = b.tenant.OrganizationID
	open := &gatewayBench{bench: b, quick: api.New(config), slow: api.New(config)}
	closed := &gatewayBench{bench: b, quick: api.New(b.config), slow: api.New(b.config)}
	key := b.newKey(fields{"scopes": []string{"orders:read"}})
	ask := func(g *gatewayBench, target, secret string, gateway ...string) *answer {
		t.Helper()
		return g.ask(t, "GET", target, append([]string{"Authorization", "Bearer " + secret, "Rekey-Authorization", ""}, gateway...)...)
	}
	if a := ask(open, "/v1/auth?scope=orders:read", key.text("key")).wants(200); a.header.Get("Rekey-Key-Id") != key.text("id") {
		t.Errorf("it is the key %q", a.header.Get("Rekey-Key-Id"))
	}
	ask(open, "/v1/auth?scope=orders:write", key.text("key")).wants(403)
	if a := ask(open, "/v1/auth", other.secret).wants(401); a.header.Get("Rekey-Code") != "NOT_FOUND" {
		t.Errorf("another organization's key is %s", a.header.Get("Rekey-Code"))
	}
	// A key that the gateway does show counts, though it need show none.
	ask(open, "/v1/auth", other.secret, "Rekey-Authorization", "Bearer "+other.secret).wants(200)
	ask(open, "/v1/auth", key.text("key"), "Rekey-Authorization", "Bearer "+other.secret).wants(401)
	if a := ask(open, "/v1/auth", key.text("key"), "Rekey-Authorization", "Bearer nobody").wants(401); a.header.Get("Rekey-Gateway-Error") == "" {
		t.Error("a wrong key of the gateway's counts as none")
	}
	b.root.call("DELETE", "/v1/api-keys/"+key.text("id"), nil).wants(204)
	ask(open, "/v1/auth", key.text("key")).wants(401)
	if a := ask(closed, "/v1/auth", b.root.secret).wants(401); a.header.Get("Rekey-Gateway-Error") == "" {
		t.Error("without a configuration a gateway needs no key")
	}
}
