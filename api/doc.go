// Package api is the HTTP surface: routes, authentication, and the translation between requests and commands. It has no
// rules of its own; what a caller may do is decided in package domain.
//
// Every route is closed unless its registration says otherwise: a route without a scope does not register. Errors are
// RFC 9457 problem documents made in one place (errors.go). A body is read up to a limit, unknown fields are refused, and
// nothing of a request's body is ever repeated in an error or a log, because it may be a secret.
package api
