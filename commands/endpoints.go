package commands

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// RegisterEndpoint asks for a webhook endpoint in a project.
type RegisterEndpoint struct {
	ProjectID         domain.ProjectID
	URL               string
	SecretMode        domain.SecretMode    // empty: plain
	AckLevel          domain.AckLevel      // empty: accepted
	ReceiverPublicKey string               // base64 of 32 bytes, X25519; empty: none
	EventTypes        []domain.MessageType // nil: all
	Certificate       webhook.ClientCertificate
}

// SignedEndpoint is an endpoint with a signing secret that is shown only once.
type SignedEndpoint struct {
	Endpoint *projections.Endpoint
	Secret   webhook.Secret
}

// RegisterEndpoint makes a webhook endpoint. It gets no key's secret before its receiver has answered a challenge.
func (s *Service) RegisterEndpoint(ctx context.Context, by By, c RegisterEndpoint) (SignedEndpoint, error) {
	if !domain.ValidID(domain.PrefixProject, string(c.ProjectID)) {
		return SignedEndpoint{}, noProject()
	}
	if err := s.cfg.CheckURL(c.URL); err != nil {
		return SignedEndpoint{}, urlRefusal("url", err)
	}
	key, err := receiverKey(c.ReceiverPublicKey)
	if err != nil {
		return SignedEndpoint{}, err
	}
	made := newEndpoint{id: newID[domain.EndpointID](s, domain.PrefixEndpoint)}
	if made.signing, err = s.newSigning(made.id); err != nil {
		return SignedEndpoint{}, err
	}
	shown, sealed := s.sealCertificate(made.id, c.Certificate)
	made.certificate = sealed
	register := domain.RegisterEndpoint{
		Certificate: shown,
		ID:          made.id, AckLevel: cmp.Or(c.AckLevel, domain.AckAccepted), SigningPublicKey: made.public, EventTypes: c.EventTypes,
		Target: domain.Target{URL: c.URL, SecretMode: cmp.Or(c.SecretMode, domain.SecretPlain), ReceiverKey: key},
	}
	outcome := func(events []domain.Event) (SignedEndpoint, error) {
		_, event, err := find[domain.EndpointCreated](events)
		return SignedEndpoint{projections.CreatedEndpoint(event), made.secret}, err
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Reads: []string{string(c.ProjectID)}, Actor: by.actor(), RequestID: by.RequestID, Attach: keeping(s, by, made.attach, outcome),
		Decide: func(view eventstore.View, _ time.Time) ([]domain.Decided, error) {
			project, err := projectOf(view, by.Caller, c.ProjectID)
			if err != nil || project.OrganizationID != by.Caller.OrganizationID {
				return nil, noProject()
			}
			return project.RegisterEndpoint(register)
		},
	})
	if err != nil {
		return SignedEndpoint{}, err
	}
	return outcome(eventstore.EventsOf(records))
}

// UpdateEndpoint asks for another target, or another demand.
type UpdateEndpoint struct {
	ID                domain.EndpointID
	URL               domain.Change[string]
	SecretMode        domain.Change[domain.SecretMode]
	AckLevel          domain.Change[domain.AckLevel]
	ReceiverPublicKey domain.Change[string]               // empty: none any more
	EventTypes        domain.Change[[]domain.MessageType] // nil: all
	Certificate       domain.Change[webhook.ClientCertificate]
}

// UpdateEndpoint edits a webhook endpoint. Who has secrets sent elsewhere must hold all that these secrets can do.
func (s *Service) UpdateEndpoint(ctx context.Context, by By, c UpdateEndpoint) (*projections.Endpoint, error) {
	if c.URL.Set {
		if err := s.cfg.CheckURL(c.URL.Value); err != nil {
			return nil, urlRefusal("url", err)
		}
	}
	key, err := receiverKey(c.ReceiverPublicKey.Value)
	if err != nil {
		return nil, err
	}
	rights, err := s.rightsOver(ctx, by, c.ID)
	if err != nil {
		return nil, err
	}
	shown, sealed := s.sealCertificate(c.ID, c.Certificate.Value)
	update := domain.UpdateEndpoint{
		ID: c.ID, URL: c.URL, SecretMode: c.SecretMode, AckLevel: c.AckLevel, EventTypes: c.EventTypes,
		ReceiverKey: domain.Change[*domain.ReceiverKey]{Set: c.ReceiverPublicKey.Set, Value: key},
		Certificate: domain.Change[*domain.ClientCertificate]{Set: c.Certificate.Set, Value: shown},
	}
	_, err = s.onEndpoint(ctx, by, c.ID, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		if rights.needed = p.Moves(update); rights.needed && rights.refusal != nil {
			return nil, rights.refusal
		}
		return p.Update(update)
	}, func(batch *pgx.Batch, events []domain.Event) error {
		keepCertificate(batch, c.ID, events, sealed)
		return rights.attach(batch, events)
	})
	if err != nil {
		return nil, err
	}
	return s.changedEndpoint(ctx, by, c.ID)
}

// PauseEndpoint has nothing sent to an endpoint until it is resumed.
func (s *Service) PauseEndpoint(ctx context.Context, by By, id domain.EndpointID, reason string) (*projections.Endpoint, error) {
	return s.moveEndpoint(ctx, by, id, func(p *domain.Endpoint) ([]domain.Decided, error) { return p.Pause(reason) })
}

// ResumeEndpoint has what was held sent.
func (s *Service) ResumeEndpoint(ctx context.Context, by By, id domain.EndpointID) (*projections.Endpoint, error) {
	return s.moveEndpoint(ctx, by, id, (*domain.Endpoint).Resume)
}

// EnableEndpoint lets a disabled endpoint begin anew; a registered one has to be verified again.
func (s *Service) EnableEndpoint(ctx context.Context, by By, id domain.EndpointID) (*projections.Endpoint, error) {
	return s.moveEndpoint(ctx, by, id, (*domain.Endpoint).Enable)
}

// DisableEndpoint has nothing sent to an endpoint, and no rotation begun that it would be told of, until it is enabled.
func (s *Service) DisableEndpoint(ctx context.Context, by By, id domain.EndpointID, reason string) (*projections.Endpoint, error) {
	return s.moveEndpoint(ctx, by, id, func(p *domain.Endpoint) ([]domain.Decided, error) { return p.Disable(reason) })
}

// DisableGone disables an endpoint whose receiver wants no more; attach commits with it. It reports whether this did it.
func (s *Service) DisableGone(ctx context.Context, id domain.EndpointID, reason string, attach func(*pgx.Batch, []domain.Event) error) (bool, error) {
	records, err := s.onEndpoint(ctx, System(domain.ActorDeliver), id, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		return p.Disable(reason)
	}, attach)
	return len(records) > 0, err
}

// DeleteEndpoint ends an endpoint that no live key uses, and shreds what it signed with.
func (s *Service) DeleteEndpoint(ctx context.Context, by By, id domain.EndpointID) error {
	_, err := s.onEndpoint(ctx, by, id, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) {
		return p.Delete()
	}, func(batch *pgx.Batch, _ []domain.Event) error {
		projections.QueueAssertUnused(batch, id)
		projections.QueueShredSecrets(batch, id)
		projections.QueueCertificate(batch, id, nil, time.Time{})
		return nil
	})
	return err
}

// RotatedSecret is an endpoint's new signing secret, which is shown only once.
type RotatedSecret struct {
	Endpoint  domain.EndpointID
	Secret    webhook.Secret
	PublicKey string
	ExpiresAt time.Time // when those before end
	Version   int64
}

// RotateSigningSecret gives an endpoint a new signing secret and key pair. Those before sign too for the grace; nil is a
// day, and with 0 all of them end now.
func (s *Service) RotateSigningSecret(ctx context.Context, by By, id domain.EndpointID, grace *time.Duration) (RotatedSecret, error) {
	if grace == nil {
		usual := domain.DefaultSigningGrace
		grace = &usual
	}
	made, err := s.newSigning(id)
	if err != nil {
		return RotatedSecret{}, err
	}
	outcome := func(events []domain.Event) (RotatedSecret, error) {
		rotated, event, err := find[domain.SigningSecretRotated](events)
		return RotatedSecret{id, made.secret, rotated.SigningPublicKey, rotated.ExpiresAt, event.Version}, err
	}
	store := func(batch *pgx.Batch, events []domain.Event) error {
		rotated, event, err := find[domain.SigningSecretRotated](events)
		if err != nil {
			return err
		}
		projections.QueueReplaceSecrets(batch, id, rotated.ExpiresAt, event.OccurredAt)
		projections.QueueEndpointSecrets(batch, id, event.Version, made.sealed, event.OccurredAt)
		return nil
	}
	records, err := s.onEndpoint(ctx, by, id, func(p *domain.Endpoint, now time.Time) ([]domain.Decided, error) {
		return p.RotateSecret(*grace, made.public, now)
	}, keeping(s, by, store, outcome))
	if err != nil {
		return RotatedSecret{}, err
	}
	return outcome(eventstore.EventsOf(records))
}

// moveEndpoint executes a change of an endpoint's state and returns the endpoint.
func (s *Service) moveEndpoint(ctx context.Context, by By, id domain.EndpointID,
	decide func(*domain.Endpoint) ([]domain.Decided, error),
) (*projections.Endpoint, error) {
	_, err := s.onEndpoint(ctx, by, id, func(p *domain.Endpoint, _ time.Time) ([]domain.Decided, error) { return decide(p) }, nil)
	if err != nil {
		return nil, err
	}
	return s.changedEndpoint(ctx, by, id)
}

// changedEndpoint reads an endpoint after a change of it.
func (s *Service) changedEndpoint(ctx context.Context, by By, id domain.EndpointID) (*projections.Endpoint, error) {
	endpoint, err := s.cfg.Reader.Endpoint(ctx, by.reach(), id)
	if err != nil && domain.CodeOf(err) != domain.CodeNotFound { // deleted since
		return nil, unread("webhook endpoint", err)
	}
	return endpoint, err
}

// onEndpoint executes a command on one endpoint. For rekey's own work it may be anybody's.
func (s *Service) onEndpoint(ctx context.Context, by By, id domain.EndpointID,
	decide func(*domain.Endpoint, time.Time) ([]domain.Decided, error), attach func(*pgx.Batch, []domain.Event) error,
) ([]eventstore.Record, error) {
	if !by.own() {
		if _, err := s.cfg.Reader.Endpoint(ctx, by.reach(), id); err != nil { // also one of a project that was deleted
			return nil, err
		}
	}
	return s.cfg.Store.Execute(ctx, eventstore.Command{
		Writes: []string{string(id)}, Expected: by.Expected, Actor: by.actor(), RequestID: by.RequestID, Attach: attach,
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			p, err := view.Endpoint(id)
			if err != nil || !by.own() && !by.mayUse(p.OrganizationID, p.ProjectID) {
				return nil, noEndpoint()
			}
			return decide(p, now)
		},
	})
}

// noEndpoint is the one refusal for an endpoint that is unknown, foreign, or cannot even be one.
func noEndpoint() error { return domain.NotFound("webhook endpoint") }

// rights are those of the keys that use an endpoint, held against the caller's (guarantee G8): whoever has their secrets
// sent elsewhere could use them.
type rights struct {
	id      domain.EndpointID
	seen    []domain.Caller
	refusal error // the caller lacks one of them
	needed  bool
}

// rightsOver looks at the keys that use an endpoint.
func (s *Service) rightsOver(ctx context.Context, by By, id domain.EndpointID) (*rights, error) {
	seen, err := s.cfg.Reader.EndpointGrants(ctx, by.reach(), id)
	if err != nil {
		return nil, err
	}
	r := &rights{id: id, seen: seen}
	for _, key := range seen {
		if !by.Caller.Covers(key) {
			refusal := domain.InvalidField("url", "is where keys' secrets go that can do more than your key",
				"use a key that holds all that they hold")
			refusal.Code = domain.CodeEscalation
			r.refusal = refusal
		}
	}
	return r, nil
}

// attach makes sure that no other key has come to the endpoint since.
func (r *rights) attach(batch *pgx.Batch, _ []domain.Event) error {
	if r.needed {
		projections.QueueAssertRights(batch, r.id, r.seen)
	}
	return nil
}

// receiverKey reads the public key of a receiver; an empty text is none.
func receiverKey(text string) (*domain.ReceiverKey, error) {
	if text == "" {
		return nil, nil
	}
	key, err := webhook.ParseReceiverKey(text)
	if err != nil {
		return nil, domain.InvalidField("receiver_public_key", "is not an X25519 public key",
			"send the 32 bytes of the public key in standard base64").WithCause(err)
	}
	return &domain.ReceiverKey{ID: key.ID(), PublicKey: key.String()}, nil
}

// urlRefusal names the field and the remedy for an address that cannot be a receiver.
func urlRefusal(field string, err error) error {
	if bad, ok := errors.AsType[*webhook.URLError](err); ok {
		refusal := domain.InvalidField(field, bad.Reason, bad.Remedy)
		refusal.Message = bad.Reason // already a sentence of its own
		return refusal
	}
	return domain.InvalidField(field, "cannot be used", "use an https URL of a public host").WithCause(err)
}
