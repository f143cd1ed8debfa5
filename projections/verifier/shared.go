package verifier

import (
	"encoding/json"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// place is where keys belong. A thousand keys of an environment share one.
type place struct {
	organization domain.OrganizationID
	project      domain.ProjectID
	environment  domain.EnvironmentID
	refs         int // only the writer counts
}

// grant is what keys may do; keys with the same rights share one.
type grant struct {
	scopes    domain.Scopes
	resources domain.Resources
	known     string // under which it is shared
	shown     string // the scopes as JSON
	refs      int
}

// reach is how far a caller with these rights sees.
func (g *grant) reach(organization domain.OrganizationID) projections.Reach {
	return projections.ReachOf(domain.Caller{OrganizationID: organization, Resources: g.resources})
}

// places and grants share what is equal. They are the writer's; records only point to what is in them.
type (
	places map[place]*place
	grants map[string]*grant
)

func placeOf(k *projections.Key) *place {
	return &place{organization: k.OrganizationID, project: k.ProjectID, environment: k.EnvironmentID}
}

func grantOf(k *projections.Key) *grant {
	known, err := json.Marshal([]any{k.Scopes, k.Resources}) // maps are written in the order of their keys
	if err != nil {                                          // lists and maps of strings always encode
		panic("verifier: encode: " + err.Error())
	}
	return &grant{scopes: k.Scopes, resources: k.Resources, known: string(known), shown: encoded(orEmpty(k.Scopes))}
}

func orEmpty(scopes domain.Scopes) domain.Scopes {
	if scopes == nil {
		return domain.Scopes{}
	}
	return scopes
}

// share returns what is known and equal to a place, or the place itself.
func (p places) share(own *place) *place {
	shared, ok := p[*own] // own counts nothing yet, as the key of the map
	if !ok {
		shared = own
		p[*own] = shared
	}
	shared.refs++
	return shared
}

func (p places) release(shared *place) {
	if shared.refs--; shared.refs == 0 {
		delete(p, place{organization: shared.organization, project: shared.project, environment: shared.environment})
	}
}

// share returns what is known and equal to a grant, or the grant itself.
func (g grants) share(own *grant) *grant {
	shared, ok := g[own.known]
	if !ok {
		shared = own
		g[own.known] = shared
	}
	shared.refs++
	return shared
}

func (g grants) release(shared *grant) {
	if shared.refs--; shared.refs == 0 {
		delete(g, shared.known)
	}
}
