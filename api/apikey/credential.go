package apikey

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// keyHeaders are where a key may stand.
var keyHeaders = []string{"authorization", "x-api-key", "capgkey"}

const headerLimited = "x-limited-key-id"

func schemes() map[string]*huma.SecurityScheme {
	out := map[string]*huma.SecurityScheme{}
	for _, name := range keyHeaders {
		out[name] = &huma.SecurityScheme{Type: "apiKey", In: "header", Name: name, Description: "A key, as it is"}
	}
	out["authorization"].Description = "A key, as it is or after `Bearer `"
	return out
}

// credential returns the one key of a request. The same key may be sent twice; two are refused, whichever is valid.
func credential(header http.Header) surface.Credential {
	var found surface.Credential
	for _, name := range keyHeaders {
		for _, value := range header.Values(name) {
			key := strings.TrimSpace(value)
			if name == "authorization" {
				key = withoutScheme(key)
			}
			switch {
			case key == "" || key == found.Secret:
			case found.Presented:
				return surface.Credential{Refused: domain.Refuse(domain.CodeInvalidRequest, textOneKeyOnly)}
			default:
				found = surface.Credential{Secret: key, Presented: true}
			}
		}
	}
	return found
}

// withoutScheme takes RFC 6750's scheme off. What has another scheme stays as it is, and is no key.
func withoutScheme(value string) string {
	if scheme, rest, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest)
	}
	return value
}

// subkey marks the refusal of a key that was to be acted as.
const subkey = "subkey"

// narrow returns the key that the presented one wants to act as: a valid one that may do nothing beyond it. Why another is
// refused stays unsaid, so that nothing can be learnt about keys that are out of reach.
func narrow(ctx context.Context, core *surface.Core, r *http.Request, key *projections.Key) (*projections.Key, error) {
	values := r.Header.Values(headerLimited)
	if len(values) == 0 {
		return key, nil
	}
	invalid := domain.Refuse(domain.CodeUnauthenticated, textInvalidSubkey).With(subkey, true).With("presented", true)
	if len(values) > 1 {
		return nil, invalid
	}
	caller := key.Caller()
	limited, err := named(ctx, core.Reader, projections.ReachOf(caller), values[0])
	if domain.CodeOf(err) == domain.CodeNotFound {
		return nil, invalid
	}
	if err != nil {
		return nil, err
	}
	if !limited.StatusAt(core.Now()).Valid() || limited.Disabled || !limited.MayUseFrom(core.ClientIP(r)) || !caller.Covers(limited.Caller()) {
		return nil, invalid
	}
	return limited, nil
}
