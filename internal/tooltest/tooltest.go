// Package tooltest is about what tests need of the machine beside Go. A test skips where that is missing, unless
// REKEY_TEST_REQUIRE=1 makes that a failure, as on CI.
package tooltest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Required reports whether a test that cannot run has failed.
func Required() bool { return os.Getenv("REKEY_TEST_REQUIRE") == "1" }

// Missing ends a test that needs what this machine does not have.
func Missing(t testing.TB, what string) {
	t.Helper()
	if Required() {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

var installing sync.Mutex

// NodePackages makes sure that Node.js is there, and installs what a folder's lock file says, once.
func NodePackages(t testing.TB, folder string) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			Missing(t, tool)
		}
	}
	installing.Lock()
	defer installing.Unlock()
	if installed(t, folder) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = folder
	if out, err := npm.CombinedOutput(); err != nil {
		t.Logf("npm ci: %v\n%s", err, out)
		Missing(t, "the npm packages of "+folder)
	}
}

// installed reports whether a folder has the packages of its lock file. npm writes its own copy last: without it the
// installation is half of one, and an older one is of another lock file.
func installed(t testing.TB, folder string) bool {
	t.Helper()
	lock, err := os.Stat(filepath.Join(folder, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	done, err := os.Stat(filepath.Join(folder, "node_modules", ".package-lock.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil && !done.ModTime().Before(lock.ModTime())
}
