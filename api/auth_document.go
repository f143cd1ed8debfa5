package api

import "github.com/danielgtaylor/huma/v2"

// authOperation describes what gateways ask, as far as OpenAPI has words for it.
func authOperation(operation *huma.Operation) {
	operation.Description += " That is asked of the gateway's own key, in `Rekey-Authorization`. The key that is judged is the client's: " +
		"`Authorization: Bearer`, or `X-API-Key`. No body is read. Any method is taken, and any path below this one; there the query " +
		"is the client's and is not read. Only 200 lets a request through. An answer with `Rekey-Gateway-Error` is about the " +
		"gateway, every other one about the client's key."
	operation.Parameters = authParameters()
	operation.Responses = map[string]*huma.Response{"200": {Description: "The key may be used for this", Headers: map[string]*huma.Header{}}}
	for i, name := range admitted {
		operation.Responses["200"].Headers[name] = &huma.Header{Description: admittedMeans[i], Schema: &huma.Schema{Type: huma.TypeString}}
	}
}

// admittedMeans says what the headers of a 200 are.
var admittedMeans = [len(admitted)]string{
	"VALID; also on refusals, with the code that /v1/api-keys/verify answers", "The key", "Its lineage, which stays over rotations", "Whose it is", "Its project", "Its environment",
	"What it holds, separated by spaces", "active, pending, or `grace; until=<unix seconds>`: then its user should change to the next key",
}

func authParameters() []*huma.Param {
	text := func(example string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Examples: []any{example}}
	}
	list := func(example string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}, Examples: []any{[]any{example}}}
	}
	return []*huma.Param{
		{Name: "scope", In: "query", Schema: list("orders:read"), Explode: new(true), Description: "Scopes that the key must hold, all of them; separated by spaces, or repeated"},
		{Name: "resource", In: "query", Schema: list("app:com.demo.app"), Explode: new(true), Description: "Resources that it is used for, as kind:name, one of each kind"},
		{Name: "header", In: "query", Schema: text("X-Demo-Key"), Description: "The one header that the client's key stands in, instead of the usual two"},
		{Name: "ip_header", In: "query", Schema: text("X-Real-IP"), Description: "A header in which the gateway says where its client is; it must overwrite the client's own"},
		{Name: "Rekey-Authorization", In: "header", Schema: text("Bearer rk_live_..."), Description: "The gateway's own key. Not needed where it is configured whose keys gateways ask about (REKEY_GATEWAY_ORGANIZATION)"},
		{Name: "Rekey-Scope", In: "header", Schema: text("orders:read"), Description: "Scopes beside those of the query"},
		{Name: "Rekey-Resource", In: "header", Schema: text("app:com.demo.app"), Description: "A resource beside those of the query"},
	}
}
