package domain

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// fieldsOf returns the code and the fields of a refusal.
func fieldsOf(t testing.TB, err error) (Code, []FieldError) {
	t.Helper()
	refusal, ok := err.(*Error)
	if !ok {
		t.Fatalf("got %v, want a refusal", err)
	}
	return refusal.Code, refusal.Fields
}

func TestForeignSecret(t *testing.T) {
	t.Parallel()
	ours := mint(t, 1, "rk", "live").Reveal()
	const foreign = "sk_live_0123456789abcdef01234567"
	digest := sha256.Sum256([]byte(foreign))
	inHex := hex.EncodeToString(digest[:])
	for _, c := range []struct {
		name    string
		secret  ForeignSecret
		field   string // of the fault
		want    SecretFacts
		foreign bool // the fault looks like that of somebody else's secret
	}{
		{name: "RawOfAnotherSystem", secret: ForeignSecret{Key: foreign}, want: SecretFacts{digest, "sk_live_", "4567"}},
		{name: "RawOfAnotherRekey", secret: ForeignSecret{Key: ours}, want: SecretFacts{sha256.Sum256([]byte(ours)), ours[:12], ours[len(ours)-4:]}},
		{name: "ShortRaw", secret: ForeignSecret{Key: "0123456789abcdef"}, want: SecretFacts{sha256.Sum256([]byte("0123456789abcdef")), "01", "ef"}},
		{name: "Hashed", secret: ForeignSecret{SHA256: inHex}, want: SecretFacts{Digest: digest}},
		{name: "HashedInCapitals", secret: ForeignSecret{SHA256: strings.ToUpper(inHex)}, want: SecretFacts{Digest: digest}},
		{name: "HashedAndShown", secret: ForeignSecret{SHA256: inHex, KeyPrefix: "sk_live_0123", LastFour: "4567"}, want: SecretFacts{digest, "sk_live_0123", "4567"}},
		{name: "ShownAsRekeyShowsIt", secret: ForeignSecret{SHA256: inHex, KeyPrefix: "my-company_production_a1B2"}, want: SecretFacts{Digest: digest, Prefix: "my-company_production_a1B2"}},

		{name: "Nothing", field: "key"},
		{name: "Both", secret: ForeignSecret{Key: foreign, SHA256: inHex}, field: "sha256"},
		{name: "PrefixBesideTheKey", secret: ForeignSecret{Key: foreign, KeyPrefix: "sk"}, field: "key_prefix"},
		{name: "TailBesideTheKey", secret: ForeignSecret{Key: foreign, LastFour: "67"}, field: "last_four"},
		{name: "TooShort", secret: ForeignSecret{Key: "0123456789abcde"}, field: "key"},
		{name: "TooLong", secret: ForeignSecret{Key: strings.Repeat("k", MaxSecretLength+1)}, field: "key", foreign: true},
		{name: "NoHeaderCouldHoldIt", secret: ForeignSecret{Key: "0123456789 abcdef"}, field: "key", foreign: true},
		{name: "WrongChecksum", secret: ForeignSecret{Key: swapped(ours)}, field: "key", foreign: true},
		{name: "ShortDigest", secret: ForeignSecret{SHA256: inHex[:62]}, field: "sha256"},
		{name: "NoHex", secret: ForeignSecret{SHA256: inHex[:63] + "g"}, field: "sha256"},
		{name: "AnotherHash", secret: ForeignSecret{SHA256: strings.Repeat("ab", 20)}, field: "sha256"},
		{name: "LongPrefix", secret: ForeignSecret{SHA256: inHex, KeyPrefix: "sk_live_012345678"}, field: "key_prefix"},
		{name: "UnprintablePrefix", secret: ForeignSecret{SHA256: inHex, KeyPrefix: "sk\x00"}, field: "key_prefix"},
		{name: "LongTail", secret: ForeignSecret{SHA256: inHex, LastFour: "34567"}, field: "last_four"},
		{name: "UnprintableTail", secret: ForeignSecret{SHA256: inHex, LastFour: "é"}, field: "last_four"},
		{name: "TheSecretAsPrefix", secret: hashedAs("0123456789abcdef", 16), field: "key_prefix"},
		{name: "TheSecretInTwoParts", secret: hashedAs("0123456789abcdef", 13), field: "key_prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.secret.Facts()
			if c.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				same(t, "facts", got, c.want)
				return
			}
			code, fields := fieldsOf(t, err)
			if code != CodeValidation || len(fields) != 1 || fields[0].Field != c.field || fields[0].Remedy == "" {
				t.Fatalf("got %s %+v, want %s with a remedy", code, fields, c.field)
			}
			if foreign := fields[0].Message == "cannot be imported"; foreign != c.foreign {
				t.Errorf("it %s", fields[0].Message)
			}
			for _, text := range []string{c.secret.Key, c.secret.SHA256, c.secret.KeyPrefix} {
				if len(text) > 8 && strings.Contains(fmt.Sprint(err, fields), text) {
					t.Errorf("the refusal repeats %q", text)
				}
			}
		})
	}
}

// hashedAs shows the first n characters of a secret as its prefix and the rest as its tail.
func hashedAs(secret string, n int) ForeignSecret {
	digest := sha256.Sum256([]byte(secret))
	return ForeignSecret{SHA256: hex.EncodeToString(digest[:]), KeyPrefix: secret[:n], LastFour: secret[n:]}
}

// Every usual spelling of a digest is read, and nothing that only looks like one.
func TestReadDigest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want Digest
		copy(want[:], rapid.SliceOfN(rapid.Byte(), len(want), len(want)).Draw(t, "digest"))
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(want[:])
			if got, ok := readDigest(text); !ok || got != want {
				t.Fatalf("%s is read as %s, %v", text, got, ok)
			}
			for _, bad := range []string{text + "=", text + "\n", text[1:], text[:20] + "\n" + text[20:], text[:20] + " " + text[21:]} {
				if len(bad) == 43 && !strings.ContainsAny(bad, "\n =") || bad == encoding.WithPadding('=').EncodeToString(want[:]) {
					continue // that is another digest, or the same one with its padding
				}
				if got, ok := readDigest(bad); ok {
					t.Fatalf("%q is read as %s", bad, got)
				}
			}
		}
		if got, ok := readDigest(want.String()); !ok || got != want {
			t.Fatalf("%s is read as %s", want, got)
		}
	})
	// The last character of 43 has two bits too many: a second spelling of one digest would be hidden there. And an
	// alphabet is one or the other.
	for _, bad := range []string{strings.Repeat("A", 42) + "B", strings.Repeat("A", 40) + "+_A", strings.Repeat("A", 44), ""} {
		if _, ok := readDigest(bad); ok {
			t.Errorf("%q was read as a digest", bad)
		}
	}
}

// imported is an entry with the n-th secret.
func imported(n byte, change func(*ImportKey)) ImportKey {
	f := facts(n)
	k := ImportKey{CreateKey: create(nil), Field: "key"}
	k.Given, k.Mint = &f, nil
	if change != nil {
		change(&k)
	}
	return k
}

func TestImportKeysIn(t *testing.T) {
	t.Parallel()
	here := project(liveEnvironment, testEnvironment)
	named := func(n byte, change func(*CreateKey)) ImportKey {
		return imported(n, func(k *ImportKey) {
			k.LineageID, k.KeyID = LineageID(fmt.Sprint("lin_", n)), KeyID(fmt.Sprint("key_", n))
			if change != nil {
				change(&k.CreateKey)
			}
		})
	}

	t.Run("DecidesEachAsANewKeyIsDecided", func(t *testing.T) {
		t.Parallel()
		hook := func(c *CreateKey) {
			c.Settings.EndpointID, c.Settings.WebhookURL = ep1, "https://example.com/hook"
			c.Settings.RotationIntervalSeconds = 3600
		}
		got, err := here.ImportKeysIn([]ImportKey{named(1, hook), named(2, nil)}, testLimits, start)
		if err != nil || len(got) != 3 {
			t.Fatalf("got %d events, %v", len(got), err)
		}
		fresh := named(1, hook).CreateKey
		fresh.Given, fresh.Mint = nil, mintFixed
		want, err := here.CreateKeyIn(fresh, testLimits, start)
		if err != nil {
			t.Fatal(err)
		}
		created := want[1].Data.(Created)
		created.SecretFacts, created.Imported = facts(1), true
		want[1].Data = created
		same(t, "the first one's events", got[:2], want)
		if second := got[2].Data.(Created); second.Digest != facts(2).Digest || !second.Imported || got[2].StreamID != "lin_2" {
			t.Errorf("the second is %+v", got[2])
		}
	})

	t.Run("LeavesOutWhatExists", func(t *testing.T) {
		t.Parallel()
		exists := named(1, nil)
		exists.Exists = true
		got, err := here.ImportKeysIn([]ImportKey{exists, named(2, nil)}, testLimits, start)
		if err != nil || len(got) != 1 || got[0].StreamID != "lin_2" {
			t.Fatalf("got %+v, %v", got, err)
		}
	})

	t.Run("NamesEveryFaultAndDecidesNothing", func(t *testing.T) {
		t.Parallel()
		faulty := imported(5, func(k *ImportKey) { k.Fault = CannotBeImported("sha256") })
		got, err := here.ImportKeysIn([]ImportKey{
			named(1, nil), named(2, func(c *CreateKey) { c.Settings.Scopes = Scopes{"a b"} }),
			named(3, func(c *CreateKey) { c.Settings.Name = "" }),
			faulty, named(4, func(c *CreateKey) { c.Caller = limitedCaller(); c.Settings.Scopes = Scopes{"b:read"} }),
		}, testLimits, start)
		code, fields := fieldsOf(t, err)
		var named []string
		for _, f := range fields {
			named = append(named, f.Field)
		}
		same(t, "fields", named, []string{"keys[1].scopes[0]", "keys[2].name", "keys[3].sha256", "keys[4].scopes"})
		if code != CodeValidation || got != nil || !strings.Contains(err.Error(), "4 of the keys are wrong") {
			t.Errorf("got %v, %s, %v", got, code, err)
		}
	})

	t.Run("CallsWhatOnlyExceedsTheCallerByItsName", func(t *testing.T) {
		t.Parallel()
		_, err := here.ImportKeysIn([]ImportKey{named(4, func(c *CreateKey) { c.Caller = limitedCaller(); c.Settings.Scopes = Scopes{"b:read"} })}, testLimits, start)
		if code, _ := fieldsOf(t, err); code != CodeEscalation {
			t.Errorf("got %v", err)
		}
	})

	t.Run("KeepsToTheProjectsPolicy", func(t *testing.T) {
		t.Parallel()
		strict := project(liveEnvironment)
		strict.Policy = Policy{AllowedScopes: Scopes{"a:*"}, RequireExpiry: true}
		ends := new(at(day))
		_, err := strict.ImportKeysIn([]ImportKey{
			named(1, func(c *CreateKey) { c.Settings.Scopes, c.Settings.ExpiresAt = Scopes{"b"}, ends }),
			named(2, func(c *CreateKey) { c.Settings.Scopes = Scopes{"a:x"} }),
			named(3, func(c *CreateKey) { c.Settings.ExpiresAt = ends }),
		}, testLimits, start)
		var named []string
		_, fields := fieldsOf(t, err)
		for _, f := range fields {
			named = append(named, f.Field)
		}
		same(t, "fields", named, []string{"keys[0].scopes", "keys[1].expires_at"})
	})

	t.Run("NamesAtMostTwenty", func(t *testing.T) {
		t.Parallel()
		var keys []ImportKey
		for range 50 {
			keys = append(keys, imported(1, func(k *ImportKey) { k.Settings.Name = "" }))
		}
		_, err := here.ImportKeysIn(keys, testLimits, start)
		if _, fields := fieldsOf(t, err); len(fields) != 20 || !strings.Contains(err.Error(), "50 of the keys") {
			t.Errorf("%d fields, %v", len(fields), err)
		}
	})

	t.Run("AnUnknownEnvironmentIsNoFaultOfAnEntry", func(t *testing.T) {
		t.Parallel()
		_, err := here.ImportKeysIn([]ImportKey{named(1, func(c *CreateKey) { c.Environment = "env_x" })}, testLimits, start)
		if CodeOf(err) != CodeNotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestRepeatedSecrets(t *testing.T) {
	t.Parallel()
	keys := []ImportKey{imported(1, nil), imported(2, nil), imported(1, func(k *ImportKey) { k.Field = "sha256" }),
		imported(2, func(k *ImportKey) { k.Fault = CannotBeImported("key") })}
	Repeated(keys)
	if keys[0].Fault != nil || keys[1].Fault != nil {
		t.Errorf("the first ones have faults: %v, %v", keys[0].Fault, keys[1].Fault)
	}
	if _, fields := fieldsOf(t, keys[2].Fault); fields[0].Field != "sha256" || !strings.Contains(fields[0].Message, "keys[0]") {
		t.Errorf("got %+v", fields)
	}
	if _, fields := fieldsOf(t, keys[3].Fault); fields[0].Message != "cannot be imported" {
		t.Errorf("its own fault was replaced: %+v", fields)
	}
}
