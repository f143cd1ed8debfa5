package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// A query that cannot be read is refused on every surface, in its own form, rather than read in part: a list that lost its
// cursor would begin anew. Who shows no key learns nothing of it, and nothing of the query is repeated.
func TestQueriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	surfaces := map[string]func(map[string]any) bool{
		"/v1/api-keys": func(body map[string]any) bool { return body["code"] == "invalid_request" && body["status"] == 400.0 },
		"/v1/keys": func(body map[string]any) bool {
			return at(body, "error", "code") == "BAD_REQUEST" && body["success"] == false
		},
		"/api/v1/keys": func(body map[string]any) bool {
			return at(body, "error", "code") == "BAD_REQUEST" && body["success"] == false
		},
		"/api/v1/projects": func(body map[string]any) bool {
			return at(body, "error", "code") == "BAD_REQUEST" && body["success"] == false
		},
		"/apikey/": func(body map[string]any) bool { return body["status"] == "KO" },
	}
	for path, isOurs := range surfaces {
		for _, query := range []string{"%", "limit=%2", "after=%zz", "a=1;b=2", ";", "limit=1&canary%%"} {
			for key, want := range map[string]int{b.tenant.Secret.Reveal(): http.StatusBadRequest, "": http.StatusUnauthorized} {
				var headers []string
				if key != "" {
					headers = []string{"Authorization: Bearer " + key}
				}
				got := b.exchange(t, curl(http.MethodGet, path+"?"+query, headers, ""))
				var body map[string]any
				if err := json.Unmarshal(got.body, &body); err != nil || got.status != want {
					t.Errorf("%s?%s: %d %s", path, query, got.status, got.body)
				} else if want == http.StatusBadRequest && !isOurs(body) || strings.Contains(string(got.body), "canary") {
					t.Errorf("%s?%s is answered with %s", path, query, got.body)
				}
			}
		}
	}
}

func at(body map[string]any, outer, inner string) any {
	within, _ := body[outer].(map[string]any)
	return within[inner]
}
