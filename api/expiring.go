package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

type expiringKeysInput struct {
	surface.PageInput
	WithinDays int              `query:"within_days" default:"30" minimum:"1" maximum:"365" doc:"How far to look ahead, in days of 24 hours"`
	ProjectID  domain.ProjectID `query:"project_id" example:"proj_01jz8q0v6me5et8b3k2c9d4x7a" doc:"Only of this project; default: all that your key reaches"`
}

// expiringKeys lists live keys that will end, soonest first.
func (s *server) expiringKeys(ctx context.Context, in *expiringKeysInput) (*surface.List[KeyBody], error) {
	after, err := parseExpiry(in.Cursor)
	if err != nil {
		return nil, err
	}
	if in.ProjectID != "" {
		if _, err := s.project(ctx, in.ProjectID); err != nil {
			return nil, err
		}
	}
	now := s.Now()
	keys, err := s.Reader.Expiring(ctx, projections.ExpiringList{
		Reach: surface.Reach(ctx), Project: in.ProjectID, Now: now, Until: now.Add(time.Duration(in.WithinDays) * 24 * time.Hour),
		After: after, Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	return surface.ListOf(in.PageInput, "/v1/api-keys/expiring-soon", keys, cursorOfExpiry,
		url.Values{"within_days": {strconv.Itoa(in.WithinDays)}, "project_id": {string(in.ProjectID)}},
		func(k *projections.Key) KeyBody { return bodyOf(k, now) }), nil
}

// cursorOfExpiry names the place of a key in the list.
func cursorOfExpiry(k *projections.Key) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", k.ExpiresAt.UnixMicro(), k.ID))
}

// parseExpiry reads what cursorOfExpiry wrote. Nothing else passes, so what reaches the database is a time and an id.
func parseExpiry(cursor string) (projections.Expiry, error) {
	if cursor == "" {
		return projections.Expiry{}, nil
	}
	refused := domain.InvalidField("cursor", "is not one of ours", "take it from the Link header of the page before")
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return projections.Expiry{}, refused
	}
	at, id, _ := strings.Cut(string(text), " ")
	micros, err := strconv.ParseInt(at, 10, 64)
	place := projections.Expiry{At: time.UnixMicro(micros).UTC(), ID: domain.KeyID(id)}
	if err != nil || !domain.ValidID(domain.PrefixKey, id) || place.At.Year() < 1970 || place.At.Year() > 9999 {
		return projections.Expiry{}, refused
	}
	if cursorOfExpiry(&projections.Key{ID: place.ID, ExpiresAt: &place.At}) != cursor { // one place has one spelling
		return projections.Expiry{}, refused
	}
	return place, nil
}
