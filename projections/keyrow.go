package projections

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
)

// Key is one generation of a lineage as the read model has it.
type Key struct {
	ID                      domain.KeyID
	LineageID               domain.LineageID
	Generation              int
	Version                 int64
	OrganizationID          domain.OrganizationID
	ProjectID               domain.ProjectID
	EnvironmentID           domain.EnvironmentID
	Name                    string
	Secret                  domain.SecretFacts
	Scopes                  domain.Scopes
	Resources               domain.Resources
	Metadata                json.RawMessage
	State                   domain.GenerationState
	Operator                bool
	CreatedBy               domain.Actor
	CreatedAt               time.Time
	UpdatedAt               time.Time // when it was made, or its settings were chosen last
	ExpiresAt               *time.Time
	GraceExpiresAt          *time.Time
	RevokedAt               *time.Time
	RevokedReason           *string
	ReplacedBy              *domain.KeyID
	RotationID              *domain.RotationID
	RotationIntervalSeconds *int64
	GraceSeconds            int64
	NextRotationAt          *time.Time
	WebhookURL              *string
	EndpointID              *domain.EndpointID
	Disabled                bool
	AllowedIPs              domain.Networks
	Limits                  *KeyLimits // nil: none

	// What is known of its use is no part of the row, and does not follow from the log. Only reads for a tenant fill it in.
	LastUsedAt *time.Time
	LastUsedIP *string
	UseCount   int64
	// UseCompleteUntil is up to when the count has every use (see UsageSeries); nil: not known.
	UseCompleteUntil *time.Time
}

// StatusAt judges the key by its state and the clock.
func (k *Key) StatusAt(now time.Time) domain.Status {
	return domain.StatusAt(k.State, k.ExpiresAt, k.GraceExpiresAt, now)
}

// MayUseFrom reports whether the key may be used from an address. One that is zero is not known to be allowed.
func (k *Key) MayUseFrom(address netip.Addr) bool { return k.AllowedIPs.Allow(address) }

// Caller is what the key may do on rekey's own API.
func (k *Key) Caller() domain.Caller {
	return domain.Caller{
		KeyID: k.ID, LineageID: k.LineageID, OrganizationID: k.OrganizationID,
		Scopes: k.Scopes, Resources: k.Resources, ExpiresAt: k.ExpiresAt, Operator: k.Operator,
	}
}

// keyOf lays one generation of a lineage out as a row.
func keyOf(l *domain.Lineage, g *domain.Generation) *Key {
	s := &l.Settings
	k := &Key{
		ID: g.KeyID, LineageID: l.ID, Generation: g.Number, Version: l.Version, OrganizationID: l.OrganizationID,
		ProjectID: l.ProjectID, EnvironmentID: l.EnvironmentID, Name: s.Name, Secret: g.Secret, Scopes: s.Scopes,
		Resources: s.Resources, Metadata: s.Metadata, State: g.State, Operator: l.Operator, CreatedBy: g.CreatedBy,
		CreatedAt: g.CreatedAt, UpdatedAt: later(g.CreatedAt, l.UpdatedAt), ExpiresAt: s.ExpiresAt, GraceExpiresAt: g.GraceExpiresAt, RevokedAt: g.RevokedAt,
		RevokedReason: optional(g.RevokedReason), ReplacedBy: optional(g.ReplacedBy),
		RotationIntervalSeconds: optional(s.RotationIntervalSeconds), GraceSeconds: s.GraceSeconds,
		WebhookURL: optional(s.WebhookURL), EndpointID: optional(s.EndpointID),
		Disabled: s.Disabled, AllowedIPs: s.AllowedIPs, Limits: limitsOf(s.RateLimit, s.UsageLimit),
	}
	switch g.State {
	case domain.GenerationActive:
		if !s.Disabled { // what is planned for it waits until it is enabled
			k.NextRotationAt = l.NextRotationAt
		}
	case domain.GenerationPending:
		if r := l.WaitingRotation(); r != nil {
			id := r.ID // a copy: the row outlives the state
			k.RotationID = &id
		}
	}
	return k
}

// KeyLimits bound how often the keys of a lineage may be used, all together. The zero value of one of them is no limit.
type KeyLimits struct {
	Rate  domain.RateLimit
	Usage domain.UsageLimit
}

func limitsOf(rate *domain.RateLimit, usage *domain.UsageLimit) *KeyLimits {
	if rate == nil && usage == nil {
		return nil
	}
	var l KeyLimits
	if rate != nil {
		l.Rate = *rate
	}
	if usage != nil {
		l.Usage = *usage
	}
	return &l
}

// RateLimit is the rate limit of the key's lineage, or nil.
func (k *Key) RateLimit() *domain.RateLimit {
	if k.Limits == nil {
		return nil
	}
	return optional(k.Limits.Rate)
}

// UsageLimit is the usage limit of the key's lineage, or nil.
func (k *Key) UsageLimit() *domain.UsageLimit {
	if k.Limits == nil {
		return nil
	}
	return optional(k.Limits.Usage)
}

// later is the later of two times: a generation that was made since the last edit is as new as itself.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// optional is nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// document encodes a value for a jsonb column; nothing stays NULL.
func document(v any, empty bool) *string {
	if empty {
		return nil
	}
	raw, err := json.Marshal(v)
	if err != nil { // a map or a list of strings always encodes
		panic("projections: encode: " + err.Error())
	}
	text := string(raw)
	return &text
}

// readDocument decodes a jsonb column; NULL leaves the zero value.
func readDocument(raw []byte, into any) error {
	if raw == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

var keyTable = table[Key]{
	name: "keys",
	key:  []string{"id"},
	columns: []column[Key]{
		col("id", "text", func(k *Key) string { return string(k.ID) }),
		col("lineage_id", "text", func(k *Key) string { return string(k.LineageID) }),
		col("generation", "int4", func(k *Key) int32 { return int32(k.Generation) }),
		col("version", "int8", func(k *Key) int64 { return k.Version }),
		col("organization_id", "text", func(k *Key) string { return string(k.OrganizationID) }),
		col("project_id", "text", func(k *Key) string { return string(k.ProjectID) }),
		col("environment_id", "text", func(k *Key) string { return string(k.EnvironmentID) }),
		col("name", "text", func(k *Key) string { return k.Name }),
		col("secret_digest", "bytea", func(k *Key) []byte { return k.Secret.Digest[:] }),
		col("key_prefix", "text", func(k *Key) string { return k.Secret.Prefix }),
		col("last_four", "text", func(k *Key) string { return k.Secret.LastFour }),
		col("scopes", "jsonb", func(k *Key) *string { return document(k.Scopes, false) }),
		col("resources", "jsonb", func(k *Key) *string { return document(k.Resources, len(k.Resources) == 0) }),
		col("metadata", "jsonb", func(k *Key) *string { return document(k.Metadata, len(k.Metadata) == 0) }),
		col("state", "text", func(k *Key) string { return string(k.State) }),
		col("operator", "bool", func(k *Key) bool { return k.Operator }),
		col("created_by", "text", func(k *Key) string { return string(k.CreatedBy) }),
		col("created_at", "timestamptz", func(k *Key) time.Time { return k.CreatedAt }),
		col("updated_at", "timestamptz", func(k *Key) time.Time { return k.UpdatedAt }),
		col("expires_at", "timestamptz", func(k *Key) *time.Time { return k.ExpiresAt }),
		col("grace_expires_at", "timestamptz", func(k *Key) *time.Time { return k.GraceExpiresAt }),
		col("revoked_at", "timestamptz", func(k *Key) *time.Time { return k.RevokedAt }),
		col("revoked_reason", "text", func(k *Key) *string { return k.RevokedReason }),
		col("replaced_by_key_id", "text", func(k *Key) *string { return (*string)(k.ReplacedBy) }),
		col("rotation_id", "text", func(k *Key) *string { return (*string)(k.RotationID) }),
		col("rotation_interval_seconds", "int8", func(k *Key) *int64 { return k.RotationIntervalSeconds }),
		col("grace_seconds", "int8", func(k *Key) int64 { return k.GraceSeconds }),
		col("next_rotation_at", "timestamptz", func(k *Key) *time.Time { return k.NextRotationAt }),
		col("rotation_webhook_url", "text", func(k *Key) *string { return k.WebhookURL }),
		col("endpoint_id", "text", func(k *Key) *string { return (*string)(k.EndpointID) }),
		col("disabled", "bool", func(k *Key) bool { return k.Disabled }),
		col("allowed_ips", "jsonb", func(k *Key) *string { return document(k.AllowedIPs, len(k.AllowedIPs) == 0) }),
		col("rate_limit", "jsonb", func(k *Key) *string { return document(k.RateLimit(), k.RateLimit() == nil) }),
		col("usage_limit", "jsonb", func(k *Key) *string { return document(k.UsageLimit(), k.UsageLimit() == nil) }),
	},
}

// keyColumns must match scanKey.
const keyColumns = `id, lineage_id, generation, version, organization_id, project_id, environment_id, name, secret_digest,
	key_prefix, last_four, scopes, resources, metadata, state, operator, created_by, created_at, updated_at, expires_at,
	grace_expires_at, revoked_at, revoked_reason, replaced_by_key_id, rotation_id, rotation_interval_seconds,
	grace_seconds, next_rotation_at, rotation_webhook_url, endpoint_id, disabled, allowed_ips, rate_limit, usage_limit`

func scanKey(row pgx.CollectableRow) (*Key, error) { return scanKeyAnd(row) }

// scanKeyAnd scans more columns behind those of the key.
func scanKeyAnd(row pgx.CollectableRow, more ...any) (*Key, error) {
	var (
		k                           Key
		digest                      []byte
		scopes, resources, metadata []byte
		networks, rate, usage       []byte
	)
	err := row.Scan(append([]any{&k.ID, &k.LineageID, &k.Generation, &k.Version, &k.OrganizationID, &k.ProjectID, &k.EnvironmentID,
		&k.Name, &digest, &k.Secret.Prefix, &k.Secret.LastFour, &scopes, &resources, &metadata, &k.State, &k.Operator,
		&k.CreatedBy, &k.CreatedAt, &k.UpdatedAt, &k.ExpiresAt, &k.GraceExpiresAt, &k.RevokedAt, &k.RevokedReason, &k.ReplacedBy,
		&k.RotationID, &k.RotationIntervalSeconds, &k.GraceSeconds, &k.NextRotationAt, &k.WebhookURL, &k.EndpointID,
		&k.Disabled, &networks, &rate, &usage}, more...)...)
	if err != nil {
		return nil, err
	}
	copy(k.Secret.Digest[:], digest)
	k.Metadata = metadata
	k.inUTC()
	var limits KeyLimits
	if err := cmp.Or(readDocument(rate, &limits.Rate), readDocument(usage, &limits.Usage)); err != nil {
		return nil, err
	}
	if limits != (KeyLimits{}) {
		k.Limits = &limits
	}
	return &k, cmp.Or(readDocument(scopes, &k.Scopes), readDocument(resources, &k.Resources), readDocument(networks, &k.AllowedIPs))
}

// inUTC makes the times read the same on every machine.
func (k *Key) inUTC() {
	k.CreatedAt, k.UpdatedAt = k.CreatedAt.UTC(), k.UpdatedAt.UTC()
	for _, t := range []**time.Time{&k.ExpiresAt, &k.GraceExpiresAt, &k.RevokedAt, &k.NextRotationAt} {
		if *t != nil {
			utc := (*t).UTC()
			*t = &utc
		}
	}
}

// CreatedKey is the key that the first event of a lineage made.
func CreatedKey(event domain.Event) *Key {
	var l domain.Lineage
	l.Apply(event)
	return keyOf(&l, &l.Generations[0])
}
