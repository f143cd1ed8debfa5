// Package surface is what the HTTP surfaces are built from: registration of routes, authentication, idempotent answers,
// strict bodies, errors and OpenAPI documents. A surface adds its own form (Style) and its handlers; it has no rules of
// its own, because what a caller may do is decided in package domain.
//
// Every route is closed unless its registration says otherwise: a route without a scope does not register. Errors are
// made in one place (errors.go) and then given the surface's shape; which surface a request belongs to is known from its
// path, so that a request that matches no route is answered in the right shape too. A body is read up to a limit,
// strictly (codec.go): unknown and repeated fields, other casing and invalid UTF-8 are refused. Nothing that could be a
// secret is repeated in an error or a log, wherever in a request it stood: neither values, nor long names of fields, nor
// paths (the log has the route and well-formed ids instead).
//
// It fails closed: without the store no key can be judged, so every closed route answers 503 with Retry-After, and works
// again by itself once the store is back.
package surface
