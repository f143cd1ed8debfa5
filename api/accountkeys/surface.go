package accountkeys

import (
	"net/http"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// Scopes of this surface.
const (
	scopeRead   = "read"
	scopeWrite  = "write"
	scopeDelete = "delete"
)

// server is the surface at one of its addresses.
type server struct {
	*surface.Core
	path string
}

// Add registers the surface at both of its addresses, each with a document of its own.
func Add(core *surface.Core) {
	for _, path := range []string{"/api/v1/keys", "/v1/keys"} {
		on := core.Add(surface.Style{
			Title: "rekey account keys", Description: "Lists, creates and revokes the API keys of an account.",
			Switch: domain.SurfaceAccountKeys, Prefixes: []string{path}, Closed: true,
			Shape: surface.InEnvelope, ErrorBody: surface.Envelope{},
		})
		s := &server{on.Core, path}
		surface.Closed(on, surface.Route{
			Method: http.MethodGet, Path: path, ID: "list-keys", Summary: "List all keys, newest first", Scope: scopeRead,
		}, s.list)
		surface.Closed(on, surface.Route{
			Method: http.MethodPost, Path: path, ID: "create-key", Summary: "Create a key", Scope: scopeWrite,
		}, s.create, surface.Creates)
		surface.Closed(on, surface.Route{
			Method: http.MethodDelete, Path: path + "/{id}", ID: "revoke-key", Summary: "Revoke a key", Scope: scopeDelete,
		}, s.revoke)
		on.Document(path + "/openapi.json")
	}
}
