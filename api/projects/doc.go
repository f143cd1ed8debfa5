// Package projects is the surface at /api/v1 on which products manage their projects: answers in an envelope, errors with
// codes in capitals, and details.required_scope on 403. It translates; the projects and the commands are those of the
// native surface.
//
// Everything under /api/v1 but its health and its document needs a key, paths that do not exist among it.
package projects
