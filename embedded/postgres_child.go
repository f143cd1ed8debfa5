package embedded

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	pgFastWait      = 20 * time.Second
	pgImmediateWait = 10 * time.Second
)

// pgChild is a process that was started and is being waited for.
type pgChild struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone and reaped
	err    error         // of Wait; set before exited is closed
}

// pgStartChild starts the command and waits for it in a goroutine of its own.
//
// The parent death signal is sent when the thread that forked the child ends, not when the process
// does, and a Go program's threads may end before it. So one thread is kept for the child's whole life.
func pgStartChild(cmd *exec.Cmd) (*pgChild, error) {
	child := &pgChild{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		child.err = cmd.Wait()
		close(child.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return child, nil
}

// stop ends a server and returns when it is gone. A context that ends cuts the fast shutdown short, not
// the immediate one.
func (c *pgChild) stop(ctx context.Context, log *slog.Logger) error {
	if c.signal(ctx, syscall.SIGINT, pgFastWait) {
		return nil
	}
	log.Warn("postgres did not shut down in time, stopping it at once", "pid", c.cmd.Process.Pid)
	if c.signal(context.WithoutCancel(ctx), syscall.SIGQUIT, pgImmediateWait) {
		return nil
	}
	return errors.New("server still runs after a request to stop at once")
}

// signal sends a signal and says whether the process was gone within the wait.
func (c *pgChild) signal(ctx context.Context, sig syscall.Signal, wait time.Duration) bool {
	// An error means that the process is gone already, which the next lines see.
	_ = c.cmd.Process.Signal(sig)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-c.exited:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// pgEnv is the environment of the children: nothing of ours that they do not need, since ours may hold
// secrets (REKEY_MASTER_KEY) and settings for clients (PGOPTIONS).
func pgEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
