package embedded

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testPgOtherVersion(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, p.URL("postgres"), "create table kept as select n from generate_series(1, 1000) n")
	stopPg(t, p)

	version := filepath.Join(dir, "data", "PG_VERSION")
	made, err := os.ReadFile(version)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(version, []byte("14\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := pgTree(t, filepath.Join(dir, "data"))
	_, err = StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	if !errors.Is(err, ErrPostgresVersion) {
		t.Fatalf("got error %v, want %v", err, ErrPostgresVersion)
	}
	for _, word := range []string{"made by PostgreSQL 14", "are " + strings.TrimSpace(string(made)), "REKEY_POSTGRES_BIN", "pg_upgrade"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error does not say %q: %v", word, err)
		}
	}
	if diff := cmp.Diff(before, pgTree(t, filepath.Join(dir, "data"))); diff != "" {
		t.Errorf("cluster was changed:\n%s", diff)
	}

	if err := os.WriteFile(version, made, 0o600); err != nil {
		t.Fatal(err)
	}
	p = startPg(t, PostgresConfig{Dir: dir})
	if got := pgQuery[int](t, p.URL("postgres"), "select count(*) from kept"); got != 1000 {
		t.Errorf("with the right version again: %d rows of 1000", got)
	}
}

func testPgNoCluster(t *testing.T, _ string) {
	dir := filepath.Join(pgTestDir(t), "pg")
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "thesis.txt"), []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := pgTree(t, data)
	if _, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), data) {
		t.Errorf("got error %v, want one that names %s", err, data)
	}
	if diff := cmp.Diff(before, pgTree(t, data)); diff != "" {
		t.Errorf("folder was changed:\n%s", diff)
	}
	// An empty one is nobody's loss.
	if err := os.Remove(filepath.Join(data, "thesis.txt")); err != nil {
		t.Fatal(err)
	}
	startPg(t, PostgresConfig{Dir: dir, Fast: true})
}

// A unix socket's path has about a hundred bytes at most.
func testPgLongPath(t *testing.T, template string) {
	short := pgCopy(t, template)
	dir := filepath.Join(filepath.Dir(short), strings.Repeat("long", 30))
	if err := os.Rename(short, dir); err != nil {
		t.Fatal(err)
	}
	parent := startPgParent(t, dir)
	left, err := os.Readlink(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	parent.kill(t)
	p := startPg(t, PostgresConfig{Dir: dir})
	if p.sockets == left || pgExists(left) {
		t.Errorf("socket folder %s of the killed process is still there", left)
	}
	info, err := os.Stat(p.sockets)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(p.sockets, p.dir) || info.Mode().Perm() != 0o700 {
		t.Errorf("socket folder is %s with mode %o", p.sockets, info.Mode().Perm())
	}
	pgMustExec(t, p.URL("postgres"), "select 1")
	stopPg(t, p)
	if pgExists(p.sockets) {
		t.Errorf("socket folder %s is still there after stop", p.sockets)
	}
}

func testPgOddPath(t *testing.T, _ string) {
	dir := filepath.Join(pgTestDir(t), `it's [a] "folder", 50% ü`, "pg")
	for range 2 {
		p := startPg(t, PostgresConfig{Dir: dir, Fast: true})
		pgMustExec(t, p.URL("postgres"), "select 1")
		stopPg(t, p)
	}
}

// A folder that is closed to the server's user is named, and stays closed.
func testPgClosedFolder(t *testing.T, _ string) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	closed := filepath.Join(pgTestDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: filepath.Join(closed, "deep", "pg")})
	if !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "cannot enter "+closed+" ") ||
		!strings.Contains(err.Error(), "REKEY_DATA_DIR") {
		t.Errorf("got error %v, want one that names %s and REKEY_DATA_DIR", err, closed)
	}
	info, err := os.Stat(closed)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 || pgExists(filepath.Join(closed, "deep")) {
		t.Errorf("folder was changed: mode %o", info.Mode().Perm())
	}
}

// A cluster may have been made by a person without root, by another of the unprivileged users, or
// restored from a backup by root, who cannot be the server's user.
func testPgOwner(t *testing.T, template string) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	dir := pgCopy(t, template)
	usual := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, usual.URL("postgres"), "create table kept as select n from generate_series(1, 1000) n")
	stopPg(t, usual)
	for _, test := range []struct{ owner, want uint32 }{{12345, 12345}, {0, usual.account.uid}} {
		err := pgAccount{drop: true, uid: test.owner, gid: test.owner}.ownTree(filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		p := startPg(t, PostgresConfig{Dir: dir})
		if got := pgServerUID(t, p); got != test.want {
			t.Errorf("cluster of uid %d: server runs as %d, want %d", test.owner, got, test.want)
		}
		if got := pgQuery[int](t, p.URL("postgres"), "select count(*) from kept"); got != 1000 {
			t.Errorf("cluster of uid %d: %d rows of 1000", test.owner, got)
		}
		stopPg(t, p)
	}
}

// pgTree tells everything about the files below a folder.
func pgTree(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		what := fmt.Sprint(info.Mode(), info.ModTime().UnixNano(), info.Sys().(*syscall.Stat_t).Uid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		tree[path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
