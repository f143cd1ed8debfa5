package api

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

// An import has room for a thousand keys with some metadata each.
const (
	importBodyBytes   = 2 << 20
	importBodyTimeout = 20 * time.Second
)

// imports lets the route take such bodies, and documents what the fields cannot say.
func imports(operation *huma.Operation) {
	surface.Bodies(importBodyBytes, importBodyTimeout)(operation)
	operation.Description += " All keys are imported or none: a refusal names the first fault of each entry, up to 20 of them. A secret that is " +
		"a key of this project already is left as it is, so an import that broke off can simply be sent again. Imported keys verify, " +
		"rotate and end like all others; their successors have rekey's own form."
}

type importKeysInput struct {
	Body struct {
		ProjectID     domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		EnvironmentID *domain.EnvironmentID `json:"environment_id,omitempty" nullable:"true" example:"env_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Default: the project's first environment"`
		DryRun        bool                  `json:"dry_run,omitempty" doc:"Answer what would be done, and do nothing"`
		Keys          []importKeyRequest    `json:"keys" nullable:"false" minItems:"1" maxItems:"1000" doc:"Each with key or sha256, and the settings of any new key"`
	}
}

// importKeyRequest is one key of another system.
type importKeyRequest struct {
	Key               *string            `json:"key,omitempty" nullable:"true" doc:"The secret as its holder has it: 16 to 512 visible ASCII characters"`
	SHA256            *string            `json:"sha256,omitempty" nullable:"true" example:"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9" doc:"In place of key: the SHA-256 of the secret, in hexadecimal or base64"`
	KeyPrefix         *string            `json:"key_prefix,omitempty" nullable:"true" example:"sk_live_x7Fq" doc:"Beside sha256: the first characters of the secret, at most 16, shown in lists"`
	LastFour          *string            `json:"last_four,omitempty" nullable:"true" example:"9aZk" doc:"Beside sha256: the last characters of the secret, shown in lists"`
	WebhookEndpointID *domain.EndpointID `json:"webhook_endpoint_id,omitempty" nullable:"true" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a" doc:"A registered webhook endpoint of the project, in place of rotation_webhook_url"`
	KeySettings
}

type importKeysOutput struct {
	Body struct {
		DryRun   bool          `json:"dry_run" doc:"Nothing was done"`
		Created  int           `json:"created" example:"2" doc:"How many keys were made; after a dry run, would be"`
		Existing int           `json:"existing" example:"0" doc:"How many were there already and were left as they are"`
		Keys     []importedKey `json:"keys" nullable:"false" doc:"In the order of the request"`
	}
}

// importedKey is what became of one of them.
type importedKey struct {
	Index                 int            `json:"index" example:"0" doc:"Its place in the request"`
	Result                string         `json:"result" enum:"created,would_create,exists" doc:"exists: a key of this project, maybe an ended one, has this secret; the settings in the request were not looked at"`
	ID                    *domain.KeyID  `json:"id" example:"key_01jz8q0v6me5et8b3k2c9d4x7a" doc:"null: it would be made"`
	Status                *domain.Status `json:"status" enum:"active,pending,grace,revoked,expired,retired" doc:"null: it would be made. What has ended stays so"`
	Name                  string         `json:"name" example:"CI of the billing service"`
	KeyPrefix             string         `json:"key_prefix" example:"sk_live_x7Fq"`
	LastFour              string         `json:"last_four" example:"9aZk"`
	RotationWebhookSecret *string        `json:"rotation_webhook_secret" example:"whsec_..." doc:"What the webhooks of a new key are signed with. It is shown only here; null without a webhook"`
}

func (s *server) importKeys(ctx context.Context, in *importKeysInput) (*importKeysOutput, error) {
	b := &in.Body
	request := commands.ImportKeys{
		ProjectID: b.ProjectID, EnvironmentID: surface.OrZero(b.EnvironmentID), DryRun: b.DryRun, Keys: make([]commands.ImportKey, len(b.Keys)),
	}
	for i := range b.Keys {
		k := &b.Keys[i]
		settings, err := k.command()
		settings.EndpointID = surface.OrZero(k.WebhookEndpointID)
		request.Keys[i] = commands.ImportKey{CreateKey: settings, Fault: err, Secret: domain.ForeignSecret{
			Key: surface.OrZero(k.Key), SHA256: surface.OrZero(k.SHA256), KeyPrefix: surface.OrZero(k.KeyPrefix), LastFour: surface.OrZero(k.LastFour),
		}}
	}
	shown := func(keys []commands.ImportedKey) *importKeysOutput { return shownImported(keys, b.DryRun) }
	imported, err := s.Commands.ImportKeys(ctx, surface.Keeping(ctx, shown), request)
	if err != nil {
		return nil, err
	}
	return shown(imported), nil
}

func shownImported(keys []commands.ImportedKey, dryRun bool) *importKeysOutput {
	out := &importKeysOutput{}
	out.Body.DryRun, out.Body.Keys = dryRun, make([]importedKey, len(keys))
	for i, k := range keys {
		shown := importedKey{Index: i, Result: "created", Name: k.Name, KeyPrefix: k.Prefix, LastFour: k.LastFour}
		switch {
		case k.Exists:
			shown.Result = "exists"
			out.Body.Existing++
		case dryRun:
			shown.Result = "would_create"
			out.Body.Created++
		default:
			out.Body.Created++
		}
		if k.ID != "" {
			shown.ID, shown.Status = &k.ID, &k.Status
		}
		if !k.WebhookSecret.IsZero() {
			secret := k.WebhookSecret.Reveal()
			shown.RotationWebhookSecret = &secret
		}
		out.Body.Keys[i] = shown
	}
	return out
}
