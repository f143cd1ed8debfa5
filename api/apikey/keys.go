package apikey

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// Acting is what every request may carry. It is exported because huma fills embedded fields only then.
type Acting struct {
	LimitedKeyID string `header:"x-limited-key-id" example:"4503599627370496" doc:"Act as this narrower key of the organization: its numeric id, or key_... as other surfaces name it"`
}

// NewKeyBody is a key as the page shows it right after creation. It is exported because huma and encoding/json show the
// fields of an embedded struct only then.
type NewKeyBody struct {
	ID            int64        `json:"id" example:"4503599627370496" doc:"Computed from the key's id on other surfaces; any JavaScript number can hold it"`
	Key           string       `json:"key" example:"rk_live_x7Fq..." doc:"Where the key is created, the whole of it, which is shown only there; else how it begins"`
	Mode          mode         `json:"mode" enum:"read,write,upload,all" doc:"The highest step that its scopes reach"`
	Name          string       `json:"name" example:"CI/CD Read Key"`
	CreatedAt     time.Time    `json:"created_at"`
	UserID        domain.Actor `json:"user_id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Who created it: a key of the organization, or a part of rekey itself"`
	LimitedToApps []string     `json:"limited_to_apps,omitzero" nullable:"false" example:"[\"com.demo.app\"]" doc:"Absent: not limited"`
	LimitedToOrgs []string     `json:"limited_to_orgs,omitzero" nullable:"false" doc:"Absent: not limited"`
}

// keyBody is a key as lists have it.
type keyBody struct {
	NewKeyBody
	UpdatedAt time.Time `json:"updated_at" doc:"When it was created, or its settings were changed last"`
}

func newBodyOf(k *projections.Key) NewKeyBody {
	return NewKeyBody{
		ID: domain.KeyNumber(k.ID), Key: k.Secret.Prefix + "...", Mode: modeOf(k.Scopes), Name: k.Name, CreatedAt: k.CreatedAt,
		UserID: k.CreatedBy, LimitedToApps: k.Resources[kindApp], LimitedToOrgs: k.Resources[kindOrg],
	}
}

func bodyOf(k *projections.Key) keyBody { return keyBody{newBodyOf(k), k.UpdatedAt} }

type listInput struct {
	Acting
	Limit  int    `query:"limit" default:"1000" minimum:"1" maximum:"1000" doc:"How many at most"`
	Cursor string `query:"cursor" doc:"From the Link header of the page before"`
}

type listedKeysOutput struct {
	Link string `header:"Link" doc:"The next page, rel=next; absent on the last one"`
	Body struct {
		Data []keyBody `json:"data" nullable:"false" doc:"Oldest first; what was revoked or has run out is not in it"`
	}
}

func (s *server) list(ctx context.Context, in *listInput) (*listedKeysOutput, error) {
	page := surface.PageInput{Limit: in.Limit, Cursor: in.Cursor}
	if err := page.Check(domain.PrefixKey); err != nil {
		return nil, err
	}
	keys, err := s.Reader.OldestKeys(ctx, surface.Reach(ctx), domain.KeyID(in.Cursor), s.Now(), in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &listedKeysOutput{}
	keys, out.Link = surface.Cut(page, root+"/", keys, func(k *projections.Key) string { return string(k.ID) }, url.Values{})
	out.Body.Data = make([]keyBody, len(keys))
	for i, k := range keys {
		out.Body.Data[i] = bodyOf(k)
	}
	return out, nil
}

// keyPath is a text to huma, because what is no number is as unknown as a number without a key.
type keyPath struct {
	Acting
	ID string `path:"id" example:"4503599627370496" doc:"The key's numeric id"`
}

type foundKeyOutput struct {
	Body struct {
		APIKey keyBody `json:"apikey"`
	}
}

// get shows a live key. One that has ended is not found: nothing in its form says that it is of no use.
func (s *server) get(ctx context.Context, in *keyPath) (*foundKeyOutput, error) {
	key, err := numbered(ctx, s.Reader, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	if !key.StatusAt(s.Now()).Valid() {
		return nil, notFound()
	}
	out := &foundKeyOutput{}
	out.Body.APIKey = bodyOf(key)
	return out, nil
}

type deletedKeyOutput struct {
	Body struct {
		Success bool `json:"success" example:"true"`
	}
}

// remove revokes a key; the page's word for it is delete. To revoke one that has ended already is fine.
func (s *server) remove(ctx context.Context, in *keyPath) (*deletedKeyOutput, error) {
	key, err := numbered(ctx, s.Reader, surface.Reach(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.Commands.RevokeKey(ctx, surface.By(ctx), key.ID, ""); err != nil {
		return nil, err
	}
	out := &deletedKeyOutput{}
	out.Body.Success = true
	return out, nil
}

// named returns a key in a tenant's reach by its number or by its id.
func named(ctx context.Context, reader *projections.Reader, reach projections.Reach, name string) (*projections.Key, error) {
	if strings.HasPrefix(name, domain.PrefixKey+"_") {
		return reader.Key(ctx, reach, domain.KeyID(name))
	}
	return numbered(ctx, reader, reach, name)
}

// numbered returns a key in a tenant's reach by its number, of which there is only one spelling.
func numbered(ctx context.Context, reader *projections.Reader, reach projections.Reach, text string) (*projections.Key, error) {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || strconv.FormatInt(number, 10) != text {
		return nil, notFound()
	}
	key, err := reader.KeyByNumber(ctx, reach, number)
	if domain.CodeOf(err) == domain.CodeNotFound {
		return nil, notFound()
	}
	return key, err
}

func notFound() error { return domain.Refuse(domain.CodeNotFound, textNotFound) }

type createInput struct {
	Acting
	Name          string   `query:"name" doc:"Without a body: as in the body"`
	Mode          string   `query:"mode" enum:"read,write,upload,all" doc:"Without a body: as in the body"`
	LimitedToApps []string `query:"limited_to_apps,explode" nullable:"false" doc:"Without a body: as in the body; repeated, or with commas between"`
	LimitedToOrgs []string `query:"limited_to_orgs,explode" nullable:"false" doc:"Without a body: as in the body; repeated, or with commas between"`
	Body          *createKeyRequest
}

type createKeyRequest struct {
	Name          string   `json:"name" example:"Limited Read Key" doc:"1 to 200 printable characters"`
	Mode          mode     `json:"mode" enum:"read,write,upload,all" doc:"read; upload also uploads; write also changes data; all is everything, managing keys too"`
	LimitedToApps []string `json:"limited_to_apps,omitempty" example:"[\"com.demo.app\"]" doc:"The only apps that it is for. Default, also for an empty list: those of your own key, or all"`
	LimitedToOrgs []string `json:"limited_to_orgs,omitempty" doc:"The only organizations that it is for. Default, also for an empty list: those of your own key, or all"`
}

// request is the body, or what the query says in its place: the page shows the one and speaks of the other.
func (in *createInput) request() (*createKeyRequest, error) {
	if in.Body != nil {
		return in.Body, nil
	}
	out := &createKeyRequest{
		Name: in.Name, Mode: mode(in.Mode), LimitedToApps: split(in.LimitedToApps), LimitedToOrgs: split(in.LimitedToOrgs),
	}
	if out.Mode == "" {
		return nil, domain.InvalidField("mode", "is missing", "add it")
	}
	if out.Name == "" {
		return nil, domain.InvalidField("name", "is missing", "add it")
	}
	return out, nil
}

func split(values []string) (out []string) {
	for _, value := range values {
		out = append(out, strings.Split(value, ",")...)
	}
	return out
}

type createdKeyOutput struct {
	Body struct {
		APIKey NewKeyBody `json:"apikey"`
	}
}

// create makes a key beside the caller's own.
func (s *server) create(ctx context.Context, in *createInput) (*createdKeyOutput, error) {
	request, err := in.request()
	if err != nil {
		return nil, err
	}
	caller := surface.Caller(ctx)
	created, err := s.Commands.CreateKey(ctx, surface.Keeping(ctx, showCreated), commands.CreateKey{
		ProjectID: caller.ProjectID, EnvironmentID: caller.EnvironmentID, Name: request.Name, Scopes: scopesOf[request.Mode],
		Resources: limits(caller.Resources, request.LimitedToApps, request.LimitedToOrgs),
	})
	if err != nil {
		return nil, err
	}
	return showCreated(created), nil
}

func showCreated(created commands.CreatedKey) *createdKeyOutput {
	out := &createdKeyOutput{}
	out.Body.APIKey = newBodyOf(created.Key)
	out.Body.APIKey.Key = created.Secret.Reveal()
	return out
}
