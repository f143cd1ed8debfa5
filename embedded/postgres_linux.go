//go:build linux && !portable

package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// pgProcAttr makes a child die with us: SIGINT is Postgres' fast shutdown. A group of its own keeps a
// terminal's Ctrl-C away, which goes to a whole group: the order of stopping is ours.
func pgProcAttr(account *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT, Credential: account}
}

// pgClusterProcesses lists the living processes of servers on the cluster.
func pgClusterProcesses(data string) ([]int, error) {
	cluster, err := os.Stat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	mark := []byte(pgClusterName(data))
	var pids []int
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err == nil && pgWorksIn(filepath.Join("/proc", process.Name()), cluster, mark) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// pgWorksIn says whether a process, by its folder in /proc, is a server's on the cluster. All of them have the
// cluster as their working directory. That is hidden even from root where it may not trace other
// users' processes, as in most containers; there the mark in their titles tells.
func pgWorksIn(process string, cluster fs.FileInfo, mark []byte) bool {
	// What cannot be read is of a process that is gone. A shell or a pager that a person started in
	// the cluster's folder has another name.
	name, _ := os.ReadFile(filepath.Join(process, "comm"))
	if !bytes.Contains(name, []byte("postgres")) {
		return false
	}
	cwd, err := os.Stat(filepath.Join(process, "cwd"))
	if err == nil {
		return os.SameFile(cwd, cluster)
	}
	title, err := os.ReadFile(filepath.Join(process, "cmdline"))
	if len(title) > 0 || err != nil {
		return bytes.Contains(title, mark)
	}
	// Without a title it is dying, and nobody can tell whose it is. Until it is dead ("Z", whether anybody
	// reaps it or not) it may hold the server's shared memory, with which another would not start.
	stat, _ := os.ReadFile(filepath.Join(process, "stat"))
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}
