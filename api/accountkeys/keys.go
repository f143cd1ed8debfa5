package accountkeys

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type keyBody struct {
	ID        domain.KeyID `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name      string       `json:"name" example:"Production API Key"`
	Prefix    string       `json:"prefix" example:"rk_live_x7Fq" doc:"How the key begins"`
	LastFour  string       `json:"lastFour" example:"9aZk" doc:"How it ends"`
	Scopes    []string     `json:"scopes" nullable:"false" example:"[\"read\",\"write\"]" doc:"Names, a:* for all that begin with a:, or * for all"`
	LastUsed  *time.Time   `json:"lastUsed" doc:"null: not known to be used"`
	CreatedAt time.Time    `json:"createdAt"`
	ExpiresAt *time.Time   `json:"expiresAt" doc:"null: never"`
}

type keysBody struct {
	Keys []keyBody `json:"keys" nullable:"false" doc:"Newest first; keys that have ended are not among them"`
}

type listKeysInput struct {
	Limit  int    `query:"limit" default:"1000" minimum:"1" maximum:"1000" doc:"How many at most"`
	Cursor string `query:"cursor" doc:"From the Link header of the page before"`
}

type keysAnswer struct {
	Link string `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body struct {
		Success bool     `json:"success" example:"true"`
		Data    keysBody `json:"data"`
	}
}

func (s *server) list(ctx context.Context, in *listKeysInput) (*keysAnswer, error) {
	page := surface.PageInput{Limit: in.Limit, Cursor: in.Cursor}
	if err := page.Check(domain.PrefixKey); err != nil {
		return nil, err
	}
	keys, err := s.Reader.Keys(ctx, projections.KeyList{
		Reach: surface.Reach(ctx), Now: s.Now(), Before: domain.KeyID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	out := &keysAnswer{}
	keys, out.Link = surface.Cut(page, s.path, keys, func(k *projections.Key) string { return string(k.ID) }, url.Values{})
	out.Body.Success, out.Body.Data.Keys = true, make([]keyBody, len(keys))
	for i, k := range keys {
		out.Body.Data.Keys[i] = keyBody{
			ID: k.ID, Name: k.Name, Prefix: k.Secret.Prefix, LastFour: k.Secret.LastFour, Scopes: k.Scopes,
			LastUsed: k.LastUsedAt, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt,
		}
	}
	return out, nil
}

type createKeyInput struct {
	Body struct {
		Name      string   `json:"name" example:"New API Key" doc:"A friendly name for the key: 1 to 200 printable characters"`
		Scopes    []string `json:"scopes,omitempty" nullable:"true" enum:"read,write,delete" minItems:"1" doc:"Default: read and write, as far as your own key holds them"`
		ExpiresAt *string  `json:"expiresAt,omitempty" nullable:"true" example:"2030-12-31T23:59:59Z" doc:"ISO 8601; UTC where no zone is named, and the start of the day where no time is. Default: as your own key, or never"`
	}
}

type createdKeyBody struct {
	ID        domain.KeyID `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name      string       `json:"name" example:"New API Key"`
	Key       string       `json:"key" example:"rk_live_..." doc:"The whole key. It is shown only here"`
	Scopes    []string     `json:"scopes" nullable:"false" example:"[\"read\",\"write\"]"`
	CreatedAt time.Time    `json:"createdAt"`
	ExpiresAt *time.Time   `json:"expiresAt" doc:"null: never"`
}

type createdKeyAnswer struct {
	Body struct {
		Success bool           `json:"success" example:"true"`
		Data    createdKeyBody `json:"data"`
		Warning string         `json:"warning" example:"Store this key securely. It will not be shown again."`
	}
}

func (s *server) create(ctx context.Context, in *createKeyInput) (*createdKeyAnswer, error) {
	caller := surface.Caller(ctx)
	expires, err := instant(in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	scopes := domain.Scopes(in.Body.Scopes)
	if len(scopes) == 0 {
		scopes = defaultScopes(caller.Scopes)
	}
	created, err := s.Commands.CreateKey(ctx, surface.Keeping(ctx, showCreated), commands.CreateKey{
		ProjectID: caller.ProjectID, EnvironmentID: caller.EnvironmentID, Name: in.Body.Name, Scopes: scopes, ExpiresAt: expires,
	})
	if err != nil {
		return nil, here(err)
	}
	return showCreated(created), nil
}

// here gives a field the name that it has on this surface. Only expiresAt has another one.
func here(err error) error {
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok || len(refusal.Fields) == 0 || refusal.Fields[0].Field != "expires_at" {
		return err
	}
	renamed := domain.InvalidField("expiresAt", refusal.Fields[0].Message, refusal.Fields[0].Remedy)
	renamed.Code = refusal.Code
	return renamed
}

func showCreated(created commands.CreatedKey) *createdKeyAnswer {
	k, out := created.Key, &createdKeyAnswer{}
	out.Body.Success, out.Body.Warning = true, "Store this key securely. It will not be shown again."
	out.Body.Data = createdKeyBody{
		ID: k.ID, Name: k.Name, Key: created.Secret.Reveal(), Scopes: k.Scopes, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt,
	}
	return out
}

// defaultScopes are those that a new key gets if none are named, as far as its maker holds them. That is never nothing:
// who may not write does not get here.
func defaultScopes(held domain.Scopes) (scopes domain.Scopes) {
	for _, scope := range []string{scopeRead, scopeWrite} {
		if held.Allow(scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// layouts are the forms of ISO 8601 that are taken; those without a zone mean UTC. Fractions of seconds fit too.
var layouts = []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly}

func instant(text *string) (*time.Time, error) {
	if text == nil {
		return nil, nil
	}
	for _, layout := range layouts {
		if at, err := time.Parse(layout, *text); err == nil {
			return &at, nil
		}
	}
	return nil, domain.InvalidField("expiresAt", "is not a date", "write it in ISO 8601, such as 2030-12-31T23:59:59Z or 2030-12-31")
}

type keyPath struct {
	ID domain.KeyID `path:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The key to revoke"`
}

type revokedKeyAnswer struct {
	Body struct {
		Success bool   `json:"success" example:"true"`
		Message string `json:"message" example:"API key revoked successfully"`
	}
}

// revoke ends a key at once. To revoke one that has ended already is fine.
func (s *server) revoke(ctx context.Context, in *keyPath) (*revokedKeyAnswer, error) {
	if err := s.Commands.RevokeKey(ctx, surface.By(ctx), in.ID, ""); err != nil {
		return nil, err
	}
	out := &revokedKeyAnswer{}
	out.Body.Success, out.Body.Message = true, "API key revoked successfully"
	return out, nil
}
