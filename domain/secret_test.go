package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mint(t interface{ Fatal(...any) }, seed byte, brand, environment string) Secret {
	s, err := MintSecret(seeded(seed), brand, environment)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMintSecret(t *testing.T) {
	t.Parallel()

	t.Run("HasTheDocumentedForm", func(t *testing.T) {
		t.Parallel()
		form := regexp.MustCompile(`^acme_test-eu_[0-9A-Za-z]{33}[0-9A-Za-z]{6}$`)
		for range 200 {
			s, err := MintSecret(nil, "acme", "test-eu")
			if err != nil || !form.MatchString(s.Reveal()) {
				t.Fatalf("secret %q, error %v", s.Reveal(), err)
			}
		}
	})

	// Anyone may check a key offline, so what the six digits mean is part of the public form.
	t.Run("EndsWithTheCRC32InBase62", func(t *testing.T) {
		t.Parallel()
		s := mint(t, 1, "rk", "live").Reveal()
		body, digits := s[:len(s)-6], s[len(s)-6:]
		var sum uint64
		for i := range len(digits) {
			sum = sum*62 + uint64(strings.IndexByte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", digits[i]))
		}
		if sum != uint64(crc32.ChecksumIEEE([]byte(body))) {
			t.Fatalf("secret %s ends with %d, the CRC-32 of the rest is %d", s, sum, crc32.ChecksumIEEE([]byte(body)))
		}
	})

	t.Run("IsTheSameFromTheSameRandomness", func(t *testing.T) {
		t.Parallel()
		a, b, c := mint(t, 1, "rk", "live"), mint(t, 1, "rk", "live"), mint(t, 2, "rk", "live")
		if a.Reveal() != b.Reveal() || a.Reveal() == c.Reveal() {
			t.Fatalf("secrets are %s, %s and %s", a.Reveal(), b.Reveal(), c.Reveal())
		}
	})

	t.Run("IsDifferentEachTime", func(t *testing.T) {
		t.Parallel()
		seen := map[string]bool{}
		for range 5000 {
			s, err := MintSecret(nil, "rk", "live")
			if err != nil {
				t.Fatal(err)
			}
			seen[s.Reveal()] = true
		}
		if len(seen) != 5000 {
			t.Fatalf("5000 secrets hold only %d different ones", len(seen))
		}
	})

	t.Run("FailsWithoutRandomness", func(t *testing.T) {
		t.Parallel()
		if s, err := MintSecret(io.LimitReader(seeded(1), 10), "rk", "live"); !errors.Is(err, io.ErrUnexpectedEOF) || !s.IsZero() {
			t.Fatalf("secret %q, error %v", s.Reveal(), err)
		}
	})

	// A random byte folded into 62 characters would make some of them likelier; chi-squared over 61 degrees of freedom
	// exceeds 121 once in a hundred thousand fair draws, and the source is fixed.
	t.Run("DrawsEachCharacterEquallyOften", func(t *testing.T) {
		t.Parallel()
		const secrets = 20000
		source, counts := seeded(3), map[byte]int{}
		for range secrets {
			text, err := randomBase62(source, secretRandomLength)
			if err != nil {
				t.Fatal(err)
			}
			for i := range len(text) {
				counts[text[i]]++
			}
		}
		want, chi := float64(secrets*secretRandomLength)/62, 0.0
		for _, n := range counts {
			chi += math.Pow(float64(n)-want, 2) / want
		}
		if len(counts) != 62 || chi > 121 {
			t.Fatalf("%d different characters, chi-squared %.1f", len(counts), chi)
		}
	})
}

// All single changes that keep the form are found offline, without a lookup.
func TestParseSecretRefusesEverySingleChangedCharacter(t *testing.T) {
	t.Parallel()
	for seed := range byte(5) {
		s := mint(t, seed, "rk", "live").Reveal()
		tail := len(s) - secretTailLength
		for i := range len(s) {
			alphabet := base62
			switch {
			case s[i] == '_':
				continue // without it the text has another form
			case i < tail:
				alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
			}
			for _, c := range []byte(alphabet) {
				if changed := s[:i] + string(c) + s[i+1:]; changed != s {
					if _, ok := ParseSecret(changed); ok {
						t.Fatalf("%s was accepted, which is %s with another character at %d", changed, s, i)
					}
				}
			}
		}
	}
}

func TestParseSecret(t *testing.T) {
	t.Parallel()
	ours := mint(t, 1, "rk", "live").Reveal()
	for _, c := range []struct {
		name string
		text string
		want bool
	}{
		{"AcceptsOurOwn", ours, true},
		{"AcceptsOurOwnOfAnotherBrand", mint(t, 2, "acme", "pre-prod").Reveal(), true},
		{"AcceptsATokenInHexadecimal", strings.Repeat("0a", 16), true},
		{"AcceptsATokenInBase64", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0+/==", true},
		{"AcceptsAGitHubToken", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", true},
		{"AcceptsAWebToken", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U", true},
		{"AcceptsTheLongest", strings.Repeat("a", MaxSecretLength), true},
		{"RefusesTooLong", strings.Repeat("a", MaxSecretLength+1), false},
		{"RefusesMegabytes", strings.Repeat("a", 10<<20), false},
		{"RefusesTooShort", strings.Repeat("a", MinPresentedLength-1), false},
		{"AcceptsAShortOneOfAnotherSystem", strings.Repeat("a", MinPresentedLength), true},
		{"RefusesNothing", "", false},
		{"RefusesAWord", "garbage", false},
		{"RefusesABadChecksum", ours[:len(ours)-1] + other(ours[len(ours)-1]), false},
		{"RefusesTheChecksumOfAnotherKey", ours[:len(ours)-6] + mint(t, 2, "rk", "live").Reveal()[len(ours)-6:], false},
		{"RefusesSwappedCharacters", swapped(ours), false},
		{"RefusesAnotherEnvironment", strings.Replace(ours, "_live_", "_test_", 1), false},
		{"RefusesNUL", ours[:20] + "\x00" + ours[21:], false},
		{"RefusesANULAtTheEnd", ours + "\x00", false},
		{"RefusesALeadingSpace", " " + ours, false},
		{"RefusesATrailingNewline", ours + "\n", false},
		{"RefusesAnInnerSpace", strings.Repeat("a", 20) + " " + strings.Repeat("a", 20), false},
		{"RefusesTabs", strings.Repeat("a\t", 20), false},
		{"RefusesDEL", strings.Repeat("a\x7f", 20), false},
		{"RefusesOtherScripts", strings.Repeat("é", 40), false},
		{"RefusesInvalidUTF8", strings.Repeat("\xff\xfe", 20), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, ok := ParseSecret(c.text)
			if ok != c.want {
				t.Fatalf("ParseSecret(%.60q) = %v", c.text, ok)
			}
			if want := map[bool]string{true: c.text}[c.want]; s.Reveal() != want || s.IsZero() == c.want {
				t.Fatalf("secret reveals %.60q, want %.60q", s.Reveal(), want)
			}
		})
	}
}

// other returns a base62 character that is not c.
func other(c byte) string {
	if c == 'x' {
		return "y"
	}
	return "x"
}

// swapped exchanges the first two neighbours in the random part that differ.
func swapped(s string) string {
	for i := len(s) - secretTailLength; ; i++ {
		if s[i] != s[i+1] {
			return s[:i] + string(s[i+1]) + string(s[i]) + s[i+2:]
		}
	}
}

func TestSecretShowsOnlyItsEnds(t *testing.T) {
	t.Parallel()
	ours := mint(t, 1, "rk", "live")
	foreign, ok := ParseSecret("0123456789abcdef0123456789abWXYZ")
	if !ok {
		t.Fatal("a token of 32 characters was refused")
	}
	short, ok := ParseSecret("0123456789abcdef")
	if !ok {
		t.Fatal("a token of 16 characters was refused")
	}
	for _, c := range []struct {
		secret       Secret
		prefix, last string
	}{
		{ours, ours.Reveal()[:len("rk_live_")+4], ours.Reveal()[len("rk_live_")+35:]},
		{foreign, "01234567", "WXYZ"},
		{short, "01", "ef"},
	} {
		want := SecretFacts{Digest: sha256.Sum256([]byte(c.secret.Reveal())), Prefix: c.prefix, LastFour: c.last}
		same(t, "facts", FactsOf(c.secret), want)
	}
}

func TestDigestTextRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var d, back Digest
		copy(d[:], rapid.SliceOfN(rapid.Byte(), len(d), len(d)).Draw(t, "digest"))
		text, err := d.MarshalText()
		if err != nil || string(text) != hex.EncodeToString(d[:]) || d.String() != string(text) || fmt.Sprint(d) != string(text) {
			t.Fatalf("text of %x is %q (%v), string %q", d[:], text, err, d.String())
		}
		if err := back.UnmarshalText(text); err != nil || back != d {
			t.Fatalf("%q reads back as %s (%v)", text, back, err)
		}
	})
	for _, bad := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("0", 63) + "g"} {
		var d Digest
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was read as a digest", bad)
		}
	}
}

// What parses is what was presented, byte for byte, has only characters that fit a header, and parses again.
func FuzzParseSecret(f *testing.F) {
	ours := mint(f, 1, "rk", "live").Reveal()
	for _, seed := range []string{
		ours, ours[:len(ours)-1], ours + "x", strings.ToUpper(ours), "", strings.Repeat("_", 60), strings.Repeat("0a", 16),
		"a_b_" + ours[len("rk_live_"):], "rk__" + ours[len("rk_live_"):], ours[:30] + "\x00" + ours[31:], strings.Repeat("a", 513),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := ParseSecret(text)
		if !ok {
			if !s.IsZero() || s.Reveal() != "" {
				t.Fatalf("%q was refused, yet a secret came back", text)
			}
			return
		}
		if s.Reveal() != text || s.IsZero() || s.Digest() != sha256.Sum256([]byte(text)) {
			t.Fatalf("%q parses into %q", text, s.Reveal())
		}
		if len(text) < MinPresentedLength || len(text) > MaxSecretLength || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q was accepted", text)
		}
		if !strings.HasPrefix(text, s.Prefix()) || !strings.HasSuffix(text, s.LastFour()) || len(s.Prefix())+len(s.LastFour()) > max(len(text)/4, len(text)-16) {
			t.Fatalf("%q shows %q and %q", text, s.Prefix(), s.LastFour())
		}
		if fmt.Sprint(s) != redacted {
			t.Fatalf("%q prints as %s", text, s)
		}
	})
}

// Texts of callers that are kept may hold a key that slipped into them.
func TestWithoutKeys(t *testing.T) {
	t.Parallel()
	secret, err := MintSecret(nil, "rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	key := secret.Reveal()
	for in, want := range map[string]string{
		"": "", "curl/8": "curl/8", "my_agent v1": "my_agent v1", key: "[redacted]", "(" + key + ")": "([redacted])",
		"a " + key + "/" + key + "é": "a [redacted]/[redacted]é", "a_b_" + key[3:]: "[redacted]",
		"\xff_" + key: "\xff[redacted]", strings.Repeat("x", 38): strings.Repeat("x", 38), "1" + strings.Repeat("x", 38): "[redacted]",
	} {
		if got := WithoutKeys(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
