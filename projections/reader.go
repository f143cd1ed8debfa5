package projections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

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
	pool     *pgxpool.Pool // with the service's rights
	tenants  *pgxpool.Pool // with those of one tenant at a time
	byDigest *lookup[domain.Digest, *Key]
	byID     *lookup[keyRef, *Key]
	owners   lately.Map[domain.KeyID, owner]

	byOrganization *lookup[domain.OrganizationID, *Organization]
	pending        *lookup[domain.RotationID, *PendingSecret]
	signing        *lookup[domain.EndpointID, []storedSecret]
}

// keyRef is a key as its organization asks for it.
type keyRef struct {
	organization domain.OrganizationID
	id           domain.KeyID
}

const (
	sqlKeysByDigest = `SELECT ` + keyColumns + ` FROM keys WHERE secret_digest = ANY($1)`
	sqlHistory      = `SELECT ` + eventstore.RecordColumns + ` FROM events
		WHERE ` + within + ` AND stream_id = $3 AND version > $4 ORDER BY version LIMIT $5`
	sqlEvents = `SELECT ` + eventstore.RecordColumns + ` FROM events
		WHERE ` + within + ` AND lane = $3 AND position > $4 ORDER BY position LIMIT $5`
)

var (
	sqlKeysByID = withUsage(`SELECT `+keyColumns+` FROM keys WHERE `+within+` AND id = ANY($3)`, "id")
	sqlListKeys = withUsage(`SELECT `+keyColumns+` FROM keys
		WHERE `+within+` AND project_id = $3 AND id < $4
			AND ($5 = '' OR environment_id = $5) AND ($6 = '' OR lineage_id = $6)
			AND ($7 OR state IN ('pending', 'active', 'grace') AND (expires_at IS NULL OR expires_at > $8)
				AND (state <> 'grace' OR grace_expires_at > $8))
		ORDER BY id DESC LIMIT $9`, "id DESC")
)

// NewReader returns a Reader on a pool with the service's rights (migrations.AsRole) and one with those of tenants
// (migrations.AsTenant).
func NewReader(pool, tenants *pgxpool.Pool) *Reader {
	r := &Reader{pool: pool, tenants: tenants}
	r.owners.Size = ownersSize
	r.byDigest = &lookup[domain.Digest, *Key]{gather: lookupGather, fetch: r.fetchByDigest}
	r.byID = &lookup[keyRef, *Key]{gather: lookupGather, fetch: r.fetchByID}
	r.byOrganization = &lookup[domain.OrganizationID, *Organization]{gather: lookupGather, fetch: r.fetchOrganizations}
	r.pending = &lookup[domain.RotationID, *PendingSecret]{gather: lookupGather, fetch: r.fetchPending}
	r.signing = &lookup[domain.EndpointID, []storedSecret]{gather: lookupGather, fetch: r.fetchSigning}
	return r
}

func (r *Reader) fetchByDigest(ctx context.Context, digests []domain.Digest) (map[domain.Digest]*Key, error) {
	raw := make([][]byte, len(digests))
	for i := range digests {
		raw[i] = digests[i][:]
	}
	keys, err := collect(ctx, r.pool, scanKey, sqlKeysByDigest, raw)
	found := make(map[domain.Digest]*Key, len(keys))
	for _, k := range keys {
		found[k.Secret.Digest] = k
	}
	return found, err
}

// fetchByID asks for the keys of several tenants in one round trip, each tenant's within its own walls.
func (r *Reader) fetchByID(ctx context.Context, refs []keyRef) (map[keyRef]*Key, error) {
	ids := map[domain.OrganizationID][]string{}
	for _, ref := range refs {
		ids[ref.organization] = append(ids[ref.organization], string(ref.id))
	}
	var v visit
	found := make(map[keyRef]*Key, len(refs))
	for organization, ids := range ids {
		queue(&v, Reach{Organization: organization}, scanUsedKey, func(k *Key) {
			found[keyRef{organization, k.ID}] = k
		}, sqlKeysByID, ids)
	}
	if err := r.send(ctx, &v); err != nil {
		return nil, unavailable(err)
	}
	return found, nil
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
	return out, readError(err)
}

func readError(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); err == nil || ok && pg.Code == stateNoText {
		return nil
	}
	return unavailable(err)
}

func unavailable(err error) error { return eventstore.Unavailable(fmt.Errorf("read: %w", err)) }

// Key returns a key in a tenant's reach. A foreign key is not found, exactly like an unknown one.
func (r *Reader) Key(ctx context.Context, reach Reach, id domain.KeyID) (*Key, error) {
	if !domain.ValidID(domain.PrefixKey, string(id)) {
		return nil, domain.NotFound("key")
	}
	k, ok, err := r.byID.get(ctx, keyRef{reach.Organization, id})
	if err != nil {
		return nil, asRefusal(err)
	}
	if !ok || !reach.Covers(k.OrganizationID, k.ProjectID) { // reads that are joined share an organization, not its projects
		return nil, domain.NotFound("key")
	}
	return k, nil
}

// owner is what never changes of a key: whose it is, and which lineage of which project it is of.
type owner struct {
	organization domain.OrganizationID
	lineage      domain.LineageID
	project      domain.ProjectID
}

// ownersSize bounds a generation of the keys whose owners are kept.
const ownersSize = 65536

// Owned remembers whose a key is. A key never changes hands, so this cannot be out of date.
func (r *Reader) Owned(id domain.KeyID, organization domain.OrganizationID, lineage domain.LineageID, project domain.ProjectID) {
	r.owners.Put(id, owner{organization, lineage, project})
}

// LineageOf returns the lineage of a key in a tenant's reach, and its project. A foreign key is not found, exactly like an
// unknown one.
func (r *Reader) LineageOf(ctx context.Context, reach Reach, id domain.KeyID) (domain.LineageID, domain.ProjectID, error) {
	if o, ok := r.owners.Get(id); ok && reach.Covers(o.organization, o.project) {
		return o.lineage, o.project, nil
	}
	k, err := r.Key(ctx, reach, id)
	if err != nil {
		return "", "", err
	}
	r.Owned(id, k.OrganizationID, k.LineageID, k.ProjectID)
	return k.LineageID, k.ProjectID, nil
}

// asRefusal passes a refusal on and turns a caller's lost patience into one.
func asRefusal(err error) error {
	if domain.CodeOf(err) != domain.CodeInternal {
		return err
	}
	return eventstore.Unavailable(err)
}

// KeyList selects keys, newest first. What is not live at a time is left out, whether the sweep has recorded its end yet
// or not.
type KeyList struct {
	Reach        Reach
	Project      domain.ProjectID     // empty: all in reach; then the next three count for nothing
	Environment  domain.EnvironmentID // empty: all
	Lineage      domain.LineageID     // empty: all
	IncludeEnded bool                 // also revoked, expired and retired ones
	Now          time.Time
	Before       domain.KeyID // continue after this key; empty: from the newest
	Limit        int
}

// Keys lists keys.
func (r *Reader) Keys(ctx context.Context, l KeyList) ([]*Key, error) {
	before := cmp.Or(string(l.Before), lastKeyID)
	if l.Project == "" {
		return collectWithin(ctx, r, l.Reach, scanUsedKey, sqlListAllKeys, before, l.Now, l.Limit)
	}
	return collectWithin(ctx, r, l.Reach, scanUsedKey, sqlListKeys, l.Project, before, string(l.Environment), string(l.Lineage),
		l.IncludeEnded, l.Now, l.Limit)
}

// History returns the events of a lineage after a version, oldest first.
func (r *Reader) History(ctx context.Context, reach Reach, id domain.LineageID, after int64, limit int) ([]eventstore.Record, error) {
	return collectWithin(ctx, r, reach, eventstore.ScanRecord, sqlHistory, id, after, limit)
}

// Events returns the lifecycle events in a tenant's reach after a position, oldest first. Their positions have holes where
// other events are.
func (r *Reader) Events(ctx context.Context, reach Reach, after int64, limit int) ([]eventstore.Record, error) {
	return collectWithin(ctx, r, reach, eventstore.ScanRecord, sqlEvents, eventstore.Lifecycle, after, limit)
}

// Ping reports whether the read model can be reached.
func (r *Reader) Ping(ctx context.Context) error {
	if err := r.pool.Ping(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}
