package commands

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// CreateKey asks for a new key.
type CreateKey struct {
	ProjectID               domain.ProjectID
	EnvironmentID           domain.EnvironmentID // empty: the project's first
	Name                    string
	Scopes                  domain.Scopes // none: all that the caller holds
	Resources               domain.Resources
	ExpiresAt               *time.Time
	RotationIntervalSeconds int64
	GraceSeconds            *int64 // nil: an hour, or half the interval if that is shorter
	WebhookURL              string
	EndpointID              domain.EndpointID // a registered endpoint, in place of WebhookURL
	Metadata                json.RawMessage
	Disabled                bool
	AllowedIPs              domain.Networks
	RateLimit               *domain.RateLimit
	UsageLimit              *domain.UsageLimit
}

// CreatedKey is a new key with what is shown only once.
type CreatedKey struct {
	Key           *projections.Key
	Secret        domain.Secret
	WebhookSecret webhook.Secret // zero without a webhook
}

// CreateKey makes a new lineage with its first key.
func (s *Service) CreateKey(ctx context.Context, by By, c CreateKey) (CreatedKey, error) {
	var out CreatedKey
	if !domain.ValidID(domain.PrefixProject, string(c.ProjectID)) {
		return out, noProject()
	}
	reads, err := c.reads()
	if err != nil {
		return out, err
	}
	endpoint, err := s.newEndpoint(c.WebhookURL)
	if err != nil {
		return out, err
	}
	create := s.newKey(by, c, endpoint)
	create.Mint = s.mint(&out.Secret)
	outcome := func(events []domain.Event) (CreatedKey, error) {
		_, event, err := find[domain.Created](events)
		out.Key, out.WebhookSecret = projections.CreatedKey(event), endpoint.secret
		return out, err
	}
	records, err := s.cfg.Store.Execute(ctx, eventstore.Command{
		Reads: reads, Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			project, err := projectOf(view, by.Caller, c.ProjectID)
			if err != nil {
				return nil, err
			}
			if create.Endpoint, err = endpointFor(view, c.EndpointID); err != nil {
				return nil, err
			}
			return project.CreateKeyIn(create, s.cfg.Limits, now)
		},
		Attach: keeping(s, by, endpoint.attach, outcome),
	})
	if err != nil {
		return CreatedKey{}, err
	}
	made, err := outcome(eventstore.EventsOf(records))
	if err != nil {
		return CreatedKey{}, err
	}
	s.cfg.Reader.Owned(made.Key.ID, made.Key.OrganizationID, made.Key.LineageID, made.Key.ProjectID)
	return made, nil
}

// reads are the streams that the decision looks at.
func (c CreateKey) reads() ([]string, error) {
	switch {
	case c.EndpointID == "":
		return []string{string(c.ProjectID)}, nil
	case c.WebhookURL != "":
		return nil, domain.TwoReceivers()
	case !domain.ValidID(domain.PrefixEndpoint, string(c.EndpointID)):
		return nil, noEndpoint()
	}
	return []string{string(c.ProjectID), string(c.EndpointID)}, nil
}

// endpointFor returns the endpoint that a command names for a key; none is none. Whether it is one for the key, the
// domain says.
func endpointFor(view eventstore.View, id domain.EndpointID) (*domain.Endpoint, error) {
	if id == "" {
		return nil, nil
	}
	return view.Endpoint(id)
}

// newKey is the request as the domain decides it, but for the secret.
func (s *Service) newKey(by By, c CreateKey, endpoint newEndpoint) domain.CreateKey {
	create := domain.CreateKey{
		LineageID: newID[domain.LineageID](s, domain.PrefixLineage), KeyID: newID[domain.KeyID](s, domain.PrefixKey),
		Environment: c.EnvironmentID, Caller: by.Caller, SigningPublicKey: endpoint.public, GraceSet: c.GraceSeconds != nil,
		Settings: domain.Settings{
			Name: c.Name, Scopes: c.Scopes, Resources: c.Resources, ExpiresAt: c.ExpiresAt,
			RotationIntervalSeconds: c.RotationIntervalSeconds, EndpointID: endpoint.id, WebhookURL: c.WebhookURL,
			Metadata: c.Metadata, Disabled: c.Disabled, AllowedIPs: c.AllowedIPs, RateLimit: c.RateLimit, UsageLimit: c.UsageLimit,
		},
	}
	if c.GraceSeconds != nil {
		create.Settings.GraceSeconds = *c.GraceSeconds
	}
	return create
}

// projectOf returns a project that the caller may make keys in: one of its organization, or for an operator, who sets up
// organizations, any; in both cases within the limits of the caller's own key.
func projectOf(view eventstore.View, caller domain.Caller, id domain.ProjectID) (*domain.Project, error) {
	project, err := view.Project(id)
	if err != nil || project.OrganizationID != caller.OrganizationID && !caller.Operator || !caller.MayUseProject(id) {
		return nil, noProject()
	}
	return project, nil
}

// noProject is the one refusal for a project that is unknown, foreign, or cannot even be one: its name would only trouble
// the store, and the commands that are joined with this one.
func noProject() error { return domain.NotFound("project") }

// UpdateKey edits a key. It returns the signing secret of a new webhook receiver, if the edit made one.
func (s *Service) UpdateKey(ctx context.Context, by By, c domain.UpdateKey) (*projections.Key, webhook.Secret, error) {
	lineage, project, err := s.cfg.Reader.LineageOf(ctx, by.reach(), c.KeyID)
	if err != nil {
		return nil, webhook.Secret{}, err
	}
	endpoint, err := s.newEndpoint(c.WebhookURL.Value)
	if err != nil {
		return nil, webhook.Secret{}, err
	}
	if c.EndpointID.Value != "" && !domain.ValidID(domain.PrefixEndpoint, string(c.EndpointID.Value)) {
		return nil, webhook.Secret{}, noEndpoint()
	}
	c.NewEndpointID, c.SigningPublicKey, c.Caller = endpoint.id, endpoint.public, by.Caller
	edit := lineageCommand(by, lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Update(c, s.cfg.Limits, now)
	}, endpoint.attach)
	if c.EndpointID.Value != "" {
		edit = withEndpoint(edit, c.EndpointID.Value, &c.Endpoint)
	}
	records, err := s.execute(ctx, by, withPolicy(edit, project, &c.Policy))
	if err != nil {
		return nil, webhook.Secret{}, err
	}
	if _, _, err := find[domain.EndpointCreated](eventstore.EventsOf(records)); err != nil {
		endpoint.secret = webhook.Secret{}
	}
	key, err := s.cfg.Reader.Key(ctx, by.reach(), c.KeyID)
	if err != nil {
		return nil, webhook.Secret{}, unread("key", err)
	}
	return key, endpoint.secret, nil
}

// RevokeKey ends a key at once. Ending what has ended is fine.
func (s *Service) RevokeKey(ctx context.Context, by By, id domain.KeyID, reason string) error {
	lineage, _, err := s.cfg.Reader.LineageOf(ctx, by.reach(), id)
	if err != nil {
		return err
	}
	_, err = s.onLineage(ctx, by, lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
		return l.Revoke(id, reason, now)
	}, nil)
	return err
}

// onLineage executes a command on one lineage.
func (s *Service) onLineage(ctx context.Context, by By, id domain.LineageID,
	decide func(*domain.Lineage, time.Time) ([]domain.Decided, error),
	attach func(*pgx.Batch, []domain.Event) error,
) ([]eventstore.Record, error) {
	return s.execute(ctx, by, lineageCommand(by, id, decide, attach))
}

func lineageCommand(by By, id domain.LineageID,
	decide func(*domain.Lineage, time.Time) ([]domain.Decided, error),
	attach func(*pgx.Batch, []domain.Event) error,
) eventstore.Command {
	return eventstore.Command{
		Writes: []string{string(id)}, Expected: by.Expected, Actor: by.actor(), RequestID: by.RequestID, Attach: attach,
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			l, err := view.Lineage(id)
			if err != nil || !by.reaches(l) {
				return nil, domain.NotFound("key")
			}
			return decide(l, now)
		},
	}
}

// withPolicy lets a decision on a key read the policy of the key's project, as it is when the decision is made.
func withPolicy(c eventstore.Command, project domain.ProjectID, policy *domain.Policy) eventstore.Command {
	decide := c.Decide
	c.Reads = append(c.Reads, string(project))
	c.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		p, err := view.Project(project)
		if err != nil {
			return nil, err
		}
		*policy = p.Policy
		return decide(view, now)
	}
	return c
}

// withEndpoint lets a decision on a key see the webhook endpoint that it names; nil if there is none.
func withEndpoint(c eventstore.Command, id domain.EndpointID, endpoint **domain.Endpoint) eventstore.Command {
	decide := c.Decide
	c.Reads = append(c.Reads, string(id))
	c.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		*endpoint, _ = view.Endpoint(id)
		return decide(view, now)
	}
	return c
}
