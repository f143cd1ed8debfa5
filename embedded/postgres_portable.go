//go:build !linux || portable

// The tag "portable" builds this file on Linux instead of postgres_linux.go, so that it can be tested there.

package embedded

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// pgProcAttr: only Linux can tie a child's life to ours; elsewhere the next start stops a server that
// outlived us. A group of its own keeps a terminal's Ctrl-C away, which goes to a whole group: the
// order of stopping is ours.
func pgProcAttr(account *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: account}
}

// pgClusterProcesses lists the living processes of servers on the cluster: those whose title is a
// Postgres process's and holds the cluster's mark.
func pgClusterProcesses(data string) ([]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pgToolTimeout)
	defer cancel()
	list, err := exec.CommandContext(ctx, "ps", "-axww", "-o", "pid=,stat=,command=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	mark := pgClusterName(data)
	var pids []int
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.Contains(line, mark) {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		dead := strings.HasPrefix(fields[1], "Z")
		// "postgres: MARK: checkpointer" or "/path/of/postgres -D ...", not the editor of some file.
		server := strings.HasSuffix(strings.TrimSuffix(fields[2], ":"), "postgres")
		if err == nil && !dead && server {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
