package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// question is what a gateway asks about a request. What is asked in the query and in headers adds up: a header that the
// client has smuggled in can only ask for more.
type question struct {
	request   projections.VerifyRequest
	presented bool   // the client showed something like a key
	header    string // where the client's key stands; empty: where keys usually stand
	ipHeader  string // where the gateway says where the client is
	names     [8]string
}

// read reads the question. What it does not understand it refuses: a misspelt condition must not be one that is not there.
func (q *question) read(r *http.Request) error {
	q.request.Scopes = q.names[:0]
	for query := r.URL.RawQuery; query != ""; {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, text, _ := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(text)
		if err != nil {
			return domain.InvalidField("query", "is not well-formed", "escape what is no letter or digit")
		}
		if err := q.add(name, value); err != nil {
			return err
		}
	}
	for _, value := range r.Header["Rekey-Scope"] {
		if err := q.addScopes("Rekey-Scope", value); err != nil {
			return err
		}
	}
	for _, value := range r.Header["Rekey-Resource"] {
		if err := q.addResource("Rekey-Resource", value); err != nil {
			return err
		}
	}
	credential := q.credential(r.Header)
	q.request.Secret, q.presented = credential.Secret, credential.Presented
	return nil
}

// add takes a parameter of the query.
func (q *question) add(name, value string) error {
	switch name {
	case "scope":
		return q.addScopes(name, value)
	case "resource":
		return q.addResource(name, value)
	case "header":
		return nameHeader(name, value, &q.header)
	case "ip_header":
		return nameHeader(name, value, &q.ipHeader)
	}
	return domain.InvalidField("query", "has a parameter that does not exist here", "use scope, resource, header and ip_header")
}

// addScopes takes scopes that are separated by spaces or commas. None is refused: it is what a variable of the gateway's that
// was never set looks like.
func (q *question) addScopes(field, text string) error {
	if strings.Trim(text, " ,") == "" {
		return domain.InvalidField(field, "is empty", "name a scope, or leave it out")
	}
	for scope := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		if !domain.ValidScope(scope) {
			return domain.InvalidField(field, "has something that is not a scope", "use names such as orders:read")
		}
		if !slices.Contains(q.request.Scopes, scope) {
			q.request.Scopes = append(q.request.Scopes, scope)
		}
	}
	if len(q.request.Scopes) > domain.MaxScopes {
		return domain.InvalidField(field, "has too many entries", "name at most 64 scopes")
	}
	return nil
}

// addResource takes a resource as kind:name.
func (q *question) addResource(field, text string) error {
	kind, name, _ := strings.Cut(strings.TrimSpace(text), ":")
	if kind == "" || name == "" {
		return domain.InvalidField(field, "is not a resource", "write it as kind:name, such as app:com.demo.app")
	}
	if former, again := q.request.Resources[kind]; again && former != name {
		return domain.InvalidField(field, "names two resources of one kind", "ask about one of each kind")
	}
	if q.request.Resources == nil {
		q.request.Resources = map[string]string{}
	}
	q.request.Resources[kind] = name
	return nil
}

// nameHeader takes the name of a header of the client's request. Ours are not: one of them has the gateway's own key.
func nameHeader(field, name string, into *string) error {
	canonical := http.CanonicalHeaderKey(name)
	if canonical == "" || strings.HasPrefix(canonical, "Rekey-") || *into != "" {
		return domain.InvalidField(field, "is not the name of one header", "name one such as X-Real-IP, and none that begins with Rekey-")
	}
	*into = canonical
	return nil
}

// credential is the key that the client shows. Of several the service behind the gateway may believe another one, so they
// count as none.
func (q *question) credential(h http.Header) surface.Credential {
	if q.header != "" {
		return bareOrBearer(h[q.header])
	}
	authorization := h["Authorization"]
	bearer, other := surface.BearerIn(authorization), bareOrBearer(h["X-Api-Key"])
	switch {
	case len(authorization) > 1 || bearer.Presented && other.Presented:
		return surface.Credential{Presented: true}
	case other.Presented:
		return other
	}
	return bearer
}

// bareOrBearer is the key in a header that has it alone, or behind RFC 6750's word.
func bareOrBearer(values []string) surface.Credential {
	if len(values) != 1 {
		return surface.Credential{Presented: len(values) > 1}
	}
	if bearer := surface.BearerIn(values); bearer.Presented {
		return bearer
	}
	key := strings.TrimSpace(values[0])
	return surface.Credential{Secret: key, Presented: key != ""}
}
