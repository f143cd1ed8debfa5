package api

import (
	"context"
	"net/url"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

// TargetBody is where secrets go and how. It is exported because huma and encoding/json show the fields of an embedded
// struct only then.
type TargetBody struct {
	URL                 *string           `json:"url" example:"https://hooks.example.com/rekey" doc:"null in lists: an address may hold what only its owner should know"`
	Host                string            `json:"host" example:"hooks.example.com" doc:"Of the address, with its port if it names one"`
	SecretMode          domain.SecretMode `json:"secret_mode" enum:"plain,sealed,claim" doc:"plain: in the signed body. sealed: encrypted to the receiver's public key. claim: fetched once, at an address in the body"`
	ReceiverPublicKey   *string           `json:"receiver_public_key" example:"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=" doc:"What secrets are sealed to: X25519, in base64"`
	ReceiverPublicKeyID *string           `json:"receiver_public_key_id" example:"1f2e3d4c5b6a7988" doc:"Names it in messages"`
}

// EndpointBody is a webhook endpoint. It is exported for the reason of TargetBody.
type EndpointBody struct {
	ID             domain.EndpointID     `json:"id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a"`
	OrganizationID domain.OrganizationID `json:"organization_id" example:"org_01jz8q0v6me5et8b3k2c9d4x7a"`
	ProjectID      domain.ProjectID      `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
	LineageID      *domain.LineageID     `json:"lineage_id" example:"lin_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The key whose rotation_webhook_url this is; null: it was registered"`
	TargetBody
	Proposed                     surface.Nullable[TargetBody]      `json:"proposed" doc:"What takes the place of the target once the receiver has answered a challenge there; null: nothing"`
	AckLevel                     domain.AckLevel                   `json:"ack_level" enum:"accepted,proof,first_use" doc:"What counts as the secret's arrival. accepted: a 2xx answer. proof: one that shows that the secret can be read. first_use: that it was used"`
	EventTypes                   []domain.MessageType              `json:"event_types" enum:"key.rotation.created,key.rotation.acknowledged,key.rotation.stalled,key.rotation.blocked,key.rotation.deferred,key.rotation.completed,key.rotation.cancelled,key.rotation.claimed_again,key.version.retired,key.version.used_in_grace,key.expiring,key.revoked,endpoint.disabled,endpoint.failing" doc:"What it is told of; null: everything. New secrets of its keys always go there"`
	State                        domain.EndpointState              `json:"state" enum:"unverified,active,paused,disabled" doc:"Webhooks are sent to an active endpoint and held for others. While it is unverified or disabled, no rotation begins"`
	StateReason                  *string                           `json:"state_reason" doc:"Why it was paused or disabled"`
	SigningPublicKey             *string                           `json:"signing_public_key" example:"whpk_..." doc:"Verifies signatures of version v1a; null: there are none"`
	ClientCertificate            surface.Nullable[CertificateBody] `json:"client_certificate" doc:"What rekey shows to a receiver that asks who calls; null: nothing"`
	PreviousSigningSecretsExpire *time.Time                        `json:"previous_signing_secrets_expire_at" doc:"Until when replaced signing secrets sign too; null: none does"`
	VerifiedAt                   *time.Time                        `json:"verified_at" doc:"When the receiver last answered a challenge"`
	CreatedAt                    time.Time                         `json:"created_at"`
	UpdatedAt                    time.Time                         `json:"updated_at" doc:"When it was made or changed last"`
}

func bodyOfTarget(t domain.Target) TargetBody {
	b := TargetBody{URL: &t.URL, Host: hostOf(t.URL), SecretMode: t.SecretMode}
	if key := t.ReceiverKey; key != nil {
		b.ReceiverPublicKey, b.ReceiverPublicKeyID = &key.PublicKey, &key.ID
	}
	return b
}

// bodyOfEndpoint shows an endpoint at a moment.
func bodyOfEndpoint(e *projections.Endpoint, now time.Time) EndpointBody {
	b := EndpointBody{
		ID: e.ID, OrganizationID: e.OrganizationID, ProjectID: e.ProjectID, LineageID: orNull(e.LineageID),
		TargetBody: bodyOfTarget(e.Target), AckLevel: e.AckLevel, EventTypes: e.EventTypes, State: e.State, StateReason: orNull(e.Reason),
		SigningPublicKey: orNull(e.SigningPublicKey), ClientCertificate: bodyOfCertificate(e.ClientCertificate), VerifiedAt: e.VerifiedAt, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt,
	}
	if e.Proposed != nil {
		proposed := bodyOfTarget(*e.Proposed)
		b.Proposed.Value = &proposed
	}
	if end := e.OldSecretsExpireAt; end != nil && end.After(now) {
		b.PreviousSigningSecretsExpire = end
	}
	return b
}

// listed is an endpoint without its full addresses, as lists show it: many may read a list who have no business with the
// paths and queries of receivers.
func (b EndpointBody) listed() EndpointBody {
	b.URL = nil
	if b.Proposed.Value != nil {
		proposed := *b.Proposed.Value
		proposed.URL = nil
		b.Proposed.Value = &proposed
	}
	return b
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// orNull is nil for nothing, which JSON shows as null.
func orNull[T comparable](v T) *T {
	var none T
	if v == none {
		return nil
	}
	return &v
}

// EndpointPath is the webhook endpoint that a path names. It is exported because huma fills embedded fields only then.
type EndpointPath struct {
	ID domain.EndpointID `path:"id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a" doc:"The webhook endpoint"`
}

type endpointOutput struct {
	ETag string `header:"ETag" doc:"Of the endpoint as it is here, for If-Match"`
	Body EndpointBody
}

func (s *server) shownEndpoint(e *projections.Endpoint, err error) (*endpointOutput, error) {
	if err != nil {
		return nil, err
	}
	return &endpointOutput{ETag: surface.ETag(e.Version), Body: bodyOfEndpoint(e, s.Now())}, nil
}

type listEndpointsInput struct {
	surface.PageInput
	ProjectID domain.ProjectID `query:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Only of this project"`
}

func (s *server) listEndpoints(ctx context.Context, in *listEndpointsInput) (*surface.List[EndpointBody], error) {
	if err := in.Check(domain.PrefixEndpoint); err != nil {
		return nil, err
	}
	if in.ProjectID != "" {
		if _, err := s.project(ctx, in.ProjectID); err != nil {
			return nil, err
		}
	}
	found, err := s.Reader.Endpoints(ctx, projections.EndpointList{
		Reach: surface.Reach(ctx), Project: in.ProjectID, Before: domain.EndpointID(in.Cursor), Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/webhook-endpoints", found,
		func(e *projections.Endpoint) string { return string(e.ID) }, url.Values{"project_id": {string(in.ProjectID)}},
		func(e *projections.Endpoint) EndpointBody { return bodyOfEndpoint(e, s.Now()).listed() }), nil
}

func (s *server) getEndpoint(ctx context.Context, in *EndpointPath) (*endpointOutput, error) {
	return s.shownEndpoint(s.Reader.Endpoint(ctx, surface.Reach(ctx), in.ID))
}

type registerEndpointInput struct {
	Body struct {
		ProjectID         domain.ProjectID                   `json:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a"`
		URL               string                             `json:"url" example:"https://hooks.example.com/rekey" doc:"Of the receiver: https, a public host"`
		SecretMode        *domain.SecretMode                 `json:"secret_mode,omitempty" nullable:"true" enum:"plain,sealed,claim" doc:"Default plain; sealed needs receiver_public_key"`
		AckLevel          *domain.AckLevel                   `json:"ack_level,omitempty" nullable:"true" enum:"accepted,proof,first_use" doc:"Default accepted"`
		ReceiverPublicKey *string                            `json:"receiver_public_key,omitempty" nullable:"true" doc:"The receiver's X25519 public key: 32 bytes in base64"`
		ClientCertificate surface.Optional[GivenCertificate] `json:"client_certificate,omitempty" doc:"Shown to a receiver that asks who calls (mutual TLS); url must be https. It is stored sealed, and no answer shows the key"`
		EventTypes        []domain.MessageType               `json:"event_types,omitempty" enum:"key.rotation.created,key.rotation.acknowledged,key.rotation.stalled,key.rotation.blocked,key.rotation.deferred,key.rotation.completed,key.rotation.cancelled,key.rotation.claimed_again,key.version.retired,key.version.used_in_grace,key.expiring,key.revoked,endpoint.disabled,endpoint.failing" doc:"What it is told of; null or left out: everything. New secrets of its keys always go there"`
	}
}

// signedEndpointBody is an endpoint with what is shown only once.
type signedEndpointBody struct {
	EndpointBody
	SigningSecret string `json:"signing_secret" example:"whsec_..." doc:"What the webhooks are signed with. It is shown only here"`
}

type signedEndpointOutput struct {
	ETag string `header:"ETag" doc:"Of the endpoint as it is here, for If-Match"`
	Body signedEndpointBody
}

func (s *server) registerEndpoint(ctx context.Context, in *registerEndpointInput) (*signedEndpointOutput, error) {
	wanted := commands.RegisterEndpoint{
		ProjectID: in.Body.ProjectID, URL: in.Body.URL, SecretMode: surface.OrZero(in.Body.SecretMode),
		AckLevel: surface.OrZero(in.Body.AckLevel), ReceiverPublicKey: surface.OrZero(in.Body.ReceiverPublicKey),
		EventTypes: in.Body.EventTypes,
	}
	if err := s.addCertificate(&wanted, in.Body.ClientCertificate); err != nil {
		return nil, err
	}
	made, err := s.Commands.RegisterEndpoint(ctx, surface.Keeping(ctx, s.shownRegistered), wanted)
	if err != nil {
		return nil, err
	}
	return s.shownRegistered(made), nil
}

func (s *server) shownRegistered(made commands.SignedEndpoint) *signedEndpointOutput {
	return &signedEndpointOutput{
		ETag: surface.ETag(made.Endpoint.Version), Body: signedEndpointBody{bodyOfEndpoint(made.Endpoint, s.Now()), made.Secret.Reveal()},
	}
}

type updateEndpointInput struct {
	EndpointPath
	surface.IfMatch
	Body struct {
		URL               surface.Optional[string]               `json:"url,omitempty" nullable:"false" doc:"Takes the place of the one in use once the receiver has answered a challenge there"`
		SecretMode        surface.Optional[domain.SecretMode]    `json:"secret_mode,omitempty" nullable:"false" enum:"plain,sealed,claim" doc:"sealed needs receiver_public_key"`
		AckLevel          surface.Optional[domain.AckLevel]      `json:"ack_level,omitempty" nullable:"false" enum:"accepted,proof,first_use" doc:"What counts as the arrival of a secret"`
		ReceiverPublicKey surface.Optional[string]               `json:"receiver_public_key,omitempty" doc:"As url; null: none"`
		ClientCertificate surface.Optional[GivenCertificate]     `json:"client_certificate,omitempty" doc:"Takes the place of the one before at once; null: none any more"`
		EventTypes        surface.Optional[[]domain.MessageType] `json:"event_types,omitempty" enum:"key.rotation.created,key.rotation.acknowledged,key.rotation.stalled,key.rotation.blocked,key.rotation.deferred,key.rotation.completed,key.rotation.cancelled,key.rotation.claimed_again,key.version.retired,key.version.used_in_grace,key.expiring,key.revoked,endpoint.disabled,endpoint.failing" doc:"What it is told of; null: everything"`
	}
}

func (s *server) updateEndpoint(ctx context.Context, in *updateEndpointInput) (*endpointOutput, error) {
	for field, null := range map[string]bool{"url": in.Body.URL.Null, "secret_mode": in.Body.SecretMode.Null, "ack_level": in.Body.AckLevel.Null} {
		if null {
			return nil, domain.InvalidField(field, "cannot be null", "leave it out to keep it as it is")
		}
	}
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	wanted := commands.UpdateEndpoint{
		ID: in.ID, URL: in.Body.URL.Change(), SecretMode: in.Body.SecretMode.Change(), AckLevel: in.Body.AckLevel.Change(),
		ReceiverPublicKey: in.Body.ReceiverPublicKey.Change(), EventTypes: in.Body.EventTypes.Change(),
	}
	if err := s.changeCertificate(&wanted, in.Body.ClientCertificate); err != nil {
		return nil, err
	}
	return s.shownEndpoint(s.Commands.UpdateEndpoint(ctx, by, wanted))
}

type deleteEndpointInput struct {
	EndpointPath
	surface.IfMatch
}

func (s *server) deleteEndpoint(ctx context.Context, in *deleteEndpointInput) (*struct{}, error) {
	by, err := in.Expecting(ctx, surface.By(ctx))
	if err != nil {
		return nil, err
	}
	return nil, s.Commands.DeleteEndpoint(ctx, by, in.ID)
}

type probeOutput struct {
	Body struct {
		Delivered bool         `json:"delivered" doc:"Whether the receiver answered as it should"`
		Code      string       `json:"code" example:"delivered" doc:"Stable: delivered, or why not"`
		Message   string       `json:"message" example:"The receiver accepted the webhook." doc:"The code in words"`
		Status    *int         `json:"http_status" example:"204" doc:"What the receiver answered; null: nothing"`
		Endpoint  EndpointBody `json:"endpoint" doc:"As it is now"`
	}
}

func (s *server) verifyEndpoint(ctx context.Context, in *EndpointPath) (*probeOutput, error) {
	return s.shownProbe(s.Commands.VerifyEndpoint(ctx, surface.By(ctx), in.ID))
}

func (s *server) testEndpoint(ctx context.Context, in *EndpointPath) (*probeOutput, error) {
	return s.shownProbe(s.Commands.TestEndpoint(ctx, surface.By(ctx), in.ID))
}

// shownProbe tells how it went, and nothing of what the receiver said or where it is.
func (s *server) shownProbe(p commands.Probe, err error) (*probeOutput, error) {
	if err != nil {
		return nil, err
	}
	out := &probeOutput{}
	b := &out.Body
	b.Delivered, b.Code, b.Message = p.Outcome.Delivered(), string(p.Outcome), p.Outcome.Message()
	b.Status, b.Endpoint = orNull(p.Status), bodyOfEndpoint(p.Endpoint, s.Now())
	return out, nil
}

type reasonInput struct {
	EndpointPath
	Body *struct {
		Reason *string `json:"reason,omitempty" nullable:"true" maxLength:"500" doc:"Why, for those who look at it later"`
	}
}

func (in *reasonInput) reason() string {
	if in.Body == nil {
		return ""
	}
	return surface.OrZero(in.Body.Reason)
}

func (s *server) pauseEndpoint(ctx context.Context, in *reasonInput) (*endpointOutput, error) {
	return s.shownEndpoint(s.Commands.PauseEndpoint(ctx, surface.By(ctx), in.ID, in.reason()))
}

func (s *server) disableEndpoint(ctx context.Context, in *reasonInput) (*endpointOutput, error) {
	return s.shownEndpoint(s.Commands.DisableEndpoint(ctx, surface.By(ctx), in.ID, in.reason()))
}

func (s *server) resumeEndpoint(ctx context.Context, in *EndpointPath) (*endpointOutput, error) {
	return s.shownEndpoint(s.Commands.ResumeEndpoint(ctx, surface.By(ctx), in.ID))
}

func (s *server) enableEndpoint(ctx context.Context, in *EndpointPath) (*endpointOutput, error) {
	return s.shownEndpoint(s.Commands.EnableEndpoint(ctx, surface.By(ctx), in.ID))
}

type rotateSecretInput struct {
	EndpointPath
	Body *struct {
		GraceSeconds *int64 `json:"grace_seconds,omitempty" nullable:"true" minimum:"0" maximum:"604800" doc:"How long those before sign too; 0 ends all of them now; default 86400"`
	}
}

type rotatedSecretOutput struct {
	ETag string `header:"ETag" doc:"Of the endpoint, for If-Match"`
	Body struct {
		ID                domain.EndpointID `json:"id" example:"ep_01jz8q0v6me5et8b3k2c9d4x7a"`
		SigningSecret     string            `json:"signing_secret" example:"whsec_..." doc:"The new one. It is shown only here"`
		SigningPublicKey  string            `json:"signing_public_key" example:"whpk_..." doc:"Of the new key pair, for signatures of version v1a"`
		PreviousExpiresAt time.Time         `json:"previous_signing_secret_expires_at" doc:"When the one before ends; now, if it has ended"`
	}
}

func (s *server) rotateSigningSecret(ctx context.Context, in *rotateSecretInput) (*rotatedSecretOutput, error) {
	var grace *time.Duration
	if in.Body != nil && in.Body.GraceSeconds != nil {
		wanted := time.Duration(*in.Body.GraceSeconds) * time.Second
		grace = &wanted
	}
	rotated, err := s.Commands.RotateSigningSecret(ctx, surface.Keeping(ctx, shownRotatedSecret), in.ID, grace)
	if err != nil {
		return nil, err
	}
	return shownRotatedSecret(rotated), nil
}

func shownRotatedSecret(r commands.RotatedSecret) *rotatedSecretOutput {
	out := &rotatedSecretOutput{ETag: surface.ETag(r.Version)}
	b := &out.Body
	b.ID, b.SigningSecret, b.SigningPublicKey, b.PreviousExpiresAt = r.Endpoint, r.Secret.Reveal(), r.PublicKey, r.ExpiresAt
	return out
}

// endpointRoutes are those of webhook endpoints.
func (s *server) endpointRoutes() {
	const (
		all  = "/v1/webhook-endpoints"
		one  = all + "/{id}"
		read = domain.ScopeWebhooksRead
		edit = domain.ScopeWebhooksEdit
	)
	on := s.native
	surface.Closed(on, get(all, "list-webhook-endpoints", "List webhook endpoints", read), s.listEndpoints)
	surface.Closed(on, post(all, "create-webhook-endpoint", "Register a webhook endpoint", edit), s.registerEndpoint, surface.Creates)
	surface.Closed(on, get(one, "get-webhook-endpoint", "Get a webhook endpoint", read), s.getEndpoint)
	surface.Closed(on, patch(one, "update-webhook-endpoint", "Change a webhook endpoint", edit), s.updateEndpoint, surface.Conditional)
	surface.Closed(on, remove(one, "delete-webhook-endpoint", "Delete a webhook endpoint that no live key uses", edit), s.deleteEndpoint, surface.Conditional)
	surface.Closed(on, post(one+"/verify", "verify-webhook-endpoint", "Ask the receiver a signed challenge", edit), s.verifyEndpoint)
	surface.Closed(on, post(one+"/test", "test-webhook-endpoint", "Send the receiver a webhook that means nothing", edit), s.testEndpoint)
	surface.Closed(on, post(one+"/pause", "pause-webhook-endpoint", "Hold what would be sent", edit), s.pauseEndpoint)
	surface.Closed(on, post(one+"/resume", "resume-webhook-endpoint", "Send what was held", edit), s.resumeEndpoint)
	surface.Closed(on, post(one+"/disable", "disable-webhook-endpoint", "Send nothing, and begin no rotation", edit), s.disableEndpoint)
	surface.Closed(on, post(one+"/enable", "enable-webhook-endpoint", "Let a disabled endpoint begin anew; a registered one must then be verified", edit), s.enableEndpoint)
	surface.Closed(on, post(one+"/rotate-secret", "rotate-webhook-signing-secret", "Replace the signing secret", edit), s.rotateSigningSecret)
}
