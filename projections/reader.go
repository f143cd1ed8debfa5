package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/lately"
)

// Reader answers lookups and lists from the read model. It only ever reads the primary, so it sees every acknowledged
// command.
type Reader struct {
	pool     *pgxpool.Pool
	byDigest *lookup[domain.Digest, *Key]
	byID     *lookup[domain.KeyID, *Key]
	owners   lately.Map[domain.KeyID, owner]
}

const (
	sqlKeysByDigest = `SELECT ` + keyColumns + ` FROM keys WHERE secret_digest = ANY($1)`
	sqlKeysByID     = `SELECT ` + keyColumns + ` FROM keys WHERE id = ANY($1)`
	sqlListKeys     = `SELECT ` + keyColumns + ` FROM keys
		WHERE organization_id = $1 AND project_id = $2 AND ($3 = '' OR id < $3)
			AND ($4 = '' OR environment_id = $4) AND ($5 = '' OR lineage_id = $5)
			AND ($6 OR state IN ('pending', 'active', 'grace'))
		ORDER BY id DESC LIMIT $7`
)

// NewReader returns a Reader on a pool of its own.
func NewReader(pool *pgxpool.Pool) *Reader {
	r := &Reader{pool: pool}
	r.owners.Size = ownersSize
	r.byDigest = &lookup[domain.Digest, *Key]{gather: lookupGather, fetch: r.fetchByDigest}
	r.byID = &lookup[domain.KeyID, *Key]{gather: lookupGather, fetch: r.fetchByID}
	return r
}

func (r *Reader) fetchByDigest(ctx context.Context, digests []domain.Digest) (map[domain.Digest]*Key, error) {
	raw := make([][]byte, len(digests))
	for i := range digests {
		raw[i] = digests[i][:]
	}
	keys, err := r.keys(ctx, sqlKeysByDigest, raw)
	found := make(map[domain.Digest]*Key, len(keys))
	for _, k := range keys {
		found[k.Secret.Digest] = k
	}
	return found, err
}

func (r *Reader) fetchByID(ctx context.Context, ids []domain.KeyID) (map[domain.KeyID]*Key, error) {
	raw := make([]string, len(ids))
	for i, id := range ids {
		raw[i] = string(id)
	}
	keys, err := r.keys(ctx, sqlKeysByID, raw)
	found := make(map[domain.KeyID]*Key, len(keys))
	for _, k := range keys {
		found[k.ID] = k
	}
	return found, err
}

func (r *Reader) keys(ctx context.Context, sql string, args ...any) ([]*Key, error) {
	return collect(ctx, r.pool, scanKey, sql, args...)
}

// stateNoText is the SQLSTATE of a text that the database cannot hold, such as one with a NUL.
const stateNoText = "22021"

// collect runs a query of the read model; a store that cannot be reached is a refusal of its own. What the database cannot
// hold is in no row of it.
func collect[T any](ctx context.Context, q eventstore.Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	out, err := pgx.CollectRows(rows, scan)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == stateNoText {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return out, nil
}

func unavailable(err error) error { return eventstore.Unavailable(fmt.Errorf("read: %w", err)) }

// Key returns a key of an organization. A foreign key is not found, exactly like an unknown one.
func (r *Reader) Key(ctx context.Context, organization domain.OrganizationID, id domain.KeyID) (*Key, error) {
	if !domain.ValidID(domain.PrefixKey, string(id)) {
		return nil, domain.NotFound("key")
	}
	k, ok, err := r.byID.get(ctx, id)
	if err != nil {
		return nil, asRefusal(err)
	}
	if !ok || k.OrganizationID != organization {
		return nil, domain.NotFound("key")
	}
	return k, nil
}

// owner is what never changes of a key: whose it is, and which lineage it is of.
type owner struct {
	organization domain.OrganizationID
	lineage      domain.LineageID
}

// ownersSize bounds a generation of the keys whose owners are kept.
const ownersSize = 65536

// Owned remembers whose a key is. A key never changes hands, so this cannot be out of date.
func (r *Reader) Owned(id domain.KeyID, organization domain.OrganizationID, lineage domain.LineageID) {
	r.owners.Put(id, owner{organization, lineage})
}

// LineageOf returns the lineage of a key of an organization. A foreign key is not found, exactly like an unknown one.
func (r *Reader) LineageOf(ctx context.Context, organization domain.OrganizationID, id domain.KeyID) (domain.LineageID, error) {
	if o, ok := r.owners.Get(id); ok && o.organization == organization {
		return o.lineage, nil
	}
	k, err := r.Key(ctx, organization, id)
	if err != nil {
		return "", err
	}
	r.Owned(id, k.OrganizationID, k.LineageID)
	return k.LineageID, nil
}

// asRefusal passes a refusal on and turns a caller's lost patience into one.
func asRefusal(err error) error {
	if domain.CodeOf(err) != domain.CodeInternal {
		return err
	}
	return eventstore.Unavailable(err)
}

// KeyList selects keys of a project, newest first.
type KeyList struct {
	Organization domain.OrganizationID
	Project      domain.ProjectID
	Environment  domain.EnvironmentID // empty: all
	Lineage      domain.LineageID     // empty: all
	IncludeEnded bool                 // also revoked, expired and retired ones
	Before       domain.KeyID         // continue after this key; empty: from the newest
	Limit        int
}

// Keys lists keys.
func (r *Reader) Keys(ctx context.Context, l KeyList) ([]*Key, error) {
	return r.keys(ctx, sqlListKeys, l.Organization, l.Project, string(l.Before), string(l.Environment), string(l.Lineage),
		l.IncludeEnded, l.Limit)
}

// History returns the events of a lineage after a version, oldest first.
func (r *Reader) History(ctx context.Context, id domain.LineageID, after int64, limit int) ([]eventstore.Record, error) {
	records, err := eventstore.ReadStream(ctx, r.pool, string(id), after, limit)
	if err != nil {
		return nil, unavailable(err)
	}
	return records, nil
}

// Events returns the events of an organization after a position, oldest first.
func (r *Reader) Events(ctx context.Context, id domain.OrganizationID, after int64, limit int) ([]eventstore.Record, error) {
	records, err := eventstore.ReadOrganization(ctx, r.pool, string(id), after, limit)
	if err != nil {
		return nil, unavailable(err)
	}
	return records, nil
}

// Ping reports whether the read model can be reached.
func (r *Reader) Ping(ctx context.Context) error {
	if err := r.pool.Ping(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}
