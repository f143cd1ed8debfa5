package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file that was reviewed.
func golden(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run with -update and review it:\n%s", path, diff)
	}
}

func indented(t testing.TB, raw []byte) string {
	t.Helper()
	var out bytes.Buffer
	must(t, json.Indent(&out, raw, "", "  "))
	return strings.TrimSpace(out.String()) + "\n"
}

// transcript is a conversation with the surface, written down as HTTP. The clock stands, and moves by a second before
// each request; ids and secrets become placeholders that are the same wherever the same value stands.
type transcript struct {
	b    *bench
	text strings.Builder
}

// began is when transcripts play.
var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newTranscript(t *testing.T) *transcript {
	return &transcript{b: setup(t, options{now: began})}
}

// call sends a request and writes both sides down.
func (tr *transcript) call(c *client, title, method, path string, body any, headers ...string) *answer {
	tr.b.t.Helper()
	tr.b.clock.advance(time.Second)
	fmt.Fprintf(&tr.text, "### %s\n\n%s %s\n", title, method, path)
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&tr.text, "%s: %s\n", headers[i], headers[i+1])
	}
	switch body := body.(type) {
	case nil:
		fmt.Fprintln(&tr.text)
	case string:
		fmt.Fprintf(&tr.text, "\n%s\n\n", body)
	default:
		raw, err := json.Marshal(body)
		must(tr.b.t, err)
		fmt.Fprintf(&tr.text, "\n%s\n", indented(tr.b.t, raw))
	}
	a := c.call(method, path, body, headers...)
	tr.write(a)
	return a
}

// shownHeaders are those that a client may rely on.
var shownHeaders = []string{"Allow", "Cache-Control", "Content-Type", "Link", "Rekey-Code", "Rekey-Environment-Id", "Rekey-Gateway-Error", "Rekey-Key-Id",
	"Rekey-Key-Status", "Rekey-Lineage-Id", "Rekey-Organization-Id", "Rekey-Project-Id", "Rekey-Scopes", "Retry-After", "Www-Authenticate", "X-Content-Type-Options", "X-Request-Id"}

func (tr *transcript) write(a *answer) {
	fmt.Fprintf(&tr.text, "%d\n", a.status)
	for _, name := range shownHeaders {
		for _, value := range a.header.Values(name) {
			fmt.Fprintf(&tr.text, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintln(&tr.text)
	if len(a.body) > 0 {
		fmt.Fprintln(&tr.text, indented(tr.b.t, a.body))
	}
}

// end compares the conversation with its golden file.
func (tr *transcript) end(name string) {
	tr.b.t.Helper()
	golden(tr.b.t, name, placeholders(tr.text.String()))
}

// placeholder is a kind of value that differs from run to run.
type placeholder struct {
	kind    string
	pattern *regexp.Regexp
}

var differing = []placeholder{
	{"secret", regexp.MustCompile(`\b[a-z0-9-]+_[a-z0-9-]+_[0-9A-Za-z]{39}\b`)},
	{"signing secret", regexp.MustCompile(`\bwhsec_[0-9A-Za-z+/]+=*`)},
	{"signing public key", regexp.MustCompile(`\bwhpk_[0-9A-Za-z+/]+=*`)},
	{"receiver", regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+`)},
	{"host", regexp.MustCompile(`\b127\.0\.0\.1:[0-9]+`)},
	{"number", regexp.MustCompile(`\b[1-9][0-9]{10,15}\b`)}, // the numeric id of a key
	{"digest", regexp.MustCompile(`\b[0-9a-f]{64}\b`)},
	{"", regexp.MustCompile(`\b(?:key|lin|rot|org|proj|env|ep|evt|req)_[0-7][0-9a-hjkmnp-tv-z]{25}\b`)}, // named by its prefix
}

var (
	prefixRandom = regexp.MustCompile(`("(?:key_prefix|prefix)": ?"[a-z0-9-]+_[a-z0-9-]+_)[0-9A-Za-z]{4}"`)
	keyRandom    = regexp.MustCompile(`("key": ?"[a-z0-9-]+_[a-z0-9-]+_)[0-9A-Za-z]{4}\.\.\."`)
	lastFour     = regexp.MustCompile(`("(?:last_four|lastFour)": ?)"[0-9A-Za-z]{4}"`)
	nextRotation = regexp.MustCompile(`("next_rotation_at": ?)"[^"]+"`) // spread by the lineage's id
)

func placeholders(text string) string {
	for _, p := range differing {
		var seen []string
		text = p.pattern.ReplaceAllStringFunc(text, func(value string) string {
			kind := p.kind
			if kind == "" {
				kind, _, _ = strings.Cut(value, "_")
			}
			if kind == "req" {
				return "<req>"
			}
			if !slices.Contains(seen, value) {
				seen = append(seen, value)
			}
			n := 0
			for _, s := range seen {
				if p.kind != "" || strings.HasPrefix(s, kind+"_") {
					n++
				}
				if s == value {
					break
				}
			}
			return fmt.Sprintf("<%s %d>", kind, n)
		})
	}
	text = prefixRandom.ReplaceAllString(text, `$1····"`)
	text = keyRandom.ReplaceAllString(text, `$1····..."`)
	text = lastFour.ReplaceAllString(text, `$1"····"`)
	return nextRotation.ReplaceAllString(text, `$1"<slot>"`)
}
