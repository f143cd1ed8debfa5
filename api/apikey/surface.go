package apikey

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// server is this surface.
type server struct{ *surface.Core }

const description = "API keys with modes: `read`, `upload`, `write` and `all` are steps, each of which may do what the one " +
	"before may. Managing keys takes a key of the mode `all`, or one with the scopes that the routes name.\n\n" +
	"A key may be limited to apps and organizations (`limited_to_apps`, `limited_to_orgs`). A new key never gets more than " +
	"the key that makes it, belongs to the same project and environment, and ends no later."

// Add registers the surface.
func Add(core *surface.Core) {
	s := &server{core}
	on := core.Add(surface.Style{
		Title: "rekey: API keys with modes", Description: description,
		Switch: domain.SurfaceAPIKey, Prefixes: []string{root},
		Credential: credential, Schemes: schemes(), Narrow: narrow,
		Shape: shape, ErrorBody: errorBody{},
	})
	both(on, surface.Route{
		Method: http.MethodGet, Path: root + "/", ID: "list-keys", Summary: "List the keys of the organization", Scope: domain.ScopeKeysRead,
	}, s.list)
	both(on, surface.Route{
		Method: http.MethodPost, Path: root + "/", ID: "create-key", Summary: "Create a key", Scope: domain.ScopeKeysWrite,
	}, s.create)
	both(on, surface.Route{
		Method: http.MethodGet, Path: root + "/{id}/", ID: "get-key", Summary: "Get a key", Scope: domain.ScopeKeysRead,
	}, s.get)
	both(on, surface.Route{
		Method: http.MethodDelete, Path: root + "/{id}/", ID: "delete-key", Summary: "Revoke a key at once", Scope: domain.ScopeKeysDelete,
	}, s.remove)
	on.Document(root + "/openapi.json")
}

const root = "/apikey"

// both registers a route as the page writes it, and without the slash at its end, which many clients drop.
func both[I, O any](on *surface.Surface, route surface.Route, handler func(context.Context, *I) (*O, error)) {
	surface.Closed(on, route, handler, invalidIs400)
	route.Path, route.ID = strings.TrimSuffix(route.Path, "/"), route.ID+"-without-slash"
	surface.Closed(on, route, handler, invalidIs400, surface.Hidden)
}

// invalidIs400 documents what shape does. Only a reused Idempotency-Key is still a 422.
func invalidIs400(operation *huma.Operation) {
	operation.Errors = append(operation.Errors, http.StatusBadRequest)
	if operation.Method != http.MethodPost {
		operation.Errors = slices.DeleteFunc(operation.Errors, func(status int) bool { return status == http.StatusUnprocessableEntity })
	}
}
