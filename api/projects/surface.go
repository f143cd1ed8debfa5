package projects

import (
	"context"
	"net/http"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
)

// server is the surface.
type server struct{ *surface.Core }

const path = "/api/v1/projects"

// Add registers the surface.
func Add(core *surface.Core) {
	on := core.Add(surface.Style{
		Title: "rekey projects", Description: "Creates, edits and deletes the projects of an organization.",
		Switch: domain.SurfaceProjects, Prefixes: []string{"/api/v1"}, Closed: true,
		Shape: surface.InEnvelope, ErrorBody: surface.Envelope{},
	})
	s := &server{on.Core}
	surface.Open(on, surface.Route{Method: http.MethodGet, Path: "/api/v1/healthz", ID: "health", Summary: "Whether the process runs"}, s.health)
	closed := func(method, path, id, summary, scope string) surface.Route {
		return surface.Route{Method: method, Path: path, ID: id, Summary: summary, Scope: scope}
	}
	read, edit := domain.ScopeProjectsRead, domain.ScopeProjectsEdit
	surface.Closed(on, closed(http.MethodGet, path, "list-projects", "List projects, oldest first", read), s.list)
	surface.Closed(on, closed(http.MethodPost, path, "create-project", "Create a project", edit), s.create, surface.Creates)
	surface.Closed(on, closed(http.MethodGet, path+"/{id}", "get-project", "Get a project", read), s.get)
	surface.Closed(on, closed(http.MethodPatch, path+"/{id}", "update-project", "Change a project", edit), s.update)
	surface.Closed(on, closed(http.MethodPut, path+"/{id}", "put-project", "Change a project, exactly like PATCH", edit), s.update)
	surface.Closed(on, closed(http.MethodDelete, path+"/{id}", "delete-project", "Delete a project that has no live keys", edit), s.remove)
	on.Document("/api/v1/openapi.json")
}

type healthBody struct {
	Status  string `json:"status" example:"ok"`
	Version string `json:"version" example:"1.0.0"`
}

type healthAnswer struct {
	Body struct {
		Success bool       `json:"success" example:"true"`
		Data    healthBody `json:"data"`
	}
}

// health says that the process runs, whatever it depends on.
func (s *server) health(context.Context, *struct{}) (*healthAnswer, error) {
	out := &healthAnswer{}
	out.Body.Success, out.Body.Data = true, healthBody{"ok", s.Version}
	return out, nil
}
