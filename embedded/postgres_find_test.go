package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The folders here hold scripts that print a version, which is all that the search reads.
func TestFindPostgres(t *testing.T) {
	t.Setenv(pgBinEnv, "")
	t.Run("PrefersPathThenHighestVersion", func(t *testing.T) {
		root := t.TempDir()
		t.Setenv("PATH", filepath.Join(root, "bin"))
		for _, version := range []string{"9.6", "14", "15", "17", "19"} {
			fakePgBin(t, filepath.Join(root, "usr/lib/postgresql", version, "bin"), version)
		}
		fakePgBin(t, filepath.Join(root, "usr/pgsql-18/bin"), "18.1")
		wantPgBin(t, root, 0, "usr/lib/postgresql/17/bin")

		// A link on PATH counts where it points to: initdb lies there.
		cellar := filepath.Join(root, "cellar/bin")
		fakePgBin(t, cellar, "16.2 (Homebrew)")
		if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(cellar, "postgres"), filepath.Join(root, "bin/postgres")); err != nil {
			t.Fatal(err)
		}
		wantPgBin(t, root, 0, "cellar/bin")
		wantPgBin(t, root, 15, "usr/lib/postgresql/15/bin")
		wantPgBin(t, root, 18, "usr/pgsql-18/bin")
		wantPgBin(t, root, 14, "cellar/bin")
	})
	t.Run("AsksPgConfigLast", func(t *testing.T) {
		root := t.TempDir()
		bin := filepath.Join(root, "bin")
		t.Setenv("PATH", bin)
		far := filepath.Join(root, "far away/bin")
		fakePgBin(t, far, "18beta1")
		fakePgProgram(t, filepath.Join(bin, "pg_config"), far)
		wantPgBin(t, root, 0, "far away/bin")
	})
	t.Run("SkipsFolderWithoutInitdb", func(t *testing.T) {
		root := t.TempDir()
		t.Setenv("PATH", root)
		fakePgProgram(t, filepath.Join(root, "postgres"), "postgres (PostgreSQL) 16.1")
		if found, err := findPostgres("", 0, pgPlaces(root)); !errors.Is(err, ErrNoPostgres) {
			t.Errorf("got %v, %v", found, err)
		}
	})
	t.Run("TellsHowToInstall", func(t *testing.T) {
		root := t.TempDir()
		t.Setenv("PATH", root)
		fakePgBin(t, filepath.Join(root, "usr/lib/postgresql/14/bin"), "14.9")
		_, err := findPostgres("", 0, pgPlaces(root))
		if !errors.Is(err, ErrNoPostgres) {
			t.Fatalf("got error %v, want %v", err, ErrNoPostgres)
		}
		for _, words := range []string{"apt-get install postgresql\n", "dnf install postgresql-server\n",
			"brew install postgresql@17\n", "REKEY_POSTGRES_BIN", "REKEY_DATABASE_URL", "postgresql/14/bin has version 14"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("error does not say %q: %v", words, err)
			}
		}
	})
	t.Run("TakesOnlyTheNamedFolder", func(t *testing.T) {
		root := t.TempDir()
		good, old, empty := filepath.Join(root, "good"), filepath.Join(root, "old"), filepath.Join(root, "empty")
		fakePgBin(t, good, "17.2")
		fakePgBin(t, old, "14.2")
		if dir, err := FindPostgres(good); dir != good || err != nil {
			t.Errorf("named by argument: %q, %v", dir, err)
		}
		for _, bad := range []string{old, empty} {
			t.Setenv(pgBinEnv, bad)
			_, err := FindPostgres("")
			if err == nil || errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), bad) ||
				!strings.Contains(err.Error(), pgBinEnv) {
				t.Errorf("named by environment: got error %v, want one that names %s", err, bad)
			}
		}
		t.Setenv(pgBinEnv, good)
		if dir, err := FindPostgres(""); dir != good || err != nil {
			t.Errorf("named by environment: %q, %v", dir, err)
		}
	})
}

func wantPgBin(t *testing.T, root string, prefer int, want string) {
	t.Helper()
	found, err := findPostgres("", prefer, pgPlaces(root))
	if err != nil {
		t.Fatal(err)
	}
	if want = filepath.Join(root, want); found.dir != want {
		t.Errorf("preferring %d: found %s, want %s", prefer, found.dir, want)
	}
}

func fakePgBin(t *testing.T, dir, version string) {
	t.Helper()
	fakePgProgram(t, filepath.Join(dir, "postgres"), "postgres (PostgreSQL) "+version)
	fakePgProgram(t, filepath.Join(dir, "initdb"), "")
}

func fakePgProgram(t *testing.T, path, answer string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho '%s'\n", answer), 0o755); err != nil {
		t.Fatal(err)
	}
}
