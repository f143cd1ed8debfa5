package commands

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// BulkRevoke asks for the end of all keys that match, in two calls: a dry run names the keys and gives a token, and the
// second call brings that back with the same criteria.
type BulkRevoke struct {
	Selection projections.Selection
	Reason    string
	DryRun    bool
	Token     string
}

// BulkRevoked are the keys that would end, with the token, or those that did.
type BulkRevoked struct {
	Keys      []*projections.Key
	Token     string
	ExpiresAt time.Time // of the token
}

const (
	bulkTokenLife = 10 * time.Minute
	// bulkPage is how many lineages are revoked at once: a large request must leave room for others in the queue.
	bulkPage = 200
)

// BulkRevoke revokes the keys that a dry run named, or makes that dry run. The caller's own lineage is never among them.
// If it fails on the way, the same call may be repeated: keys of the named set that have ended are no change of it.
func (s *Service) BulkRevoke(ctx context.Context, by By, c BulkRevoke) (BulkRevoked, error) {
	now := s.cfg.Now()
	if err := c.check(now); err != nil {
		return BulkRevoked{}, err
	}
	reach := projections.ReachOf(by.Caller)
	keys, err := s.cfg.Reader.Select(ctx, reach, by.Caller.LineageID, c.Selection, now, domain.MaxBulk+1)
	if err != nil {
		return BulkRevoked{}, err
	}
	if len(keys) > domain.MaxBulk {
		return BulkRevoked{}, domain.InvalidField("project_id", fmt.Sprintf("and the other criteria match more than %d keys", domain.MaxBulk), "narrow them, and revoke in several steps")
	}
	if c.DryRun {
		out := BulkRevoked{Keys: keys, ExpiresAt: now.Add(bulkTokenLife).UTC().Truncate(time.Second)}
		out.Token, err = s.bulkToken(by.Caller, c.Selection, keys, out.ExpiresAt)
		return out, err
	}
	named, err := s.namedBy(by.Caller, c, now)
	if err != nil {
		return BulkRevoked{}, err
	}
	if err := s.unchanged(ctx, reach, named, keys, now); err != nil {
		return BulkRevoked{}, err
	}
	if len(keys) == 0 && len(named) > 0 {
		// All have ended, maybe by this very request, whose first answer was lost while it was waited for.
		return BulkRevoked{}, s.holds(ctx, now)
	}
	return BulkRevoked{Keys: keys}, s.revokeAll(ctx, by, keys, c.Reason)
}

// check refuses what no selection is asked by.
func (c BulkRevoke) check(now time.Time) error {
	switch {
	case c.Selection.IsZero():
		return domain.InvalidField("project_id", "is missing, and so is every other criterion",
			"name at least one of project_id, environment_id, created_by, scope, key_prefix and unused_since")
	case c.Selection.UnusedSince != nil && c.Selection.UnusedSince.After(now):
		return domain.InvalidField("unused_since", "is in the future", "name a time that has passed")
	case c.DryRun && c.Token != "":
		return domain.InvalidField("token", "is given beside dry_run", "send it without dry_run to revoke, or leave it out")
	case !c.DryRun && c.Token == "":
		return domain.InvalidField("token", "is missing", "send the request with dry_run=true first, look at the keys that it names, and bring its token back")
	}
	return domain.CheckReason(c.Reason)
}

// unchanged refuses keys that the dry run did not name, and a set that has lost a key which still lives.
func (s *Service) unchanged(ctx context.Context, reach projections.Reach, named []domain.KeyID, keys []*projections.Key, now time.Time) error {
	missing := make(map[domain.KeyID]bool, len(named))
	for _, id := range named {
		missing[id] = true
	}
	for _, k := range keys {
		if !missing[k.ID] {
			return selectionChanged()
		}
		delete(missing, k.ID)
	}
	if len(missing) == 0 {
		return nil
	}
	gone := slices.DeleteFunc(slices.Clone(named), func(id domain.KeyID) bool { return !missing[id] })
	living, err := s.cfg.Reader.Live(ctx, reach, gone, now)
	if err != nil {
		return err
	}
	if len(living) > 0 {
		return selectionChanged()
	}
	return nil
}

func selectionChanged() error {
	return domain.Refuse(domain.CodeSelectionChanged, "other keys match now than the dry run named; nothing was revoked. Make a new dry run")
}

// revokeAll revokes keys, the lineages of a page at once.
func (s *Service) revokeAll(ctx context.Context, by By, keys []*projections.Key, reason string) error {
	by.Expected, by.Answer = nil, nil // which are of the whole request
	ids := map[domain.LineageID][]domain.KeyID{}
	var lineages []domain.LineageID
	for _, k := range keys {
		if ids[k.LineageID] == nil {
			lineages = append(lineages, k.LineageID)
		}
		ids[k.LineageID] = append(ids[k.LineageID], k.ID)
	}
	done := 0
	for page := range slices.Chunk(lineages, bulkPage) {
		all := make([]eventstore.Command, len(page))
		for i, lineage := range page {
			all[i] = lineageCommand(by, lineage, func(l *domain.Lineage, now time.Time) ([]domain.Decided, error) {
				return l.RevokeAll(ids[lineage], reason, now)
			}, nil)
		}
		var failed error
		for i, outcome := range s.executeAll(ctx, by, all) {
			if outcome.Err != nil {
				failed = outcome.Err
				continue
			}
			done += len(ids[page[i]])
		}
		if failed != nil {
			return domain.Refuse(domain.CodeOf(failed), "%d of %d keys were revoked; send the same request again for the rest", done, len(keys)).
				With("revoked", done).WithCause(failed)
		}
	}
	return nil
}

// bulkToken names a set of keys to nobody but us. It is bound to who asked and to the criteria, and opens for no others.
func (s *Service) bulkToken(caller domain.Caller, selection projections.Selection, keys []*projections.Key, expires time.Time) (string, error) {
	plaintext := binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))
	for _, k := range keys {
		packed, err := packID(k.ID)
		if err != nil {
			return "", err
		}
		plaintext = append(plaintext, packed...)
	}
	bound, err := bulkContext(caller, selection)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.cfg.Sealer.Seal(bound, plaintext)), nil
}

// namedBy opens a token.
func (s *Service) namedBy(caller domain.Caller, c BulkRevoke, now time.Time) ([]domain.KeyID, error) {
	bound, err := bulkContext(caller, c.Selection)
	if err != nil {
		return nil, err
	}
	sealed, badText := base64.RawURLEncoding.DecodeString(c.Token)
	plaintext, badSeal := s.cfg.Sealer.Open(bound, sealed)
	if err := errors.Join(badText, badSeal); err != nil {
		return nil, domain.InvalidField("token", "is not from a dry run of this key with these criteria",
			"send the criteria exactly as in the dry run, with the same key, or make a new dry run").WithCause(err)
	}
	if expires := time.Unix(int64(binary.BigEndian.Uint64(plaintext)), 0); !now.Before(expires) {
		return nil, domain.InvalidField("token", "has expired", "make a new dry run; its token lives ten minutes")
	}
	var named []domain.KeyID
	for packed := range slices.Chunk(plaintext[8:], packedID) {
		named = append(named, unpackID(packed))
	}
	return named, nil
}

func bulkContext(caller domain.Caller, selection projections.Selection) (string, error) {
	if selection.UnusedSince != nil { // one time has many spellings
		at := selection.UnusedSince.UTC()
		selection.UnusedSince = &at
	}
	criteria, err := json.Marshal(selection)
	if err != nil {
		return "", fmt.Errorf("encode criteria: %w", err)
	}
	return fmt.Sprintf("bulk revoke %s %s %s", caller.OrganizationID, caller.LineageID, criteria), nil
}

// An id's 26 characters hold the 128 bits of a UUID from the last bit on; six more in front make 160 bits of them, which
// the standard library's base32 takes apart. So the largest token stays under 220 kB.
const (
	packedID    = 16
	idPadding   = "000000"
	idZeroBytes = 20 - packedID
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

func packID(id domain.KeyID) ([]byte, error) {
	if !domain.ValidID(domain.PrefixKey, string(id)) {
		return nil, fmt.Errorf("pack a key's id: %q is none", id)
	}
	raw, err := idEncoding.DecodeString(idPadding + strings.TrimPrefix(string(id), domain.PrefixKey+"_"))
	if err != nil {
		return nil, fmt.Errorf("pack a key's id: %w", err)
	}
	return raw[idZeroBytes:], nil
}

func unpackID(packed []byte) domain.KeyID {
	text := idEncoding.EncodeToString(append(make([]byte, idZeroBytes), packed...))
	return domain.KeyID(domain.PrefixKey + "_" + text[len(idPadding):])
}
