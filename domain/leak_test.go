package domain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const leakPlace = "https://github.com/acme/demo/blob/main/.env"

// leaked reports key id n to a project that acts so.
func leaked(id KeyID, action LeakAction, now time.Duration) func(*Lineage) ([]Decided, error) {
	return func(l *Lineage) ([]Decided, error) {
		return l.ReportLeak(ReportLeak{KeyID: id, Source: "github_commit", URL: leakPlace, Action: action}, at(now))
	}
}

func TestReportLeak(t *testing.T) {
	t.Parallel()
	reported := func(id KeyID, action LeakAction) LeakReported {
		return LeakReported{KeyID: id, Source: "github_commit", URL: leakPlace, Action: action}
	}
	noted := fact{time.Minute, reported(key1, LeakNotify)}
	var full []fact
	for i := range MaxLeaks {
		full = append(full, fact{time.Minute, LeakReported{KeyID: key1, Source: "x", URL: fmt.Sprint("https://x/", i), Action: LeakNotify}})
	}
	inGrace := []fact{created(), byHand(0, 1, hour)}
	waiting := []fact{created(hourly), bySlot()}
	runDecisions(t, []decision{
		{name: "RevokesTheLineageOfTheActiveKey", given: inGrace, when: leaked(key2, LeakRevoke, time.Minute), then: []Payload{
			reported(key2, LeakRevoke), Revoked{KeyID: key2, KeyIDs: []KeyID{key1, key2}, Reason: "leaked"},
		}},
		{name: "RevokesAKeyInGraceAlone", given: inGrace, when: leaked(key1, LeakRevoke, time.Minute), then: []Payload{
			reported(key1, LeakRevoke), Revoked{KeyID: key1, KeyIDs: []KeyID{key1}, Reason: "leaked"},
		}},
		{name: "CancelsTheRotationOfAPendingKey", given: waiting, when: leaked(key2, LeakRevoke, slot(1)), then: []Payload{
			reported(key2, LeakRevoke), RotationCancelled{RotationID: rot1, KeyID: key2, Reason: "leaked", NextRotationAt: new(at(slot(2)))},
		}},
		{name: "RevokesWithoutAPolicy", given: inGrace, when: leaked(key1, "", time.Minute), then: []Payload{
			reported(key1, LeakRevoke), Revoked{KeyID: key1, KeyIDs: []KeyID{key1}, Reason: "leaked"},
		}},
		{name: "OnlyTells", given: inGrace, when: leaked(key2, LeakNotify, time.Minute), then: []Payload{reported(key2, LeakNotify)}},
		{name: "TellsOfOnePlaceOnce", given: []fact{created(), noted}, when: leaked(key1, LeakNotify, hour)},
		{name: "TellsOfASuccessorToo", given: []fact{created(), noted, byHand(2*time.Minute, 1, hour)}, when: leaked(key2, LeakNotify, hour/2), then: []Payload{reported(key2, LeakNotify)}},
		{name: "RevokesWhatItOnlyToldOf", given: []fact{created(), noted}, when: leaked(key1, LeakRevoke, hour), then: []Payload{
			reported(key1, LeakRevoke), Revoked{KeyID: key1, KeyIDs: []KeyID{key1}, Reason: "leaked"},
		}},
		{name: "TellsOfSoManyPlaces", given: append([]fact{created()}, full[1:]...), when: leaked(key1, LeakNotify, hour), then: []Payload{reported(key1, LeakNotify)}},
		{name: "TellsOfNoMorePlaces", given: append([]fact{created()}, full...), when: leaked(key1, LeakNotify, hour)},
		{name: "RevokesAlsoThen", given: append([]fact{created()}, full...), when: leaked(key1, LeakRevoke, hour), then: []Payload{
			reported(key1, LeakRevoke), Revoked{KeyID: key1, KeyIDs: []KeyID{key1}, Reason: "leaked"},
		}},
		{name: "LeavesAnEndedKey", given: []fact{created(), revoked(time.Minute, key1)}, when: leaked(key1, LeakRevoke, hour)},
		{name: "LeavesAKeyWhoseGraceIsOver", given: inGrace, when: leaked(key1, LeakRevoke, hour)},
		{name: "LeavesAnExpiredKey", given: []fact{created(ending(hour))}, when: leaked(key1, LeakRevoke, hour)},
		{name: "LeavesAForgottenKey", given: append(inGrace[:2:2], revoked(time.Minute, key1), byHand(2*time.Minute, 2, 0)), when: leaked(key1, LeakRevoke, hour)},
		{name: "LeavesAnUnknownKey", given: inGrace, when: leaked(key6, LeakRevoke, time.Minute)},
	})
}

func TestReportLeakNamesSourcesShortly(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"github_pull_request_description": "github_pull_request_description", "": "unknown", "Commit": "unknown",
		"a b": "unknown", strings.Repeat("a", 40): strings.Repeat("a", 40), strings.Repeat("a", 41): "unknown", "a\x00": "unknown",
	} {
		decided, err := given(t, created()).ReportLeak(ReportLeak{KeyID: key1, Source: source}, start)
		if err != nil || decided[0].Data.(LeakReported).Source != want {
			t.Errorf("%q: %v, %v; want %q", source, decided, err, want)
		}
	}
}

// Whatever stands in an address, what is kept of it must tell nothing of a secret.
func TestLeakURL(t *testing.T) {
	t.Parallel()
	secret, err := mintFixed("rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	other, err := MintSecret(seeded(8), "acme", "test")
	if err != nil {
		t.Fatal(err)
	}
	plain := secret.Reveal()
	tail := plain[len("rk_live_"):]
	escaped := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
		return b.String()
	}
	for raw, want := range map[string]string{
		leakPlace: leakPlace,
		"https://user:pass@git.example.com:8443/a/b": "https://git.example.com:8443/a/b",
		leakPlace + "?token=1#L3":                    leakPlace,
		leakPlace + "?" + plain:                      leakPlace,
		leakPlace + "#" + plain:                      leakPlace,
		"https://" + plain + ":x@example.com/a":      "https://example.com/a",
		"http://example.com/a%20b/%C3%A9":            "http://example.com/a%20b/%C3%A9",
		"https://example.com/é":                      "https://example.com/%C3%A9",
		"https://github.com/a/b/blob/12345600b9cbe38a219f39a9941c9319b600c002/foo/bar.txt": "https://github.com/a/b/blob/12345600b9cbe38a219f39a9941c9319b600c002/foo/bar.txt",

		"": "", "some where": "", "github.com/a": "", "ftp://example.com/a": "", "javascript:alert(1)": "", "https:///a": "",
		"mailto:" + plain: "", "https://example.com/%zz": "", "https://example.com/%25zz": "", "https://example.com/\x00": "",
		"https://example.com/" + strings.Repeat("a", 1000): "", "https://example.com/" + strings.Repeat("é", 300): "",

		"https://example.com/" + plain:                                 "",
		"https://example.com/x" + plain + "y":                          "",
		"https://example.com/" + strings.ToUpper(plain):                "",
		"https://" + tail + ".example.com/":                            "",
		"https://example.com/" + tail:                                  "",
		"https://example.com/" + tail[:12]:                             "",
		"https://example.com/" + tail[27:]:                             "",
		"https://example.com/" + escaped(plain):                        "",
		"https://example.com/" + escaped(escaped(plain)):               "",
		"https://example.com/" + strings.ReplaceAll(plain, "_", "%5F"): "",
		"https://example.com/%2525252525252520":                        "",
		"https://example.com/" + other.Reveal():                        "",
		"https://example.com/" + escaped(other.Reveal()):               "",
	} {
		if got := LeakURL(raw, secret); got != want {
			t.Errorf("%q is kept as %q, want %q", raw, got, want)
		}
	}
	imported, ok := ParseSecret("0123456789abcdef0123456789ABCDEF")
	if !ok {
		t.Fatal("not taken for a secret")
	}
	if got := LeakURL("https://example.com/456789abcdef", imported); got != "" {
		t.Errorf("a part of a secret of another form is kept in %q", got)
	}
}

// A secret that stands anywhere in an address, in whole and in any escaping, is not in what is kept.
func TestLeakURLNeverTellsTheSecret(t *testing.T) {
	t.Parallel()
	secret, err := mintFixed("rk", "live")
	if err != nil {
		t.Fatal(err)
	}
	text := rapid.StringMatching(`[ -~é%/?#@:]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		written := secret.Reveal()
		for range rapid.IntRange(0, 3).Draw(t, "times escaped") {
			var b strings.Builder
			for i := range len(written) {
				if rapid.Bool().Draw(t, "escape") {
					fmt.Fprintf(&b, "%%%02X", written[i])
				} else {
					b.WriteByte(written[i])
				}
			}
			written = b.String()
		}
		kept := LeakURL("https://"+text.Draw(t, "before")+written+text.Draw(t, "after"), secret)
		for range 6 {
			if strings.Contains(strings.ToLower(kept), strings.ToLower(secret.Reveal()[8:])) {
				t.Fatalf("kept %q", kept)
			}
			kept = unescapedOnce(kept)
		}
	})
}

// unescapedOnce undoes the escapes that are well-formed and leaves the others, unlike package url.
func unescapedOnce(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '%' && i+2 < len(s) {
			if n, _ := fmt.Sscanf(s[i+1:i+3], "%02x", &c); n == 1 {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
