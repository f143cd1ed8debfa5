// Package api is the HTTP surface: routes, authentication, and the translation between requests and commands. It has no
// rules of its own; what a caller may do is decided in package domain.
//
// Every route is closed unless its registration says otherwise: a route without a scope does not register. Errors are
// RFC 9457 problem documents made in one place (errors.go). A body is read up to a limit, strictly (codec.go): unknown and
// repeated fields, other casing and invalid UTF-8 are refused. Nothing that could be a secret is repeated in an error or a
// log, wherever in a request it stood: neither values, nor long names of fields, nor paths (the log has the route and
// well-formed ids instead).
//
// It fails closed: without the store no key can be judged, so every route but /healthz and /openapi.json answers 503 with
// Retry-After, and works again by itself once the store is back.
package api
