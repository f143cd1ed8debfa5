package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const pgParentEnv = "REKEY_TEST_POSTGRES_PARENT"

// TestPostgresParent is no test: other tests start this program again with a folder in the environment,
// as a parent that they can kill. It writes one row after the other, each its own transaction, and tells each
// commit.
func TestPostgresParent(t *testing.T) {
	dir := os.Getenv(pgParentEnv)
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := StartPostgres(ctx, PostgresConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, p.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "create table acknowledged (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("server", p.PID(), p.URL("postgres"))
	for n := 1; ; n++ {
		if _, err := conn.Exec(ctx, "insert into acknowledged values ($1)", n); err != nil {
			t.Fatal(err)
		}
		fmt.Println("row", n)
	}
}

// pgParent is another process that runs a server and writes to it.
type pgParent struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	server int
	url    string
	rows   int // the last that was acknowledged
}

func startPgParent(t *testing.T, dir string) *pgParent {
	t.Helper()
	parent := launchPgParent(t, dir)
	for parent.lines.Scan() {
		if _, err := fmt.Sscanf(parent.lines.Text(), "server %d %s", &parent.server, &parent.url); err == nil {
			return parent
		}
	}
	t.Fatal("the other process started no server")
	return nil
}

func launchPgParent(t *testing.T, dir string) *pgParent {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPostgresParent$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), pgParentEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		io.Copy(io.Discard, out)
		cmd.Wait()
	})
	return &pgParent{cmd: cmd, lines: bufio.NewScanner(out)}
}

// readRows reads until a number of rows is acknowledged, or all that was said when the number is 0.
func (p *pgParent) readRows(t *testing.T, enough int) {
	t.Helper()
	for (enough == 0 || p.rows < enough) && p.lines.Scan() {
		n, err := strconv.Atoi(strings.TrimPrefix(p.lines.Text(), "row "))
		if err != nil {
			continue // of the test framework, or cut short by the kill
		}
		p.rows = n
	}
	if p.rows < enough {
		t.Fatalf("the other process wrote only %d rows", p.rows)
	}
}

// kill kills the parent, reads what it could still say and waits until it is gone.
func (p *pgParent) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	p.readRows(t, 0)
	p.cmd.Wait()
}

// checkRows starts a server on the folder and looks for each acknowledged row. The one that was being
// committed at the kill may be there too.
func (p *pgParent) checkRows(t *testing.T, dir string) {
	t.Helper()
	begin := time.Now()
	started := startPg(t, PostgresConfig{Dir: dir})
	t.Logf("started again in %s, with %d rows acknowledged", time.Since(begin).Round(time.Millisecond), p.rows)
	count := pgQuery[int](t, started.URL("postgres"), "select count(*) from acknowledged")
	last := pgQuery[int](t, started.TCPURL("postgres"), "select max(n) from acknowledged")
	if count != last || count < p.rows || count > p.rows+1 {
		t.Errorf("acknowledged were %d rows: found %d, the last is %d", p.rows, count, last)
	}
}

func testPgKillParent(t *testing.T, template string) {
	dir := pgCopy(t, template)
	parent := startPgParent(t, dir)
	parent.readRows(t, 200)
	parent.kill(t)
	parent.checkRows(t, dir)
}

func testPgKillServer(t *testing.T, template string) {
	dir := pgCopy(t, template)
	parent := startPgParent(t, dir)
	parent.readRows(t, 200)
	pgKill(t, parent.server)
	parent.kill(t)
	parent.checkRows(t, dir)
}

func testPgKillAll(t *testing.T, template string) {
	dir := pgCopy(t, template)
	parent := startPgParent(t, dir)
	parent.readRows(t, 200)
	all, err := pgClusterProcesses(filepath.Join(dir, "data"))
	if err != nil || len(all) < 4 {
		t.Fatalf("processes of the cluster: %v, %v", all, err)
	}
	for _, pid := range all {
		pgKill(t, pid)
	}
	parent.kill(t)
	parent.checkRows(t, dir)
}

// As long as a process of the killed server works in the cluster, its lock must stay, and no other server may
// start. One that does not go by itself is killed in the end.
func testPgLeftover(t *testing.T, template string) {
	dir := pgCopy(t, template)
	parent := startPgParent(t, dir)
	parent.readRows(t, 200)
	data := filepath.Join(dir, "data")
	pgFreezeBackend(t, parent.url)
	pgKill(t, parent.server)
	parent.kill(t)

	hasty, cancel := context.WithTimeout(t.Context(), pgBackendWait/2)
	defer cancel()
	if _, err := StartPostgres(hasty, PostgresConfig{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside a leftover process: got error %v, want %v", err, context.DeadlineExceeded)
	}
	if !pgExists(filepath.Join(data, "postmaster.pid")) {
		t.Error("lock was removed beside a leftover process")
	}
	parent.checkRows(t, dir)
}

// pgFreezeBackend stops one of a server's processes where it is, until it is killed.
func pgFreezeBackend(t *testing.T, address string) {
	t.Helper()
	pid := pgQuery[int](t, address, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Kill() }) // in case that the test failed before
}

// A number in a lock file may belong to another program by now.
func testPgStaleLock(t *testing.T, template string) {
	dir := pgCopy(t, template)
	p := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, p.URL("postgres"), "create table kept as select n from generate_series(1, 1000) n")
	lockFile := filepath.Join(dir, "data", "postmaster.pid")
	lock, err := os.ReadFile(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	stopPg(t, p)

	sameUser := exec.Command("sleep", "60")
	sameUser.SysProcAttr = pgProcAttr(p.account.credential())
	sameUser.Dir = "/"
	other, err := pgStartChild(sameUser)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		sameUser.Process.Kill()
		<-other.exited
	}()
	for name, pid := range map[string]int{"Ours": os.Getpid(), "SameUser": sameUser.Process.Pid} {
		_, rest, _ := strings.Cut(string(lock), "\n")
		if err := os.WriteFile(lockFile, []byte(strconv.Itoa(pid)+"\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.account.own(lockFile); err != nil {
			t.Fatal(err)
		}
		p := startPg(t, PostgresConfig{Dir: dir})
		if got := pgQuery[int](t, p.URL("postgres"), "select count(*) from kept"); got != 1000 {
			t.Errorf("%s: %d rows of 1000", name, got)
		}
		stopPg(t, p)
	}
	select {
	case <-other.exited:
		t.Error("the process that the lock named by mistake was ended")
	default:
	}
}

func testPgSecondStart(t *testing.T, template string) {
	dir := pgCopy(t, template)
	parent := startPgParent(t, dir)
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	if !errors.Is(err, ErrPostgresInUse) || !strings.Contains(err.Error(), strconv.Itoa(parent.cmd.Process.Pid)) {
		t.Errorf("got error %v, want %v that names process %d", err, ErrPostgresInUse, parent.cmd.Process.Pid)
	}
	if got := pgQuery[int](t, parent.url, "select 1"); got != 1 {
		t.Error("the first server is gone")
	}
	parent.readRows(t, 200)
	parent.kill(t)
	parent.checkRows(t, dir)
}

// Killed in the middle, initdb must not leave what looks like a cluster.
func testPgInterruptedInitdb(t *testing.T, _ string) {
	dir := filepath.Join(pgTestDir(t), "pg")
	parent := launchPgParent(t, dir)
	waitForInitdb(t, dir)
	parent.kill(t)
	if pgExists(filepath.Join(dir, "data")) {
		t.Fatal("the kill came too late to show anything")
	}
	p := startPg(t, PostgresConfig{Dir: dir})
	pgMustExec(t, p.TCPURL("postgres"), "select 1")
	if left, _ := filepath.Glob(filepath.Join(dir, pgUnfinished+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func testPgCancelledInitdb(t *testing.T, _ string) {
	dir := filepath.Join(pgTestDir(t), "pg")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		p, err := StartPostgres(ctx, PostgresConfig{Dir: dir})
		if err == nil {
			err = errors.Join(errors.New("started"), p.Stop(context.WithoutCancel(ctx)))
		}
		result <- err
	}()
	waitForInitdb(t, dir)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("got error %v, want %v", err, context.Canceled)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(left, func(entry os.DirEntry) bool { return entry.IsDir() }) {
		t.Errorf("left behind: %v", left)
	}
}

// waitForInitdb waits until the first start in a folder is in the middle of making a cluster.
func waitForInitdb(t *testing.T, dir string) {
	t.Helper()
	pgEventually(t, "initdb is at work", func() bool {
		begun, err := filepath.Glob(filepath.Join(dir, pgUnfinished+"*", "PG_VERSION"))
		if err != nil {
			t.Fatal(err)
		}
		return len(begun) > 0
	})
}

func pgKill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}
