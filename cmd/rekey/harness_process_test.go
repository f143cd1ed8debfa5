package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/internal/tooltest"
)

// binary is the program as users run it, built once for all tests that need a process of its own.
var binary program

type program struct {
	once sync.Once
	dir  string
	err  error
}

func (p *program) path(t testing.TB) string {
	t.Helper()
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "rekey-binary-"); p.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(p.dir, "rekey"), ".")
		if out, err := build.CombinedOutput(); err != nil {
			p.err = errors.New(string(out))
		}
	})
	if p.err != nil {
		t.Fatalf("build rekey: %v", p.err)
	}
	return filepath.Join(p.dir, "rekey")
}

func (p *program) remove() {
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// child is a running process.
type child struct {
	cmd       *exec.Cmd
	out, errs *output
	began     time.Time
	exited    chan struct{}
}

// startRekey runs the program with only these REKEY_ variables.
func startRekey(t testing.TB, env []string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(binary.path(t), args...)
	cmd.Env = append(os.Environ(), env...)
	return startChild(t, cmd)
}

// devEnv are the variables of a dev on its own directory and free ports.
func devEnv(dir string, more ...string) []string {
	return append([]string{
		"REKEY_DATA_DIR=" + dir, "REKEY_ADDR=127.0.0.1:0", "REKEY_METRICS_ADDR=127.0.0.1:0", "REKEY_NATS_ADDR=127.0.0.1:0",
	}, more...)
}

// startChild starts a command whose end nobody forgets.
func startChild(t testing.TB, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{cmd: cmd, out: &output{}, errs: &output{}, began: time.Now(), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c.out, c.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.exited)
		_ = cmd.Wait() // how it ended stands in ProcessState
	}()
	t.Cleanup(func() {
		if !c.hasExited() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-c.exited:
			case <-time.After(patience):
				c.kill()
			}
		}
		if t.Failed() {
			t.Logf("%s: %s\n%s\n%s", filepath.Base(cmd.Path), cmd.ProcessState, c.out.tail(), c.errs.tail())
		}
	})
	return c
}

func (c *child) hasExited() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// awaitReady waits for the ready line and tells what it says and how long it took.
func (c *child) awaitReady(t testing.TB) (map[string]string, time.Duration) {
	t.Helper()
	within(t, 2*patience, "the ready line", func() bool { return strings.HasSuffix(c.out.String(), "\n") || c.hasExited() })
	if c.hasExited() {
		if bytes.Contains([]byte(c.errs.String()), []byte("no PostgreSQL")) {
			tooltest.Missing(t, "Postgres")
		}
		t.Fatalf("rekey ended before it was ready: %s", c.errs.tail())
	}
	return readyFields(t, strings.TrimSuffix(c.out.String(), "\n")), time.Since(c.began)
}

// kill is kill -9, of this process alone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// wait returns the exit code.
func (c *child) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-c.exited:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("the process did not end in %s: %s", patience, c.errs.tail())
		return 0
	}
}

// terminate sends SIGTERM and returns the exit code and how long the end took.
func (c *child) terminate(t testing.TB) (int, time.Duration) {
	t.Helper()
	began := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return c.wait(t), time.Since(began)
}

// footprint finds the processes that work in a data directory: by its path in their arguments, or by the mark that a
// Postgres server puts into the title of each of its processes.
type footprint struct{ dir, mark string }

var clusterMark = regexp.MustCompile(`cluster_name=(rekey-[0-9a-f]+)`)

// footprintOf must be asked while they run.
func footprintOf(t testing.TB, dir string) footprint {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("processes are listed by /proc")
	}
	for _, title := range (footprint{dir, dir}).processes() {
		if found := clusterMark.FindStringSubmatch(title); found != nil {
			return footprint{dir, found[1]}
		}
	}
	t.Fatalf("no Postgres runs in %s", dir)
	return footprint{}
}

// processes lists the titles of the processes that are there.
func (f footprint) processes() []string {
	var titles []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		title := strings.TrimSpace(strings.ReplaceAll(string(raw), "\x00", " "))
		if strings.Contains(title, f.dir) || strings.Contains(title, f.mark) {
			titles = append(titles, filepath.Base(filepath.Dir(path))+" "+title)
		}
	}
	return titles
}
