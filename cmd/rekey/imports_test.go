package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rekeyhq/rekey/"

// mayImport says which folders of the project a folder may import. Imports go one way; what is not listed is refused.
var mayImport = map[string][]string{
	"domain":                {},
	"internal/seal":         {},
	"internal/lately":       {},
	"internal/signal":       {},
	"internal/load":         {},
	"internal/github":       {},
	"internal/clientip":     {},
	"internal/tooltest":     {},
	"internal/webhook":      {},
	"migrations":            {},
	"eventstore":            {"domain", "internal/lately", "internal/signal"},
	"projections":           {"domain", "eventstore", "internal/lately"},
	"projections/verifier":  {"domain", "eventstore", "projections", "internal/lately", "internal/signal"},
	"commands":              {"domain", "eventstore", "projections", "projections/verifier", "internal/seal", "internal/webhook"},
	"api":                   {"domain", "eventstore", "projections", "projections/verifier", "commands", "internal/github", "api/surface", "api/accountkeys", "api/apikey", "api/projects"},
	"api/surface":           {"domain", "projections", "projections/verifier", "commands", "internal/clientip"},
	"api/accountkeys":       {"domain", "projections", "commands", "api/surface"},
	"api/apikey":            {"domain", "projections", "commands", "api/surface"},
	"api/projects":          {"domain", "projections", "commands", "api/surface"},
	"workers":               {"domain", "eventstore", "projections", "commands", "migrations", "internal/webhook"},
	"embedded":              {},
	"client":                {"domain"},
	"client/embedded":       {"client", "domain", "eventstore", "projections", "projections/verifier"},
	"migrations/dbtest":     {"migrations", "embedded", "internal/tooltest"},
	"cmd/rekey":             {"domain", "eventstore", "projections", "projections/verifier", "commands", "api", "workers", "migrations", "embedded", "client", "client/embedded", "internal/seal", "internal/webhook", "internal/load", "internal/github", "internal/clientip"},
	"embedded/embeddedtest": {"embedded"},

	"internal/webhook/webhooktest": {},
}

// mayUse limits modules from outside to the folders that have a reason for them.
var mayUse = map[string][]string{
	"github.com/jackc/pgx/":           {"eventstore", "projections", "projections/verifier", "commands", "workers", "migrations", "migrations/dbtest", "embedded", "client/embedded", "cmd/rekey"},
	"github.com/riverqueue/river":     {"workers", "migrations"},
	"github.com/nats-io/nats-server/": {"embedded"},
	"github.com/nats-io/nats.go":      {"workers", "embedded", "client/embedded", "cmd/rekey"},
	"github.com/danielgtaylor/huma/":  {"api", "api/surface", "api/apikey", "cmd/rekey"},
	"github.com/go-chi/chi/":          {"api", "api/surface", "cmd/rekey"},
	"github.com/spf13/cobra":          {"cmd/rekey"},
	"github.com/prometheus/":          {"cmd/rekey"},
	"github.com/pressly/goose/":       {"migrations"},
	"code.dny.dev/ssrf":               {"internal/webhook"},
	"github.com/cenkalti/backoff/":    {"client", "eventstore", "projections/verifier", "workers", "cmd/rekey"},
	"golang.org/x/sync":               {"workers", "cmd/rekey"},
	"github.com/nats-io/nuid":         {"workers"},
	"github.com/getkin/kin-openapi":   {},
	"github.com/standard-webhooks/":   {},
	"github.com/cloudevents/":         {},
	"pgregory.net/rapid":              {},
	"go.uber.org/goleak":              {},
	"github.com/google/go-cmp/":       {},
}

type listedPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

// TestImports keeps the folders' imports going one way, and modules where they have a reason.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		folder := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := mayImport[folder]
		if !known {
			t.Errorf("%s: a new folder; say in mayImport what it may import", folder)
			continue
		}
		for _, imported := range p.Imports {
			checkImport(t, folder, allowed, imported)
		}
	}
}

func checkImport(t *testing.T, folder string, allowed []string, imported string) {
	t.Helper()
	if own, ok := strings.CutPrefix(imported, module); ok {
		if !slices.Contains(allowed, own) {
			t.Errorf("%s imports %s, which is not its to import", folder, own)
		}
		return
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return // the standard library
	}
	if folder == "domain" {
		t.Errorf("domain imports %s: only the standard library", imported)
	}
	for prefix, folders := range mayUse {
		if strings.HasPrefix(imported, prefix) {
			if !slices.Contains(folders, folder) {
				t.Errorf("%s imports %s, which only %v may", folder, imported, folders)
			}
			return
		}
	}
	t.Errorf("%s imports %s: a new module; say in mayUse who may use it and in docs/decisions.md why", folder, imported)
}

// listPackages asks go list for all packages, without their tests.
func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,Standard", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []listedPackage
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages; the rules were not checked", len(packages))
	}
	return packages
}
