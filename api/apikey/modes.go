package apikey

import (
	"maps"

	"github.com/rekeyhq/rekey/domain"
)

// mode is a step of rights, for the service that a key is for. Of rekey's own rights a key has any only in the mode all.
type mode string

const (
	modeRead   mode = "read"
	modeUpload mode = "upload"
	modeWrite  mode = "write"
	modeAll    mode = "all"
)

// scopesOf are what the modes stand for: each step holds the one before.
var scopesOf = map[mode]domain.Scopes{
	modeRead:   {"read"},
	modeUpload: {"read", "upload"},
	modeWrite:  {"read", "upload", "write"},
	modeAll:    {domain.ScopeAll},
}

// modeOf is the highest step that the scopes of a key reach, however they were named.
func modeOf(scopes domain.Scopes) mode {
	for _, m := range []mode{modeAll, modeWrite, modeUpload} {
		highest := scopesOf[m][len(scopesOf[m])-1]
		if scopes.Allow(highest) {
			return m
		}
	}
	return modeRead
}

// Kinds of resources that keys are limited to here.
const (
	kindApp = "app"
	kindOrg = "org"
)

// limits are those of a new key: the ones that are named, and for every other kind the caller's own.
func limits(own domain.Resources, apps, orgs []string) domain.Resources {
	out := domain.Resources{}
	maps.Copy(out, own)
	if len(apps) > 0 {
		out[kindApp] = apps
	}
	if len(orgs) > 0 {
		out[kindOrg] = orgs
	}
	return out
}
