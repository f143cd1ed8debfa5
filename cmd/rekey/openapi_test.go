package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// TestOpenAPI has outsiders judge the documents of a running rekey: a linter reads each, and clients in TypeScript do what
// users do, with types that were generated from it. A document without a client fails the test.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	tooltest.NodePackages(t, openAPIFolder)
	o := &openAPI{rekey: start(t), dir: t.TempDir()}
	o.prepare(t)
	names := o.fetch(t)
	t.Run("Linter", func(t *testing.T) { o.lint(t, names) })
	t.Run("TypeScript", func(t *testing.T) {
		o.generate(t, names)
		o.tool(t, "tsc", "--strict", "--project", ".")
		for _, name := range names {
			t.Run(name, func(t *testing.T) { o.node(t, filepath.Join("out", name+".js")) })
		}
	})
}

// openAPI is a rekey, and a folder in which its documents are worked with.
type openAPI struct {
	rekey *instance
	dir   string
}

// prepare copies the clients, because files will be generated beside them.
func (o *openAPI) prepare(t *testing.T) {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(openAPIFolder, "node_modules"))
	err = errors.Join(err, os.CopyFS(o.dir, os.DirFS(filepath.Join(openAPIFolder, "clients"))))
	err = errors.Join(err, os.Symlink(modules, filepath.Join(o.dir, "node_modules")))
	if err != nil {
		t.Fatal(err)
	}
}

// fetch takes every document to a file that is named after its path.
func (o *openAPI) fetch(t *testing.T) (names []string) {
	t.Helper()
	all, err := documents()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		name := strings.ReplaceAll(strings.Trim(strings.TrimSuffix(path, "openapi.json"), "/"), "/", "-")
		if name == "" {
			name = "native"
		}
		names = append(names, name)
		document := o.rekey.with("").call(t, "GET", path, nil, http.StatusOK, nil).body
		if err := os.WriteFile(filepath.Join(o.dir, name+".json"), document, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// lint requires that the linter has nothing to say, and that nothing was left to be ignored.
func (o *openAPI) lint(t *testing.T, names []string) {
	rules, err := filepath.Abs(filepath.Join(openAPIFolder, "redocly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"lint", "--config", rules, "--format", "json"}
	for _, name := range names {
		args = append(args, name+".json")
	}
	out, failed := o.command(t, "redocly", args...)
	reports := json.NewDecoder(bytes.NewReader(out))
	for _, name := range names {
		var report struct {
			Totals   struct{ Errors, Warnings, Ignored int }
			Problems []struct {
				RuleID, Severity, Message string
				Location                  []struct{ Pointer string }
			}
		}
		if err := reports.Decode(&report); err != nil {
			t.Fatalf("%s: %v: the linter said %v, %s", name, err, failed, out)
		}
		for _, p := range report.Problems {
			t.Errorf("%s: %s %s: %s %v", name, p.Severity, p.RuleID, p.Message, p.Location)
		}
		if n := report.Totals; n.Errors+n.Warnings+n.Ignored > 0 {
			t.Errorf("%s: %+v", name, n)
		}
	}
	if failed != nil {
		t.Error(failed)
	}
	if _, err := reports.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("the linter spoke of more than %v: %s", names, out)
	}
}

// generate makes the types of all documents in one go, because the start of the generator takes the longest.
func (o *openAPI) generate(t *testing.T, names []string) {
	t.Helper()
	config := "apis:\n"
	for _, name := range names {
		config += fmt.Sprintf("  %[1]s: { root: %[1]s.json, x-openapi-ts: { output: types/%[1]s.ts } }\n", name)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "generate.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o.tool(t, "openapi-typescript", "--redocly", "generate.yaml")
}

// tool requires that a program of an npm package is content.
func (o *openAPI) tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := o.command(t, name, args...); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// command runs a program of an npm package, which must not speak with anybody.
func (o *openAPI) command(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("node_modules", ".bin", name), args...)
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(said.String()))
	}
	return out, err
}

// node runs a client to its end.
func (o *openAPI) node(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("node", script)
	cmd.Dir, cmd.Env = o.dir, append(os.Environ(), "REKEY_URL="+o.rekey.url, "REKEY_KEY="+o.rekey.key)
	if client := startChild(t, cmd); client.wait(t) != 0 {
		t.Errorf("%s: %s", script, client.errs.tail())
	}
}
