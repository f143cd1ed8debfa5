package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

// newScannerRulesCommand prints what a secret scanner needs to find the keys of this installation.
func newScannerRulesCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "scanner-rules",
		Short: "Print the rules by which secret scanners find this installation's keys (REKEY_DATABASE_URL)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := scannerFormats[format]
			if !ok {
				return fmt.Errorf("format %q is unknown; use json, gitleaks or regex", format)
			}
			return withDatabase(cmd.Context(), func(conn *pgx.Conn) error {
				rules, err := readScannerRules(cmd.Context(), conn)
				if err != nil {
					return err
				}
				return write(cmd.OutOrStdout(), rules)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "json", "json, gitleaks or regex")
	return cmd
}

var scannerFormats = map[string]func(io.Writer, []scannerRule) error{
	"json": writeScannerJSON, "gitleaks": writeGitleaks, "regex": writeScannerRegexes,
}

// sqlScanned are the heads that secrets of this installation have. A brand that was given up still stands in live keys.
const sqlScanned = `
	SELECT p.brand, e.name FROM projects p JOIN environments e ON e.project_id = p.id WHERE p.deleted_at IS NULL
	UNION
	SELECT head[1], head[2] FROM (
		SELECT regexp_match(key_prefix, '^([a-z0-9-]{1,24})_([a-z0-9-]{1,24})_[0-9A-Za-z]{4}$') AS head
		FROM keys WHERE state IN ('pending', 'active', 'grace')
	) live WHERE head IS NOT NULL
	ORDER BY 1, 2`

// scannerRule finds the secrets of one brand and environment.
type scannerRule struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	Regex       string `json:"regex"`
	Keyword     string `json:"keyword"` // a text that every match contains, to sort files out quickly
	Brand       string `json:"brand"`
	Environment string `json:"environment"`
}

func readScannerRules(ctx context.Context, conn *pgx.Conn) ([]scannerRule, error) {
	rows, err := conn.Query(ctx, sqlScanned)
	if err != nil {
		return nil, fmt.Errorf("read brands and environments: %w", err)
	}
	rules, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (scannerRule, error) {
		var brand, environment string
		err := row.Scan(&brand, &environment)
		return newScannerRule(brand, environment), err
	})
	if err != nil {
		return nil, fmt.Errorf("read brands and environments: %w", err)
	}
	return rules, nil
}

// newScannerRule makes the rule for secrets with this head. The rest is 33 random characters and six of checksum. The
// boundaries keep longer words out; every engine that scanners use knows them.
func newScannerRule(brand, environment string) scannerRule {
	head := brand + "_" + environment + "_"
	return scannerRule{
		ID: "rekey-" + brand + "_" + environment, Description: "API key of " + brand + " for " + environment,
		Regex: `\b` + regexp.QuoteMeta(head) + `[0-9A-Za-z]{39}\b`, Keyword: head, Brand: brand, Environment: environment,
	}
}

// scannerChecksum says how to tell a real key from a look-alike without asking anybody.
type scannerChecksum struct {
	Algorithm string `json:"algorithm"`
	Length    int    `json:"length"`
	Alphabet  string `json:"alphabet"`
	Check     string `json:"check"`
}

var secretChecksum = scannerChecksum{
	Algorithm: "CRC-32 (IEEE 802.3, as in zlib) in base62", Length: 6,
	Alphabet: "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
	Check: "Take the CRC-32 of the ASCII text before the last 6 characters, brand and environment included, as an unsigned " +
		"number. Write it in base 62 with the alphabet, the most significant digit first, padded with 0 to 6 digits. " +
		"It is a key only if these are the last 6 characters.",
}

func writeScannerJSON(w io.Writer, rules []scannerRule) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(struct {
		Rules    []scannerRule   `json:"rules"`
		Checksum scannerChecksum `json:"checksum"`
	}{rules, secretChecksum})
}

// writeGitleaks writes a gitleaks configuration. Brands and environments are short lower-case names, so nothing in it can
// end a string of TOML.
func writeGitleaks(w io.Writer, rules []scannerRule) error {
	if _, err := fmt.Fprintln(w, "title = \"API keys issued by rekey\""); err != nil {
		return err
	}
	for _, r := range rules {
		if _, err := fmt.Fprintf(w, "\n[[rules]]\nid = %q\ndescription = %q\nregex = '''%s'''\nkeywords = [%q]\n", r.ID, r.Description, r.Regex, r.Keyword); err != nil {
			return err
		}
	}
	return nil
}

func writeScannerRegexes(w io.Writer, rules []scannerRule) error {
	for _, r := range rules {
		if _, err := fmt.Fprintln(w, r.Regex); err != nil {
			return err
		}
	}
	return nil
}
