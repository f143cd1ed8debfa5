package api

import (
	"cmp"
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// The body has room for the token of the largest set.
const (
	bulkBodyBytes   = 512 << 10
	bulkBodyTimeout = 10 * time.Second
)

type bulkRevokeInput struct {
	Body struct {
		ProjectID     *domain.ProjectID     `json:"project_id,omitempty" nullable:"true" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Keys of this project"`
		EnvironmentID *domain.EnvironmentID `json:"environment_id,omitempty" nullable:"true" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Keys of this environment"`
		CreatedBy     *domain.KeyID         `json:"created_by,omitempty" nullable:"true" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Keys that were made with this key, and their successors"`
		Scope         *string               `json:"scope,omitempty" nullable:"true" minLength:"1" maxLength:"100" example:"billing:write" doc:"Keys whose scopes list exactly this one; a wider one such as * does not match"`
		KeyPrefix     *string               `json:"key_prefix,omitempty" nullable:"true" minLength:"1" maxLength:"64" example:"rk_live_x7" doc:"Keys whose key_prefix begins so"`
		UnusedSince   *string               `json:"unused_since,omitempty" nullable:"true" format:"date-time" doc:"Keys that are older than this time, and that neither they nor other keys of their lineage were used since; uses of the last second may be missing"`
		Reason        *string               `json:"reason,omitempty" nullable:"true" maxLength:"500" doc:"Why, for the history"`
		DryRun        bool                  `json:"dry_run,omitempty" doc:"Name the keys and revoke none"`
		Token         *string               `json:"token,omitempty" nullable:"true" doc:"That of a dry run with the same criteria, at most ten minutes ago"`
	}
}

// bulkRevokedBody is the answer of both calls.
type bulkRevokedBody struct {
	DryRun    bool       `json:"dry_run" doc:"Nothing was revoked"`
	Count     *int       `json:"count,omitempty" example:"2" doc:"How many keys would be revoked; only after a dry run"`
	Revoked   *int       `json:"revoked,omitempty" example:"2" doc:"How many keys were revoked; not after a dry run"`
	Keys      []bulkKey  `json:"keys" nullable:"false" doc:"Oldest first"`
	Token     *string    `json:"token,omitempty" doc:"To be sent with the same criteria to revoke these keys; only after a dry run"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Until when the token is good"`
}

// bulkKey is as much of a key as one needs to know it again.
type bulkKey struct {
	ID         domain.KeyID     `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a"`
	Name       string           `json:"name" example:"CI of the billing service"`
	KeyPrefix  string           `json:"key_prefix" example:"rk_live_x7Fq"`
	LastFour   string           `json:"last_four" example:"9aZk"`
	ProjectID  domain.ProjectID `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	CreatedAt  time.Time        `json:"created_at"`
	LastUsedAt *time.Time       `json:"last_used_at" doc:"null: not known to be used"`
	Status     domain.Status    `json:"status" enum:"active,pending,grace,revoked,expired,retired"`
}

// bulkRevokes lets the route take such bodies, and documents what the fields cannot say.
func bulkRevokes(operation *huma.Operation) {
	surface.Bodies(bulkBodyBytes, bulkBodyTimeout)(operation)
	operation.Description += " All criteria that are given must hold, and at least one must be given. Send the request with " +
		"`dry_run` first: it names the keys and gives a token. Send the same criteria with that token to revoke exactly these keys. " +
		"If others match by then, the answer is 409 `selection_changed` and nothing is revoked. Revoking an active key ends all live " +
		"keys of its lineage, so they are named too; keys of the caller's own lineage never match. At most 10,000 keys at once. If it fails on the " +
		"way, the same request may be sent again: it goes on with the keys that are left."
}

func (s *server) bulkRevoke(ctx context.Context, in *bulkRevokeInput) (*struct{ Body bulkRevokedBody }, error) {
	b := &in.Body
	unused, badTime := surface.Instant("unused_since", b.UnusedSince)
	if err := cmp.Or(
		surface.CheckFilter("project_id", domain.PrefixProject, string(surface.OrZero(b.ProjectID))),
		surface.CheckFilter("environment_id", domain.PrefixEnvironment, string(surface.OrZero(b.EnvironmentID))),
		surface.CheckFilter("created_by", domain.PrefixKey, string(surface.OrZero(b.CreatedBy))),
		badTime,
	); err != nil {
		return nil, err
	}
	done, err := s.Commands.BulkRevoke(ctx, surface.By(ctx), commands.BulkRevoke{
		Selection: projections.Selection{
			Project: surface.OrZero(b.ProjectID), Environment: surface.OrZero(b.EnvironmentID), CreatedBy: surface.OrZero(b.CreatedBy),
			Scope: surface.OrZero(b.Scope), KeyPrefix: surface.OrZero(b.KeyPrefix), UnusedSince: unused,
		},
		Reason: surface.OrZero(b.Reason), DryRun: b.DryRun, Token: surface.OrZero(b.Token),
	})
	if err != nil {
		return nil, err
	}
	return &struct{ Body bulkRevokedBody }{s.shownBulk(b.DryRun, done)}, nil
}

func (s *server) shownBulk(dryRun bool, done commands.BulkRevoked) bulkRevokedBody {
	n := len(done.Keys)
	out := bulkRevokedBody{DryRun: dryRun, Keys: make([]bulkKey, n)}
	for i, k := range done.Keys {
		out.Keys[i] = bulkKey{
			ID: k.ID, Name: k.Name, KeyPrefix: k.Secret.Prefix, LastFour: k.Secret.LastFour, ProjectID: k.ProjectID,
			CreatedAt: k.CreatedAt, LastUsedAt: k.LastUsedAt, Status: k.StatusAt(s.Now()),
		}
		if !dryRun {
			out.Keys[i].Status = domain.StatusRevoked
		}
	}
	if !dryRun {
		out.Revoked = &n
		return out
	}
	out.Count, out.Token, out.ExpiresAt = &n, &done.Token, &done.ExpiresAt
	return out
}
