package api

import (
	"net/http"
	"strings"

	"github.com/rekeyhq/rekey/api/accountkeys"
	"github.com/rekeyhq/rekey/api/apikey"
	"github.com/rekeyhq/rekey/api/projects"
	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// Config says what the surfaces work with.
type Config = surface.Config

// server is the native surface.
type server struct {
	*surface.Core
	native *surface.Surface
}

// New returns all surfaces as one handler.
func New(cfg Config) http.Handler {
	core := surface.NewCore(cfg)
	s := &server{Core: core, native: core.Add(surface.Style{
		Title: "rekey", Description: "Issues, verifies, scopes, rotates and revokes API keys.",
		Topics: topics,
	})}
	s.routes()
	core.Quicken("/v1/api-keys/verify", s.quickVerify)
	core.TakeAnyMethod(authPath, s.quickAuth)
	s.native.Document("/openapi.json")
	accountkeys.Add(core)
	apikey.Add(core)
	projects.Add(core)
	return core.Handler()
}

// topics stand in the order of their names, which is how tools show them.
var topics = []surface.Topic{
	{Name: "Events", Description: "What happened, in order.", Paths: []string{"/v1/events"}},
	{Name: "Gateways", Description: "For proxies that ask about each request before they let it through.", Paths: []string{authPath, "/v1/introspect"}},
	{Name: "Health", Description: "For load balancers and supervisors.", Paths: []string{"/healthz", "/readyz"}},
	{Name: "Keys", Description: "Create, verify, rotate and revoke keys.", Paths: []string{"/v1/api-keys"}},
	{Name: "Leaks", Description: "Report secrets that were found where they should not be.", Paths: []string{"/v1/revoke-leaked", "/v1/leaks"}},
	{Name: "Rotations", Description: "Hand-overs from one secret to the next.", Paths: []string{"/v1/rotations"}},
	{Name: "Tenants", Description: "Organizations, their projects, and the environments of those.", Paths: []string{"/v1/organizations", "/v1/projects", "/v1/environments"}},
	{Name: "Usage", Description: "How often keys were used.", Paths: []string{"/v1/usage"}},
	{Name: "Webhooks", Description: "Where the new secrets of rotating keys are sent, and who may read them there.", Paths: []string{"/v1/webhook-endpoints", "/v1/deliveries", "/v1/claims"}},
}

// routes is the whole native surface.
func (s *server) routes() {
	on, creates := s.native, surface.Creates
	surface.Open(on, get("/healthz", "health", "Whether the process runs", ""), s.health)
	surface.Open(on, get("/readyz", "ready", "Whether this replica can serve", ""), s.ready)

	surface.Closed(on, get("/v1/api-keys", "list-api-keys", "List the keys of a project", domain.ScopeKeysRead), s.listKeys)
	surface.Closed(on, post("/v1/api-keys", "create-api-key", "Create a key", domain.ScopeKeysWrite), s.createKey, creates)
	surface.Closed(on, get("/v1/api-keys/expiring-soon", "list-expiring-api-keys", "List keys that end soon", domain.ScopeKeysRead), s.expiringKeys)
	surface.Closed(on, get("/v1/api-keys/{id}", "get-api-key", "Get a key", domain.ScopeKeysRead), s.getKey)
	surface.Closed(on, patch("/v1/api-keys/{id}", "update-api-key", "Change a key's settings", domain.ScopeKeysWrite), s.updateKey, surface.Conditional)
	surface.Closed(on, remove("/v1/api-keys/{id}", "revoke-api-key", "Revoke a key", domain.ScopeKeysDelete), s.revokeKey, surface.Conditional)
	surface.Closed(on, post("/v1/api-keys/{id}/rotate", "rotate-api-key", "Rotate a key", domain.ScopeKeysWrite), s.rotateKey, surface.Conditional)
	surface.Closed(on, get("/v1/api-keys/{id}/events", "list-api-key-events", "The history of a key's lineage", domain.ScopeKeysRead), s.keyEvents)
	surface.Closed(on, post("/v1/api-keys/verify", "verify-api-key", "Verify a secret", domain.ScopeKeysVerify), s.verify, surface.Repeatable)
	surface.Closed(on, post("/v1/api-keys/verify/batch", "verify-api-keys", "Verify up to 100 secrets", domain.ScopeKeysVerify), s.verifyBatch, surface.Repeatable, verifyBatches)
	surface.Closed(on, post("/v1/api-keys/import", "import-api-keys", "Import keys of another system", domain.ScopeKeysWrite), s.importKeys, imports)
	surface.Closed(on, post("/v1/api-keys/bulk-revoke", "bulk-revoke-api-keys", "Revoke all keys that match, in two steps", domain.ScopeKeysDelete), s.bulkRevoke, bulkRevokes)
	// The presented key proves the right to its own successor; it needs no scope.
	surface.Closed(on, post("/v1/api-keys/{id}/successor", "claim-successor", "Fetch the successor of the presented key, once", surface.AnyScope), s.claimSuccessor)

	surface.Closed(on, get("/v1/usage", "list-usage", "How often keys were used, by hour or day", domain.ScopeKeysRead), s.usage)

	s.rotationRoutes(on)
	s.gatewayRoutes(on)

	surface.Closed(on, get("/v1/organizations", "list-organizations", "List organizations", domain.ScopeProjectsRead), s.listOrganizations)
	surface.Closed(on, post("/v1/organizations", "create-organization", "Create an organization with a first key", domain.ScopeProjectsEdit), s.createOrganization, creates)
	surface.Closed(on, get("/v1/organizations/{id}", "get-organization", "Get an organization", domain.ScopeProjectsRead), s.getOrganization)
	surface.Closed(on, patch("/v1/organizations/{id}", "update-organization", "Rename an organization, or switch surfaces off", domain.ScopeProjectsEdit), s.updateOrganization, surface.Conditional)
	surface.Closed(on, get("/v1/projects", "list-projects", "List projects", domain.ScopeProjectsRead), s.listProjects)
	surface.Closed(on, post("/v1/projects", "create-project", "Create a project", domain.ScopeProjectsEdit), s.createProject, creates)
	surface.Closed(on, get("/v1/projects/{id}", "get-project", "Get a project", domain.ScopeProjectsRead), s.getProject)
	surface.Closed(on, patch("/v1/projects/{id}", "update-project", "Change a project or its policy", domain.ScopeProjectsEdit), s.updateProject, surface.Conditional)
	surface.Closed(on, remove("/v1/projects/{id}", "delete-project", "Delete a project that has no live keys", domain.ScopeProjectsEdit), s.deleteProject, surface.Conditional)
	surface.Closed(on, get("/v1/environments", "list-environments", "List environments", domain.ScopeProjectsRead), s.listEnvironments)
	surface.Closed(on, post("/v1/environments", "create-environment", "Create an environment", domain.ScopeProjectsEdit), s.createEnvironment, creates)
	surface.Closed(on, get("/v1/environments/{id}", "get-environment", "Get an environment", domain.ScopeProjectsRead), s.getEnvironment)

	// Having the secret, and GitHub's signature, are the rights to report a leak.
	surface.Open(on, post("/v1/revoke-leaked", "revoke-leaked", "Report secrets that were found, to have them revoked", ""), s.revokeLeaked, provesByPossession)
	surface.Open(on, post("/v1/leaks/github", "report-github-leaks", "Take a batch of GitHub's secret scanning", ""), s.githubLeaks, s.signedByGitHub)

	s.endpointRoutes()
	s.deliveryRoutes(on)

	surface.Closed(on, get("/v1/events", "list-events", "The audit feed of the organization", domain.ScopeEventsRead), s.listEvents, s.streams)
}

// deliveryRoutes are what can be seen and done of webhooks on their way.
func (s *server) deliveryRoutes(on *surface.Surface) {
	surface.Closed(on, get("/v1/deliveries", "list-deliveries", "List webhooks on their way and delivered", domain.ScopeWebhooksRead), s.listDeliveries)
	surface.Closed(on, get("/v1/deliveries/{id}", "get-delivery", "Get a delivery with all its attempts", domain.ScopeWebhooksRead), s.getDelivery)
	surface.Closed(on, post("/v1/deliveries/{id}/redeliver", "redeliver", "Deliver a webhook again", domain.ScopeWebhooksEdit), s.redeliver, accepts)
	surface.Closed(on, post("/v1/deliveries/redeliver", "redeliver-span", "Deliver the webhooks of a span of time again", domain.ScopeWebhooksEdit), s.redeliverSpan, accepts)
	surface.Open(on, post("/v1/claims/{token}", "claim-secret", "Fetch a new secret, once", ""), s.claimSecret, claimedOnce)
}

// gatewayRoutes are what a gateway asks about requests of its clients.
func (s *server) gatewayRoutes(on *surface.Surface) {
	for _, method := range surface.Methods {
		route := surface.Route{Method: method, Path: authPath, ID: "auth-" + strings.ToLower(method), Summary: "Judge the request that a gateway holds", Scope: domain.ScopeKeysVerify}
		surface.Plain(on, route, s.auth, authOperation)
	}
	surface.Plain(on, post("/v1/introspect", "introspect", "Introspect a secret as RFC 7662 does", domain.ScopeKeysVerify), s.introspect, s.introspectOperation)
}

// rotationRoutes are what can be seen and done of hand-overs.
func (s *server) rotationRoutes(on *surface.Surface) {
	surface.Closed(on, get("/v1/rotations", "list-rotations", "List rotations", domain.ScopeKeysRead), s.listRotations)
	surface.Closed(on, get("/v1/rotations/{id}", "get-rotation", "Get a rotation", domain.ScopeKeysRead), s.getRotation)
	surface.Closed(on, get("/v1/rotations/{id}/clients", "list-rotation-clients", "List who was seen using the old key in its grace, the latest first", domain.ScopeKeysRead), s.listGraceClients)
	surface.Closed(on, patch("/v1/rotations/{id}", "update-rotation", "Extend or shorten the grace of the old key", domain.ScopeKeysWrite), s.updateRotation, surface.Conditional)
	surface.Closed(on, post("/v1/rotations/{id}/cancel", "cancel-rotation", "Discard a new secret that has not arrived", domain.ScopeKeysWrite), s.cancelRotation, surface.Conditional)
	surface.Closed(on, post("/v1/rotations/{id}/force", "force-rotation", "Go on as if the new secret had arrived", domain.ScopeKeysWrite), s.forceRotation, surface.Conditional)
	surface.Closed(on, post("/v1/rotations/{id}/redeliver", "redeliver-rotation", "Deliver a new secret that has not arrived again", domain.ScopeKeysWrite), s.redeliverRotation, surface.Conditional)
	surface.Closed(on, post("/v1/rotations/{id}/roll-back", "roll-back-rotation", "Make the old key, still in grace, the active one again", domain.ScopeKeysWrite), s.rollBackRotation, surface.Conditional)
	surface.Closed(on, post("/v1/rotations/{id}/end-grace", "end-grace", "End the old key now", domain.ScopeKeysWrite), s.endGrace, surface.Conditional)
}

func get(path, id, summary, scope string) surface.Route {
	return surface.Route{Method: http.MethodGet, Path: path, ID: id, Summary: summary, Scope: scope}
}

func post(path, id, summary, scope string) surface.Route {
	return surface.Route{Method: http.MethodPost, Path: path, ID: id, Summary: summary, Scope: scope}
}

func patch(path, id, summary, scope string) surface.Route {
	return surface.Route{Method: http.MethodPatch, Path: path, ID: id, Summary: summary, Scope: scope}
}

func remove(path, id, summary, scope string) surface.Route {
	return surface.Route{Method: http.MethodDelete, Path: path, ID: id, Summary: summary, Scope: scope}
}
