package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/rekeyhq/rekey/domain"
)

// scanned are heads of secrets, among them the shortest, the longest, and those that could be taken for another.
var scanned = [][2]string{
	{"rk", "live"}, {"rk", "test"}, {"a", "b"}, {"acme-app", "live"}, {"my-acme-app", "live"}, {"0", "1-2"},
	{strings.Repeat("a", 24), strings.Repeat("z", 24)},
}

func scannedRules() []scannerRule {
	var rules []scannerRule
	for _, s := range scanned {
		rules = append(rules, newScannerRule(s[0], s[1]))
	}
	return rules
}

func mintFor(t *testing.T, brand, environment string) string {
	t.Helper()
	secret, err := domain.MintSecret(nil, brand, environment)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// matches returns everything that a rule finds in a text.
func matches(t *testing.T, rule scannerRule, text string) []string {
	t.Helper()
	return regexp.MustCompile(rule.Regex).FindAllString(text, -1)
}

// Every secret is found whole by its own rule, wherever it stands.
func TestScannerRulesFindEverySecret(t *testing.T) {
	t.Parallel()
	surroundings := []string{"%s", "key=%s\n", `{"key":"%s"}`, "'%s',", "Bearer %s", "https://user:%s@host/", "(%s)", "x %s y", "#%s.", "\t%s\r\n", "ü%sü", "/%s-old"}
	for i, s := range scanned {
		for range 200 {
			secret := mintFor(t, s[0], s[1])
			for _, around := range surroundings {
				text := fmt.Sprintf(around, secret)
				if found := matches(t, scannedRules()[i], text); !slices.Equal(found, []string{secret}) {
					t.Fatalf("in %q it finds %q", text, found)
				}
				if !strings.Contains(secret, scannedRules()[i].Keyword) {
					t.Fatalf("%s has not the keyword %s", secret, scannedRules()[i].Keyword)
				}
			}
		}
	}
}

func TestScannerRulesFindNothingElse(t *testing.T) {
	t.Parallel()
	secret := mintFor(t, "rk", "live")
	tail := secret[len("rk_live_"):]
	for _, near := range []string{
		"", "rk_live_", "rk_live_...", "rk_live_" + tail[1:], "rk_live_" + tail + "0", "rk_live_" + tail + "_", "x" + secret, "_" + secret,
		"RK_LIVE_" + tail, "Rk_live_" + tail, "rk-live-" + tail, "rk_live" + tail, "rk__live_" + tail, "rk_live_" + tail[:38] + "-",
		"rk_live_" + tail[:20] + "." + tail[21:], "rk_live_" + tail[:20] + "\n" + tail[20:], "rk_liv_" + tail, "rk_prod_" + tail, "sk_live_" + tail,
		"k_live_" + tail, "rk_live_" + strings.Repeat("é", 39), tail, "rklive_" + tail, "rk_live " + tail, secret + secret, "sha256:" + strings.Repeat("0", 64),
		"export RK_LIVE_KEY=" + tail, "rk_live_<" + tail + ">",
	} {
		for _, rule := range scannedRules() {
			if found := matches(t, rule, near); len(found) > 0 {
				t.Errorf("in %q the rule %s finds %q", near, rule.ID, found)
			}
		}
	}
}

// The checksum is what the JSON says: a program written from its words alone tells keys from look-alikes.
func TestScannerChecksumIsAsDescribed(t *testing.T) {
	t.Parallel()
	valid := func(s string) bool {
		head, last := s[:len(s)-secretChecksum.Length], s[len(s)-secretChecksum.Length:]
		n, digits := crc32.ChecksumIEEE([]byte(head)), ""
		for range secretChecksum.Length {
			digits = string(secretChecksum.Alphabet[n%62]) + digits
			n /= 62
		}
		return n == 0 && digits == last
	}
	for _, s := range scanned {
		secret := mintFor(t, s[0], s[1])
		if !valid(secret) {
			t.Errorf("the checksum of %s is another", secret)
		}
		if valid(secret[:len(secret)-1] + "-") {
			t.Errorf("a look-alike of %s passes", secret)
		}
	}
}

// parseGitleaks reads the few forms of TOML that a gitleaks configuration of ours is made of, and nothing else.
func parseGitleaks(t *testing.T, text string) (title string, rules []map[string]string) {
	t.Helper()
	into := map[string]string{}
	top := into
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		name, value, ok := strings.Cut(line, " = ")
		switch {
		case line == "":
		case line == "[[rules]]":
			into = map[string]string{}
			rules = append(rules, into)
		case !ok || into[name] != "":
			t.Fatalf("not TOML, or twice: %q", line)
		case strings.HasPrefix(value, "'''") && strings.HasSuffix(value, "'''") && strings.Count(value, "'") == 6:
			into[name] = strings.Trim(value, "'")
		default:
			text, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(value, "["), "]"))
			if err != nil {
				t.Fatalf("not TOML: %q: %v", line, err)
			}
			into[name] = text
		}
	}
	return top["title"], rules
}

func TestScannerFormats(t *testing.T) {
	t.Parallel()
	rules := scannedRules()
	var out bytes.Buffer
	if err := writeGitleaks(&out, rules); err != nil {
		t.Fatal(err)
	}
	title, parsed := parseGitleaks(t, out.String())
	if title == "" || len(parsed) != len(rules) {
		t.Fatalf("title %q, %d rules", title, len(parsed))
	}
	ids := map[string]bool{}
	for i, rule := range rules {
		want := map[string]string{"id": rule.ID, "description": rule.Description, "regex": rule.Regex, "keywords": rule.Keyword}
		if diff := gocmp.Diff(want, parsed[i]); diff != "" || ids[rule.ID] {
			t.Errorf("rule %d (-want +got):\n%s", i, diff)
		}
		ids[rule.ID] = true
	}
	out.Reset()
	if err := writeScannerRegexes(&out, rules[:2]); err != nil || out.String() != `\brk_live_[0-9A-Za-z]{39}\b`+"\n"+`\brk_test_[0-9A-Za-z]{39}\b`+"\n" {
		t.Errorf("regexes: %q, %v", out.String(), err)
	}
	out.Reset()
	var printed struct {
		Rules    []scannerRule
		Checksum scannerChecksum
	}
	if err := writeScannerJSON(&out, rules); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &printed); err != nil || !slices.Equal(printed.Rules, rules) || printed.Checksum != secretChecksum {
		t.Errorf("JSON: %s, %v", out.String(), err)
	}
}

// cliScannerRules requires a rule for every brand and environment there is, of another brand once it changes, and of the
// former one for as long as a key has it.
func cliScannerRules(t *testing.T, r *instance) {
	var project struct{ ID string }
	r.call(t, "POST", "/v1/projects", map[string]any{"name": "scanned", "brand": "acme-app"}, http.StatusCreated, &project)
	r.call(t, "POST", "/v1/environments", map[string]any{"project_id": project.ID, "name": "staging"}, http.StatusCreated, nil)
	var key keyInfo
	r.call(t, "POST", "/v1/api-keys", map[string]any{"project_id": project.ID, "name": "scanned"}, http.StatusCreated, &key)
	want := []string{"acme-app_live_", "acme-app_staging_", "rk_live_"}
	if got := scannerKeywords(t); !slices.Equal(got, want) {
		t.Errorf("rules for %v, want %v", got, want)
	}
	out, err := command(t, "", "scanner-rules", "--format", "regex")
	if err != nil || len(regexp.MustCompile(strings.Fields(out)[0]).FindAllString("key: "+key.Key, -1)) != 1 {
		t.Errorf("the key is not found by %q, %v", out, err)
	}
	out, err = command(t, "", "scanner-rules", "--format", "gitleaks")
	if _, rules := parseGitleaks(t, out); err != nil || len(rules) != 3 {
		t.Errorf("gitleaks: %q, %v", out, err)
	}
	r.call(t, "PATCH", "/v1/projects/"+project.ID, map[string]any{"brand": "newer"}, http.StatusOK, nil)
	want = []string{"acme-app_live_", "newer_live_", "newer_staging_", "rk_live_"}
	if got := scannerKeywords(t); !slices.Equal(got, want) {
		t.Errorf("after a change of brand: rules for %v, want %v", got, want)
	}
	r.call(t, "DELETE", "/v1/api-keys/"+key.ID, nil, http.StatusNoContent, nil)
	r.call(t, "DELETE", "/v1/projects/"+project.ID, nil, http.StatusNoContent, nil)
	if got := scannerKeywords(t); !slices.Equal(got, []string{"rk_live_"}) {
		t.Errorf("after the project is deleted: rules for %v", got)
	}
}

func scannerKeywords(t *testing.T) []string {
	t.Helper()
	var printed struct{ Rules []scannerRule }
	commandJSON(t, &printed, "", "scanner-rules")
	var keywords []string
	for _, rule := range printed.Rules {
		keywords = append(keywords, rule.Keyword)
	}
	slices.Sort(keywords)
	return keywords
}
