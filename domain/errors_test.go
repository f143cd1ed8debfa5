package domain

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources parses the package without its tests.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set, files := token.NewFileSet(), map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(set, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// constants returns the values of the constants that are declared with this type anywhere in the package.
func constants(t *testing.T, typeName string) []string {
	t.Helper()
	var values []string
	for _, file := range sources(t) {
		for _, declared := range file.Decls {
			group, ok := declared.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				constant := spec.(*ast.ValueSpec)
				if name, ok := constant.Type.(*ast.Ident); !ok || name.Name != typeName {
					continue
				}
				for _, value := range constant.Values {
					text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, text)
				}
			}
		}
	}
	slices.Sort(values)
	return values
}

// A code that is missing from the list would be mapped by no surface.
func TestCodesListsEveryCodeOnce(t *testing.T) {
	t.Parallel()
	var listed []string
	for _, code := range Codes() {
		listed = append(listed, string(code))
	}
	slices.Sort(listed)
	declared := constants(t, "Code")
	if len(declared) < 18 {
		t.Fatalf("found only %d codes in the source", len(declared))
	}
	same(t, "codes", listed, declared)
	if len(slices.Compact(slices.Clone(declared))) != len(declared) {
		t.Fatalf("two codes have one text: %v", declared)
	}
}

func TestCodeOf(t *testing.T) {
	t.Parallel()
	refusal := Refuse(CodeNotFound, "no such %s", "key")
	for _, c := range []struct {
		name string
		err  error
		want Code
	}{
		{"ARefusal", refusal, CodeNotFound},
		{"AWrappedRefusal", fmt.Errorf("load key: %w", fmt.Errorf("read: %w", refusal)), CodeNotFound},
		{"AJoinedRefusal", errors.Join(errors.New("other"), refusal), CodeNotFound},
		{"TheOuterOfTwo", Refuse(CodeOverloaded, "busy").WithCause(refusal), CodeOverloaded},
		{"AnythingElse", errors.New("not_found: no such key"), CodeInternal},
		{"Nothing", nil, CodeInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := CodeOf(c.err); got != c.want {
				t.Fatalf("code is %s, want %s", got, c.want)
			}
		})
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection reset")

	t.Run("WritesCodeMessageAndCause", func(t *testing.T) {
		t.Parallel()
		if got := NotFound("key").Error(); got != "not_found: no such key" {
			t.Errorf("text is %q", got)
		}
		if got := Refuse(CodeUnavailable, "try again").WithCause(cause).Error(); got != "unavailable: try again: connection reset" {
			t.Errorf("text is %q", got)
		}
	})
	t.Run("UnwrapsToItsCause", func(t *testing.T) {
		t.Parallel()
		if !errors.Is(fmt.Errorf("x: %w", Refuse(CodeUnavailable, "no").WithCause(cause)), cause) {
			t.Error("the cause is lost")
		}
		if errors.Unwrap(NotFound("key")) != nil {
			t.Error("an error without a cause unwraps to something")
		}
	})
	t.Run("ShowsFieldAndDetails", func(t *testing.T) {
		t.Parallel()
		err := InvalidField("name", "is empty", "name it").With("a", 1).With("b", 2)
		if err.Code != CodeValidation || err.Message != "name is empty" {
			t.Errorf("error is %v", err)
		}
		same(t, "fields", err.Fields, []FieldError{{"name", "is empty", "name it"}})
		same(t, "details", err.Details, map[string]any{"a": 1, "b": 2})
	})
}

// The package is pure: the standard library only, and of it nothing that reads a clock, a file, the network or the
// environment.
func TestDomainIsPure(t *testing.T) {
	t.Parallel()
	banned := []string{"os", "net", "net/http", "database/sql", "syscall", "testing", "sync", "context"}
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	files := sources(t)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, spec := range files[name].Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(path, "/")
			if strings.Contains(first, ".") || slices.Contains(banned, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		ast.Inspect(files[name], func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := selector.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, selector.Sel.Name) {
					t.Errorf("%s calls time.%s", name, selector.Sel.Name)
				}
			}
			return true
		})
	}
}
