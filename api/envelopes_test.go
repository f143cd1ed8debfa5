package api_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/api"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// closedSurfaces are requests that any key may ask of the surfaces which ask for a key before they say anything.
var closedSurfaces = []struct{ method, path string }{
	{"GET", "/v1/keys"}, {"POST", "/v1/keys"}, {"DELETE", "/v1/keys/key_x"}, {"PUT", "/v1/keys"}, {"GET", "/v1/keys/a/b"},
	{"GET", "/api/v1/keys"}, {"POST", "/api/v1/keys"}, {"DELETE", "/api/v1/keys/key_x"}, {"PATCH", "/api/v1/keys/key_x"},
	{"GET", "/api/v1/projects"}, {"POST", "/api/v1/projects"}, {"GET", "/api/v1/projects/proj_x"}, {"PUT", "/api/v1/projects/proj_x"},
	{"DELETE", "/api/v1/projects/proj_x"}, {"BREW", "/api/v1/projects"}, {"GET", "/api/v1/nowhere"}, {"GET", "/api/v1"}, {"POST", "/api/v1/healthz"},
}

// TestEnvelopes_401 holds all ways of not having a valid key against each other: they get one answer, on every path of
// the surfaces, also on those that do not exist.
func TestEnvelopes_401(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	keys := b.keysByState()
	bad := map[string]string{
		"missing": "", "malformed": "Bearer nonsense", "another scheme": "Basic " + keys.active, "no scheme": keys.active,
		"unknown": "Bearer rk_live_" + strings.Repeat("0", 39), "revoked": "Bearer " + keys.revoked, "expired": "Bearer " + keys.expired,
		"retired": "Bearer " + keys.retired, "discarded": "Bearer " + keys.discarded,
	}
	var first any
	for _, r := range closedSurfaces {
		for name, header := range bad {
			a := b.as("").call(r.method, r.path, nil, "Authorization", header)
			a.enveloped(401, "UNAUTHORIZED")
			got := a.shown()
			if challenge := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, challengeNone) {
				t.Errorf("%s %s, %s: challenge %q", r.method, r.path, name, challenge)
			}
			delete(got.Header, "Www-Authenticate") // says whether a key was sent, which the caller knows
			if delete(got.Header, "Allow"); first == nil {
				first = got
			}
			if diff := cmp.Diff(first, any(got)); diff != "" {
				t.Errorf("%s %s, %s:\n%s", r.method, r.path, name, diff)
			}
		}
	}
	for _, path := range []string{"/api/v1/healthz", "/api/v1/openapi.json", "/api/v1/keys/openapi.json", "/v1/keys/openapi.json"} {
		b.as("").call("GET", path, nil).wants(200)
	}
	b.as("").call("OPTIONS", "/api/v1/projects", nil).wants(204)
}

// TestSurfacesSwitchedOff shows an organization that has switched surfaces off: its own keys are refused there, and
// nobody else's, nor its own elsewhere.
func TestSurfacesSwitchedOff(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	mine, other := b.newOrganization("mine"), b.newOrganization("other")
	disable := func(names ...string) {
		t.Helper()
		caller := mine.owner.call("GET", "/v1/api-keys/"+string(mine.key), nil).wants(200)
		by := commands.By{Caller: domain.Caller{KeyID: domain.KeyID(caller.text("id")), OrganizationID: mine.id, Scopes: domain.Scopes{"*"}}}
		_, err := b.commands.UpdateOrganization(t.Context(), by, domain.UpdateOrganization{ID: mine.id, DisabledSurfaces: domain.ChangeTo(names)})
		must(t, err)
	}
	of := map[string][]string{domain.SurfaceAccountKeys: accountPaths, domain.SurfaceProjects: {"/api/v1/projects", "/api/v1/nowhere"}}
	for name, paths := range of {
		disable(name)
		for surface, at := range of {
			for _, path := range at {
				a := mine.owner.call("GET", path, nil)
				switch {
				case surface == name:
					if e := a.enveloped(403, "FORBIDDEN"); !strings.Contains(e.Error.Message, name) || a.header.Get("WWW-Authenticate") != "" {
						t.Errorf("GET %s: %s", path, a.body)
					}
				case a.status == 403:
					t.Errorf("GET %s with %s switched off: %s", path, name, a.body)
				}
			}
		}
		for _, path := range paths {
			if a := other.owner.call("GET", path, nil); a.status == 403 {
				t.Errorf("another organization is refused at %s: %s", path, a.body)
			}
		}
		b.as("").call("GET", paths[0], nil).enveloped(401, "UNAUTHORIZED")
		mine.owner.call("GET", "/v1/projects", nil).wants(200)
		b.as("").call("GET", "/api/v1/healthz", nil).wants(200)
	}
	disable()
	mine.owner.call("GET", "/v1/keys", nil).wants(200)
}

// knownKey is a verifier that knows one key by heart.
type knownKey struct{ key *projections.Key }

func (k *knownKey) Verify(context.Context, *projections.VerifyRequest) (verifier.Answer, error) {
	return verifier.Answer{}, errors.New("not asked")
}

func (k *knownKey) Authenticate(context.Context, string) (*verifier.Record, error) {
	return verifier.Pack(k.key), nil
}

// TestSurfacesSwitchedOff_MustBeKnown is a surface that cannot learn whether it is switched off: it lets nobody through.
func TestSurfacesSwitchedOff_MustBeKnown(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	away, tenants := dbtest.New(t).Pool(t), dbtest.Tenants(t, pool)
	known := &knownKey{}
	b := setup(t, options{pool: pool, configure: func(c *api.Config) {
		c.Reader, c.Verifier = projections.NewReader(away, tenants), known
	}})
	known.key = b.tenant.Key
	b.root.call("GET", "/api/v1/nowhere", nil).enveloped(404, "NOT_FOUND")
	away.Close()
	tenants.Close()
	a := b.root.call("GET", "/api/v1/nowhere", nil)
	a.enveloped(503, "UNAVAILABLE")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
