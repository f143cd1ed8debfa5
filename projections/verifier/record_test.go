package verifier

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/projections"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newID[T ~string](prefix string) T { return T(domain.IDs{}.New(prefix, begin)) }

// liveKey is a key of one fixed place.
func liveKey(secret string, scopes ...string) *projections.Key {
	minted, err := domain.MintSecret(nil, "rk", "live")
	if err != nil {
		panic(err)
	}
	return &projections.Key{
		ID: newID[domain.KeyID](domain.PrefixKey), LineageID: newID[domain.LineageID](domain.PrefixLineage), Generation: 1,
		OrganizationID: "org_1", ProjectID: "proj_1", EnvironmentID: "env_1", Name: secret, Scopes: scopes,
		Secret: domain.SecretFacts{Digest: minted.Digest()}, State: domain.GenerationActive,
	}
}

// TestRecordIsTheKey packs and unpacks random keys, and judges them by the clock as the domain does.
func TestRecordIsTheKey(t *testing.T) {
	at := rapid.Custom(func(t *rapid.T) *time.Time {
		if rapid.Bool().Draw(t, "none") {
			return nil
		}
		at := begin.Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, "micros")) * time.Microsecond)
		return &at
	})
	rapid.Check(t, func(t *rapid.T) {
		k := liveKey(rapid.StringN(0, 40, -1).Draw(t, "name"), rapid.SliceOf(rapid.StringMatching(`[a-z]{1,5}:(read|\*)`)).Draw(t, "scopes")...)
		k.State = rapid.SampledFrom(generationStates[:]).Draw(t, "state")
		k.Generation, k.Operator = rapid.IntRange(1, 1e6).Draw(t, "generation"), rapid.Bool().Draw(t, "operator")
		k.ExpiresAt, k.GraceExpiresAt = at.Draw(t, "expires"), at.Draw(t, "grace")
		if rapid.Bool().Draw(t, "metadata") {
			k.Metadata = json.RawMessage(`{"team":"payments"}`)
		}
		if rapid.Bool().Draw(t, "replaced") {
			id := newID[domain.KeyID](domain.PrefixKey)
			k.ReplacedBy = &id
		}
		if rapid.Bool().Draw(t, "rotating") {
			id := newID[domain.RotationID](domain.PrefixRotation)
			k.RotationID = &id
		}
		if rapid.Bool().Draw(t, "limited") {
			k.Resources = domain.Resources{"app": {"com.demo.app"}}
		}
		r := Pack(k)
		if diff := cmp.Diff(k, r.Key()); diff != "" {
			t.Fatalf("the key has changed on its way:\n%s", diff)
		}
		for micros := range 8 {
			now := begin.Add(time.Duration(micros-4) * time.Microsecond)
			want := domain.StatusAt(k.State, k.ExpiresAt, k.GraceExpiresAt, now)
			if got := r.statusAt(now.UnixMicro()); got != want {
				t.Fatalf("%s at %v is %s, want %s", k.State, now, got, want)
			}
		}
	})
}
