package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	pgLeftoverPoll = 20 * time.Millisecond
	// Backends whose first process died notice it within a second, unless they are in a long query.
	pgBackendWait  = 2 * time.Second
	pgLeftoverWait = pgFastWait + pgImmediateWait + 30*time.Second
)

// pgClusterName is the mark by which processes of a cluster are known in the process list: it is in the
// server's arguments and in the title of each backend.
func pgClusterName(data string) string {
	return fmt.Sprintf("rekey-%x", sha256.Sum256([]byte(data)))[:len("rekey-")+16]
}

// pgClearLeftovers waits until no process of an earlier server works in the cluster, then removes its
// lock file. We hold the folder's lock, so such a server is an orphan: its parent is dead.
//
// The lock file cannot be left to Postgres, which believes that a server runs as long as the number
// in it belongs to any process: one of another program, or a dead server that nobody has reaped,
// as happens for seconds in containers. The other way round, removing it while a process works there would
// destroy the cluster. So the processes decide, not the file.
func pgClearLeftovers(ctx context.Context, data string, log *slog.Logger) error {
	pidFile := filepath.Join(data, "postmaster.pid")
	first := pgPidFrom(pidFile)
	begin := time.Now()
	sent := map[int]syscall.Signal{}
	for {
		pids, err := pgClusterProcesses(data)
		if err != nil {
			return fmt.Errorf("look for leftover servers: %w", err)
		}
		if len(pids) == 0 {
			break
		}
		waited := time.Since(begin)
		if waited > pgLeftoverWait {
			return fmt.Errorf("wait for leftover servers: processes %v still work in %s", pids, data)
		}
		for _, pid := range pids {
			sig := pgLeftoverSignal(pid, first, pids, waited)
			if sig == 0 || sent[pid] == sig {
				continue
			}
			sent[pid] = sig
			log.Info("stopping leftover postgres", "pid", pid, "signal", sig.String())
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop leftover server %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for leftover servers %v: %w", pids, ctx.Err())
		case <-time.After(pgLeftoverPoll):
		}
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale lock: %w", err)
	}
	return nil
}

// pgLeftoverSignal is what a process should have got by now: the server's first process is asked to shut
// down, then urged; its backends are its own business, unless it is dead. Killing those loses nothing
// that the kill of the first process had not lost.
func pgLeftoverSignal(pid, first int, pids []int, waited time.Duration) syscall.Signal {
	switch {
	case pid == first && waited > pgFastWait+pgImmediateWait:
		return syscall.SIGKILL
	case pid == first && waited > pgFastWait:
		return syscall.SIGQUIT
	case pid == first:
		return syscall.SIGINT
	case !slices.Contains(pids, first) && waited > pgBackendWait:
		return syscall.SIGKILL
	}
	return 0
}

// pgPidFrom is the number in the first line of a server's lock file; 0 if there is none. A single-user
// server writes its number negated.
func pgPidFrom(path string) int {
	text, _ := os.ReadFile(path) // a file that is missing or unreadable names nobody
	line, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	return max(pid, -pid)
}
