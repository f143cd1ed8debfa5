package github

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSourceName(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"content": "github_content", "Pull_request_description": "github_pull_request_description", "Npm": "github_npm",
		"Unknown": "github_unknown", "": "github_unknown", "rk_live_secret": "github_unknown", "some where": "github_unknown",
	} {
		if got := (Match{Source: source}).SourceName(); got != want {
			t.Errorf("%q is named %q, want %q", source, got, want)
		}
	}
}

// The feedback has the program's field names, and the token only as its hash (`printf %s some_token | sha256sum`).
func TestAnswer(t *testing.T) {
	t.Parallel()
	m := Match{Token: "some_token", Type: "acme_key", URL: "https://x/", Source: "commit"}
	for ours, label := range map[bool]string{true: "true_positive", false: "false_positive"} {
		got, err := json.Marshal([]Feedback{m.Answer(ours)})
		want := `[{"token_hash":"9a45520a1213f15016d2d768b5fb3d904492a44ee274b44d4de8803e00fb536a","token_type":"acme_key","label":"` + label + `"}]`
		if err != nil || string(got) != want {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
	}
	if printed := fmt.Sprintf("%v %+v %#v %s", m, m, []Match{m}, m); strings.Contains(printed, m.Token) {
		t.Errorf("printed as %s", printed)
	}
}
