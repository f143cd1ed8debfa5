package github

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// MaxBodyBytes bounds one batch.
const MaxBodyBytes = 1 << 20

// Match is one place where GitHub found what may be a key. Its token must be treated as one.
type Match struct {
	Token  string `json:"token" doc:"What was found"`
	Type   string `json:"type,omitempty" doc:"The name that GitHub knows the regular expression by" example:"acme_api_key"`
	URL    string `json:"url,omitempty" doc:"Where; may be empty" example:"https://github.com/octocat/Hello-World/blob/main/foo/bar.txt"`
	Source string `json:"source,omitempty" doc:"In what kind of content" example:"commit"`
}

// String shows no token, in case a match is printed by accident.
func (m Match) String() string { return "match of type " + m.Type }

// GoString redacts %#v.
func (m Match) GoString() string { return m.String() }

// sources are the places that the program documents, in lower case.
var sources = []string{
	"content", "commit", "pull_request_title", "pull_request_description", "pull_request_comment", "issue_title",
	"issue_description", "issue_comment", "discussion_title", "discussion_body", "discussion_comment", "commit_comment",
	"gist_content", "gist_comment", "npm", "unknown",
}

// SourceName is where the match was found, as one of a closed list of names. GitHub writes them with a capital letter in its
// list and without one in its examples.
func (m Match) SourceName() string {
	if name := strings.ToLower(m.Source); slices.Contains(sources, name) {
		return "github_" + name
	}
	return "github_unknown"
}

// Label is the verdict on a match.
type Label string

// Labels of matches; the program allows no others.
const (
	TruePositive  Label = "true_positive"
	FalsePositive Label = "false_positive"
)

// Feedback is the answer to one match. It names the token by its SHA-256, in hexadecimal.
type Feedback struct {
	TokenHash string `json:"token_hash" doc:"SHA-256 of the token, in hexadecimal"`
	TokenType string `json:"token_type" doc:"The type, as it was sent" example:"acme_api_key"`
	Label     Label  `json:"label" enum:"true_positive,false_positive" doc:"Whether it is, or ever was, a key of ours"`
}

// Answer is the feedback on a match: whether its token is, or ever was, a key of ours.
func (m Match) Answer(ours bool) Feedback {
	digest := sha256.Sum256([]byte(m.Token))
	f := Feedback{TokenHash: hex.EncodeToString(digest[:]), TokenType: m.Type, Label: FalsePositive}
	if ours {
		f.Label = TruePositive
	}
	return f
}
