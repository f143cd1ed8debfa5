//go:build linux && !portable

package embedded

import (
	"os"
	"path/filepath"
	"testing"
)

// No second start is needed to get rid of a killed parent's server: that is the kernel's doing.
func TestPostgresDiesWithParent(t *testing.T) {
	requirePg(t)
	dir := filepath.Join(pgTestDir(t), "pg")
	parent := startPgParent(t, dir)
	parent.readRows(t, 1)
	parent.kill(t)
	pgEventually(t, "the server died with its parent", func() bool {
		pids, err := pgClusterProcesses(filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		return len(pids) == 0
	})
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); !os.IsNotExist(err) {
		t.Errorf("server did not shut down in order: %v", err)
	}
}
