package api

import (
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// introspectionBody is an answer of RFC 7662. Of a key that is not active it says that alone.
type introspectionBody struct {
	Active         bool                  `json:"active" example:"true" doc:"Whether the key may be used; if not, nothing else is said"`
	Scope          string                `json:"scope,omitempty" example:"orders:read orders:write" doc:"What it holds, separated by spaces"`
	ClientID       string                `json:"client_id,omitempty" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Its lineage, which stays over rotations"`
	Username       string                `json:"username,omitempty" example:"CI of the billing service" doc:"Its name"`
	TokenType      string                `json:"token_type,omitempty" example:"Bearer" doc:"Always Bearer"`
	Expires        int64                 `json:"exp,omitempty" example:"1798761600" doc:"When it ends, by expiry or with its grace; in seconds, as all times here. Absent: never"`
	Made           int64                 `json:"iat,omitempty" example:"1767225600" doc:"When it was made"`
	Subject        string                `json:"sub,omitempty" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Its lineage: a key acts for itself"`
	ID             string                `json:"jti,omitempty" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The key: one generation of the lineage"`
	Status         domain.Status         `json:"rekey_status,omitempty" enum:"active,pending,grace" doc:"In grace its user should change to the next key"`
	OrganizationID domain.OrganizationID `json:"rekey_organization_id,omitempty" example:"org_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Whose it is"`
	ProjectID      domain.ProjectID      `json:"rekey_project_id,omitempty" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Its project"`
	EnvironmentID  domain.EnvironmentID  `json:"rekey_environment_id,omitempty" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Its environment"`
}

// introspect is token introspection (RFC 7662) for programs that speak it already.
func (s *server) introspect(w http.ResponseWriter, r *http.Request) {
	body, err := s.introspection(w, r)
	if err != nil {
		surface.WriteOAuthError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = surface.EncodeJSON(w, body) // the caller may be gone
}

func (s *server) introspection(w http.ResponseWriter, r *http.Request) (*introspectionBody, error) {
	if err := s.native.Require(r, domain.ScopeKeysVerify); err != nil {
		return nil, err
	}
	token, err := introspectedToken(w, r)
	if err != nil {
		return nil, err
	}
	answer, err := s.Verifier.Verify(r.Context(), &projections.VerifyRequest{Reach: surface.Reach(r.Context()), Secret: token})
	if err != nil {
		return nil, err
	}
	if !answer.Valid() {
		return &introspectionBody{}, nil
	}
	s.Used(answer.Key, netip.Addr{}, "", answer.At)
	return introspectionOf(answer), nil
}

// introspectedToken reads the form. The hint at the token's type is not needed: there is one type. What else is in the form
// is ignored, as the RFC wants it.
func introspectedToken(w http.ResponseWriter, r *http.Request) (string, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != formType {
		return "", domain.Refuse(domain.CodeUnsupportedMedia, "send the body with Content-Type: %s", formType)
	}
	body, err := readBody(w, r, surface.MaxBodyBytes)
	if err != nil {
		return "", err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", domain.Refuse(domain.CodeInvalidRequest, "the body is not a well-formed form")
	}
	if tokens := form["token"]; len(tokens) == 1 && tokens[0] != "" {
		return tokens[0], nil
	}
	refused := domain.InvalidField("token", "is missing, empty or repeated", "send one")
	refused.Code = domain.CodeInvalidRequest // RFC 6749's word for it
	return "", refused
}

const formType = "application/x-www-form-urlencoded"

func introspectionOf(answer verifier.Answer) *introspectionBody {
	k := answer.Key
	full := k.Key()
	return &introspectionBody{
		Active: true, Scope: strings.Join(k.Scopes(), " "), ClientID: k.LineageID(), Username: full.Name, TokenType: "Bearer",
		Expires: seconds(k.Ends()), Made: seconds(k.Made()), Subject: k.LineageID(), ID: k.KeyID(), Status: answer.Status,
		OrganizationID: k.OrganizationID(), ProjectID: k.ProjectID(), EnvironmentID: k.EnvironmentID(),
	}
}

// seconds is a time as RFC 7662 has it. It is rounded down: who trusts it until then must not trust it too long.
func seconds(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.Unix()
}

// introspectOperation describes the route.
func (s *server) introspectOperation(operation *huma.Operation) {
	operation.Description += " RFC 7662: of a secret that is unknown, malformed, ended or another organization's it says `{\"active\":false}`. " +
		"Scopes that are needed cannot be named here; compare `scope`, in which `a:*` covers `a:b` and `*` everything."
	operation.Errors = append(operation.Errors, 400, 413, 415)
	operation.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{formType: {Schema: &huma.Schema{
		Type: huma.TypeObject, Required: []string{"token"}, Properties: map[string]*huma.Schema{
			"token":           {Type: huma.TypeString, Description: "The secret that was presented", Examples: []any{"rk_live_..."}},
			"token_type_hint": {Type: huma.TypeString, Description: "Not needed", Examples: []any{"access_token"}},
		},
	}}}}
	operation.Responses = map[string]*huma.Response{"200": {
		Description: "OK", Content: map[string]*huma.MediaType{"application/json": {Schema: surface.SchemaOf[introspectionBody](s.native)}},
	}}
}
