package main

import (
	"strings"
	"testing"
)

// TestCLIBadArguments requires one clear line, and no more, for each way of holding it wrong.
func TestCLIBadArguments(t *testing.T) {
	for line, want := range map[string]string{
		"bogus":                          `unknown command "bogus"`,
		"--bogus":                        "unknown flag: --bogus",
		"dev now":                        `unknown command "now"`,
		"serve --roles":                  "--roles",
		"keys get":                       "accepts 1 arg(s), received 0",
		"keys get a b":                   "accepts 1 arg(s), received 2",
		"keys rotate":                    "accepts 1 arg(s), received 0",
		"keys rotate x --grace soon":     `"soon"`,
		"keys revoke":                    "accepts 1 arg(s), received 0",
		"keys events":                    "accepts 1 arg(s), received 0",
		"keys list":                      `"project"`,
		"keys create --project p":        `"name"`,
		"keys create --name n":           `"project"`,
		"keys import --project p":        `"file"`,
		"keys import --file x":           `"project"`,
		"keys list --project p":          "REKEY_KEY is not set",
		"keys verify":                    "no secret on standard input",
		"keys verify rk_live_x":          `unknown command`,
		"events tail":                    "REKEY_KEY is not set",
		"events tail --after yesterday":  `"yesterday"`,
		"webhooks listen":                "no signing secret",
		"webhooks listen --addr nowhere": "no signing secret",
		"webhooks listen --secret-file x --addr :x": "listen on :x",
		"projections":                "",
		"projections check now":      `unknown command "now"`,
		"health now":                 `unknown command "now"`,
		"scanner-rules now":          `unknown command "now"`,
		"scanner-rules --format xml": "use json, gitleaks or regex",
	} {
		out, err := command(t, "", strings.Fields(line)...)
		if want == "" { // a group by itself shows its help
			if err != nil || !strings.Contains(out, "Available Commands:") {
				t.Errorf("rekey %s: %q, %v", line, out, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || out != "" {
			t.Errorf("rekey %s: %q, %v", line, out, err)
		}
	}
	if out, err := command(t, "", "--version"); err != nil || out != "rekey version dev\n" {
		t.Errorf("--version: %q, %v", out, err)
	}
}
