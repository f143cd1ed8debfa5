package projections

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Endpoint is a webhook receiver.
type Endpoint struct {
	ID             domain.EndpointID
	Version        int64
	OrganizationID domain.OrganizationID
	ProjectID      domain.ProjectID
	LineageID      domain.LineageID // the key whose own address it is; empty: it was registered
	domain.Target
	Proposed           *domain.Target // not in use before its receiver has answered a challenge
	AckLevel           domain.AckLevel
	EventTypes         []domain.MessageType // nil: all
	State              domain.EndpointState
	Reason             string
	SigningPublicKey   string
	OldSecretsExpireAt *time.Time // when the last replaced signing secret ends; may be past
	ClientCertificate  *domain.ClientCertificate
	CreatedAt          time.Time
	UpdatedAt          time.Time
	VerifiedAt         *time.Time
	DeletedAt          *time.Time // never set in what is read: a deleted endpoint shows nowhere
}

var endpointTable = table[Endpoint]{
	name: "webhook_endpoints",
	key:  []string{"id"},
	columns: []column[Endpoint]{
		col("id", "text", func(e *Endpoint) string { return string(e.ID) }),
		col("version", "int8", func(e *Endpoint) int64 { return e.Version }),
		col("organization_id", "text", func(e *Endpoint) string { return string(e.OrganizationID) }),
		col("project_id", "text", func(e *Endpoint) string { return string(e.ProjectID) }),
		col("lineage_id", "text", func(e *Endpoint) *string { return optional(string(e.LineageID)) }),
		col("url", "text", func(e *Endpoint) string { return e.URL }),
		col("secret_mode", "text", func(e *Endpoint) string { return string(e.SecretMode) }),
		col("receiver_key", "jsonb", func(e *Endpoint) *string { return document(e.ReceiverKey, e.ReceiverKey == nil) }),
		col("proposed", "jsonb", func(e *Endpoint) *string { return document(e.Proposed, e.Proposed == nil) }),
		col("ack_level", "text", func(e *Endpoint) string { return string(e.AckLevel) }),
		col("event_types", "jsonb", func(e *Endpoint) *string { return document(e.EventTypes, len(e.EventTypes) == 0) }),
		col("state", "text", func(e *Endpoint) string { return string(e.State) }),
		col("reason", "text", func(e *Endpoint) *string { return optional(e.Reason) }),
		col("signing_public_key", "text", func(e *Endpoint) *string { return optional(e.SigningPublicKey) }),
		col("old_secrets_expire_at", "timestamptz", func(e *Endpoint) *time.Time { return e.OldSecretsExpireAt }),
		col("client_certificate", "jsonb", func(e *Endpoint) *string { return document(e.ClientCertificate, e.ClientCertificate == nil) }),
		col("created_at", "timestamptz", func(e *Endpoint) time.Time { return e.CreatedAt }),
		col("updated_at", "timestamptz", func(e *Endpoint) time.Time { return e.UpdatedAt }),
		col("verified_at", "timestamptz", func(e *Endpoint) *time.Time { return e.VerifiedAt }),
		col("deleted_at", "timestamptz", func(e *Endpoint) *time.Time { return e.DeletedAt }),
	},
}

// endpointOf lays an endpoint out as a row.
func endpointOf(s *domain.Endpoint) *Endpoint {
	e := &Endpoint{
		ID: s.ID, Version: s.Version, OrganizationID: s.OrganizationID, ProjectID: s.ProjectID, LineageID: s.LineageID,
		Target: s.Target, Proposed: s.Proposed, AckLevel: s.AckLevel, EventTypes: s.EventTypes, State: s.State, Reason: s.Reason,
		SigningPublicKey: s.SigningPublicKey, ClientCertificate: s.ClientCertificate, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, VerifiedAt: s.VerifiedAt, DeletedAt: s.DeletedAt,
	}
	for _, end := range s.OldSecrets {
		if e.OldSecretsExpireAt == nil || end.After(*e.OldSecretsExpireAt) {
			e.OldSecretsExpireAt = &end
		}
	}
	return e
}

// CreatedEndpoint is the endpoint that the first event of its stream made.
func CreatedEndpoint(event domain.Event) *Endpoint {
	var p domain.Endpoint
	p.Apply(event)
	return endpointOf(&p)
}

const (
	// Oldest last, as keys are listed. Endpoints of a deleted project show nowhere, as its environments do. Those that a key's
	// own address once was are not listed when no live key uses them any more and nothing waits for them.
	sqlEndpoints = `SELECT id, version, organization_id, project_id, coalesce(lineage_id, ''), url, secret_mode, receiver_key,
			proposed, ack_level, event_types, state, coalesce(reason, ''), coalesce(signing_public_key, ''), old_secrets_expire_at,
			client_certificate, created_at, updated_at, verified_at
		FROM webhook_endpoints e
		WHERE ` + within + ` AND ($3 = '' OR id = $3) AND ($4 = '' OR project_id = $4) AND id < $5 AND deleted_at IS NULL
			AND NOT EXISTS (SELECT FROM projects p WHERE p.id = e.project_id AND p.deleted_at IS NOT NULL)
			AND (lineage_id IS NULL OR $3 <> ''
				OR EXISTS (SELECT FROM keys k WHERE k.endpoint_id = e.id AND k.state IN ('pending', 'active', 'grace'))
				OR EXISTS (SELECT FROM rotations r WHERE r.endpoint_id = e.id AND r.state IN ('delivering', 'stalled')))
		ORDER BY id DESC LIMIT $6`
	sqlEndpointGrants = `SELECT scopes, resources, operator, CASE WHEN count(*) = count(expires_at) THEN max(expires_at) END
		FROM keys WHERE ` + within + ` AND endpoint_id = $3 AND state IN ('pending', 'active', 'grace')
		GROUP BY scopes, resources, operator`
	sqlAssertUnused = `SELECT assert_endpoint_unused($1)`
	sqlAssertRights = `SELECT assert_endpoint_rights($1, $2::text[], $3::text[], $4::boolean[], $5::timestamptz[])`
)

// lastEndpointID comes after the id of every endpoint; see lastKeyID.
const lastEndpointID = domain.PrefixEndpoint + "_~"

// EndpointList selects webhook endpoints, newest first.
type EndpointList struct {
	Reach   Reach
	ID      domain.EndpointID // only this one; empty: all
	Project domain.ProjectID  // empty: all in reach
	Before  domain.EndpointID // continue after this endpoint; empty: from the newest
	Limit   int
}

// Endpoints lists webhook endpoints.
func (r *Reader) Endpoints(ctx context.Context, l EndpointList) ([]*Endpoint, error) {
	return collectWithin(ctx, r, l.Reach, scanEndpoint, sqlEndpoints, string(l.ID), string(l.Project), cmp.Or(string(l.Before), lastEndpointID), l.Limit)
}

// Endpoint returns a webhook endpoint in a tenant's reach. A foreign one is not found, exactly like an unknown one.
func (r *Reader) Endpoint(ctx context.Context, reach Reach, id domain.EndpointID) (*Endpoint, error) {
	if !domain.ValidID(domain.PrefixEndpoint, string(id)) {
		return nil, domain.NotFound("webhook endpoint")
	}
	found, err := r.Endpoints(ctx, EndpointList{Reach: reach, ID: id, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, domain.NotFound("webhook endpoint")
	}
	return found[0], nil
}

func scanEndpoint(row pgx.CollectableRow) (*Endpoint, error) {
	var e Endpoint
	var key, proposed, types, certificate []byte
	err := row.Scan(&e.ID, &e.Version, &e.OrganizationID, &e.ProjectID, &e.LineageID, &e.URL, &e.SecretMode, &key, &proposed, &e.AckLevel, &types,
		&e.State, &e.Reason, &e.SigningPublicKey, &e.OldSecretsExpireAt, &certificate, &e.CreatedAt, &e.UpdatedAt, &e.VerifiedAt)
	if err != nil {
		return nil, err
	}
	e.CreatedAt, e.UpdatedAt = e.CreatedAt.UTC(), e.UpdatedAt.UTC()
	for _, t := range []**time.Time{&e.OldSecretsExpireAt, &e.VerifiedAt} {
		if *t != nil {
			utc := (*t).UTC()
			*t = &utc
		}
	}
	return &e, cmp.Or(readDocument(key, &e.ReceiverKey), readDocument(proposed, &e.Proposed), readDocument(types, &e.EventTypes),
		readDocument(certificate, &e.ClientCertificate))
}

// EndpointGrants says what the live keys that use an endpoint may do, each combination once, with the latest end.
func (r *Reader) EndpointGrants(ctx context.Context, reach Reach, id domain.EndpointID) ([]domain.Caller, error) {
	return collectWithin(ctx, r, reach, func(row pgx.CollectableRow) (domain.Caller, error) {
		c := domain.Caller{OrganizationID: reach.Organization}
		var scopes, resources []byte
		if err := row.Scan(&scopes, &resources, &c.Operator, &c.ExpiresAt); err != nil {
			return c, err
		}
		return c, cmp.Or(readDocument(scopes, &c.Scopes), readDocument(resources, &c.Resources))
	}, sqlEndpointGrants, id)
}

// QueueAssertRights fails a transaction that changes an endpoint if live keys use it that may more than was looked at.
func QueueAssertRights(batch *pgx.Batch, id domain.EndpointID, seen []domain.Caller) {
	scopes, operator := make([]string, len(seen)), make([]bool, len(seen))
	resources, ends := make([]*string, len(seen)), make([]*time.Time, len(seen))
	for i, c := range seen {
		scopes[i], operator[i] = *document(c.Scopes, false), c.Operator
		resources[i], ends[i] = document(c.Resources, len(c.Resources) == 0), c.ExpiresAt
	}
	batch.Queue(sqlAssertRights, id, scopes, resources, operator, ends)
}

// QueueAssertUnused fails a transaction that deletes an endpoint while live keys use it.
func QueueAssertUnused(batch *pgx.Batch, id domain.EndpointID) {
	batch.Queue(sqlAssertUnused, id)
}
